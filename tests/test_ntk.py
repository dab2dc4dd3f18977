"""Kernels against hand-worked values, wide finite networks and a plain recursion over all pixel pairs; gradients
against differences."""

import math

import pytest
import torch
from torch.nn import functional as F

from distill_lib.core.device import Pieces
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.methods.common import ntk


def images(n, side=8, channels=2, seed=0):
    return torch.randn(n, channels, side, side, generator=stream(seed, "ntk test"), dtype=torch.float64)


# --- known values -----------------------------------------------------------------------------------------------------
def test_three_points_of_fc1():
    x = torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64)[:, :, None, None]
    expected = torch.tensor(
        [[2.0300, 0.3415, 1.8465], [0.3415, 2.0300, 1.8465], [1.8465, 1.8465, 4.0300]], dtype=torch.float64
    )
    assert (ntk.kernel_named("FC1").matrix(x, x) - expected).abs().max() < 5e-5


def test_relu_moments_by_hand():
    c, s = torch.tensor([0.0, 2.0, -2.0, 1.0], dtype=torch.float64), torch.full((4,), 2.0, dtype=torch.float64)
    both, step = ntk.relu(c, s)
    sixty = (2 / (2 * math.pi)) * (math.sin(math.pi / 3) + (math.pi - math.pi / 3) * 0.5)  # 60 degrees
    assert both.tolist() == pytest.approx([1 / math.pi, 1, 0, sixty]) and step.tolist() == pytest.approx(
        [0.25, 0.5, 0, 1 / 3]
    )


def test_relu_moments_by_sampling():
    rng = stream(0, "relu")
    u = torch.randn(400_000, generator=rng, dtype=torch.float64)
    v = 0.6 * u + 0.8 * torch.randn(400_000, generator=rng, dtype=torch.float64)
    u, v = 1.5 * u, 0.5 * v
    both, step = ntk.relu(torch.tensor(0.45, dtype=torch.float64), torch.tensor(0.75, dtype=torch.float64))
    assert abs((u.relu() * v.relu()).mean() - both) < 0.003 and abs(((u > 0) & (v > 0)).double().mean() - step) < 0.003


# --- finite networks --------------------------------------------------------------------------------------------------
def finite(x, layers, width, seed, gradients=True):
    """Outputs and, if asked for, NTK of one wide network in the kernel's parameterisation: both variances are factors
    of the layers."""
    rng, w, h = stream(seed, "wide"), {}, x
    for i, layer in enumerate(layers):
        if layer in ("conv", "dense"):
            shape = (1 if i == len(layers) - 1 else width, h.shape[1]) + ((3, 3) if layer == "conv" else ())
            w[f"w{i}"] = torch.randn(shape, generator=rng, requires_grad=gradients)
            w[f"b{i}"] = torch.randn(shape[0], generator=rng, requires_grad=gradients)
        h = _layer(h, i, layer, w)
    out = h[:, 0]
    if not gradients:
        return out
    rows = [torch.autograd.grad(value, list(w.values()), retain_graph=True) for value in out]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return flat @ flat.T


def _layer(h, i, layer, w):
    match layer:
        case "conv":
            fan_in = 9 * h.shape[1]
            return math.sqrt(2 / fan_in) * F.conv2d(h, w[f"w{i}"], padding=1) + 0.1 * w[f"b{i}"][:, None, None]
        case "dense":
            return math.sqrt(2 / h.shape[1]) * F.linear(h, w[f"w{i}"]) + 0.1 * w[f"b{i}"]
        case "relu":
            return h.relu()
        case "pool":
            return F.avg_pool2d(h, 2)
    return h.flatten(1)


BLOCK = ["conv", "relu", "pool"]


