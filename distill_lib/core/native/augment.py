"""The operations of DSA's, IDC's and FRePo's augmentations on a CPU, several times faster than PyTorch's functions.

One call serves all groups of images, whatever operation each has drawn: every image is written once, where it belongs,
and images that share positions compute them once. `augment.cpp` holds the mathematics; every machine without a
compiler, and every other type and device, takes the functions of `augment`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import build as native_build

SOURCE = Path(__file__).with_suffix(".cpp")
KINDS = ("color", "shift", "erase", "flip", "warp", "warp_border")  # by their number in augment.cpp
NUMBERS = 6  # of a set of images, at most


def usable(x: Tensor) -> bool:
    """Whether the kernel can and may compute on these images."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch._C._are_functorch_transforms_active()
        and kernel() is not None
    )


def operate(x: Tensor, kinds: Sequence[str], numbers: Tensor) -> Tensor:
    """(G, n, C, H, W), each group by the operation it names; differentiable in x to any order.

    Args:
        kinds:   one of `KINDS` per group; see `augment.perform` for what each does.
        numbers: (G, m, 6), m = 1 for all images of a group or n; an operation with fewer reads the first.
    """
    which = torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.int32)
    return _Operate.apply(x.contiguous(), which, numbers.float().contiguous(), False)


class _Operate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, kinds: Tensor, numbers: Tensor, adjoint: bool) -> Tensor:
        ctx.save_for_backward(kinds, numbers)
        ctx.adjoint = adjoint
        out, (groups, images, *shape) = torch.empty_like(x), x.shape
        if x.numel():
            pointers, given = (x.data_ptr(), out.data_ptr()), (kinds.data_ptr(), numbers.data_ptr())
            kernel().operate(
                *pointers, groups, numbers.shape[1], images, *shape, *given, adjoint, torch.get_num_threads()
            )
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Operate.apply(grad.contiguous(), *ctx.saved_tensors, not ctx.adjoint), None, None, None


def load(library: Path) -> ctypes.CDLL:
    """The function of the shared library, with its argument types."""
    lib, pointer = ctypes.CDLL(str(library)), ctypes.c_void_p
    lib.operate.argtypes = [pointer, pointer, *[ctypes.c_long] * 6, pointer, pointer, ctypes.c_int, ctypes.c_int]
    lib.operate.restype = None
    return lib


def build() -> Path:
    """The compiled library; see `native.build`."""
    return native_build.build(SOURCE, "operations")


kernel = native_build.kernel(build, load, "the fast kernel of augmentations")
