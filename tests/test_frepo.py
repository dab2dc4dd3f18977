"""FRePo: loss and gradients against the plain formula in float64, LAMB by hand, the pool's ages, whitening, and what is
refused."""

import math
from dataclasses import replace

import pytest
import torch
from steps import in_steps
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.device import Pieces
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream
from distill_lib.data import Whitening
from distill_lib.methods import frepo
from distill_lib.methods.common import ntk

TINY = frepo.Config(ipc=1, iterations=3, network="FRePoConvW32BN", batch_target=32, pool=2, max_updates=3)
K = 3


def problem(n=4, m=6, seed=0):
    rng = stream(seed, "frepo test")
    x, t = (torch.randn(count, 1, 8, 8, generator=rng, dtype=torch.float64) for count in (n, m))
    y, yt = (torch.randn(count, K, generator=rng, dtype=torch.float64) for count in (n, m))
    y[0] = torch.tensor([0.3, 0.2, -0.5])  # a gap below 1/K
    return x, y, t, yt


def double_network(name="FRePoConvW32BN"):
    return networks.fresh(name, ((1, 8, 8), K), stream(0, "net")).double().eval().requires_grad_(False)


def plain(embed, x, y, t, yt, cfg):
    """The formula, letter by letter; differentiable by autograd."""
    if cfg.use_flip:
        x, y_all = torch.cat([x, x.flip(-1)]), torch.cat([y, y])
    else:
        y_all = y
    a, b = embed(x), embed(t)
    kernel = a @ a.T
    predicted = (
        b
        @ a.T
        @ torch.linalg.inv(kernel + cfg.ridge * torch.trace(kernel) / len(x) * torch.eye(len(x), dtype=x.dtype))
        @ y_all
    )
    error = sum(((p - q) ** 2).sum() / 2 for p, q in zip(predicted, yt, strict=True)) / len(t)
    gaps = [min(float(v.sort().values[-1] - v.sort().values[-2]), 1 / K) for v in y.detach()]
    return error, sum(gaps) / len(gaps)


# --- loss -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("use_flip", [False, True])
@pytest.mark.parametrize("size", [100, 3, 1])
def test_loss_and_gradients_against_autograd_of_the_formula_in_pieces_of_any_size(use_flip, size):
    network, (x, y, t, yt), cfg = double_network(), problem(), replace(TINY, use_flip=use_flip, ridge=0.01)
    loss, by_images, by_labels = frepo.loss_and_gradients(network.embed, x, y, t, yt, cfg, Pieces(size), Pieces(size))
    leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
    error, gap = plain(network.embed, *leaves, t, yt, cfg)
    expected = torch.autograd.grad(error, leaves)
    top = leaves[1].topk(2, dim=1)
    inside = ((top.values[:, 0] - top.values[:, 1]) < 1 / K).double()[:, None] / len(y)
    by_margin = inside * (F.one_hot(top.indices[:, 0], K) - F.one_hot(top.indices[:, 1], K))
    assert loss.item() == pytest.approx(error.item() - gap, rel=1e-10)
    assert torch.allclose(by_images, expected[0], rtol=1e-8, atol=1e-12)
    assert (
        torch.allclose(by_labels, expected[1] - by_margin, rtol=1e-8, atol=1e-12) and inside.any() and not inside.all()
    )


def test_gradients_against_finite_differences():
    network, (x, y, t, yt), rng, e = double_network(), problem(1), stream(1), 1e-6
    cfg = replace(TINY, ridge=0.01)
    _, by_images, by_labels = frepo.loss_and_gradients(network.embed, x, y, t, yt, cfg)
    for index, derivative in ((0, by_images), (1, by_labels)):
        towards = torch.randn(derivative.shape, generator=rng, dtype=torch.float64)
        moved = [
            frepo.loss_and_gradients(network.embed, *_moved((x, y), index, s * e * towards), t, yt, cfg)[0]
            for s in (1, -1)
        ]
        assert (derivative * towards).sum().item() == pytest.approx(((moved[0] - moved[1]) / (2 * e)).item(), rel=1e-4)


def _moved(pair, index, by):
    return [v + by if i == index else v for i, v in enumerate(pair)]


