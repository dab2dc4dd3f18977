"""SKD and DiM: the formulas by hand, and a second stage that is the plain GAN run where nothing is matched."""

import pytest
import torch
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.batches import Batches
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import augment
from distill_lib.generators import cgan
from distill_lib.methods import METHODS, dim, skd
from distill_lib.methods import cgan as plain
from distill_lib.methods.common import network_pool
from distill_lib.methods.common.network_pool import EpochNetwork, Matching

GAN = replace(cgan.GAN().smoke(), width=8, batch=8, per_epoch=48, looks=1, samples=40)
MATCHING = replace(Matching().smoke(), batch=8, per_epoch=24, pool_steps=1, pool=("ConvNetW32", "IDC-ThinResNet10BN"))
SKD = skd.Config(ipc=1, gan=GAN, matching=MATCHING)
ONE, OTHER = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).double(), torch.tensor([[1.0, 2.0, 0.0, -1.0]]).double()
THIRD = torch.tensor([[3.0, 1.0, 0.0, -1.0]]).double()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def runs(folder, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(folder))  # one GAN for the whole file


def weights_of(distilled):
    return distilled.generator.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def random_logits(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed, "logits"), dtype=torch.float64)


# --- standardised logits ----------------------------------------------------------------------------------------------
def test_standardised_logits_and_their_softmax_by_hand():
    z = skd.standardised(ONE, SKD)
    assert torch.allclose(z, torch.tensor([[0.580948, 0.193649, -0.193649, -0.580948]]).double(), atol=1e-6)
    assert torch.allclose(z.softmax(1), torch.tensor([[0.407719, 0.276796, 0.187913, 0.127572]]).double(), atol=1e-6)


@pytest.mark.parametrize(
    "real, fake, changes, expected",
    [
        (ONE, OTHER, {}, 0.05070633),
        (ONE, OTHER, {"std": "biased"}, 0.06982048),
        (ONE, OTHER, {"standardise": False}, 0.08952494),
        (THIRD, OTHER, {}, 0.0787003056),  # real is the teacher
        (OTHER, THIRD, {}, 0.0802096231),
    ],
)
def test_the_loss_by_hand(real, fake, changes, expected):
    assert abs(float(skd.skd_loss(real, fake, replace(SKD, **changes))) - expected) < 2e-8
    assert float(skd.skd_loss(real, real, replace(SKD, **changes))) == pytest.approx(0, abs=1e-12)


def test_the_loss_is_the_mean_over_images():
    real, fake = random_logits(6, 10), random_logits(6, 10, seed=1)
    each = []
    for x, s in zip(real, fake, strict=True):
        d_x, d_s = (((v - v.mean()) / (v.std() * 2)).softmax(0) for v in (x, s))
        each.append(sum(d_x[k] * (d_x[k] / d_s[k]).log() for k in range(10)))
    assert torch.isclose(skd.skd_loss(real, fake, SKD), torch.stack(each).mean(), atol=1e-8)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_scaling_and_shifting_logits_changes_nothing(tau):
    cfg, x = replace(SKD, tau=tau, eps=0.0), random_logits(5, 10)
    z = skd.standardised(x, cfg)
    assert torch.allclose(skd.standardised(7 * x - 3, cfg), z, atol=1e-12)
    assert z.mean(1).abs().max() < 1e-12 and torch.allclose(z.std(1), torch.full((5,), 1 / tau).double())


@pytest.mark.parametrize(
    "std, logit, top, least", [("unbiased", 1.423, 0.3507, 0.0223), ("biased", 1.5, 0.3704, 0.0205)]
)
def test_targets_are_bounded_however_sure_the_network_is(std, logit, top, least):
    cfg = replace(SKD, std=std)
    extreme = torch.cat(
        [torch.eye(10)[:1].double() * 1e4, -torch.eye(10)[:1].double() * 1e4, 50 * random_logits(500, 10)]
    )
    z = skd.standardised(extreme, cfg)
    assert z.abs().max() <= logit + 1e-3 and z.softmax(1).max() <= top + 1e-4 and z.softmax(1).min() >= least - 1e-4
    assert torch.isclose(z[0].max(), torch.tensor(logit).double(), atol=1e-3) and torch.isclose(
        z[0].softmax(0).max(), torch.tensor(top).double(), atol=1e-4
    )
    assert skd.standardised(extreme, replace(cfg, standardise=False)).softmax(1).max() > 0.99


