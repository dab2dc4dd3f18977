"""Points in the plane in place of images, distilled by the library's own methods: what each of them looks for."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import replace
from ..data import Facts, ImageSet
from ..methods import METHODS

KINDS = ("Random", "Herding", "K-Center", "DC", "DM", "MTT", "KIP", "FRePo")  # those that need no feature maps
EACH = 3  # synthetic points per class
OPTIONS = {  # what a plane needs: a network without convolutions, no augmentation, few steps
    "network": "MLP",
    "dsa": "none",
    "iterations": 200,
    "init": "real",
    "batch_real": 64,
}
STEPS = {
    "DC": {"iterations": 20, "outer_loop": 5},
    "MTT": {"iterations": 100, "lr_img": 1.0},
    "KIP": {"iterations": 100},
}


def points(n: int = 300, seed: int = 0) -> ImageSet:
    """Two classes of points, half moons that reach into each other, as images of one pixel with two channels."""
    rng = stream(seed, "toy")
    angle = math.pi * torch.rand(2 * n, generator=rng)
    label = torch.arange(2 * n) % 2
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    place = torch.where(label[:, None] == 0, upper, lower) + 0.12 * torch.randn(2 * n, 2, generator=rng)
    facts = Facts("two moons", ("upper", "lower"), mean=(0.0, 0.0), std=(1.0, 1.0))
    return ImageSet(place[:, :, None, None].contiguous(), label, facts)


def distilled_points(method: str, real: ImageSet, seed: int = 0, **options: Any) -> ImageSet:
    """`real` distilled into `EACH` points per class.

    Args:
        options: settings of the method that differ from its small form here, such as iterations or lr_img.
    """
    of = METHODS[method]
    config = _with(of.paper_config("digits", EACH).smoke(), {**OPTIONS, **STEPS.get(method, {}), **options})
    return of.distill(real, config, seed=seed, loop=Loop(bar=False))


def _with(config: Any, options: dict[str, Any]) -> Any:
    """The settings with those of the options that they have, in their parts too."""
    parts = {f.name: getattr(config, f.name) for f in fields(config)}
    inner = {name: _with(part, options) for name, part in parts.items() if is_dataclass(part)}
    own = {name: value for name, value in options.items() if name in parts and name not in inner}
    return replace(config, **inner, **own)


def side_by_side(*methods: str, seed: int = 0, **options: Any) -> dict[str, tuple[ImageSet, ImageSet]]:
    """Real and synthetic points by method, for `figures.moons`."""
    real = points(seed=seed)
    return {method: (real, distilled_points(method, real, seed, **options)) for method in methods or KINDS}
