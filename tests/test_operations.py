"""The compiled operations of augmentations against PyTorch's functions in float64: values, gradients, fallbacks."""

import shutil
import subprocess

import pytest
import torch
from torch.nn import functional as F

from distill_lib.core.native import augment as native_augment
from distill_lib.core.native import build
from distill_lib.core.rng import stream
from distill_lib.data import augment

WARPS = ("warp", "warp_border")


@pytest.fixture(autouse=True)
def compile_the_kernel(compiler, monkeypatch):
    """The suite compiles nothing; these tests do, once."""
    library = native_augment.build()
    monkeypatch.setattr(native_augment, "kernel", lambda lib=native_augment.load(library): lib)


def numbers(kind, rng, groups, m, h, w):
    """(G, m, 6) numbers that reach across the edges of the image."""
    table, u = torch.zeros(groups, m, 6), torch.rand(groups, m, 6, generator=rng)
    if kind == "color":
        table[..., :3] = torch.stack([u[..., 0] - 0.5, 2 * u[..., 1], 0.5 + u[..., 2]], -1)
    elif kind == "shift":
        table[..., :2] = (u[..., :2] * 2 - 1).mul(torch.tensor([h, w])).round()
    elif kind == "erase":
        table[..., :2] = (u[..., :2] * 1.6 - 0.4).mul(torch.tensor([h, w])).round()
        table[..., 2:4] = torch.tensor([h // 2, w // 2 + 1])
    elif kind == "flip":
        table[..., 0] = u[..., 0] < 0.5
    else:  # turn, shear, stretch and move, partly out of the image
        table[:] = torch.tensor([1.0, 0, 0, 0, 1, 0]) + 0.4 * torch.randn(groups, m, 6, generator=rng)
    return table


def exact(x, kinds, table):
    """Group by group in float64; a warp by affine_grid."""
    out = []
    for g, kind in enumerate(kinds):
        one, row = x[g : g + 1].double(), table[g : g + 1].double()
        if kind in WARPS:
            grid = F.affine_grid(
                row.view(1, -1, 2, 3).expand(-1, len(one[0]), -1, -1)[0], list(one[0].shape), align_corners=False
            )
            padding = "border" if kind == "warp_border" else "zeros"
            out.append(F.grid_sample(one[0], grid, padding_mode=padding, align_corners=False))
        else:
            count = {"color": 3, "shift": 2, "erase": 4, "flip": 1}[kind]
            out.append(augment.perform(kind, one, row[..., :count])[0])
    return torch.stack(out)


CASES = [(3, 5, 3, 32, 32), (1, 1, 1, 28, 28), (2, 6, 1, 9, 14), (2, 3, 2, 1, 5), (1, 4, 3, 16, 23)]


@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", native_augment.KINDS)
def test_values_and_gradients_are_those_of_the_functions(shape, shared, kind):
    groups, n, _, h, w = shape
    rng = stream(0, kind)
    x, weight = torch.randn(shape, generator=rng).requires_grad_(), torch.randn(shape, generator=rng)
    table = numbers(kind, rng, groups, 1 if shared else n, h, w)
    found, wanted = native_augment.operate(x, [kind] * groups, table), exact(x, [kind] * groups, table)
    close = {"rtol": 0, "atol": 2e-4 if kind in WARPS else 1e-5}  # white noise: a position's rounding moves a value
    torch.testing.assert_close(found, wanted.float(), **close)
    (ours,) = torch.autograd.grad((found * weight).sum(), x)
    (theirs,) = torch.autograd.grad((wanted * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, **(close | {"atol": 2 * close["atol"]}))


def test_every_group_gets_its_own_operation():
    kinds = [*native_augment.KINDS, "flip", "color"]
    rng = stream(3)
    x = torch.randn(len(kinds), 4, 3, 32, 32, generator=rng)
    table = torch.cat([numbers(kind, rng, 1, 1, 32, 32) for kind in kinds])
    torch.testing.assert_close(
        native_augment.operate(x, kinds, table), exact(x, kinds, table).float(), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("kind", native_augment.KINDS)
def test_the_adjoint_is_the_adjoint_and_has_derivatives_itself(kind):
    rng = stream(1, kind)
    x, table = torch.randn(2, 4, 3, 16, 16, generator=rng), numbers(kind, rng, 2, 1, 16, 16)
    if kind == "color":
        table[..., 0] = 0  # brightness is no linear map
    y = torch.randn(x.shape, generator=rng, requires_grad=True)
    leaf = x.clone().requires_grad_()
    (back,) = torch.autograd.grad(native_augment.operate(leaf, [kind] * 2, table), leaf, y, create_graph=True)
    forward = native_augment.operate(x, [kind] * 2, table)
    torch.testing.assert_close((back * x).sum(), (forward * y).sum(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(torch.autograd.grad((back * x).sum(), y)[0], forward)


@pytest.mark.parametrize("name", ["dsa", "dsa:color", "dsa:scale", "dsa:rotate", "frepo", "idc"])
def test_an_image_does_not_depend_on_the_others_nor_on_threads(name, monkeypatch):
    aug, x = augment.named(name), torch.randn(4, 30, 3, 32, 32, generator=stream(0))
    for seed in range(3):
        params = aug.draw(stream(seed), groups=4)
        whole = aug.apply(x, params)
        for n in (1, 3, 30):
            assert torch.equal(aug.apply(x[:, :n], params), whole[:, :n])
        with monkeypatch.context() as m:
            m.setattr(torch, "get_num_threads", lambda: 3)
            assert torch.equal(aug.apply(x, params), whole)


@pytest.mark.parametrize("name", ["dsa", "idc", "frepo"])
@pytest.mark.parametrize("images", [1, 7])
def test_with_and_without_the_kernel_augmentations_agree(name, images, monkeypatch):
    aug, x = augment.named(name), torch.randn(8, 7, 3, 32, 32, generator=stream(0))
    asked, real = [], native_augment.operate
    monkeypatch.setattr(native_augment, "operate", lambda *a: (asked.append(1), real(*a))[1])
    for seed in range(3):
        params = aug.draw(stream(seed), groups=8, images=images)
        found = aug.apply(x, params)
        assert asked
        torch.testing.assert_close(found, aug.apply(x.double(), params).float(), rtol=0, atol=5e-4)
        with monkeypatch.context() as m:
            m.setattr(native_augment, "kernel", lambda: None)
            torch.testing.assert_close(found, aug.apply(x, params), rtol=0, atol=5e-4)


# --- threads ---------------------------------------------------------------------------------------------------------
PROGRAM = """
#include <cstdio>
#include "parallel.h"
int main() {
  for (int parts : {1, 2, 5})
    for (long n : {0L, 1L, 3L, 1000L}) {
      std::vector<int> seen(n, 0), runs(parts, 0);
      in_parallel(parts, n, [&](int part, long first, long last) {
        runs[part]++;
        for (long i = first; i < last; i++) seen[i]++;
      });
      for (int s : seen) if (s != 1) return 1;
      for (int r : runs) if (r > 1) return 2;
    }
  return 0;
}
"""


@pytest.mark.parametrize("openmp", [True, False])
def test_work_is_shared_out_with_and_without_openmp(openmp, tmp_path):
    compiler = shutil.which("g++") or pytest.skip("no g++")
    (tmp_path / "main.cpp").write_text(PROGRAM)
    more = ["-fopenmp", "-Wl,--no-as-needed", "-lgomp"] if openmp else []
    command = [compiler, "-std=c++17", "-pthread", f"-I{build.HEADER.parent}", "main.cpp", "-o", "main", *more, "-ldl"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if made.returncode and openmp:
        pytest.skip(f"no OpenMP for g++: {made.stderr[-200:]}")
    assert made.returncode == 0, made.stderr
    assert subprocess.run([tmp_path / "main"], timeout=60).returncode == 0