def test_equal_logits_give_no_nan():
    fake = torch.full((2, 10), 3.0, requires_grad=True)
    loss = skd.skd_loss(random_logits(2, 10).float(), fake, SKD)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(fake.grad).all()
    assert torch.equal(skd.standardised(torch.full((2, 10), 3.0), SKD), torch.zeros(2, 10))


def test_the_gradient_neither_shifts_nor_scales_the_logits_and_spares_the_teacher():
    real, fake = random_logits(4, 10).requires_grad_(), random_logits(4, 10, seed=1).requires_grad_()
    cfg = replace(SKD, eps=0.0)
    skd.skd_loss(real, fake, cfg).backward()
    assert real.grad is None
    assert fake.grad.sum(1).abs().max() < 1e-10
    assert (fake.grad * (fake.detach() - fake.detach().mean(1, keepdim=True))).sum(1).abs().max() < 1e-10
    assert torch.autograd.gradcheck(lambda s: skd.skd_loss(real.detach(), s, cfg), fake.detach().requires_grad_())


# --- DiM's losses -----------------------------------------------------------------------------------------------------
class Answering(torch.nn.Module):
    """A network whose logits are its (B, K, 1, 1) images."""

    num_classes = 10

    def forward(self, x):
        return x.flatten(1)


def logit_loss(real, fake, labels=None, **changes):
    labels = torch.zeros(len(real), dtype=torch.int64) if labels is None else labels
    cfg = replace(dim.Config(), matching=replace(Matching(), **changes))
    return dim.dim_loss(Answering(), real[..., None, None], fake[..., None, None], labels, cfg)


def test_dim_compares_log_probabilities():
    real, fake = random_logits(3, 10), random_logits(3, 10, seed=1)
    total = sum((real[i].log_softmax(0)[k] - fake[i].log_softmax(0)[k]) ** 2 for i in range(3) for k in range(10)) / 30
    assert torch.isclose(logit_loss(real, fake), total)
    assert logit_loss(real, real) == 0
    assert torch.isclose(logit_loss(real, fake + 5), total)  # a constant does not survive the log-softmax
    direction = random_logits(3, 10, seed=2)
    even = [
        logit_loss(
            real, real + direction * size - torch.logsumexp(real.log_softmax(1) + direction * size, 1, keepdim=True)
        )
        for size in (1e-4, 2e-4)
    ]
    assert even[1] / even[0] == pytest.approx(4, rel=1e-3)


def test_class_means_pair_classes_instead_of_images():
    labels = torch.tensor([4, 1, 4, 4, 1])
    real, fake = random_logits(5, 10), random_logits(5, 10, seed=1)
    of = Matching(pairing="class_mean")
    means = network_pool.pair_up(real, labels, of, 10)
    assert torch.allclose(means, torch.stack([real[[1, 4]].mean(0), real[[0, 2, 3]].mean(0)]))
    expected = F.mse_loss(network_pool.pair_up(fake, labels, of, 10).log_softmax(1), means.log_softmax(1))
    assert torch.isclose(logit_loss(real, fake, labels, pairing="class_mean"), expected)
    assert network_pool.pair_up(real, labels, Matching(), 10) is real
    shuffled = torch.tensor([2, 4, 3, 0, 1])  # within classes: class means do not change, pairs do
    assert torch.isclose(logit_loss(real, fake[shuffled], labels, pairing="class_mean"), expected)


