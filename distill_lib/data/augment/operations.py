"""Image operations with parameters per image: colour, shift, erase, flip, warp."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.device import send


# --- operations on (G, n, C, H, W), parameters (G, m) with m = 1 or n ----------------------------------------------
def _wide(p: Tensor, x: Tensor) -> Tensor:
    """(G, m) parameters as (G, m, 1, 1, 1), on x's device and in its type."""
    return send(p, x.device, x.dtype)[..., None, None, None]


def color(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness, then saturation about each pixel's channel mean, then contrast about each image's mean.

    Neither saturation nor contrast moves the image mean, so the three are one affine map of x and its means
    (and the order of the last two does not matter).
    """
    b, s, k = (_wide(p, x) for p in (brightness, saturation, contrast))
    if x.shape[2] == 1:
        s = torch.ones_like(s)  # a single channel is its own mean
    grey = x.mean(2, keepdim=True)  # (G, n, 1, H, W)
    level = grey.mean(-1, keepdim=True).mean(
        -2, keepdim=True
    )  # (G, n, 1, 1, 1), in an order that no other image changes
    return (x * (s * k)).add_((grey * (k * (1 - s))).add_(level * (1 - k) + b))


def shift(x: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """out[i, j] = x[i + dy, j + dx], zeros from outside; dy and dx are whole pixels."""
    groups, images, channels, h, w = x.shape
    if dy.shape[1] < images:
        return _stack(
            [F.pad(g, (-b, b, -a, a)) for g, a, b in zip(x.unbind(), dy[:, 0].tolist(), dx[:, 0].tolist(), strict=True)]
        )
    rows, cols = (torch.arange(n, device=x.device) + send(d, x.device).reshape(-1, 1) for n, d in ((h, dy), (w, dx)))
    return _take(x, rows, cols)


def _take(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Rearrange pixels: out[b, :, i, j] = x[b, :, rows[b, i], cols[b, j]], zero where an index lies outside.

    x (G, n, C, H, W); rows (G·n, H), cols (G·n, W).
    """
    h, w = x.shape[-2:]
    gy, gx = (2 * rows.to(x.dtype) + 1) / h - 1, (2 * cols.to(x.dtype) + 1) / w - 1
    grid = torch.stack([gx[:, None, :].expand(-1, h, w), gy[:, :, None].expand(-1, h, w)], -1)
    return F.grid_sample(x.flatten(0, 1), grid, mode="nearest", align_corners=False).reshape(x.shape)


def erase(x: Tensor, top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    """Zeros in rows top..top+height-1 and columns left..left+width-1, as far as these lie inside the image."""
    rows, cols = (torch.arange(n, device=x.device) for n in x.shape[-2:])
    top, left, height, width = (send(torch.as_tensor(p), x.device)[..., None] for p in (top, left, height, width))
    rows, cols = (rows >= top) & (rows < top + height), (cols >= left) & (cols < left + width)  # (G, m, H), (G, m, W)
    return x * ~(rows[..., None, :, None] & cols[..., None, None, :])


def flip(x: Tensor, yes: Tensor) -> Tensor:
    """Mirror left-right where `yes`."""
    if yes.shape[1] < x.shape[1]:
        return _stack(
            [g.flip(-1) if mirrored else g for g, mirrored in zip(x.unbind(), yes[:, 0].tolist(), strict=True)]
        )
    return torch.where(send(yes, x.device)[..., None, None, None], x.flip(-1), x)


def warp(x: Tensor, matrix: Tensor, padding: str = "zeros") -> Tensor:
    """Bilinear sampling at affine positions: `grid_sample(x, affine_grid(matrix))` to rounding.

    Args:
        matrix:  (G, m, 2, 3), from output to input positions, both in [-1, 1] from edge to edge.
        padding: "zeros", or "border" to repeat the edge.
    """
    h, w = x.shape[-2:]
    a = send(matrix, x.device, x.dtype)[..., None, None]  # (G, m, 2, 3, 1, 1)
    ys = ((2 * torch.arange(h, device=x.device, dtype=x.dtype) + 1) / h - 1)[:, None]
    xs = (2 * torch.arange(w, device=x.device, dtype=x.dtype) + 1) / w - 1
    grid = torch.stack(
        [a[:, :, i, 0] * xs + (a[:, :, i, 1] * ys + a[:, :, i, 2]) for i in (0, 1)], -1
    )  # (G, m, H, W, 2)
    return _sample(x, grid, padding)


def _sample(x: Tensor, grid: Tensor, padding: str) -> Tensor:
    if grid.shape[1] < x.shape[1]:  # shared grids stay shared: no copy per image
        sampled = [
            F.grid_sample(g, one.expand(len(g), -1, -1, -1), padding_mode=padding, align_corners=False)
            for g, one in zip(x.unbind(), grid.unbind(), strict=True)
        ]
        return _stack(sampled)
    return F.grid_sample(x.flatten(0, 1), grid.flatten(0, 1), padding_mode=padding, align_corners=False).reshape(
        x.shape
    )


def _stack(images: list[Tensor]) -> Tensor:
    return torch.stack(images) if len(images) > 1 else images[0].unsqueeze(0)


def perform(kind: str, x: Tensor, numbers: Tensor) -> Tensor:
    """An operation by its name and numbers (G, m, P).

    color: brightness, saturation, contrast · shift: whole rows and columns · erase: top, left, height, width · flip:
    whether · warp, warp_border: the 2 x 3 matrix row by row, with zeros or the edge outside.
    """
    if kind == "color":
        return color(x, *numbers.unbind(-1))
    if kind == "shift":
        return shift(x, *numbers.long().unbind(-1))
    if kind == "erase":
        return erase(x, *numbers.long().unbind(-1))
    if kind == "flip":
        return flip(x, numbers[..., 0].bool())
    return warp(x, numbers.unflatten(-1, (2, 3)), "border" if kind == "warp_border" else "zeros")
