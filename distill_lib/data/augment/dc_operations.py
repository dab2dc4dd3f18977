"""DC's augmentation of digits: crop, scale, rotation and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.device import send
from .base import Augmentation, Params, _integer
from .operations import _take, shift
from .strategies import _names, none

# --- DC's augmentation ---------------------------------------------------------------------------------------------
_DC_OPS = ("crop", "scale", "rotate", "noise")


@dataclass(frozen=True, repr=False)
class DC(Augmentation):
    """One operation per image, drawn with equal probability. For evaluation: no gradient is promised.

    crop: padded by 4 with the batch's channel means, offsets 0..7 · scale: height and width factors U(0.8, 1.2),
    nearest neighbour, on zeros · rotate: whole degrees in [-45, 45), cubic spline, outside is the mean of the channel
    means · noise: + 0.001 N(0, 1). "The batch" is the group here. Source: Zhao et al., ICLR 2021; official code.
    """

    name: str
    names: tuple[str, ...]
    columns = 7  # which, two offsets, two factors, angle, seed of the noise

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        groups, images, channels, h, w = x.shape
        u = params.u.expand(groups, images, -1).flatten(0, 1)
        which = _integer(u[:, 0], len(self.names))
        mean = (
            x.mean(-1).mean(-1).mean(1, keepdim=True).expand(-1, images, -1).flatten(0, 1)[:, :, None, None]
        )  # (G·n, C, 1, 1)
        out = x.flatten(0, 1)
        for k, op in enumerate(self.names):
            index = (which == k).nonzero().flatten()
            if len(index):
                chosen = send(index, x.device)
                out = out.index_put((chosen,), getattr(self, f"_{op}")(out[chosen], u[index], mean[chosen]))
        return out.reshape(x.shape)

    @staticmethod
    def _crop(x: Tensor, u: Tensor, mean: Tensor) -> Tensor:
        dy, dx = (_integer(u[None, :, i], 8) - 4 for i in (1, 2))
        return shift((x - mean)[None], dy, dx)[0] + mean

    @staticmethod
    def _scale(x: Tensor, u: Tensor, mean: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        new_h, new_w = (
            ((0.8 + 0.4 * send(u[:, i], x.device)) * h).long() for i in (3, 4)
        )  # both from the height, as published
        canvas = torch.maximum(new_h, new_w).clamp_min(max(h, w))

        def sources(n: int, new: Tensor) -> Tensor:  # (B, n): the row of x behind each output row, -1 for the canvas
            at = torch.arange(n, device=x.device) + ((canvas - n) // 2 - (canvas - new) // 2)[:, None]
            return torch.where((at >= 0) & (at < new[:, None]), (at * (n / new.float())[:, None]).floor().long(), -1)

        return _take(x[None], sources(h, new_h), sources(w, new_w))[0]

    @staticmethod
    def _rotate(x: Tensor, u: Tensor, mean: Tensor) -> Tensor:
        angles, turn = torch.deg2rad(torch.arange(-45, 45, dtype=torch.float64)), _integer(u[:, 5], 90)
        cos, sin = (
            send(of(angles)[turn], x.device) for of in (torch.cos, torch.sin)
        )  # from a table: the same bits in any batch
        return _spline_rotate(x, cos, sin, mean.mean(1, keepdim=True))

    @staticmethod
    def _noise(x: Tensor, u: Tensor, mean: Tensor) -> Tensor:
        streams = [torch.Generator().manual_seed(int(v)) for v in (u[:, 6].double() * 2**24).tolist()]
        noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in streams])
        return x + 0.001 * send(noise, x.device, x.dtype)


def _spline_rotate(x: Tensor, cos: Tensor, sin: Tensor, fill: Tensor) -> Tensor:
    """Rotate each image about its centre: `scipy.ndimage.rotate(image, degrees, (-2, -1), cval=fill)`, centre-cropped.

    x (B, C, H, W); cosine and sine of the angles (B,), float64; fill (B, 1, 1, 1). Cubic B-spline, mirrored at the
    edges, `fill` beyond them.
    """
    h, w = x.shape[-2:]
    full_h, full_w = (h * cos + w * sin.abs() + 0.5).long(), (w * cos + h * sin.abs() + 0.5).long()  # cos > 0
    rows, cols = (
        torch.arange(n, device=x.device) + ((full - n) // 2 - (full - 1) / 2)[:, None]
        for n, full in ((h, full_h), (w, full_w))
    )  # (B, H), (B, W): output positions from the centre
    cos, sin, rows, cols = cos[:, None, None], sin[:, None, None], rows[:, :, None], cols[:, None, :]
    y, z = cos * rows + sin * cols + (h - 1) / 2, cos * cols - sin * rows + (w - 1) / 2  # (B, H, W): input positions
    inside = (y >= 0) & (y <= h - 1) & (z >= 0) & (z <= w - 1)
    coefficients = _spline_coefficients(_spline_coefficients(x, 2), 3)
    out = torch.zeros_like(x)
    (iy, wy), (iz, wz) = _spline_taps(y, h), _spline_taps(z, w)
    for a in range(4):
        for b in range(4):
            index = (iy[a] * w + iz[b]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
            out = out + coefficients.flatten(2).gather(2, index).view_as(x) * (wy[a] * wz[b])[:, None].to(x.dtype)
    return torch.where(inside[:, None], out, fill)


def _spline_coefficients(x: Tensor, dim: int) -> Tensor:
    """Pixels to cubic B-spline coefficients along a dimension, mirrored at the ends: a recursion over it, and one back.

    Source: Unser, IEEE Signal Processing Magazine 1999; the filter of scipy's splines.
    """
    pole, line = 3**0.5 - 2, list(x.unbind(dim))
    last = len(line) - 1
    there = [line[0]]  # the sum over the mirrored line, which has a period of 2 (n - 1)
    for k in range(1, last + 1):
        there[0] = there[0] + line[k] * (pole**k + (pole ** (2 * last - k) if k < last else 0.0))
    there[0] = there[0] / (1 - pole ** (2 * last))
    for pixels in line[1:]:
        there.append(pixels + there[-1] * pole)
    back = [(there[-1] + there[-2] * pole) * (pole / (pole**2 - 1))]
    for sums in there[-2::-1]:
        back.append((back[-1] - sums) * pole)
    return torch.stack(back[::-1], dim) * 6


def _spline_taps(position: Tensor, n: int) -> tuple[list[Tensor], list[Tensor]]:
    """Indices and weights of the four coefficients around each position."""
    start = position.floor()
    t = position - start
    weights = [(1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6]
    index = [(start.long() + k).abs() for k in (-1, 0, 1, 2)]
    return [(n - 1 - (n - 1 - i).abs()).clamp(0, n - 1) for i in index], weights


def dc(strategy: str = "crop_scale_rotate") -> Augmentation:
    """DC's evaluation augmentation; names among crop, scale, rotate, noise, or "none"."""
    return none() if strategy == "none" else DC(f"dc:{strategy}", _names(strategy, _DC_OPS, "DC"))