def test_features_and_gradients_match_their_plain_forms(real):
    network = networks.fresh("ConvNetW32", real, stream(0)).double()
    x, s = (real.take(torch.arange(i, i + 6))[0].double() for i in (0, 6))
    labels = real.hard_labels[:6]
    s.requires_grad_()
    feature = dim.dim_loss(network, x, s, labels, dim.Config(target="feat"))
    assert torch.isclose(feature, (network.embed(x).mean(0) - network.embed(s).mean(0)).square().sum())
    loss = dim.dim_loss(network, x, s, labels, dim.Config(target="grad"))
    total = 0
    for name, weight in network.named_parameters():
        if weight.ndim == 4:  # convolutions: no biases, norms, linear layer
            a, b = (torch.autograd.grad(F.cross_entropy(network(v), labels), weight)[0] for v in (x, s))
            total += (a - b).abs().sum()
    assert torch.isclose(loss, total)
    loss.backward()
    assert torch.isfinite(s.grad).all() and s.grad.abs().sum() > 0


# --- the second stage -------------------------------------------------------------------------------------------------
def test_without_a_weight_the_second_stage_is_the_plain_gan_run_bit_for_bit(real):
    control = weights_of(plain.distill(real, plain.Config(ipc=1, gan=GAN, longer=MATCHING), seed=3))
    assert same(weights_of(skd.distill(real, replace(SKD, weight=0.0), seed=3)), control)
    assert same(
        weights_of(dim.distill(real, dim.Config(ipc=1, gan=GAN, matching=MATCHING, weight=0.0), seed=3)), control
    )
    assert not same(weights_of(plain.distill(real, plain.Config(ipc=1, gan=GAN), seed=3)), control)  # and it does go on
    # with a weight too small to count, the pool's draws and passes are made and must not touch the GAN's stream
    silent = weights_of(skd.distill(real, replace(SKD, weight=1e-30), seed=3))
    assert all(torch.allclose(silent[k].double(), control[k].double(), atol=1e-5) for k in control)
    matched = weights_of(skd.distill(real, replace(SKD, weight=10.0), seed=3))
    assert not all(torch.allclose(matched[k].double(), control[k].double(), atol=1e-5) for k in control)


def test_the_three_rows_that_match_differ_and_share_one_first_stage(real, folder):
    made = [
        weights_of(method.distill(real, cfg, seed=0))
        for method, cfg in (
            (dim, dim.Config(ipc=1, gan=GAN, matching=MATCHING, weight=1.0)),
            (skd, replace(SKD, weight=1.0)),
            (skd, replace(SKD, weight=1.0, standardise=False)),
        )
    ]
    assert not any(same(a, b) for a, b in ((made[0], made[1]), (made[0], made[2]), (made[1], made[2])))
    assert len(list((folder / "generators").glob("*/gan.safetensors"))) == 1


def test_matching_pulls_generated_answers_towards_real_ones(real):
    """The gradient that reaches the images, followed for some steps, lowers the loss it came from."""
    network = networks.fresh("ConvNetW32", real, stream(0)).requires_grad_(False)
    x, labels = real.take(torch.arange(8))
    fake = torch.randn(x.shape, generator=stream(1), requires_grad=True)
    optimizer, losses = torch.optim.SGD([fake], lr=20.0), []
    for _ in range(15):
        target, ours = network_pool.answers(network, x, fake)
        assert not target.requires_grad
        loss = skd.skd_loss(target, ours, SKD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_pool_draws_a_new_network_every_epoch_and_trains_it_on_real_images(real):
    of = replace(MATCHING, pool=("ConvNetW32", "ConvNetW64"), batch=32, pool_steps=10, warm_up=50, lr_pool=0.02)
    a, b = EpochNetwork(real, of, seed=0), EpochNetwork(real, of, seed=0)
    names = {}
    for epoch in range(6):
        a._fresh(epoch)
        names[epoch] = a.network.name
    assert set(names.values()) == {"ConvNetW32", "ConvNetW64"}
    b.prepare(4)  # does not depend on the epochs before
    assert b.network.name == names[4] and b.network.training
    x, labels = real.take(torch.arange(200))
    before = float((b.frozen()(x).argmax(1) == labels).float().mean())
    kept = b.network
    b.prepare(4)
    assert b.network is kept
    assert before > 0.5 and not any(p.requires_grad for p in b.frozen().parameters())


def test_warm_up_adds_steps_before_the_first_match_only(real, monkeypatch):
    counted = EpochNetwork(real, replace(MATCHING, pool_steps=2, warm_up=3), seed=0)
    steps = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: steps.append(1))
    for epoch, total in ((0, 5), (0, 7), (1, 12)):
        counted.prepare(epoch)
        assert len(steps) == total


