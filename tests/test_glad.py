"""GLaD: the split chain rule equals the whole one, latents start and move as in the official code, settings are the
published ones."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.generators import cgan, prior
from distill_lib.generators.prior import Prior
from distill_lib.generators.prior_networks import Conditional
from distill_lib.methods import glad
from distill_lib.methods.common import latents, trajectories
from distill_lib.methods.common.latents import CodeSpace, Latents

SMALL = CodeSpace(Prior("small", "random", width=16), layer=3)


@pytest.fixture(scope="module")
def coloured():
    return data.load("BloodCells-mini", 16)[0]


def of(real, space=SMALL, ipc=2, seed=0):
    return Latents(prior.prepare(real, space.prior), real, space, ipc, stream(seed))


def config(match, **changes):
    cfg = glad.paper_config("digits", 1, match).smoke()
    return replace(cfg, **({"iterations": 3, "batch_real": 8} | changes))


# --- latents ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pieces", [1, 3, 10])
@pytest.mark.parametrize("layer", [None, 1, 3])
def test_the_split_chain_rule_equals_autograd_of_the_whole(real, pieces, layer):
    it = of(real, replace(SMALL, pieces=pieces, layer=layer))
    gradient = torch.randn(it.images().shape, generator=stream(1))
    it.pull(gradient)
    leaves = [t for t in (it.w, it.f) if t is not None]
    whole = torch.autograd.grad((it.render(it.w, it.f) * gradient.flatten(0, 1)).sum(), leaves)
    for leaf, wanted in zip(leaves, whole, strict=True):
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-5, atol=1e-6)
    if layer is not None:
        assert bool((it.w.grad[:, : layer + 1] == 0).all()) and bool(
            (it.w.grad[:, layer + 1 :].abs().amax((0, 2)) > 0).all()
        )


def test_images_are_the_generators_in_the_sets_units(coloured):
    it = of(coloured, ipc=1)
    with torch.no_grad():
        drawn = it.generator(it.w)
    pixels = it.distilled("GLaD", 0).pixels()
    torch.testing.assert_close(pixels, ((drawn + 1) / 2).clamp(0, 1), atol=1e-5, rtol=1e-5)


def test_codes_alone_take_the_step_size_of_images(real):
    both, alone = of(real), of(real, replace(SMALL, layer=None, lr_img=0.7))
    assert [g["lr"] for g in both.optimizer.param_groups] == [SMALL.lr_w, SMALL.lr_img]
    assert alone.f is None and [g["lr"] for g in alone.optimizer.param_groups] == [0.7]
    assert all(g["momentum"] == 0.5 for g in both.optimizer.param_groups)


def test_the_start_may_be_mean_codes_or_noise_of_the_features_moments(real):
    mean = of(real, replace(SMALL, start="mean"))
    drawn = of(real)
    apart = {
        it: float((w[0::2] - w[1::2]).norm() / w[0::2].norm())
        for it, w in ((it, it.w.detach()) for it in (mean, drawn))
    }
    assert apart[mean] < 0.3 * apart[drawn]  # two images of a class
    noise = of(real, replace(SMALL, features="noise"))
    assert torch.equal(noise.w, drawn.w) and not torch.equal(noise.f, drawn.f)
    for moment in (torch.std, torch.mean):
        ours, theirs = moment(noise.f, (1, 2, 3)), moment(drawn.f, (1, 2, 3))
        assert torch.allclose(ours, theirs, rtol=0.2, atol=0.15)


def test_features_that_are_not_finite_or_large_are_made_so(real, monkeypatch):
    it = of(real)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 30.0, -30.0, 1.0])
    monkeypatch.setattr(type(it.generator), "to_f", lambda self, w, n: bad.expand(len(w), 6)[:, :, None, None])
    assert it._features(stream(0))[0].flatten().tolist() == [0, 5, -5, 10, -10, 1]


def test_the_official_mean_is_that_of_the_code_and_belongs_to_imagenet(real):
    facts = data.Facts("birds", ("a", "b"), *data.NORMALISATIONS["ImageNet"])
    birds = data.ImageSet(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 1]), facts)
    fixed, official = (of(birds, replace(SMALL, norm=norm), ipc=1).images() for norm in ("fixed", "official"))
    gap = (official - fixed).mean((0, 1, 3, 4))
    right, wrong = (torch.tensor(data.NORMALISATIONS[n][0]) for n in ("ImageNet", "GLaD-renders"))
    torch.testing.assert_close(
        gap, (right - wrong) / torch.tensor(data.NORMALISATIONS["ImageNet"][1]), atol=1e-4, rtol=1e-4
    )
    assert float(gap.abs().max()) == pytest.approx(0.30, abs=0.01)  # of a standard deviation, in blue
    with pytest.raises(UserError, match="norm='fixed'"):
        of(real, replace(SMALL, norm="official"))


@pytest.mark.parametrize("layer", [0, 4, 16])
def test_a_layer_the_generator_does_not_have_is_refused(real, layer):
    with pytest.raises(UserError, match="f can be taken after 1 to 3"):
        of(real, replace(SMALL, layer=layer))


# --- the method -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("match", ["DC", "DM", "MTT"])
def test_the_loss_falls_and_the_latents_move(real, match, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    losses = []

    class Kept(Loop):
        def log(self, **values):
            losses.append(float(values["loss"]))

    cfg = replace(config(match), iterations=12, dsa="none")
    made = glad.distill(real, cfg, seed=0, loop=Kept())
    assert sum(losses[-3:]) < sum(losses[:3])
    start = of(real, cfg.space, 1, 0)
    assert made.facts.extra["match"] == match and made.images.shape == (10, 1, 8, 8)
    assert not torch.equal(made.images, start.images().flatten(0, 1))
    assert ("lr_net" in made.facts.extra) == (match == "MTT")


def test_gradients_are_matched_without_layer_norms_parameters(real):
    """Against plain differentiation in float64, class by class, row by row of convolutions and linear layers."""
    cfg = config("DC", network="ConvNetD1W8LN", dsa="none")
    images = real.draw_classes(2, stream(1))
    loss, gradient = glad.GradientMatcher(real, cfg, stream(2))(images.clone())
    rng = stream(2)
    network = networks.fresh(cfg.network, real, rng).double()
    batch, leaf, total = real.draw_classes(8, rng).double(), images.double().requires_grad_(), 0.0
    assert {p.ndim for p in network.parameters()} == {1, 2, 3, 4}
    for k in range(10):
        entropy = [F.cross_entropy(network(x), torch.full((len(x),), k)) for x in (batch[k], leaf[k])]
        theirs, ours = (torch.autograd.grad(e, network.parameters(), create_graph=True) for e in entropy)
        for a, b in zip(ours, theirs, strict=True):
            if a.ndim in (2, 4):
                a, b = a.flatten(1), b.detach().flatten(1)
                total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    torch.testing.assert_close(loss.double(), total.detach(), rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(total, leaf)[0]
    assert (gradient - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("exact", [False, True])
def test_the_published_setting_drops_the_students_terms_between_steps(real, exact, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    cfg = config("MTT")
    if exact:
        cfg = replace(cfg, students=replace(cfg.students, second_order=None))
    loss_of, seen = trajectories.student_loss, {}

    def both(*given, **options):
        seen.update({between: loss_of(*given, between_steps=between) for between in (False, True)})
        return loss_of(*given, **options)

    monkeypatch.setattr(trajectories, "student_loss", both)
    matcher = glad.TrajectoryMatcher(real, cfg, stream(0), Loop())
    loss, gradient = matcher(of(real, cfg.space, 1).images())
    assert torch.equal(gradient.flatten(0, 1), seen[exact][1]) and not torch.equal(seen[False][1], seen[True][1])
    assert torch.equal(matcher.student.step_size.grad, seen[exact][2]) and torch.equal(loss, seen[not exact][0])


def test_identical_sets_have_distance_and_gradient_zero(real, monkeypatch):
    cfg = config("DM")
    matcher = glad.DistributionMatcher(real, cfg, stream(0))
    images = real.draw_classes(4, stream(1))
    monkeypatch.setattr(data.ImageSet, "draw_classes", lambda self, n, rng: images.clone())
    loss, gradient = matcher(images.clone())
    assert float(loss) < 1e-8 and float(gradient.abs().max()) < 1e-5


def test_a_step_is_one_of_sgd_on_the_pulled_gradient(real):
    cfg = replace(config("DM"), iterations=1)
    rng = stream(3, "latents")
    it = Latents(prior.prepare(real, cfg.space.prior), real, cfg.space, 1, rng)
    w, f = it.w.detach().clone(), it.f.detach().clone()
    _, gradient = glad.DistributionMatcher(real, cfg, rng)(it.images())
    it.pull(gradient)
    w, f = w - cfg.space.lr_w * it.w.grad, f - cfg.space.lr_img * it.f.grad
    with torch.no_grad():
        wanted = it.render(w, f)
    torch.testing.assert_close(glad.distill(real, cfg, seed=3).images, wanted)


def test_published_settings():
    for match, (layer, lr_img, lr_w) in {
        "DC": (16, 1.0, 0.001),
        "DM": (20, 10.0, 0.01),
        "MTT": (12, 10_000.0, 10.0),
    }.items():
        cfg = glad.paper_config("ImNet-A", 1, match)
        assert (cfg.space.layer, cfg.space.lr_img, cfg.space.lr_w, cfg.space.momentum, cfg.space.pieces) == (
            layer,
            lr_img,
            lr_w,
            0.5,
            10,
        )
        assert (cfg.iterations, cfg.batch_real, cfg.space.prior.family, cfg.space.prior.weights) == (
            1_001,
            256,
            "StyleGAN-XL",
            "imagenet",
        )
        students = cfg.students
        assert (students.syn_steps, students.expert_epochs, students.max_start_epoch, students.experts.epochs) == (
            20,
            3,
            5,
            15,
        )
        assert students.second_order == ("dropped" if match == "MTT" else None)
    assert glad.paper_config("CIFAR10", 1).space.layer == 2
    assert (
        glad.paper_config("FashionMNIST", 1).space.prior.family == "cGAN"
        and "flip" not in glad.paper_config("MNIST", 1).dsa
    )
    assert "flip" not in glad.paper_config("MNIST", 1, "MTT").students.experts.dsa


@pytest.mark.parametrize("name", ["digits", "MNIST@16px", "FashionMNIST"])
@pytest.mark.parametrize("match", ["DC", "DM", "MTT"])
def test_the_layer_is_one_that_the_conditional_gan_has(name, match):
    side = data.sized(name)[1] or data.DATASETS[name].resolution
    gan = Conditional(cgan.Generator(cgan.Architecture((1, side, side), 10, width=8)))
    for cfg in (glad.paper_config(name, 1, match), glad.paper_config(name, 1, match).small()):
        assert 0 < cfg.space.layer < len(gan.layer_names)


def test_stage_1_is_the_gan_and_the_experts_where_they_are_trained(tmp_path, monkeypatch):
    trained = glad.paper_config("digits", 1, "MTT")
    assert set(glad.stage1(trained)) == {"conditional GAN", "expert trajectories"}
    assert set(glad.stage1(replace(trained, match="DC"))) == {"conditional GAN"}
    assert glad.stage1(config("DC")) == {}  # random weights


def test_the_trained_gan_is_made_once_and_is_the_prior(real, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    gan = replace(cgan.GAN().smoke(), per_epoch=64)
    cfg = config(
        "DM", iterations=1, space=replace(latents.CodeSpace.published("digits", "DM"), prior=Prior(gan=gan), layer=2)
    )
    glad.prepare(real, cfg, 0)
    (file,) = (tmp_path / "generators").glob("*/gan.safetensors")
    before = file.stat().st_mtime_ns
    made = glad.distill(real, cfg, seed=0)
    assert file.stat().st_mtime_ns == before and made.images.shape == (10, 1, 8, 8)
    it = of(real, cfg.space, 1)
    torch.testing.assert_close(it.generator(it.w), cgan.train(real, gan).generator(it.w[:, 0], torch.arange(10)))


def test_students_that_run_past_the_experts_are_refused(real):
    with pytest.raises(UserError, match="experts have 2"):
        students = config("MTT").students
        glad.distill(real, config("MTT", students=replace(students, max_start_epoch=5)), 0)


def test_a_whitened_set_is_refused(real):
    whitened = data.ImageSet(
        real.images, real.labels, dataclasses.replace(real.facts), data.imageset.Whitening.fit(real)
    )
    with pytest.raises(UserError, match="without whitening"):
        of(whitened)
