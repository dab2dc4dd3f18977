"""The compiled affine sampling against `grid_sample` in float64: values, gradients, fallbacks."""

import pytest
import torch
from torch.nn import functional as F

from distill_lib import augment, warp
from distill_lib.rng import generator


@pytest.fixture(autouse=True)
def compile_the_kernel(monkeypatch):
    """The suite compiles nothing; these tests do, once."""
    try:
        library = warp.build()
    except Exception as err:
        pytest.skip(f"no C++ compiler that works: {err}")
    monkeypatch.setattr(warp, "kernel", lambda lib=warp.load(library): lib)


def case(groups, n, channels, h, w, shared, seed=0):
    """Images, and matrices that turn, shear, stretch and move, partly out of the image."""
    rng = generator(seed, "warp")
    x = torch.randn(groups, n, channels, h, w, generator=rng)
    matrix = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]) + 0.4 * torch.randn(groups, 1 if shared else n, 2, 3, generator=rng)
    return x, matrix


def exact(x, matrix, padding):
    groups, n = x.shape[:2]
    grid = F.affine_grid(matrix.double().expand(-1, n, -1, -1).flatten(0, 1), list(x.flatten(0, 1).shape), align_corners=False)
    return F.grid_sample(x.double().flatten(0, 1), grid, padding_mode=padding, align_corners=False).view(x.shape)


CASES = [(3, 5, 3, 32, 32), (1, 1, 1, 28, 28), (2, 6, 1, 9, 14), (2, 3, 2, 1, 5)]


@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_values_and_gradients_are_grid_samples(shape, shared, padding):
    x, matrix = case(*shape, shared)
    x, weight = x.requires_grad_(), torch.randn(shape, generator=generator(1, "warp"))
    found, wanted = augment.warp(x, matrix, padding), exact(x, matrix, padding)
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=2e-4)  # white noise: a position's rounding moves a value
    ours, = torch.autograd.grad((found * weight).sum(), x)
    theirs, = torch.autograd.grad((wanted * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-4)


def test_the_adjoint_is_the_adjoint_and_has_derivatives_itself():
    x, matrix = case(2, 4, 3, 16, 16, True)
    y = torch.randn(x.shape, generator=generator(2, "warp"), requires_grad=True)
    leaf = x.clone().requires_grad_()
    back, = torch.autograd.grad(augment.warp(leaf, matrix), leaf, y, create_graph=True)
    forward = augment.warp(x, matrix)
    torch.testing.assert_close((back * x).sum(), (forward * y).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad((back * x).sum(), y)[0], forward)


@pytest.mark.parametrize("name", ["dsa:scale", "dsa:rotate", "frepo:rotate", "idc"])
def test_an_image_does_not_depend_on_the_others_nor_on_threads(name, monkeypatch):
    aug, x = augment.named(name), case(4, 30, 3, 32, 32, True)[0]
    params = aug.draw(generator(0), groups=4)
    whole = aug.apply(x, params)
    for n in (1, 3, 30):
        assert torch.equal(aug.apply(x[:, :n], params), whole[:, :n])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(aug.apply(x, params), whole)


def test_other_types_take_grid_sample_and_agree(monkeypatch):
    x, matrix = case(2, 3, 3, 20, 20, True)
    found = augment.warp(x, matrix)
    torch.testing.assert_close(found, augment.warp(x.double(), matrix).float(), rtol=0, atol=2e-4)
    monkeypatch.setattr(warp, "kernel", lambda: None)
    torch.testing.assert_close(found, augment.warp(x, matrix), rtol=0, atol=2e-4)
