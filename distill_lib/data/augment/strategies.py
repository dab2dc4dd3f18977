"""The differentiable strategies of DSA, IDC and FRePo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.device import send
from ...core.errors import UserError, unknown
from ...core.native import augment
from .. import catalogue
from .base import Augmentation, Params, _integer
from .operations import perform

STRATEGIES = {  # the strings the papers use, before leaving out flips on digits
    "dsa": "color_crop_cutout_flip_scale_rotate",
    "idc": "color_crop_flip_scale_rotate",
    "frepo": "flip_color_crop_rotate_translate_cutout",
}


# --- DSA's ranges (also IDC's): uniform numbers (G, m, as many as it needs) of images (h, w) -> what `perform` needs
# -----
Named = tuple[str, Tensor]


def _numbers(kind: str, *columns: Tensor | float) -> Named:
    like = next(c for c in columns if isinstance(c, Tensor))
    return kind, torch.stack(
        [c.to(like.dtype) if isinstance(c, Tensor) else torch.full_like(like, c) for c in columns], -1
    )


def _dsa_color(u: Tensor, h: int, w: int) -> Named:
    return _numbers("color", u[..., 0] - 0.5, 2 * u[..., 1], 0.5 + u[..., 2])


def _dsa_crop(u: Tensor, h: int, w: int) -> Named:
    return _numbers(
        "shift",
        *(_integer(u[..., i], 2 * pad + 1) - pad for i, pad in enumerate(math.floor(0.125 * n + 0.5) for n in (h, w))),
    )


def _dsa_cutout(u: Tensor, h: int, w: int) -> Named:
    sides = [math.floor(0.5 * n + 0.5) for n in (h, w)]
    top, left = (
        _integer(u[..., i], n - c % 2 + 1) - c // 2 for i, (n, c) in enumerate(zip((h, w), sides, strict=True))
    )
    return _numbers("erase", top, left, *sides)


def _flip(u: Tensor, h: int, w: int) -> Named:
    return _numbers("flip", u[..., 0] < 0.5)


def _dsa_scale(u: Tensor, h: int, w: int) -> Named:
    sx, sy = (1 / 1.2 + u[..., i] * (1.2 - 1 / 1.2) for i in (0, 1))  # above 1 shrinks the content
    return _numbers("warp", sx, 0, 0, 0, sy, 0)


def _dsa_rotate(u: Tensor, h: int, w: int) -> Named:
    angle = (2 * u[..., 0] - 1) * math.radians(15)
    cos, sin = angle.cos(), angle.sin()
    return _numbers("warp", cos, -sin, 0, sin, cos, 0)


# --- FRePo's ranges: positions in pixels, the edge repeated ----------------------------------------------------------
def _frepo_color(u: Tensor, h: int, w: int) -> Named:
    contrast, saturation = (torch.exp((2 * u[..., i] - 1) * 0.25) for i in (1, 2))
    return _numbers("color", (u[..., 0] - 0.5) * 0.5, saturation, contrast)


def _frepo_crop(u: Tensor, h: int, w: int) -> Named:
    zoom = torch.exp((2 * u[..., 0] - 1) * math.log(1.25))
    room = (zoom - 1).abs() / zoom
    return _numbers("warp_border", 1 / zoom, 0, (2 * u[..., 2] - 1) * room, 0, 1 / zoom, (2 * u[..., 1] - 1) * room)


def _frepo_rotate(u: Tensor, h: int, w: int) -> Named:
    angle = (2 * u[..., 0] - 1) * math.radians(15)
    cos, sin = angle.cos(), angle.sin()
    return _numbers("warp_border", cos, -sin * h / w, 0, sin * w / h, cos, 0)


def _frepo_translate(u: Tensor, h: int, w: int) -> Named:
    return _numbers("warp_border", 1, 0, (2 * u[..., 1] - 1) * 0.25, 0, 1, (2 * u[..., 0] - 1) * 0.25)


def _frepo_cutout(u: Tensor, h: int, w: int) -> Named:
    sides = [n // 4 for n in (h, w)]
    return _numbers(
        "erase", *(_integer(u[..., i], n - c + 1) for i, (n, c) in enumerate(zip((h, w), sides, strict=True))), *sides
    )


# name: (numbers needed, operation)
Family = Mapping[str, tuple[int, Callable[[Tensor, int, int], Named]]]
_DSA: Family = {
    "color": (3, _dsa_color),
    "crop": (2, _dsa_crop),
    "cutout": (2, _dsa_cutout),
    "flip": (1, _flip),
    "scale": (2, _dsa_scale),
    "rotate": (1, _dsa_rotate),
}
_FREPO: Family = {
    "flip": (1, _flip),
    "color": (3, _frepo_color),
    "crop": (3, _frepo_crop),
    "rotate": (1, _frepo_rotate),
    "translate": (2, _frepo_translate),
    "cutout": (2, _frepo_cutout),
}


# --- strategies ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Strategy(Augmentation):
    """Stages of differentiable operations; of each stage's names one is drawn per group, with equal probability."""

    name: str
    stages: tuple[tuple[str, ...], ...]
    family: Family = field(compare=False)

    @property
    def choices(self) -> int:
        return len(self.stages)

    @property
    def columns(self) -> int:
        return sum(count for count, _ in self.family.values())

    def numbers(self, op: str) -> slice:
        """Which of an image's drawn numbers an operation reads."""
        ends = itertools.accumulate(count for count, _ in self.family.values())
        return {
            name: slice(end - count, end) for end, (name, (count, _)) in zip(ends, self.family.items(), strict=True)
        }[op]

    def operations(self, params: Params) -> list[tuple[str, ...]]:
        """Which operations each group gets, in order."""
        picks = [_integer(params.choice[:, i], len(stage)).tolist() for i, stage in enumerate(self.stages)]
        return [
            tuple(stage[pick[g]] for stage, pick in zip(self.stages, picks, strict=True)) for g in range(len(params.u))
        ]

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return super().apply(x, params) if self.stages else x

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        for names in zip(*self.operations(params), strict=True):
            x = self._stage(x, names, params.u.double())
        return x

    def _stage(self, x: Tensor, names: Sequence[str], u: Tensor) -> Tensor:
        by_name = {op: [g for g, other in enumerate(names) if other == op] for op in dict.fromkeys(names)}
        drawn = {
            op: self.family[op][1](u[groups][..., self.numbers(op)], *x.shape[-2:]) for op, groups in by_name.items()
        }
        if augment.usable(x):
            table = torch.zeros(*u.shape[:2], augment.NUMBERS)
            for op, groups in by_name.items():
                numbers = drawn[op][1]
                table[groups, :, : numbers.shape[-1]] = numbers.to(table.dtype)
            return augment.operate(x, [drawn[op][0] for op in names], table)
        done: list[Tensor] = [x] * len(names)
        alone = (
            x.device.type == "cpu" and x[0].numel() >= 2**16
        )  # a copy into a joint batch costs more than another call
        for op, groups in by_name.items():
            kind, numbers = drawn[op]
            if len(groups) == len(names):
                return perform(kind, x, numbers)
            if alone:
                found = [perform(kind, x[g : g + 1], numbers[i : i + 1])[0] for i, g in enumerate(groups)]
            else:
                found = perform(kind, x[send(torch.tensor(groups), x.device)], numbers).unbind()
            for g, image in zip(groups, found, strict=True):
                done[g] = image
        return torch.stack(done)


