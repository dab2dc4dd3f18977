"""Convolutions and changes of the sampling rate, made fast without changing what they compute.

Styles scale a convolution's input and output, so one convolution with shared weights serves the batch, and the
derivative by a style needs no derivative by a weight. Separable filters that change the sampling rate are banded
matrices, applied as matrix products on rows and columns. 3x3 convolutions on a CPU are Winograd products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...networks.winograd import WINOGRAD
from .layers import Layer

SLOPE, CLAMP = 0.2, 256.0
Forms = tuple[Tensor, Tensor]  # Winograd forms of a weight: (36, O, I) forwards, (36, I, O) backwards


class Kept:
    """A value computed from tensors, which is computed again only when they have changed."""

    def __init__(self):
        self.key, self.value = None, None

    def __call__(self, make: Callable[[], Any], *tensors: Tensor) -> Any:
        key = [(t.data_ptr(), t._version, t.device) for t in tensors]
        if key != self.key:
            self.key, self.value = key, make()
        return self.value


class Resampling(nn.Module):
    """Up: zeros between samples, padding, FIR filter of gain up². Down: FIR filter, every `down`-th sample.

    A separable filter is a matrix (out, in), applied to rows and columns. The one of `up` always is; a radial one of
    `down` is (taps, taps) and a convolution.
    """

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("up_filter", torch.zeros(6 * layer.up))
        self.register_buffer("down_filter", torch.zeros(*[6 * layer.down] * (2 if layer.radial else 1)))
        self._kept = Kept()

    def matrices(self) -> tuple[Tensor, Tensor | None]:
        """(tmp, in + kernel - 1) and (size, tmp): the separable filters as matrices, None for a radial one."""
        layer, (low, _), device = self.layer, self.layer.padding, self.up_filter.device
        inputs, tmp = layer.in_size + layer.kernel - 1, (layer.size - 1) * layer.down + 6 * layer.down
        up, down = torch.zeros(tmp, inputs), None
        f = self.up_filter.detach().cpu().flip(0) * layer.up
        for i in range(inputs):  # sample i stands at i up + low of the padded signal
            at = i * layer.up + low
            for j in range(len(f)):
                if 0 <= at - j < tmp:
                    up[at - j, i] = f[j]
        if not layer.radial:
            down, g = torch.zeros(layer.size, tmp), self.down_filter.detach().cpu().flip(0)
            for o in range(layer.size):
                down[o, o * layer.down : o * layer.down + len(g)] = g
            down = down.to(device)
        return up.to(device), down

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, C, in + kernel - 1, same) to (B, C, size, size): bias, up, leaky ReLU times sqrt 2, clamp, down."""
        up, down = self._kept(self.matrices, self.up_filter, self.down_filter)
        x = _apply(x + bias[:, None, None], up)  # (B, C, tmp, tmp)
        x = (F.leaky_relu(x, SLOPE) * 2**0.5).clamp(-CLAMP, CLAMP)
        return self._radial(x) if down is None else _apply(x, down)  # (B, C, size, size)

    def _radial(self, x: Tensor) -> Tensor:
        f = self.down_filter.flip(0, 1)[None, None]
        out = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), f, stride=self.layer.down)  # (B C, 1, size, size)
        return out.view(*x.shape[:2], self.layer.size, self.layer.size)


def _apply(x: Tensor, matrix: Tensor) -> Tensor:
    """(B, C, n, n) with a matrix (m, n) on columns and rows: (B, C, m, m)."""
    b, c, h, w = x.shape
    rows = (x.reshape(-1, w) @ matrix.T).view(b * c, h, -1)  # (B C, n, m)
    return torch.matmul(matrix, rows).view(b, c, len(matrix), len(matrix))


@functools.lru_cache(maxsize=8)
def _winograd(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Two-dimensional transforms of input, output and weight: (36, 36), (16, 36), (36, 9)."""
    return tuple(torch.kron(a, a).to(device) for a in (torch.tensor(m, dtype=torch.float32) for m in WINOGRAD[4]))


class _Full3x3(torch.autograd.Function):
    """Full 3x3 convolution (two zeros on every side) of (B, I, H, W) with fixed weights: (B, O, H + 2, W + 2), by
    Winograd products."""

    @staticmethod
    def forward(ctx, x: Tensor, forwards: Tensor, backwards: Tensor) -> Tensor:
        ctx.backwards = backwards
        return _products(x, forwards, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _products(grad, ctx.backwards, 0), None, None


def _products(x: Tensor, weight: Tensor, pad: int) -> Tensor:
    """(B, I, H, W) and transformed weights (36, O, I) to (B, O, H + 2 pad - 2, W + 2 pad - 2)."""
    into, out, _ = _winograd(x.device)
    b, c, h, w = x.shape
    rows, columns = (-(-(n + 2 * pad - 2) // 4) for n in (h, w))  # tiles of 4
    x = F.pad(x, (pad, 4 * columns + 2 - w - pad, pad, 4 * rows + 2 - h - pad))
    i, j, k = x.stride()[1:]
    tiles = x.as_strided((6, 6, c, b, rows, columns), (j, k, i, x.stride(0), 4 * j, 4 * k)).reshape(36, -1)
    seen = (into @ tiles).view(36, c, -1)  # one product for every channel and tile
    found = torch.bmm(weight, seen)  # (36, O, tiles)
    found = (out @ found.view(36, -1)).view(4, 4, -1, b, rows, columns)
    found = found.permute(3, 2, 4, 0, 5, 1).reshape(b, -1, 4 * rows, 4 * columns)
    return found[:, :, : h + 2 * pad - 2, : w + 2 * pad - 2]


def normalised_weight(weight: Tensor, demodulated: bool) -> tuple[Tensor, Tensor, Forms | None]:
    """Normalised weight (O, I, k, k), its squares summed over k x k (O, I), and its Winograd forms where they pay."""
    if demodulated:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
    forms = None
    fixed = not weight.requires_grad and weight.device.type == "cpu"
    if fixed and weight.shape[2] == 3 and min(weight.shape[:2]) >= 64:  # then Winograd's products pay
        change = _winograd(weight.device)[2]
        turned = weight.flip(2, 3).transpose(0, 1)  # of the derivative by the input
        flat = ((w.flatten(2).permute(2, 0, 1).reshape(9, -1), w.shape[:2]) for w in (weight, turned))
        forms = tuple((change @ nine).view(36, *channels).contiguous() for nine, channels in flat)
    return weight, weight.square().sum((2, 3)), forms


def convolve(x: Tensor, s: Tensor, weights: tuple, out: Tensor | None) -> Tensor:
    """Full convolution with input channels scaled by `s` (B, I) and output channels by `out` (B, O)."""
    weight, _, forms = weights
    x = x * s[:, :, None, None]
    x = _Full3x3.apply(x, *forms) if forms else F.conv2d(x, weight, padding=weight.shape[-1] - 1)
    return x if out is None else x * out[:, :, None, None]
