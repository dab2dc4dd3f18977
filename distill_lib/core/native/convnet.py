"""The compiled ConvNet kernel: building it, and calling it with numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from . import build as native_build

SOURCE = Path(__file__).with_suffix(".cpp")


@dataclass(frozen=True)
class Blocks:
    """A network as the kernel sees it: blocks of convolution 3x3, norm (or none), ReLU, 2x2 average pooling.

    Attributes:
        padding: of the first convolution; the others have 1.
        names:   per block, parameter names of convolution weight and bias, norm scale and shift (None without a norm).
    """

    shape: tuple[int, int, int]
    padding: int
    norm: bool
    eps: float
    widths: tuple[int, ...]
    embed_dim: int
    names: tuple[str | None, ...]

    def parameters(self, named: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Weight, bias, scale and shift of every block, from a network's named parameters."""
        return [None if name is None else named[name] for name in self.names]


def usable(blocks: Blocks | None, x: Tensor, parameters: Sequence[Tensor | None]) -> bool:
    """Whether the kernel can and may compute on these tensors."""
    return (
        blocks is not None
        and all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in (x, *parameters))
        and tuple(x.shape[1:]) == blocks.shape
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()  # inside vmap and grad of torch.func
        and kernel() is not None
    )


def run(blocks: Blocks, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    """(N, C, H, W) -> (N, D) by the kernel, with the blocks's parameters; differentiable with respect to both."""
    if not torch.is_grad_enabled():  # not known inside the function, which would keep what a backward pass needs
        x, parameters = x.detach(), [None if p is None else p.detach() for p in parameters]
    return _Embed.apply(blocks, x.contiguous(), *(None if p is None else p.contiguous() for p in parameters))


def layers(blocks: Blocks, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    """The same, layer by layer in PyTorch."""
    for i in range(len(blocks.widths)):
        weight, bias, scale, shift = parameters[4 * i : 4 * i + 4]
        x = F.conv2d(x, weight, bias, padding=1 if i else blocks.padding)
        if blocks.norm:
            x = F.group_norm(x, blocks.widths[i], scale, shift, blocks.eps)
        x = F.avg_pool2d(F.relu(x), 2)
    return x.flatten(1)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, blocks: Blocks, x: Tensor, *parameters: Tensor | None) -> Tensor:
        ctx.blocks = blocks
        out = x.new_empty(len(x), blocks.embed_dim)
        saved = x.new_empty(len(x) * kernel().saved_floats(*_sizes(blocks))) if any(ctx.needs_input_grad) else None
        if len(x):
            tensors = map(_at, (x, out, saved))
            kernel().embed_forward(*_call(blocks, parameters), len(x), *tensors, torch.get_num_threads())
        ctx.save_for_backward(x, saved, *parameters)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        blocks = ctx.blocks
        x, saved, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the derivatives are to be differentiated in turn
            wanted = [t for t, needed in zip((x, *parameters), ctx.needs_input_grad[1:], strict=True) if needed]
            found = iter(torch.autograd.grad(layers(blocks, x, parameters), wanted, grad, create_graph=True))
            return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:])
        dx = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        gradients = None
        if any(ctx.needs_input_grad[2:]):
            gradients = [None if p is None else torch.zeros_like(p) for p in parameters]
        if len(x):
            grad, to = grad.contiguous(), gradients and _pointers(gradients)
            tensors = map(_at, (x, saved, grad, dx))
            kernel().embed_backward(*_call(blocks, parameters), len(x), *tensors, to, torch.get_num_threads())
        return None, dx, *(gradients or [None] * len(parameters))


# --- calling C -------------------------------------------------------------------------------------------------------
def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*map(_at, tensors))


def _sizes(blocks: Blocks) -> tuple:
    depth = len(blocks.widths)
    return (ctypes.c_int * 3)(*blocks.shape), blocks.padding, depth, (ctypes.c_int * depth)(*blocks.widths)


def _call(blocks: Blocks, parameters: Sequence[Tensor | None]) -> tuple:
    shape, padding, depth, widths = _sizes(blocks)
    return shape, padding, blocks.norm, blocks.eps, depth, widths, _pointers(parameters)


def build() -> Path:
    """The compiled kernel; see `native.build`."""
    return native_build.build(SOURCE, "convnet")


def load(library: Path) -> ctypes.CDLL:
    """The functions of the shared library, with their argument types."""
    lib = ctypes.CDLL(str(library))
    pointer, ints = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    whole, real = ctypes.c_int, ctypes.c_float
    network = [ints, whole, whole, real, whole, ints, pointer]  # shape .. parameters, as in convnet.cpp
    lib.saved_floats.argtypes, lib.saved_floats.restype = [ints, whole, whole, ints], ctypes.c_long
    lib.embed_forward.argtypes, lib.embed_forward.restype = [*network, ctypes.c_long, *[pointer] * 3, whole], None
    lib.embed_backward.argtypes, lib.embed_backward.restype = [*network, ctypes.c_long, *[pointer] * 5, whole], None
    return lib


kernel = native_build.kernel(build, load, "the fast ConvNet kernel")