def test_running_out_of_memory_gives_the_same_gradient():
    network, (x, y, t, yt), cfg = double_network(), problem(), replace(TINY, ridge=0.01)
    whole = frepo.loss_and_gradients(network.embed, x, y, t, yt, cfg)

    def narrow(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("not enough")
        return network.embed(images)

    support = Pieces(100)
    with pytest.warns(UserWarning, match="out of memory"):
        parts = frepo.loss_and_gradients(narrow, x, y, t, yt, cfg, Pieces(100), support)
    assert support.size <= 2
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-12)


def test_the_loss_of_a_perfect_prediction_is_minus_a_tenth_for_ten_classes():
    labels = ntk.centred_labels(torch.arange(10), 10)
    embed = lambda x: x.flatten(1)  # noqa: E731
    x = torch.eye(10, dtype=torch.float64).view(10, 1, 2, 5)
    loss, _, by_labels = frepo.loss_and_gradients(embed, x, labels, x, labels, replace(TINY, ridge=1e-12))
    assert loss.item() == pytest.approx(-0.1, abs=1e-9) and by_labels.abs().max() < 1e-9  # the margin is full: no pull
    fixed, _, _ = frepo.loss_and_gradients(embed, x, labels, x, labels, replace(TINY, ridge=1e-12, learn_labels=False))
    assert fixed.item() == pytest.approx(0, abs=1e-9)


def test_regression_on_its_own_images_returns_their_labels():
    network, (x, y, _, _) = double_network(), problem()
    a = network.embed(x)
    assert (ntk.regress(a @ a.T, a @ a.T, y) - y).abs().max() < 1e-4


def test_mirror_images_beside_symmetric_ones_change_nothing():
    network, (x, y, t, yt) = double_network(), problem()
    x = x + x.flip(-1)
    alone, both = (
        frepo.loss_and_gradients(network.embed, x, y, t, yt, replace(TINY, use_flip=f)) for f in (False, True)
    )
    assert both[0].item() == pytest.approx(alone[0].item(), rel=1e-4)  # up to the ridge


def test_margin_by_hand():
    labels = torch.tensor([[0.5, 0.3, 0.0], [0.9, -0.1, 0.0], [0.2, 0.2, 0.1]])
    assert frepo.margin(labels).item() == pytest.approx((0.2 + 1 / 3 + 0) / 3)


# --- optimiser --------------------------------------------------------------------------------------------------------
def test_lamb_moves_a_tensor_by_a_share_of_its_length():
    p = torch.nn.Parameter(torch.randn(5, 7, generator=stream(0)))
    optimizer = frepo.LAMB([p], lr=0.01)
    for seed in range(3):
        before, p.grad = p.detach().clone(), torch.randn(5, 7, generator=stream(seed + 1))
        optimizer.step()
        assert (p - before).norm().item() == pytest.approx(0.01 * before.norm().item(), rel=1e-5)


def test_lamb_by_hand_and_on_zeros():
    p, q = torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.zeros(2))
    optimizer = frepo.LAMB([p, q], lr=0.1)
    gradients, mean, square, at = (
        [torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])],
        torch.zeros(2),
        torch.zeros(2),
        torch.tensor([3.0, 4.0]),
    )
    for t, g in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        u = (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-6)
        at = at - 0.1 * at.norm() / u.norm() * u
        p.grad, q.grad = g.clone(), (g if t == 1 else torch.zeros(2))
        optimizer.step()
        if t == 1:
            assert torch.allclose(q, torch.tensor([-0.1, 0.1]), atol=1e-5)  # length zero: Adam's own step
    assert torch.allclose(p, at, atol=1e-6)
    with torch.no_grad():
        p.zero_()
    p.grad = torch.zeros(2)
    frepo.LAMB([p], lr=0.1).step()
    assert p.tolist() == [0, 0]


def test_lamb_is_that_of_timm_to_rounding():
    from timm.optim import Lamb

    ours, theirs = (
        [torch.nn.Parameter(torch.randn(*shape, generator=stream(0))) for shape in ((6, 3, 4, 4), (6, 10))]
        for _ in range(2)
    )
    pair = [frepo.LAMB(ours, lr=0.01), Lamb(theirs, lr=0.01, weight_decay=0, max_grad_norm=None, always_adapt=True)]
    for step in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=stream(step + 1)) * 1e-3
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_step_sizes_fall_to_a_tenth():
    cfg = frepo.Config(iterations=100)
    assert [frepo.step_size(cfg, s) for s in (0, 50, 100)] == pytest.approx([3e-4, 1.65e-4, 3e-5])


