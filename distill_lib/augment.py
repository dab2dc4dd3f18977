"""Augmentations of every protocol, each drawn first and applied afterwards.

    aug = dsa("color_crop_cutout_flip_scale_rotate")
    params = aug.draw(rng, groups=10)         # siamese: one operation and one set of parameters per class
    aug.apply(real, params)                   # (10, 256, C, H, W)
    aug.apply(synthetic, params)              # (10, ipc, C, H, W): the same transformation, differentiable
    aug(images, rng)                          # independent: one operation for the batch (N, C, H, W), parameters per image
    aug(stacked, [rng_0, rng_1])              # (2, n, C, H, W): each network from its own generator, as if it were alone

Images are normalised floats. What is drawn is a small record of uniform numbers, so the same record gives the same
transformation at any batch size, image size and device, and no image that is given is written to.

On a CPU an augmented image has the same bits whatever images and networks are augmented beside it, and on any number of threads.
So an image is never multiplied by a matrix of its own: a library's matrix product may add in another order at another batch size.
Products and sums are operations of their own, in a fixed order, because one that fuses them may round otherwise at an array's end.

| name | operations per batch | used by |
| --- | --- | --- |
| `none` | - | DC and the plain protocols |
| `dsa:<names>` | one of the names | DSA, DM, CAFE, MTT, GLaD, DD-Ranking, and their evaluation |
| `idc:<names>` | flip, colour, one of crop/scale/rotate, cutout | IDC; DiM with `idc:color_crop` |
| `frepo:<names>` | one of the names, own ranges | FRePo's evaluation |
| `dc:<names>` | one of the names per image | DC's evaluation on MNIST and of ConvNetBN |
| `imagenet` | random resized crop, flip, colour jitter, lighting | IDC and Minimax at 224 pixels, with `CutMix` |
| `dcbench:<policy>` | a torchvision policy, one draw per batch | DC-BENCH |
"""

from __future__ import annotations

import abc
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import operations
from .device import send
from .errors import UserError, unknown

Generators = torch.Generator | Sequence[torch.Generator]