def test_one_augmentation_is_shared_by_real_and_generated_images(real, monkeypatch):
    seen = []
    monkeypatch.setattr(
        cgan.Generator,
        "forward",
        lambda self, noise, labels: real.signed(torch.arange(len(labels))) + 0 * self.last.bias.sum(),
    )
    order = torch.arange(8)
    monkeypatch.setattr(Batches, "index", lambda *args: order)

    def between(network, theirs, fake, labels):
        seen.append((theirs, fake.detach()))
        return 0 * fake.sum()

    network_pool.second_stage(cgan.train(real, GAN), replace(MATCHING, epochs=1), between, seed=0)
    assert len(seen) == 3 and all(torch.allclose(a, b, atol=1e-6) for a, b in seen)
    assert not torch.allclose(seen[0][0], seen[1][0], atol=1e-3)  # drawn anew every step
    assert not torch.allclose(seen[0][0], real.take(order)[0], atol=1e-3)


def test_networks_see_normalised_pixels_or_the_official_mistake(real):
    images = real.signed(torch.arange(4))
    assert torch.allclose(EpochNetwork(real, MATCHING, 0).units(images), real.take(torch.arange(4))[0], atol=1e-6)
    mistaken = EpochNetwork(real, replace(MATCHING, official_norm=True), 0).units(images)
    assert torch.allclose(mistaken, (images - real.facts.mean[0]) / real.facts.std[0])


# --- settings ---------------------------------------------------------------------------------------------------------
def test_the_papers_settings():
    for name, std in (("SKD", True), ("SKD (no standardisation)", False)):
        made = {d: METHODS[name].paper_config(d, 10) for d in ("MNIST", "FashionMNIST", "CIFAR10")}
        assert {d: (c.weight, c.tau, c.standardise) for d, c in made.items()} == {
            "MNIST": (0.001, 2.0, std),
            "FashionMNIST": (0.01, 2.0, std),
            "CIFAR10": (0.01, 2.0, std),
        }
        assert made["CIFAR10"].matching.pool == ("ConvNet", "IDC-ThinResNet10BN", "IDC-ThinResNet18BN")
        assert made["MNIST"].matching.pool == ("ConvNet", "IDC-LargeResNet10BN", "IDC-LargeResNet18BN")
    pools = [METHODS["DiM"].paper_config(d, 10).matching.pool for d in ("CIFAR10", "MNIST")]
    assert [len(pool) for pool in pools] == [5, 3] and pools[0][3:] == ("IDC-ThinResNetAP10BN", "IDC-ThinResNetAP18BN")
    assert cgan.batches_of(data.load("digits")[0], 128, 150, None).steps_per_epoch == 1297 // 128
    assert (Matching().lr, Matching().batch, Matching().epochs, Matching().pool_steps) == (5e-6, 64, 100, 16)
    assert (cgan.GAN().lr, cgan.GAN().betas, cgan.GAN().batch, cgan.GAN().epochs, cgan.GAN().gp_weight) == (
        1e-4,
        (0.0, 0.9),
        128,
        150,
        10.0,
    )
    assert augment.idc(Matching().dsa).operations(augment.idc(Matching().dsa).draw(stream(0))) == [
        ("color", "crop", "cutout")
    ]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pool": ()}, "pool: Tuple should have at least 1 item"),
        ({"pool_steps": -1}, "pool_steps: .*greater than or equal to 0"),
        ({"batch": 1}, "in batches of 1"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1"),
        ({"pool": ("ResNet-10",)}, "stands for two networks"),
    ],
)
def test_settings_that_match_nothing_are_one_clear_error(real, changes, words):
    with pytest.raises(UserError, match=words):
        skd.distill(real, replace(SKD, matching=replace(MATCHING, **changes)), seed=0)


def test_the_embedding_can_be_the_target(real):
    made = [weights_of(skd.distill(real, replace(SKD, weight=1.0, target=t), seed=0)) for t in ("logits", "embedding")]
    assert not same(*made)
