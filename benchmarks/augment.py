"""How fast the augmentations are, against the formulation of the official DSA code: a loop over the groups, every operation on
the whole batch with parameters expanded to one per image, affine matrices from nested lists and positions from `affine_grid`,
shifts and holes by fancy indexing.

    python benchmarks/augment.py [--seconds 20] [--threads 2] [--device cpu]

Both sides apply the same draws in the same run, alternating; the best of three calls counts for each draw, and the means over
the draws are compared. Their outputs are checked against each other before anything is timed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_lib import augment
from distill_lib.device import describe
from distill_lib.rng import generator


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


# --- timing ----------------------------------------------------------------------------------------------------------
def _time(steps: list[Callable[[], None]], device: torch.device) -> list[float]:
    out = []
    for step in steps:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        out.append(time.perf_counter() - start)
    return out


def compare(title: str, aug: augment.Strategy, x: Tensor, per_image: bool, backward: bool, seconds: float) -> None:
    """Time both formulations on the same draws, alternating, and print milliseconds per call and their ratio."""
    rng = generator(0, "benchmark", title)
    x = x.requires_grad_(backward)
    weight = torch.randn_like(x)

    def run(apply: Callable[[Tensor, augment.Params], Tensor], params: augment.Params) -> None:
        y = apply(x, params)
        if backward:
            torch.autograd.grad((y * weight).sum(), x)

    def draw() -> augment.Params:
        return aug.draw(rng, groups=x.shape[0], images=x.shape[1] if per_image else 1)

    def slow(x: Tensor, params: augment.Params) -> Tensor:
        return plain(aug, x, params)

    for _ in range(5):
        params = draw()
        torch.testing.assert_close(aug.apply(x, params), slow(x, params), rtol=1e-4, atol=5e-5)
    ours, theirs, end = [], [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        params = draw()
        times = [_time([lambda: run(aug.apply, params), lambda: run(slow, params)], x.device) for _ in range(3)]  # noqa: B023
        a, b = map(min, zip(*times, strict=True))
        ours.append(a)
        theirs.append(b)
    a, b = (1000 * statistics.fmean(v) for v in (ours, theirs))
    print(f"{title:58s} {a:9.2f} {b:9.2f} {b / a:6.1f}x   {len(ours)} draws")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="for all measurements together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(f"{describe(device)}; torch {torch.__version__}")
    print(f"{'mean over the same random draws':58s} {'ours ms':>9s} {'plain ms':>9s}  ratio")
    full, idc = augment.dsa(), augment.idc()
    rng = generator(0, "benchmark", "images")

    def images(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(device)

    cases = [
        ("siamese: 10 classes x 256 real images, 3x32x32", full, images(10, 256, 3, 32, 32), False, False),
        ("siamese: 10 classes x 10 synthetic images, with gradient", full, images(10, 10, 3, 32, 32), False, True),
        ("per image: 5 networks x 100 images, 3x32x32", full, images(5, 100, 3, 32, 32), True, False),
        ("per image, IDC's stages: 5 networks x 64 images, 3x32x32", idc, images(5, 64, 3, 32, 32), True, False),
        ("siamese: 10 classes x 16 images, 3x128x128", full, images(10, 16, 3, 128, 128), False, False),
    ]
    for op in PLAIN:
        cases.append((f"siamese, {op} alone: 10 classes x 256, 3x32x32", augment.dsa(op), images(10, 256, 3, 32, 32), False, False))
    for case in cases:
        compare(*case, seconds=args.seconds / len(cases))


if __name__ == "__main__":
    main()
