"""KIP: its loss and gradients in float64, the reference run of the released code, whitening, and what is refused."""

from dataclasses import replace

import pytest
import torch

from distill_lib import data
from distill_lib.core.device import Pieces
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream
from distill_lib.data import Whitening
from distill_lib.methods import kip
from distill_lib.methods.common import ntk

TINY = kip.Config(ipc=1, iterations=4, kernel="FC1", batch_target=40)


def problem(n=4, m=6, k=3):
    rng = stream(0, "kip test")
    x, t = (torch.randn(count, 1, 8, 8, generator=rng, dtype=torch.float64) for count in (n, m))
    return (
        x,
        torch.randn(n, k, generator=rng, dtype=torch.float64),
        t,
        torch.randn(m, k, generator=rng, dtype=torch.float64),
    )


def plain_loss(kernel, x, y, t, yt, ridge):
    """The formula, letter by letter."""
    own = kernel.matrix(x, x)
    inverse = torch.linalg.inv(own + ridge * torch.trace(own) / len(x) * torch.eye(len(x), dtype=torch.float64))
    error = kernel.matrix(t, x) @ inverse @ y - yt
    return sum(float(e) ** 2 for e in error.flatten()) / error.numel() / 2


@pytest.mark.parametrize("name", ["FC1", "FC2", "KIPConv3"])
@pytest.mark.parametrize("size", [10**6, 5])
def test_loss_and_gradients_against_finite_differences_of_the_formula(name, size):
    kernel, (x, y, t, yt), rng, e, ridge = ntk.kernel_named(name), problem(), stream(1), 1e-5, 0.05
    loss, by_images, by_labels = kip.loss_and_gradients(kernel, x, y, t, yt, ridge, Pieces(size))
    assert loss.item() == pytest.approx(plain_loss(kernel, x, y, t, yt, ridge), rel=1e-10)
    dx, dy = (torch.randn(v.shape, generator=rng, dtype=torch.float64) for v in (x, y))
    by_difference = (
        plain_loss(kernel, x + e * dx, y, t, yt, ridge) - plain_loss(kernel, x - e * dx, y, t, yt, ridge)
    ) / (2 * e)
    assert (by_images * dx).sum().item() == pytest.approx(by_difference, rel=1e-5)
    by_difference = (
        plain_loss(kernel, x, y + e * dy, t, yt, ridge) - plain_loss(kernel, x, y - e * dy, t, yt, ridge)
    ) / (2 * e)
    assert (by_labels * dy).sum().item() == pytest.approx(by_difference, rel=1e-5)


def test_the_released_fully_connected_run_on_cifar10():
    """Released: 24.26 % at step 0 and 41.4 % at step 20, with seeds of its own; 100 images, step size 0.04, fixed
    labels."""
    try:
        real, test = data.load("CIFAR10", download=False)
    except UserError as err:
        pytest.skip(f"CIFAR10 is not at hand: {err}")
    test = test.subset(torch.arange(2_000))
    cfg = kip.Config(ipc=10, iterations=20, kernel="FC1", learn_labels=False, batch_target=2_000)
    start = data.ImageSet(
        real.initial_images(cfg.ipc, cfg.init, stream(0, "KIP")).flatten(0, 1),
        torch.arange(10).repeat_interleave(10),
        real.facts,
    )
    loop = Loop(check=1)
    made = kip.distill(real, cfg, seed=0, loop=loop)
    before, after = (kip.measure(s, test, cfg)["kernel_accuracy_pct"][0] for s in (start, made))
    assert 21 < before < 28.5 and 39 < after < 44
    losses = [value for _, value in loop.history["loss"]]
    assert losses[-1] < 0.039 < 0.043 < losses[0]  # released: 0.0488 on the test set at step 0, 0.0358 after 300


def test_learned_labels_move_and_fixed_ones_stay_classes(digits):
    learned = kip.distill(digits[0], TINY, seed=0)
    fixed = kip.distill(digits[0], replace(TINY, learn_labels=False), seed=0)
    assert learned.labels.shape == (10, 10) and not torch.allclose(
        learned.labels.double(), ntk.centred_labels(torch.arange(10), 10), atol=1e-3
    )
    assert fixed.labels.tolist() == list(range(10))
    assert not torch.equal(learned.images, fixed.images)


