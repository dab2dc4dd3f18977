"""Entries of KIP's kernels and their derivative by the synthetic images, against one pair of images after another.

Both sides return the derivative of a weighted sum of the entries. `facts`: entries, pairs of pixels in one of them, and
entries a second.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor

from distill_lib.core.device import Pieces
from distill_lib.core.rng import stream
from distill_lib.methods.common import ntk

SHAPE = (1, 28, 28)


def entries(kernel: str, side: str, device: str, images: int, targets: int) -> suite.Call:
    rng, of = stream(0, "benchmark"), ntk.kernel_named(kernel, torch.float64)
    x, y = (torch.randn(n, *SHAPE, generator=rng).to(device) for n in (images, targets))
    direction = torch.randn(images, targets, generator=rng).to(device)

    def run() -> Tensor:
        tiles = Pieces(1) if side == "plain" else of.tiles(x)
        of.matrix(x, y, tiles)
        return of.pull(x, y, direction, tiles)

    return run


COMPARED = "pair by pair"


@suite.benchmark(
    "kip",
    "{images} x {targets} entries of KIP's kernel KIPConv3 and their derivative, 1 x 28 x 28, float64",
    COMPARED,
    size={"images": 2, "targets": 4},
    quick={"images": 1, "targets": 1},
    tolerance=1e-6,
)
def convolutional(*args, **size) -> suite.Call:
    return entries("KIPConv3", *args, **size)


@suite.benchmark(
    "kip-dense",
    "{images} x {targets} entries of KIP's kernel FC3 and their derivative, 1 x 28 x 28, float64",
    COMPARED,
    size={"images": 20, "targets": 100},
    quick={"images": 2, "targets": 2},
    tolerance=1e-6,
)
def dense(*args, **size) -> suite.Call:
    return entries("FC3", *args, **size)
