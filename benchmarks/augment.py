"""Augmentations, against the formulation of the official codes.

DSA's: a loop over the groups, every operation on the whole batch with parameters expanded to one per image, affine
matrices from nested lists and positions from `affine_grid`, shifts and holes by fancy indexing. DC's: image after image
in numpy and scipy.

One call goes through enough random draws for every operation to have its share; both sides apply the same and return
the images of the last, or the gradient by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import suite
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib.core.rng import stream
from distill_lib.data import augment


# --- plain formulation: x (N, C, H, W), u (N, numbers of the operation) ----------------------------------------------
def _color(x: Tensor, u: Tensor) -> Tensor:
    u = u.view(*u.shape, 1, 1, 1)
    x = x + (u[:, 0] - 0.5)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (2 * u[:, 1]) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (u[:, 2] + 0.5) + mean


def _crop(x: Tensor, u: Tensor) -> Tensor:
    n, _, h, w = x.shape
    moves = []
    for k, size in enumerate((h, w)):
        pad = math.floor(size * 0.125 + 0.5)
        moves.append((u[:, k] * (2 * pad + 1)).floor().long().view(n, 1, 1) - pad)
    image, row, col = torch.meshgrid(*(torch.arange(k, device=x.device) for k in (n, h, w)), indexing="ij")
    row, col = (row + moves[0] + 1).clamp(0, h + 1), (col + moves[1] + 1).clamp(0, w + 1)
    return F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()[image, row, col].permute(0, 3, 1, 2)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    n, _, h, w = x.shape
    side = [math.floor(size * 0.5 + 0.5) for size in (h, w)]
    centre = [(u[:, k] * (size + 1 - side[k] % 2)).floor().long().view(n, 1, 1) for k, size in enumerate((h, w))]
    image, row, col = torch.meshgrid(*(torch.arange(k, device=x.device) for k in (n, *side)), indexing="ij")
    row, col = (row + centre[0] - side[0] // 2).clamp(0, h - 1), (col + centre[1] - side[1] // 2).clamp(0, w - 1)
    mask = torch.ones(n, h, w, dtype=x.dtype, device=x.device)
    mask[image, row, col] = 0
    return x * mask.unsqueeze(1)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return torch.where(u.view(-1, 1, 1, 1) < 0.5, x.flip(3), x)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    s = u * (1.2 - 1 / 1.2) + 1 / 1.2
    return _affine(x, [[[sx, 0, 0], [0, sy, 0]] for sx, sy in s])


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    angles = (u[:, 0] - 0.5) * 2 * 15 / 180 * math.pi
    return _affine(x, [[[torch.cos(a), torch.sin(-a), 0], [torch.sin(a), torch.cos(a), 0]] for a in angles])


def _affine(x: Tensor, entries: list) -> Tensor:
    matrix = torch.tensor(entries, dtype=x.dtype, device=x.device)
    return F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False)


PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def plain(aug: augment.Strategy, x: Tensor, params: augment.Params) -> Tensor:
    """What `aug.apply` computes, group after group, for x (G, n, C, H, W) and DSA's or IDC's operations."""
    out = []
    for images, names, u in zip(x, aug.operations(params), params.u.to(x.device, x.dtype), strict=True):
        for name in names:
            images = PLAIN[name](images, u[:, aug.numbers(name)].expand(len(images), -1))
        out.append(images)
    return torch.stack(out)


# --- benchmarks ------------------------------------------------------------------------------------------------------
def applied(
    aug: augment.Strategy,
    side: str,
    device: str,
    groups: int,
    images: int,
    channels: int,
    pixels: int,
    draws: int,
    each: bool = False,
    backward: bool = False,
) -> suite.Call:
    rng = stream(0, "benchmark")
    x = torch.randn(groups, images, channels, pixels, pixels, generator=rng).to(device).requires_grad_(backward)
    weight = torch.randn(x.shape, generator=rng).to(device)
    drawn = [aug.draw(rng, groups=groups, images=images if each else 1) for _ in range(draws)]
    apply = aug.apply if side == "ours" else lambda x, params: plain(aug, x, params)

    def run() -> Tensor:
        for params in drawn:
            y = apply(x, params)
            if backward:
                (y,) = torch.autograd.grad((y * weight).sum(), x)
        return y

    return run


COMPARED = "the official code's operations, class by class"
QUICK = {"groups": 2, "images": 2, "channels": 3, "pixels": 16, "draws": 2}
WHAT = "{draws} draws on {groups} classes of {images} images, {channels} x {pixels} x {pixels}"


@suite.benchmark(
    "augment-dsa",
    f"DSA: {WHAT}",
    COMPARED,
    size={"groups": 10, "images": 256, "channels": 3, "pixels": 32, "draws": 6},
    quick=QUICK,
    tolerance=1e-3,
    target={"ratio": 5.0},
)
def siamese(*args, **size) -> suite.Call:
    return applied(augment.dsa(), *args, **size)


@suite.benchmark(
    "augment-dsa-gradient",
    f"DSA with its gradient: {WHAT}",
    COMPARED,
    size={"groups": 10, "images": 10, "channels": 3, "pixels": 32, "draws": 12},
    quick=QUICK,
    tolerance=1e-3,
)
def gradient(*args, **size) -> suite.Call:
    return applied(augment.dsa(), *args, backward=True, **size)


@suite.benchmark(
    "augment-dsa-each",
    "DSA, parameters of every image: {draws} draws for {groups} networks of {images} images, "
    "{channels} x {pixels} x {pixels}",
    "the official code's operations, network by network",
    size={"groups": 5, "images": 100, "channels": 3, "pixels": 32, "draws": 12},
    quick=QUICK,
    tolerance=1e-3,
)
def each(*args, **size) -> suite.Call:
    return applied(augment.dsa(), *args, each=True, **size)


@suite.benchmark(
    "augment-idc",
    "IDC's stages: {draws} draws for {groups} networks of {images} images, {channels} x {pixels} x {pixels}",
    "the official code's operations, network by network",
    size={"groups": 5, "images": 64, "channels": 3, "pixels": 32, "draws": 6},
    quick=QUICK,
    tolerance=1e-3,
)
def idc(*args, **size) -> suite.Call:
    return applied(augment.idc(), *args, each=True, **size)


@suite.benchmark(
    "augment-dc",
    "DC's crop, scale and rotation of {images} images, {channels} x {pixels} x {pixels}",
    "image after image in numpy and scipy",
    size={"images": 256, "channels": 1, "pixels": 28},
    quick={"images": 8, "channels": 1, "pixels": 28},
    tolerance=1e-3,
)
def dc(side: str, device: str, images: int, channels: int, pixels: int) -> suite.Call:
    rng, aug = stream(0, "benchmark"), augment.dc()
    x = torch.randn(images, channels, pixels, pixels, generator=rng).to(device)
    params = aug.draw(rng, images=images)
    return (lambda: aug.apply(x, params)) if side == "ours" else lambda: plain_dc(aug.names, x, params.u[0])


def plain_dc(names: tuple[str, ...], x: Tensor, u: Tensor) -> Tensor:
    """(N, C, H, W) with numbers (N, 7): one image, one operation at a time."""
    pixels, out = x.cpu().numpy(), []
    (h, w), mean = x.shape[-2:], pixels.mean((0, 2, 3)).reshape(-1, 1, 1)
    for image, row in zip(pixels, u):
        op = names[int(row[0] * len(names))]
        if op == "crop":
            padded = np.broadcast_to(mean, (len(mean), h + 8, w + 8)).copy()
            padded[:, 4:-4, 4:-4] = image
            top, left = int(row[1] * 8), int(row[2] * 8)
            image = padded[:, top : top + h, left : left + w]
        elif op == "scale":
            new_h, new_w = (int((0.8 + 0.4 * row[i].float()) * h) for i in (3, 4))
            resized = F.interpolate(torch.from_numpy(image)[None], (new_h, new_w))[0].numpy()
            side = max(h, w, new_h, new_w)
            canvas = np.zeros((len(image), side, side), image.dtype)
            top, left = (side - new_h) // 2, (side - new_w) // 2
            canvas[:, top : top + new_h, left : left + new_w] = resized
            top, left = (side - h) // 2, (side - w) // 2
            image = canvas[:, top : top + h, left : left + w]
        else:
            from scipy.ndimage import rotate  # here: a machine that only computes need not have scipy

            turned = rotate(image, int(row[5] * 90) - 45, (-2, -1), cval=float(mean.mean()))
            top, left = (turned.shape[-2] - h) // 2, (turned.shape[-1] - w) // 2
            image = turned[:, top : top + h, left : left + w]
        out.append(image)
    return torch.from_numpy(np.stack(out))