STRATEGIES = {  # the strings the papers use, before leaving out flips on digits
    "dsa": "color_crop_cutout_flip_scale_rotate",
    "idc": "color_crop_flip_scale_rotate",
    "frepo": "flip_color_crop_rotate_translate_cutout",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# --- draws ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Params:
    """One draw: numbers in [0, 1) that an augmentation turns into choices and parameters.

    choice: (G, number of choices), one row per group.
    u:      (G, m, number of parameters); m = 1 is one set for all images of a group, m = n one set per image.
    """

    choice: Tensor
    u: Tensor


def _uniforms(rng: Generators, groups: int, count: int) -> Tensor:
    """(G, count): a row per group; from a list, row g is what generator g would draw alone."""
    if isinstance(rng, torch.Generator):
        return torch.rand(groups, count, generator=rng, device=rng.device)
    if len(rng) != groups:
        raise UserError(f"{len(rng)} generators for {groups} groups: give one generator, or one per group")
    return torch.stack([torch.rand(count, generator=g, device=g.device) for g in rng])


def _integer(u: Tensor, n: int | Tensor) -> Tensor:
    """Uniform integers 0..n-1 from uniform numbers in [0, 1)."""
    return (u * n).floor().clamp(max=n - 1).long()


class Augmentation(abc.ABC):
    """A random transformation of image batches: `draw` a record, `apply` it, or both at once by calling.

    A group is a set of images that share the choice of operation: a class in siamese matching, a network in stacked
    evaluation, or simply the batch.
    """

    name: str
    choices = 0  # numbers drawn per group
    columns = 0  # numbers drawn per image

    def draw(self, rng: Generators, groups: int = 1, images: int = 1) -> Params:
        """A record for `groups` groups.

        Args:
            rng:    one generator for all groups, or one per group; a group then draws what it would draw alone.
            images: 1 for parameters shared by all images of a group (siamese), n for parameters per image.
        """
        row = _uniforms(rng, groups, self.choices + images * self.columns)
        return Params(row[:, : self.choices], row[:, self.choices :].reshape(groups, images, self.columns))

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """The augmented images (x itself where nothing changes), differentiable in x unless the class says otherwise.

        Args:
            x:      (N, C, H, W), or (G, n, C, H, W) with one row of `params` per group.
            params: from `draw`; any x with that many groups (and images, where drawn per image) can use it.
        Raises: UserError: shapes that do not fit together, or integer pixels.
        """
        if x.ndim not in (4, 5) or not x.is_floating_point():
            raise UserError(f"augmentation needs normalised float images (N, C, H, W) or (G, n, C, H, W); got {tuple(x.shape)} {x.dtype}")
        groups, images = (1, x.shape[0]) if x.ndim == 4 else x.shape[:2]
        if len(params.u) != groups or params.u.shape[1] not in (1, images):
            raise UserError(
                f"parameters drawn for {len(params.u)} groups of {params.u.shape[1]} images do not fit {groups} groups of {images}; "
                f"draw(rng, groups={groups}) shares one set per group, draw(rng, groups={groups}, images={images}) has one per image"
            )
        if x.dtype in (torch.float16, torch.bfloat16):  # too coarse for sampling positions
            return self.apply(x.float(), params).to(x.dtype)
        return self._apply(x.unsqueeze(0), params).squeeze(0) if x.ndim == 4 else self._apply(x, params)

    @abc.abstractmethod
    def _apply(self, x: Tensor, params: Params) -> Tensor: ...  # x (G, n, C, H, W)

    def __call__(self, x: Tensor, rng: Generators) -> Tensor:
        """Draw with parameters per image, and apply."""
        groups, images = (1, x.shape[0]) if x.ndim == 4 else x.shape[:2]
        return self.apply(x, self.draw(rng, groups, images))

    def __repr__(self) -> str:
        return f"augment.named({self.name!r})"


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
    level = grey.mean(-1, keepdim=True).mean(-2, keepdim=True)  # (G, n, 1, 1, 1), in an order that no other image changes
    return (x * (s * k)).add_((grey * (k * (1 - s))).add_(level * (1 - k) + b))


def shift(x: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
    """out[i, j] = x[i + dy, j + dx], zeros from outside; dy and dx are whole pixels."""
    groups, images, channels, h, w = x.shape
    if dy.shape[1] < images:
        return _stack([F.pad(g, (-b, b, -a, a)) for g, a, b in zip(x.unbind(), dy[:, 0].tolist(), dx[:, 0].tolist(), strict=True)])
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
        return _stack([g.flip(-1) if mirrored else g for g, mirrored in zip(x.unbind(), yes[:, 0].tolist(), strict=True)])
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
    grid = torch.stack([a[:, :, i, 0] * xs + (a[:, :, i, 1] * ys + a[:, :, i, 2]) for i in (0, 1)], -1)  # (G, m, H, W, 2)
    return _sample(x, grid, padding)


def _sample(x: Tensor, grid: Tensor, padding: str) -> Tensor:
    if grid.shape[1] < x.shape[1]:  # shared grids stay shared: no copy per image
        sampled = [
            F.grid_sample(g, one.expand(len(g), -1, -1, -1), padding_mode=padding, align_corners=False)
            for g, one in zip(x.unbind(), grid.unbind(), strict=True)
        ]
        return _stack(sampled)
    return F.grid_sample(x.flatten(0, 1), grid.flatten(0, 1), padding_mode=padding, align_corners=False).reshape(x.shape)


def _stack(images: list[Tensor]) -> Tensor:
    return torch.stack(images) if len(images) > 1 else images[0].unsqueeze(0)


def perform(kind: str, x: Tensor, numbers: Tensor) -> Tensor:
    """An operation by its name and numbers (G, m, P).

    color: brightness, saturation, contrast · shift: whole rows and columns · erase: top, left, height, width · flip: whether ·
    warp, warp_border: the 2 x 3 matrix row by row, with zeros or the edge outside.
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


# --- DSA's ranges (also IDC's): uniform numbers (G, m, as many as it needs) of images (h, w) -> what `perform` needs -----
Named = tuple[str, Tensor]


def _numbers(kind: str, *columns: Tensor | float) -> Named:
    like = next(c for c in columns if isinstance(c, Tensor))
    return kind, torch.stack([c.to(like.dtype) if isinstance(c, Tensor) else torch.full_like(like, c) for c in columns], -1)


def _dsa_color(u: Tensor, h: int, w: int) -> Named:
    return _numbers("color", u[..., 0] - 0.5, 2 * u[..., 1], 0.5 + u[..., 2])


def _dsa_crop(u: Tensor, h: int, w: int) -> Named:
    return _numbers("shift", *(_integer(u[..., i], 2 * pad + 1) - pad for i, pad in enumerate(math.floor(0.125 * n + 0.5) for n in (h, w))))


def _dsa_cutout(u: Tensor, h: int, w: int) -> Named:
    sides = [math.floor(0.5 * n + 0.5) for n in (h, w)]
    top, left = (_integer(u[..., i], n - c % 2 + 1) - c // 2 for i, (n, c) in enumerate(zip((h, w), sides, strict=True)))
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
    return _numbers("erase", *(_integer(u[..., i], n - c + 1) for i, (n, c) in enumerate(zip((h, w), sides, strict=True))), *sides)


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
        return {name: slice(end - count, end) for end, (name, (count, _)) in zip(ends, self.family.items(), strict=True)}[op]

    def operations(self, params: Params) -> list[tuple[str, ...]]:
        """Which operations each group gets, in order."""
        picks = [_integer(params.choice[:, i], len(stage)).tolist() for i, stage in enumerate(self.stages)]
        return [tuple(stage[pick[g]] for stage, pick in zip(self.stages, picks, strict=True)) for g in range(len(params.u))]

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return super().apply(x, params) if self.stages else x

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        for names in zip(*self.operations(params), strict=True):
            x = self._stage(x, names, params.u.double())
        return x

    def _stage(self, x: Tensor, names: Sequence[str], u: Tensor) -> Tensor:
        by_name = {op: [g for g, other in enumerate(names) if other == op] for op in dict.fromkeys(names)}
        drawn = {op: self.family[op][1](u[groups][..., self.numbers(op)], *x.shape[-2:]) for op, groups in by_name.items()}
        if operations.usable(x):
            table = torch.zeros(*u.shape[:2], operations.NUMBERS)
            for op, groups in by_name.items():
                numbers = drawn[op][1]
                table[groups, :, : numbers.shape[-1]] = numbers.to(table.dtype)
            return operations.operate(x, [drawn[op][0] for op in names], table)
        done: list[Tensor] = [x] * len(names)
        alone = x.device.type == "cpu" and x[0].numel() >= 2**16  # a copy into a joint batch costs more than another call
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

    With `color_crop` it is DiM's augmentation. Defaults to IDC's evaluation. Source: Kim et al., ICML 2022; official code.
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


def strategy_for(dataset: str, family: str = "dsa", network: str = "ConvNet") -> str:
    """The strategy string a family's papers use on a data set.

    No flips on digits: DSA and IDC leave them out on MNIST and SVHN (and we on the bundled digits), FRePo on MNIST and
    FashionMNIST. DC augments its evaluation on MNIST, and for the network ConvNetBN on every set.

    Args:
        dataset: a data set's name; "FashionMNIST-mini" is treated as FashionMNIST.
        family:  dsa, idc, frepo or dc.
    Raises: UserError: a family without strategies.
    """
    dataset = dataset.split("-")[0]
    if family == "dc":
        return "crop_noise" if network == "ConvNetBN" else "crop_scale_rotate" if dataset == "MNIST" else "none"
    if family not in STRATEGIES:
        raise unknown("augmentation family", family, [*STRATEGIES, "dc"])
    unflipped = {"frepo": ("MNIST", "FashionMNIST", "SVHN", "digits")}.get(family, ("MNIST", "SVHN", "digits"))
    return "_".join(n for n in STRATEGIES[family].split("_") if n != "flip" or dataset not in unflipped)


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
        mean = x.mean(-1).mean(-1).mean(1, keepdim=True).expand(-1, images, -1).flatten(0, 1)[:, :, None, None]  # (G·n, C, 1, 1)
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
        new_h, new_w = (((0.8 + 0.4 * send(u[:, i], x.device)) * h).long() for i in (3, 4))  # both from the height, as published
        canvas = torch.maximum(new_h, new_w).clamp_min(max(h, w))

        def sources(n: int, new: Tensor) -> Tensor:  # (B, n): the row of x behind each output row, -1 for the canvas
            at = torch.arange(n, device=x.device) + ((canvas - n) // 2 - (canvas - new) // 2)[:, None]
            return torch.where((at >= 0) & (at < new[:, None]), (at * (n / new.float())[:, None]).floor().long(), -1)

        return _take(x[None], sources(h, new_h), sources(w, new_w))[0]

    @staticmethod
    def _rotate(x: Tensor, u: Tensor, mean: Tensor) -> Tensor:
        angles, turn = torch.deg2rad(torch.arange(-45, 45, dtype=torch.float64)), _integer(u[:, 5], 90)
        cos, sin = (send(of(angles)[turn], x.device) for of in (torch.cos, torch.sin))  # from a table: the same bits in any batch
        return _spline_rotate(x, cos, sin, mean.mean(1, keepdim=True))

    @staticmethod
    def _noise(x: Tensor, u: Tensor, mean: Tensor) -> Tensor:
        streams = [torch.Generator().manual_seed(int(v)) for v in (u[:, 6].double() * 2**24).tolist()]
        noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in streams])
        return x + 0.001 * send(noise, x.device, x.dtype)


def _spline_rotate(x: Tensor, cos: Tensor, sin: Tensor, fill: Tensor) -> Tensor:
    """Rotate each image about its centre: `scipy.ndimage.rotate(image, degrees, (-2, -1), cval=fill)`, centre-cropped.

    x (B, C, H, W); cosine and sine of the angles (B,), float64; fill (B, 1, 1, 1). Cubic B-spline, mirrored at the edges, `fill`
    beyond them.
    """
    h, w = x.shape[-2:]
    full_h, full_w = (h * cos + w * sin.abs() + 0.5).long(), (w * cos + h * sin.abs() + 0.5).long()  # cos > 0
    rows, cols = (
        torch.arange(n, device=x.device) + ((full - n) // 2 - (full - 1) / 2)[:, None] for n, full in ((h, full_h), (w, full_w))
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


def _needs_colour(x: Tensor, name: str) -> None:
    if x.shape[2] != 3:
        raise UserError(f"augmentation {name!r} needs colour images (3 channels); got {x.shape[2]}. The dsa and idc families take any")


# --- ImageNet pipeline ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class ImageNet(Augmentation):
    """Random resized crop (area 0.5-1), flip, colour jitter 0.4 and lighting 0.1, per image, on normalised images.

    Jitter and lighting act on pixels in [0, 1] without clipping, so with the normalisation they are one 3x3 map and an
    offset per image. Source: IDC and Minimax, official code (jitter as in AlexNet-style training: blends towards black,
    the image's mean grey and the pixel's grey, in random order).
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    name = "imagenet"
    columns = 22 + 1 + 4 + 3  # ten tries of area and aspect, position; flip; three strengths and their order; lighting

    _GREY = (0.299, 0.587, 0.114)
    _EIGENVALUES = (0.2175, 0.0188, 0.0045)
    _EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        _needs_colour(x, self.name)
        return self._jitter(self._resized_crop(x, params.u[..., :23]), params.u[..., 23:])

    @staticmethod
    def _resized_crop(x: Tensor, u: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        u = u.double()
        area = h * w * (0.5 + 0.5 * u[..., 0:10])
        aspect = torch.exp((2 * u[..., 10:20] - 1) * math.log(4 / 3))
        crop_w, crop_h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (G, m, 10)
        fits = (crop_w <= w) & (crop_h <= h)
        first = fits.to(torch.uint8).argmax(-1, keepdim=True)  # no try fits: the whole image
        found = fits.any(-1)
        crop_w = torch.where(found, crop_w.gather(-1, first)[..., 0], w)
        crop_h = torch.where(found, crop_h.gather(-1, first)[..., 0], h)
        top, left = _integer(u[..., 20], h - crop_h + 1), _integer(u[..., 21], w - crop_w + 1)
        drawn = torch.stack([top, left, crop_h, crop_w, u[..., 22] < 0.5], -1)  # (G, m, 5), sent at once
        top, left, crop_h, crop_w, mirrored = send(drawn, x.device, x.dtype).unbind(-1)

        def positions(n: int, start: Tensor, size: Tensor) -> Tensor:  # (G, m, n) pixels of x, kept inside the crop
            at = (torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) * (size / n)[..., None] - 0.5
            return start[..., None] + torch.minimum(at.clamp_min(0), size[..., None] - 1)

        rows, cols = positions(h, top, crop_h), positions(w, left, crop_w)
        cols = torch.where(mirrored[..., None] > 0, cols.flip(-1), cols)
        gy, gx = (2 * rows + 1) / h - 1, (2 * cols + 1) / w - 1
        shape = (*gy.shape[:2], h, w)
        grid = torch.stack([gx[:, :, None, :].expand(shape), gy[:, :, :, None].expand(shape)], -1)
        return _sample(x, grid, "border")

    def _jitter(self, x: Tensor, u: Tensor) -> Tensor:
        """A blend makes of a pixel p a weighted sum of p, p's grey and the mean grey of its image, so three of them do as well."""
        u = u.double()
        mean, std, vectors, values = (u.new_tensor(v) for v in (self.mean, self.std, self._EIGENVECTORS, self._EIGENVALUES))
        strength = 0.8 * u[..., 0:3] - 0.4  # brightness, contrast, saturation
        order = torch.tensor(_ORDERS, device=u.device)[_integer(u[..., 3], len(_ORDERS))]  # (G, m, 3)
        own, grey, level = torch.ones_like(u[..., 0]), torch.zeros_like(u[..., 0]), torch.zeros_like(u[..., 0])  # the weights, (G, m)
        for which in order.unbind(-1):
            k = strength.gather(-1, which[..., None])[..., 0]  # blend (1 - k) p + k target; grey is of weight 1 in itself
            contrast, saturation = k * (which == 1), k * (which == 2)
            level = (1 - k) * level + contrast * (own + grey + level) + saturation * level
            own, grey = (1 - k) * own, (1 - k) * grey + saturation * (own + grey)
        drawn = (0.1 * torch.special.ndtri(u[..., 4:7].clamp(2**-25, 1 - 2**-24)) * values)[..., None, :] * vectors  # (G, m, 3, 3)
        light = drawn[..., 0] + drawn[..., 1] + drawn[..., 2]
        own, grey, level = own[..., None], grey[..., None], level[..., None]
        # from pixels to normalised units, where the grey of a pixel is `mixed` + middle
        middle = sum(a * b for a, b in zip(self._GREY, self.mean, strict=True))
        rest = ((own - 1) * mean + (grey + level) * middle + light) / std
        numbers = send(torch.cat([own, grey / std, level / std, rest], -1), x.device, x.dtype)[..., None, None]
        own, grey, level, rest = numbers.split([1, 3, 3, 3], 2)  # (G, m, 1 or 3, 1, 1)
        red, green, blue = (a * b * x[:, :, c : c + 1] for c, (a, b) in enumerate(zip(self._GREY, self.std, strict=True)))
        mixed = red.add_(green).add_(blue)  # (G, n, 1, H, W)
        average = mixed.mean(-1, keepdim=True).mean(-2, keepdim=True)
        return (x * own).add_(mixed * grey).add_(average * level + rest)


_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


# --- DC-BENCH ------------------------------------------------------------------------------------------------------
DCBENCH_POLICIES = ("autoaug", "randaug", "imagenet_aug", "cifar_aug")


@dataclass(frozen=True, repr=False)
class DCBench(Augmentation):
    """torchvision policies on the whole batch as 8-bit pixels: one draw per group, no gradient.

    autoaug (CIFAR-10 policy up to 32 pixels, ImageNet's above) · randaug (one operation) · imagenet_aug (crop padded by 4,
    flip, jitter .4 .4 .4 .2) · cifar_aug (crop, flip, then a 16 pixel hole of zeros). Source: DC-BENCH, official code.
    """

    policy: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    choices = 3  # seed of torchvision's draws, centre of the hole

    @property
    def name(self) -> str:
        return f"dcbench:{self.policy}"

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        _needs_colour(x, self.name)
        transform = _torchvision_policy(self.policy, x.shape[-1])
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).view(3, 1, 1) for v in (self.mean, self.std))
        pixels = ((x.detach() * std + mean).clamp(0, 1) * 255).to(torch.uint8)
        done = []
        for images, seed in zip(pixels.unbind(), (params.choice[:, 0].double() * 2**24).tolist(), strict=True):
            with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
                torch.random.default_generator.manual_seed(int(seed))
                done.append(transform(images))
        out = (torch.stack(done).to(x.dtype) / 255 - mean) / std
        if self.policy == "cifar_aug":
            top, left = (_integer(params.choice[:, i : i + 1], n) - 8 for i, n in ((1, x.shape[-2]), (2, x.shape[-1])))
            out = erase(out, top, left, 16, 16)
        return out


@functools.cache
def _torchvision_policy(policy: str, size: int) -> Callable[[Tensor], Tensor]:
    from torchvision import transforms as t

    if policy == "autoaug":
        return t.AutoAugment(t.AutoAugmentPolicy.CIFAR10 if size <= 32 else t.AutoAugmentPolicy.IMAGENET)
    if policy == "randaug":
        return t.RandAugment(num_ops=1)
    jitter = [t.ColorJitter(0.4, 0.4, 0.4, 0.2)] if policy == "imagenet_aug" else []
    return t.Compose([t.RandomCrop(size, padding=4), t.RandomHorizontalFlip(), *jitter])


# --- CutMix --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CutMixParams:
    """on (G,) bool; partner (G, n) positions; area, cy, cx (G,) in [0, 1): 1 - lambda and the box's centre."""

    on: Tensor
    partner: Tensor
    area: Tensor
    cy: Tensor
    cx: Tensor


@dataclass(frozen=True)
class CutMix:
    """With probability `prob` per batch, a box of every image comes from another image; labels mix by the box's area.

    The box covers a share 1 - lambda of the image, lambda ~ Beta(1, 1), before clipping at the borders.
    Source: Yun et al., ICCV 2019, as in IDC's code (0.5 on small images, 1 on ImageNet).
    """

    prob: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise UserError(f"CutMix probability {self.prob} is outside [0, 1]")

    def draw(self, rng: Generators, groups: int = 1, images: int = 1) -> CutMixParams:
        """A record for `groups` batches of `images` images; generators as in `Augmentation.draw`."""
        row = _uniforms(rng, groups, 4 + images)
        return CutMixParams(row[:, 0] < self.prob, row[:, 4:].argsort(1), row[:, 1], row[:, 2], row[:, 3])

    @staticmethod
    def _box(h: int, w: int, p: CutMixParams) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(G,) top, bottom, left, right; empty where CutMix is off."""
        edges = []
        for n, centre in ((h, p.cy), (w, p.cx)):
            half = (n * p.area.sqrt()).long() // 2 * p.on
            centre = _integer(centre, n)
            edges += [(centre - half).clamp(0, n), (centre + half).clamp(0, n)]
        return tuple(edges)

    def apply(self, x: Tensor, labels: Tensor, params: CutMixParams, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mixed images and class probabilities.

        Args:
            x:      (N, C, H, W) or (G, n, C, H, W).
            labels: (N,) or (G, n) classes, or with a last dimension of K probabilities.
        Returns: images shaped as x, and labels (N, K) or (G, n, K) in x's type, for a cross entropy with soft labels.
        """
        if x.ndim == 4:
            mixed, soft = self.apply(x[None], labels[None], params, num_classes)
            return mixed[0], soft[0]
        if params.partner.shape != x.shape[:2]:
            raise UserError(f"CutMix drawn for {tuple(params.partner.shape)} images, applied to {tuple(x.shape[:2])}")
        soft = (F.one_hot(labels, num_classes) if labels.ndim == 2 else labels).to(x.dtype)
        if not params.on.any():
            return x, soft
        h, w = x.shape[-2:]
        box = self._box(h, w, params)
        top, bottom, left, right = (send(e, x.device)[:, None] for e in box)
        rows, cols = (torch.arange(n, device=x.device) for n in (h, w))
        inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((cols >= left) & (cols < right))[:, None, :]  # (G, H, W)
        group, partner = torch.arange(len(x), device=x.device)[:, None], send(params.partner, x.device)
        share = send((box[1] - box[0]) * (box[3] - box[2]) / (h * w), x.device, x.dtype)[:, None, None]
        return torch.where(inside[:, None, None], x[group, partner], x), soft + share * (soft[group, partner] - soft)

    def __call__(self, x: Tensor, labels: Tensor, rng: Generators, num_classes: int) -> tuple[Tensor, Tensor]:
        groups, images = (1, x.shape[0]) if x.ndim == 4 else x.shape[:2]
        return self.apply(x, labels, self.draw(rng, groups, images), num_classes)


# --- by name -------------------------------------------------------------------------------------------------------
def _facts(like: Any) -> Any:
    return getattr(like, "facts", like)


def _imagenet(like: Any = None) -> Augmentation:
    return ImageNet() if like is None else ImageNet(_facts(like).mean, _facts(like).std)


def _dcbench(policy: str = "cifar_aug", like: Any = None) -> Augmentation:
    if policy not in DCBENCH_POLICIES:
        raise unknown("DC-BENCH policy", policy, DCBENCH_POLICIES)
    if like is None:
        raise UserError("DC-BENCH policies work on pixels: give the data set whose mean and std undo the normalisation (like=...)")
    return DCBench(policy, _facts(like).mean, _facts(like).std)


# kind: (builder, takes an argument after the colon, takes `like`)
AUGMENTATIONS: Mapping[str, tuple[Callable[..., Augmentation], bool, bool]] = {
    "none": (none, False, False),
    "dsa": (dsa, True, False),
    "idc": (idc, True, False),
    "frepo": (frepo, True, False),
    "dc": (dc, True, False),
    "imagenet": (_imagenet, False, True),
    "dcbench": (_dcbench, True, True),
}


def named(name: str, like: Any = None) -> Augmentation:
    """An augmentation by its name, as `repr` shows it: `dsa:color_crop_flip`, `imagenet`, `dcbench:autoaug`, `none`.

    Without the part after the colon, the default of that kind.

    Args:
        like: the set (or its `Facts`) to augment; `imagenet` and `dcbench` need its mean and std
              (`imagenet` without it uses ImageNet's).
    Raises: UserError: an unknown kind, operation or policy.
    """
    kind, colon, argument = name.partition(":")
    if kind not in AUGMENTATIONS:
        raise unknown("augmentation", kind, AUGMENTATIONS)
    build, takes_argument, takes_like = AUGMENTATIONS[kind]
    if colon and not takes_argument:
        raise UserError(f"augmentation {name!r}: {kind} takes nothing after a colon")
    return build(*([argument] if colon else []), **({"like": like} if takes_like else {}))
