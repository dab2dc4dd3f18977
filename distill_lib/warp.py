"""Bilinear sampling at affine positions on a CPU, several times sooner than `grid_sample`: images that share their positions compute
them once. `warp.cpp` holds the mathematics; every machine without a compiler, and every other type and device, takes `grid_sample`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from . import native

SOURCE = Path(__file__).with_suffix(".cpp")


def usable(x: Tensor) -> bool:
    """Whether the kernel can and may compute on these images."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch._C._are_functorch_transforms_active() and kernel() is not None


def warp(x: Tensor, matrix: Tensor, border: bool) -> Tensor:
    """(G, n, C, H, W) sampled at `affine_grid(matrix)`, differentiable in x to any order.

    Args:
        matrix: (G, m, 2, 3), m = 1 for all images of a group or n.
        border: repeat the edge outside the images, in place of zeros.
    """
    return _Warp.apply(x.contiguous(), matrix.float().reshape(-1, 6).contiguous(), border, False)


class _Warp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, matrices: Tensor, border: bool, adjoint: bool) -> Tensor:
        ctx.save_for_backward(matrices)
        ctx.how = border, adjoint
        out, (h, w) = torch.empty_like(x), x.shape[-2:]
        if x.numel():
            planes = x.numel() // (len(matrices) * h * w)  # of a set that shares a matrix
            pointers = x.data_ptr(), out.data_ptr()
            kernel().warp(*pointers, len(matrices), planes, h, w, matrices.data_ptr(), border, adjoint, torch.get_num_threads())
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        border, adjoint = ctx.how
        return _Warp.apply(grad.contiguous(), *ctx.saved_tensors, border, not adjoint), None, None, None


def load(library: Path) -> ctypes.CDLL:
    """The function of the shared library, with its argument types."""
    lib, pointer, number = ctypes.CDLL(str(library)), ctypes.c_void_p, ctypes.c_long
    lib.warp.argtypes = [pointer, pointer, number, number, number, number, pointer, *[ctypes.c_int] * 3]
    lib.warp.restype = None
    return lib


def build() -> Path:
    """The compiled library; see `native.build`."""
    return native.build(SOURCE, "warp")


kernel = native.kernel(build, load, "the fast kernel of affine sampling")