# --- pool and stream --------------------------------------------------------------------------------------------------
def test_networks_are_replaced_at_different_times_after_one_step_more_than_the_most(digits):
    cfg = replace(TINY, pool=3, max_updates=6)
    rng = stream(0, "pool")
    pool, images, labels = (
        frepo.NetworkPool(cfg, digits[0], rng),
        torch.randn(10, 1, 8, 8, generator=rng),
        ntk.centred_labels(torch.arange(10), 10).float(),
    )
    assert pool.counters == [0, 2, 4]
    replaced = {i: [] for i in range(3)}
    for turn in range(16):
        for i in range(3):
            before = pool.counters[i]
            pool.advance(i, images, labels, rng)
            if pool.counters[i] == 0:
                assert before == 7
                replaced[i].append(turn)
    assert replaced == {0: [7, 15], 1: [5, 13], 2: [3, 11]}  # a full life: 7 steps, then replaced
    assert all(not p.requires_grad for n in pool.networks for p in n.parameters())
    assert frepo.NetworkPool(frepo.Config(), digits[0], rng).counters == list(range(0, 100, 10))


def test_a_fresh_network_does_not_normalise_and_a_trained_one_does(digits):
    rng = stream(0, "pool")
    pool, x = frepo.NetworkPool(replace(TINY, pool=1), digits[0], rng), digits[0].take(torch.arange(20))[0]
    with torch.no_grad():
        assert torch.allclose(pool.embedding(0)(x), bare(pool.networks[0], digits[0]).embed(x), rtol=1e-3, atol=1e-4)
    pool.advance(0, x[:10], ntk.centred_labels(torch.arange(10), 10).float(), rng)
    with torch.no_grad():
        assert not torch.allclose(pool.embedding(0)(x), bare(pool.networks[0], digits[0]).embed(x), rtol=0.1)
    norm = next(m for m in pool.networks[0].modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.running_mean.abs().max() > 0


def bare(network, like):
    alone = networks.fresh("FRePoConvW32", like, stream(0)).eval()
    alone.load_state_dict(_without_norms(network))
    return alone


def _without_norms(network):
    """The state of the same network without batch norm: numbers of the layers counted again."""
    out, place = {}, 0
    for module in network.body:
        if isinstance(module, torch.nn.BatchNorm2d):
            continue
        out |= {f"body.{place}.{k}": v for k, v in module.state_dict().items()}
        place += 1
    return out | {f"classifier.{k}": v for k, v in network.classifier.state_dict().items()}


def test_a_step_of_a_network_is_adam_on_half_the_summed_squared_error():
    network, (x, y, _, _) = networks.fresh("FRePoConvW32BN", ((1, 8, 8), K), stream(0)), problem()
    x, y = x.float(), y.float()
    other = networks.fresh("FRePoConvW32BN", ((1, 8, 8), K), stream(0))
    frepo.train_step(network, torch.optim.Adam(network.parameters(), lr=1e-3), x, y)
    optimizer = torch.optim.Adam(other.train().parameters(), lr=1e-3)
    (0.5 * ((other(x) - y) ** 2).sum() / len(x)).backward()
    optimizer.step()
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_more_synthetic_images_than_a_step_takes_are_drawn_from(digits, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        frepo, "train_step", lambda network, optimizer, images, labels: sizes.append((len(images), len(labels)))
    )
    frepo.distill(digits[0], replace(TINY, ipc=2, batch_net=7), seed=0)
    assert sizes and set(sizes) == {(7, 7)}


# --- the whole method -------------------------------------------------------------------------------------------------
def test_distilling_beats_the_images_it_starts_from(digits):
    real, test = digits
    cfg = replace(TINY, iterations=60, lr_img=0.02, lr_net=1e-3, batch_target=128, max_updates=10)
    start = data.ImageSet(
        real.initial_images(cfg.ipc, cfg.init, stream(0, "FRePo")).flatten(0, 1),
        ntk.centred_labels(torch.arange(10), 10).float(),
        real.facts,
    )
    loop = Loop(check=1)
    made = frepo.distill(real, cfg, seed=0, loop=loop)
    losses = [v for _, v in loop.history["loss"]]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    before, after = (frepo.measure(s, test, cfg)["kernel_accuracy_pct"][0] for s in (start, made))
    assert after > before + 5


def test_labels_are_learned_or_stay_classes(digits):
    learned, fixed = (
        frepo.distill(digits[0], TINY, seed=0),
        frepo.distill(digits[0], replace(TINY, learn_labels=False), seed=0),
    )
    assert learned.labels.shape == (10, 10) and fixed.labels.tolist() == list(range(10))
    assert not torch.allclose(learned.labels, ntk.centred_labels(torch.arange(10), 10).float(), atol=1e-5)


def test_a_resumed_run_has_the_same_pool(digits, tmp_path):
    """Networks are replaced after every second step of theirs, and the run is stopped after every step."""
    cfg = replace(TINY, iterations=6, pool=2, max_updates=1)
    whole = frepo.distill(digits[0], cfg, seed=0)
    resumed, stops = in_steps(lambda loop: frepo.distill(digits[0], cfg, seed=0, loop=loop), tmp_path)
    assert stops == cfg.iterations - 1
    assert torch.equal(whole.images, resumed.images) and torch.equal(whole.labels, resumed.labels)


def test_whitening_is_of_standardised_pixels(digits):
    real = digits[0]
    coloured = data.ImageSet(
        (torch.cat([real.images, real.images // 2, 255 - real.images // 3], 1))[:300],
        real.labels[:300],
        replace(real.facts, mean=(0.3,) * 3, std=(0.4,) * 3),
    )
    whitening = Whitening.fit(coloured, of="standardised")
    x = coloured.pixels().double()
    x = ((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)).flatten(1)
    x = x - x.mean(0)
    s, u = torch.linalg.eigh(torch.cov(x.T))
    expected = x @ (u * (s.clamp_min(0) + 0.1 * s.sum() / x.shape[1]).rsqrt()) @ u.T
    seen = coloured.under(whitening).all()[0]
    torch.testing.assert_close(seen.flatten(1).double(), expected, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(whitening.undo(seen), coloured.pixels(), rtol=1e-3, atol=1e-3)
    made = frepo.distill(real, replace(TINY, zca=True, use_flip=True), seed=0)
    assert (
        made.whitening is not None
        and frepo.measure(made, digits[1], replace(TINY, zca=True, use_flip=True))["kernel_accuracy_pct"][0] > 12
    )


def test_a_step_that_diverges_stops(digits, tmp_path):
    with pytest.raises(Diverged, match="distill: loss = nan"):
        frepo.distill(digits[0], replace(TINY, lr_img=float("inf")), seed=0, loop=Loop(tmp_path, check=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"pool": 0}, "pool: .*greater than or equal to 1"), ({"batch_target": 0, "ipc": 0}, "ipc: .*; batch_target: ")],
)
def test_settings_that_cannot_work_are_refused(digits, changes, message):
    with pytest.raises(UserError, match=message):
        frepo.distill(digits[0], replace(TINY, **changes), seed=0)


def test_the_published_settings():
    cifar, fashion = frepo.paper_config("CIFAR10", 10), frepo.paper_config("FashionMNIST", 10)
    assert cifar.use_flip and cifar.zca and not fashion.use_flip and not fashion.zca
    assert (cifar.iterations, cifar.batch_target, cifar.pool, cifar.max_updates) == (500_000, 1024, 10, 100)
    assert [frepo.paper_config("CIFAR100", ipc).use_flip for ipc in (1, 10)] == [True, False]
    assert "without whitening by blocks" in frepo.paper_config("ImageNette", 1).source
    assert [frepo.paper_config(d, 10).use_flip for d in ("ImageNette", "ImageWoof", "ImageIDC")] == [True, True, False]
    assert fashion.small().network == "FRePoConvW32BN" and fashion.small().source == "reduced"


def test_narrow_forms_of_its_network_have_the_same_layers():
    wide, narrow = (networks.fresh(name, ((1, 28, 28), 10), stream(0)) for name in ("FRePoConvBN", "FRePoConvW32BN"))
    assert [type(m) for m in wide.body] == [type(m) for m in narrow.body] and narrow.embed_dim == 2048
    assert networks.fresh("FRePoConvW128", ((3, 32, 32), 10), stream(0)).embed_dim == 8192
    assert math.prod(narrow.embed(torch.zeros(2, 1, 28, 28)).shape) == 4096