def test_distilling_beats_the_images_it_starts_from(digits):
    real, test = digits
    cfg = replace(TINY, iterations=60, batch_target=200)
    start = data.ImageSet(
        real.initial_images(cfg.ipc, cfg.init, stream(0, "KIP")).flatten(0, 1), torch.arange(10), real.facts
    )
    made = kip.distill(real, cfg, seed=0)
    before, after = (kip.measure(s, test, cfg)["kernel_accuracy_pct"][0] for s in (start, made))
    assert after > before + 15


def test_kernel_accuracy_by_hand(digits):
    real, test = digits
    test = test.subset(torch.arange(70))
    made = kip.distill(real, TINY, seed=0)
    kernel, x = ntk.kernel_named("FC1"), test.all()[0]
    own, cross = kernel.matrix(made.images, made.images), kernel.matrix(x, made.images)
    answers = (cross @ torch.linalg.solve(own + 1e-6 * own.trace() / 10 * torch.eye(10), made.labels.double())).argmax(
        1
    )
    assert kip.measure(made, test, TINY) == {
        "kernel_accuracy_pct": [pytest.approx(100 * (answers == test.labels).double().mean().item())]
    }


def test_whitening_of_images_by_themselves_travels_with_the_set(digits, tmp_path):
    real, test = digits
    made = kip.distill(real, replace(TINY, zca=True), seed=0)
    assert made.whitening.alone is not None and real.whitening is None
    x = ((real.pixels() - real.facts.mean[0]) / real.facts.std[0]).flatten(1)
    x = x - x.mean(1, keepdim=True)
    x = (x / x.norm(dim=1, keepdim=True)).double()
    covariance = torch.cov(x.T)
    s, u = torch.linalg.eigh(covariance)
    matrix = (u * (s.clamp_min(0) + 0.1 * s.sum() / 64).rsqrt()) @ u.T
    torch.testing.assert_close(made.whitening.matrix.double(), matrix, rtol=1e-3, atol=1e-3)
    seen = test.under(made.whitening).take(torch.arange(3))[0].flatten(1)
    y = test.pixels()[:3].flatten(1)
    y = (y - real.facts.mean[0]) / real.facts.std[0]
    y = y - y.mean(1, keepdim=True)
    torch.testing.assert_close(
        seen.double(), (y / y.norm(dim=1, keepdim=True) - x.mean(0)).double() @ matrix, rtol=1e-3, atol=1e-3
    )
    back = data.ImageSet.load(made.save(tmp_path / "set.safetensors"))
    assert back.whitening.equals(made.whitening) and not back.whitening.equals(
        Whitening(back.whitening.mean, back.whitening.matrix)
    )
    assert back.pixels().min() >= 0 and back.pixels().std() > 0.05
    assert kip.measure(back, test, replace(TINY, zca=True))["kernel_accuracy_pct"][0] > 20


def test_what_a_convolutional_run_costs_is_printed_before_it_starts(digits, capsys):
    cfg = replace(TINY, kernel="KIPConv3GAP", iterations=1, batch_target=10)
    made = kip.distill(digits[0], cfg, seed=0)
    line = capsys.readouterr().out
    assert (
        line.startswith("KIP with KIPConv3GAP: 200 pairs of images a step, 14,400 kernel entries each")
        and " h for 1 steps on " in line
    )
    assert torch.isfinite(made.images).all()
    kip.distill(digits[0], TINY, seed=0)
    assert capsys.readouterr().out == ""


def test_a_step_that_diverges_stops_with_the_last_good_state(digits, tmp_path):
    with pytest.raises(Diverged, match="distill: loss = nan"):
        kip.distill(digits[0], replace(TINY, lr=float("inf")), seed=0, loop=Loop(tmp_path, check=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "FC0"}, "unknown kernel 'FC0'"),
        ({"batch_target": 9}, "batch_target 9: at least one image of each of the 10 classes"),
        ({"ipc": 0}, "ipc: .*greater than or equal to 1"),
        ({"kernel": "KIPConv4"}, "KIPConv4 cannot take 8x8 images"),
    ],
)
def test_settings_that_cannot_work_are_refused(digits, changes, message):
    with pytest.raises(UserError, match=message):
        kip.distill(digits[0], replace(TINY, **changes), seed=0)


def test_the_published_settings():
    cfg = kip.paper_config("CIFAR10", 10)
    assert (cfg.kernel, cfg.ridge, cfg.iterations, cfg.batch_target, cfg.zca) == ("KIPConv", 1e-6, 50_000, 5_000, True)
    assert not kip.paper_config("grey images of my own", 1).zca
    assert not kip.paper_config("FashionMNIST", 1).zca and "reconstruction" in cfg.source
    assert cfg.small().kernel == "FC1" and cfg.small().source == "reduced"