def _names(strategy: str, family: Iterable[str], kind: str) -> tuple[str, ...]:
    names = tuple(strategy.split("_"))
    for name in names:
        if name not in family:
            raise unknown(f"{kind} operation", name, family)
    if len(set(names)) < len(names):
        raise UserError(f"{kind} strategy {strategy!r} names an operation twice; each may appear once")
    return names


def dsa(strategy: str = STRATEGIES["dsa"]) -> Augmentation:
    """One operation of the strategy per group, drawn with equal probability (`color` counts once).

    Args:
        strategy: names among color, crop, cutout, flip, scale, rotate joined by `_`, or "none".
    Source: Zhao & Bilen, ICML 2021; ranges of the official code.
    """
    return none() if strategy == "none" else Strategy(f"dsa:{strategy}", (_names(strategy, _DSA, "DSA"),), _DSA)


def idc(strategy: str = STRATEGIES["idc"]) -> Augmentation:
    """Flip, colour and cutout always (where named), and one of the other names: flip, colour, that one, cutout.

    With `color_crop` it is DiM's augmentation. Defaults to IDC's evaluation. Source: Kim et al., ICML 2022; official
    code.
    """
    if strategy == "none":
        return none()
    names = _names(strategy, _DSA, "IDC")
    rest = tuple(n for n in names if n not in ("flip", "color", "cutout"))
    stages = [("flip",), ("color",), rest, ("cutout",)]
    return Strategy(f"idc:{strategy}", tuple(stage for stage in stages if stage and set(stage) <= set(names)), _DSA)


def frepo(strategy: str = STRATEGIES["frepo"]) -> Augmentation:
    """One operation of the strategy per group, with FRePo's ranges; used in its evaluation only.

    Source: Zhou et al., NeurIPS 2022; official code.
    """
    return none() if strategy == "none" else Strategy(f"frepo:{strategy}", (_names(strategy, _FREPO, "FRePo"),), _FREPO)


def none() -> Augmentation:
    """No augmentation: `apply` returns its input object."""
    return Strategy("none", (), {})


def strategy_for(dataset: str) -> str:
    """DSA's strategy string on a data set: without flips on digits, MNIST and SVHN (and we on the bundled ones).

    Args:
        dataset: a data set's name; FashionMNIST-mini is treated as FashionMNIST.
    """
    flips = catalogue.like(dataset).mirrors
    return "_".join(n for n in STRATEGIES["dsa"].split("_") if n != "flip" or flips)