@pytest.mark.parametrize(
    ("name", "layers", "side", "width", "draws"),
    [
        ("FC3", ["flat", *["dense", "relu"] * 3, "dense"], 3, 500, 12),
        ("KIPConv2", [*BLOCK * 2, "flat", "dense"], 8, 160, 12),
    ],
)
def test_the_kernel_is_the_limit_of_wide_networks(name, layers, side, width, draws):
    x = images(3, side)
    x[2] = x[0] + 0.3 * x[1]
    kernel = ntk.kernel_named(name)
    exact, nngp = kernel.matrix(x, x), kernel.matrix(x, x, nngp=True)
    estimate = torch.stack([finite(x.float(), layers, width, seed) for seed in range(draws)]).double()
    error, spread = (estimate.mean(0) - exact).abs(), estimate.std(0) / math.sqrt(draws)
    assert (error < 4 * spread + 0.02 * exact.max()).all() and spread.max() < 0.05 * exact.max()
    outputs = torch.stack([finite(x.float(), layers, 64, seed, gradients=False) for seed in range(400)]).double()
    covariance = outputs.T @ outputs / len(outputs)
    assert ((covariance - nngp).abs() < 0.25 * nngp.max()).all()  # five standard errors of 400 draws


# --- plain reference --------------------------------------------------------------------------------------------------
def plain(x, y, blocks, prepended, average):
    """NNGP and NTK of one pair of images from full (pixel, pixel) matrices, every layer as matrix algebra."""

    def three(k, h, w):  # mean over joint 3x3 shifts
        k = k.reshape(h, w, h, w)
        out = torch.zeros_like(k)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                ys, xs = slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx))
                yt, xt = slice(max(0, -dy), h + min(0, -dy)), slice(max(0, -dx), w + min(0, -dx))
                out[yt, xt, yt, xt] += k[ys, xs, ys, xs]
        return out.reshape(h * w, h * w) / 9

    def pooled(k, h, w):
        k = k.reshape(h, w, h, w)[: h // 2 * 2, : w // 2 * 2, : h // 2 * 2, : w // 2 * 2]
        k = k.reshape(h // 2, 2, w // 2, 2, h // 2, 2, w // 2, 2).mean((1, 3, 5, 7))
        return k.reshape(h // 2 * (w // 2), -1)

    c, h, w = x.shape
    k = {
        pair: a.reshape(c, -1).T @ b.reshape(c, -1) / c
        for pair, (a, b) in {"xx": (x, x), "yy": (y, y), "xy": (x, y)}.items()
    }
    theta = torch.zeros_like(k["xy"])
    for layer in range(blocks + prepended):
        k = {pair: 2 * three(v, h, w) + 0.01 for pair, v in k.items()}
        theta = k["xy"] + 2 * three(theta, h, w)
        variance = {"x": k["xx"].diagonal(), "y": k["yy"].diagonal()}
        nonlinear = {
            pair: ntk.relu(v, (variance[pair[0]][:, None] * variance[pair[1]]).sqrt()) for pair, v in k.items()
        }
        theta = nonlinear["xy"][1] * theta
        k = {pair: both for pair, (both, _) in nonlinear.items()}
        if not (prepended and layer == 0):
            theta, k = pooled(theta, h, w), {pair: pooled(v, h, w) for pair, v in k.items()}
            h, w = h // 2, w // 2
    end = (lambda v: v.mean()) if average else (lambda v: v.diagonal().mean())
    nngp = 2 * end(k["xy"]) + 0.01
    return nngp, nngp + 2 * end(theta)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(
    ("blocks", "prepended", "shape"),
    [(2, False, (2, 8, 8)), (3, True, (1, 8, 9)), (1, False, (3, 7, 6)), (2, True, (1, 9, 7))],
)
def test_banded_offsets_are_exact(blocks, prepended, average, shape):
    rng = stream(1, shape)
    x, y = (torch.randn(n, *shape, generator=rng, dtype=torch.float64) for n in (2, 3))
    kernel = ntk.ConvolutionalKernel(blocks, prepended, average)
    expected = torch.tensor([[plain(a, b, blocks, prepended, average) for b in y] for a in x], dtype=torch.float64)
    assert torch.allclose(kernel.matrix(x, y, nngp=True), expected[..., 0], rtol=1e-12)
    assert torch.allclose(kernel.matrix(x, y), expected[..., 1], rtol=1e-12)
    own = torch.tensor([[plain(a, b, blocks, prepended, average)[1] for b in x] for a in x], dtype=torch.float64)
    assert torch.allclose(kernel.matrix(x, x), own, rtol=1e-10)


def test_offsets_that_survive_the_poolings():
    assert ntk.kernel_named("KIPConv3").reach(32) == [7, 3, 1, 0] and ntk.kernel_named("KIPConv3").reach(28) == [
        7,
        3,
        1,
        0,
    ]
    assert ntk.kernel_named("KIPConv3").entries((3, 32, 32)) == 225 * 1024
    assert ntk.kernel_named("KIPConv3GAP").reach(32) == [31, 15, 7, 3]


# --- derivatives ------------------------------------------------------------------------------------------------------
EVERY = ["FC1", "FC3", "KIPConv2", "KIPConv", "KIPConv3GAP"]


@pytest.mark.parametrize("name", EVERY)
def test_pull_against_finite_differences(name):
    kernel, x, y, rng = ntk.kernel_named(name), images(3), images(4, seed=1), stream(2)
    towards = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    g, own = (torch.randn(3, m, generator=rng, dtype=torch.float64) for m in (4, 3))
    e = 1e-5
    by_difference = (g * (kernel.matrix(x + e * towards, y) - kernel.matrix(x - e * towards, y))).sum() / (2 * e)
    assert (kernel.pull(x, y, g) * towards).sum().item() == pytest.approx(by_difference.item(), rel=1e-6, abs=1e-8)
    by_difference = (
        own * (kernel.matrix(x + e * towards, x + e * towards) - kernel.matrix(x - e * towards, x - e * towards))
    ).sum() / (2 * e)
    assert (kernel.pull(x, x, own + own.T) * towards).sum().item() == pytest.approx(
        by_difference.item(), rel=1e-6, abs=1e-8
    )


@pytest.mark.parametrize("name", EVERY)
def test_black_borders_and_equal_images_give_finite_derivatives(name):
    x = images(3)
    x[:, :, :3] = -0.4  # the same constant patch in every image
    x[1] = x[0]
    kernel = ntk.kernel_named(name)
    matrix = kernel.matrix(x, x)
    assert torch.allclose(matrix[0], matrix[1]) and torch.allclose(matrix, matrix.T)
    assert torch.isfinite(kernel.pull(x, x, torch.ones(3, 3, dtype=torch.float64))).all()


# --- tiles ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [1, 5, 7])
def test_tiled_equals_untiled(name, size):
    kernel, x, y = ntk.kernel_named(name), images(3), images(4, seed=1)
    g = torch.randn(3, 4, generator=stream(3), dtype=torch.float64)
    whole, parts = Pieces(10**6), Pieces(size)
    assert torch.allclose(kernel.matrix(x, y, parts), kernel.matrix(x, y, whole), rtol=1e-13)
    assert torch.allclose(kernel.pull(x, y, g, parts), kernel.pull(x, y, g, whole), rtol=1e-11, atol=1e-14)


def test_running_out_of_memory_gives_the_same_numbers_and_smaller_tiles(monkeypatch):
    kernel, x, y = ntk.kernel_named("KIPConv2"), images(3), images(6, seed=1)
    g = torch.ones(3, 6, dtype=torch.float64)
    whole, derivative, between = kernel.matrix(x, y), kernel.pull(x, y, g), kernel.between

    def narrow(a, b, *variances):
        if len(a) * len(b) > 6:
            raise torch.OutOfMemoryError("not enough")
        return between(a, b, *variances)

    monkeypatch.setattr(kernel, "between", narrow)
    tiles = Pieces(18)
    with pytest.warns(UserWarning, match="out of memory"):
        assert torch.allclose(kernel.matrix(x, y, tiles), whole, rtol=1e-13)
    assert tiles.size < 18
    with pytest.warns(UserWarning, match="out of memory"):
        assert torch.allclose(kernel.pull(x, y, g, Pieces(18)), derivative, rtol=1e-11, atol=1e-14)


def test_single_precision_stays_within_rounding():
    x, y = images(3), images(4, seed=1)
    for name in ("FC2", "KIPConv3"):
        exact = ntk.kernel_named(name).matrix(x, y)
        coarse = ntk.kernel_named(name, torch.float32)
        assert (coarse.matrix(x, y) - exact).abs().max() < 1e-5 * exact.max()
        g = torch.ones(3, 4, dtype=torch.float64)
        fine = ntk.kernel_named(name).pull(x, y, g)
        assert (coarse.pull(x, y, g) - fine).norm() < 1e-4 * fine.norm()


# --- regression -------------------------------------------------------------------------------------------------------
def test_two_points_by_hand():
    x = torch.eye(2, dtype=torch.float64)
    targets, labels = (
        torch.tensor([[1.0, 1.0], [2.0, 0.0]], dtype=torch.float64),
        torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=torch.float64),
    )
    found = ntk.regress(x @ x.T, targets @ x.T, labels)
    assert torch.allclose(found, torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64), atol=1e-5)


def test_regression_on_its_own_points_returns_their_labels_up_to_the_ridge():
    x, labels = images(6), torch.randn(6, 3, generator=stream(4), dtype=torch.float64)
    kernel = ntk.kernel_named("FC1").matrix(x, x)
    assert (ntk.regress(kernel, kernel, labels) - labels).abs().max() < 1e-4
    assert (ntk.regress(kernel, kernel, labels, ridge=1.0) - labels).abs().max() > 0.1


def test_the_ridge_follows_the_scale_of_the_kernel():
    x, y, labels = images(6), images(5, seed=1), torch.randn(6, 3, generator=stream(4), dtype=torch.float64)
    own, cross = ntk.kernel_named("FC1").matrix(x, x), ntk.kernel_named("FC1").matrix(y, x)
    assert torch.allclose(
        ntk.regress(own, cross, labels, 0.1), ntk.regress(1e4 * own, 1e4 * cross, labels, 0.1), rtol=1e-10
    )


def test_brighter_images_on_both_sides_hardly_change_the_prediction():
    x, y, labels = (
        3 * images(10),
        3 * images(50, seed=1),
        torch.randn(10, 3, generator=stream(4), dtype=torch.float64),
    )
    kernel = ntk.kernel_named("FC1")
    answers = [
        ntk.regress(kernel.matrix(s * x, s * x), kernel.matrix(s * y, s * x), labels).argmax(1) for s in (1.0, 4.0)
    ]
    assert (answers[0] == answers[1]).double().mean() > 0.95  # the bias variance breaks homogeneity


def test_equal_images_without_a_ridge_are_an_error_that_says_so():
    x = images(2)[[0, 0, 1]]
    kernel = ntk.kernel_named("FC1").matrix(x, x)
    with pytest.raises(UserError, match="not positive definite: equal images"):
        ntk.solve(kernel, torch.ones(3, 1), ridge=-1e-6)
    assert torch.isfinite(ntk.solve(kernel, torch.ones(3, 1), ridge=1e-4)).all()


@pytest.mark.parametrize("name", ["FC0", "FC", "ConvNet", "kipconv3", "KIPConv9", ""])
def test_an_unknown_kernel_names_those_there_are(name):
    with pytest.raises(UserError, match="unknown kernel .*KIPConv3GAP"):
        ntk.kernel_named(name)


def test_images_too_small_for_the_poolings_are_named():
    with pytest.raises(UserError, match="KIPConv3 cannot take 7x8 images: .*at least 8"):
        ntk.kernel_named("KIPConv3").matrix(torch.zeros(1, 1, 7, 8), torch.zeros(1, 1, 7, 8))


def test_centred_labels():
    assert ntk.centred_labels(torch.tensor([0, 9]), 10)[0].tolist() == pytest.approx([0.9] + [-0.1] * 9)
