"""`ImageSet`: labelled images, real or synthetic. What a method distils from, what it makes, what is evaluated."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.device import send
from ..core.errors import UserError, unknown
from ..core.files import write_tensors
from ..core.paths import expanded
from .whitening import Whitening


@dataclass(frozen=True)
class Facts:
    """What travels with a set besides its pixels.

    `mean` and `std` are per channel, of pixels in [0, 1]; `take` and `draw` return (pixel - mean) / std.
    """

    name: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: str = "train"
    licence: str = "not stated"
    source: str = ""
    notes: tuple[str, ...] = ()  # deviations from the official set, shown wherever the set is used
    normalisation: str = "given"  # which of the constants in use, by name
    imagenet_indices: tuple[int, ...] = ()  # position of each class in ImageNet-1k, where it has one
    extra: dict[str, Any] = field(default_factory=dict)  # provenance of a synthetic set: method, config, seed

    def units(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Mean and std, each (C, 1, 1) float32."""
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean, std

    def _affine(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (C, 1, 1), from uint8 pixels to normalised values."""
        mean, std = self.units(device)
        return 1 / (255 * std), -mean / std

    def normalise(self, pixels: Tensor) -> Tensor:
        """(..., C, H, W) pixels in [0, 1] to (pixel - mean) / std, differentiable."""
        mean, std = self.units(pixels.device)
        return (pixels - mean) / std

    def pixels(self, normalised: Tensor) -> Tensor:
        """(..., C, H, W) normalised values to pixels, differentiable; what lies outside [0, 1] is not clipped."""
        scale, shift = self._affine(normalised.device)
        return (normalised - shift) / (255 * scale)


# Readers of sets of other kinds, by the format line of their files. Who makes such sets adds its own.
READERS: dict[str, Callable[[Any], ImageSet]] = {}


def _plain(value: Any) -> Any:
    """What a file's header holds in place of a NumPy or torch value, or of a path."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


class ImageSet:
    """Images with labels, on one device.

    Args:
        images: (N, C, H, W); uint8 pixels (real sets), or float32 in normalised units (synthetic sets).
        labels: (N,) int64 classes, or (N, K) float32 class probabilities or scores (soft labels).
        facts:  name, classes, normalisation, source.
        whitening: ZCA that takes the place of the normalisation by mean and std, where a method was run under one.
    Raises: UserError: shapes, types or label values that do not fit together.
    """

    whitening: Whitening | None = None

    def __init__(self, images: Tensor, labels: Tensor, facts: Facts, whitening: Whitening | None = None):
        if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
            needed = "(N, C, H, W), uint8 pixels or float32 normalised"
            raise UserError(f"{facts.name}: images must be {needed}; got {tuple(images.shape)} {images.dtype}")
        if len(facts.mean) != images.shape[1] or len(facts.std) != images.shape[1]:
            have = f"mean and std have {len(facts.mean)}, {len(facts.std)}"
            raise UserError(f"{facts.name}: {images.shape[1]} channels, but {have}")
        n, classes = len(images), len(facts.class_names)
        hard = labels.ndim == 1 and labels.dtype == torch.int64
        soft = labels.ndim == 2 and labels.is_floating_point() and labels.shape[1] == classes
        if not (hard or soft) or len(labels) != n:
            needed = f"({n},) int64 or ({n}, {classes}) float"
            raise UserError(f"{facts.name}: labels must be {needed}; got {tuple(labels.shape)} {labels.dtype}")
        if hard and n and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            span = f"{int(labels.min())}..{int(labels.max())}"
            raise UserError(f"{facts.name}: label {span} out of range for {classes} classes")
        if whitening is not None and len(whitening.mean) != math.prod(images.shape[1:]):
            size = f"{len(whitening.mean)} numbers"
            raise UserError(f"{facts.name}: a whitening of {size} does not fit images of {tuple(images.shape[1:])}")
        self.images, self.labels, self.facts, self.whitening = images, labels, facts, whitening

    @classmethod
    def from_classes(cls, images: Tensor, like: ImageSet, **extra: Any) -> ImageSet:
        """A synthetic set from (K, ipc, C, H, W) normalised images, or uint8 pixels, class k in row k, with `like`'s
        facts."""
        classes, ipc = images.shape[:2]
        labels = torch.arange(classes, device=images.device).repeat_interleave(ipc)
        images = images.detach().reshape(classes * ipc, *images.shape[2:])
        images = images if images.dtype == torch.uint8 else images.float()
        return cls(images, labels, like.synthetic_facts(**extra), like.whitening)

    def synthetic_facts(self, **extra: Any) -> Facts:
        """This set's facts, for a set distilled from it."""
        return dataclasses.replace(self.facts, split="synthetic", extra=extra)

    # --- shape -----------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        name, dtype = f"{self.facts.name} {self.facts.split}", str(self.images.dtype).removeprefix("torch.")
        return f"ImageSet({name}: {n} images {c}x{h}x{w} {dtype}, {self.num_classes} classes, {self.device})"

    @property
    def num_classes(self) -> int:
        return len(self.facts.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Bytes of images and labels as stored; a set backed by a generator adds the generator. A whitening is not
        counted."""
        return self.images.nbytes + self.labels.nbytes

    @property
    def hard_labels(self) -> Tensor:
        """(N,) int64: the labels, or the arg-max of soft ones."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(1)

    # --- images ----------------------------------------------------------------------------------------------------
    @functools.cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return self.facts._affine(self.device)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 pixels to normalised float32; float32 images are normalised already and pass unchanged."""
        if images.dtype != torch.uint8:
            return images
        if self.whitening is not None:
            return self.whitening.apply(images.float() / 255)
        scale, shift = self._affine
        return torch.addcmul(shift, images.float(), scale)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (n, C, H, W) and labels at positions `index`, on the set's device."""
        index = send(index, self.device)
        return self.normalise(self.images[index]), self.labels[index]

    def all(self) -> tuple[Tensor, Tensor]:
        """Every image, normalised, and every label: for sets that fit in memory as float32."""
        return self.normalise(self.images), self.labels

    def pixels(self, index: Tensor | None = None) -> Tensor:
        """(N, C, H, W) float32 in [0, 1], of all images or those at positions `index`; values a method pushed outside
        are clipped."""
        images = self.images if index is None else self.images[send(index, self.device)]
        if images.dtype == torch.uint8:
            return images.float() / 255
        if self.whitening is not None:
            return self.whitening.undo(images).clamp(0, 1)
        return self.facts.pixels(images).clamp(0, 1)

    def signed(self, index: Tensor) -> Tensor:
        """(n, C, H, W) float32 in [-1, 1]: the images at positions `index` as generators draw them."""
        return self.pixels(index) * 2 - 1

    # --- classes and draws -----------------------------------------------------------------------------------------
    @functools.cached_property
    def class_index(self) -> list[Tensor]:
        """For each class, the positions (N_k,) of its images, on the CPU."""
        labels = self.hard_labels.cpu()
        order = torch.argsort(labels, stable=True)
        return list(torch.split(order, torch.bincount(labels, minlength=self.num_classes).tolist()))

    def enough(self, ipc: int, classes: list[Tensor] | None = None) -> None:
        """Raises: UserError: a class has fewer than `ipc` images, or fewer of those at the positions `classes`."""
        for name, places in zip(self.facts.class_names, classes or self.class_index):
            if len(places) < ipc:
                has = f"{len(places)} image{'s'[: len(places) != 1]} of class {name!r}"
                raise UserError(f"ipc {ipc}: {self.facts.name} has only {has} to choose from")

    def draw_index(self, n: int, rng: torch.Generator) -> Tensor:
        """(K, n) positions: n images of every class, without replacement within a class (with, where a class has
        fewer)."""
        for name, members in zip(self.facts.class_names, self.class_index):
            if not len(members):
                raise UserError(f"{self.facts.name}: class {self.facts.class_names.index(name)} ({name}) has no images")
        return torch.stack([_pick(members, n, rng) for members in self.class_index])

    def draw_classes(self, n: int, rng: torch.Generator) -> Tensor:
        """(K, n, C, H, W) normalised: n random images of every class."""
        index = self.draw_index(n, rng)
        return self.take(index.flatten())[0].unflatten(0, index.shape)

    def draw(self, k: int, n: int, rng: torch.Generator) -> Tensor:
        """(n, C, H, W) normalised: n random images of class k."""
        return self.take(_pick(self.class_index[k], n, rng))[0]

    def initial_images(self, ipc: int, init: Literal["real", "noise"], rng: torch.Generator) -> Tensor:
        """(K, ipc, C, H, W) to learn from: random images of every class, or standard normal noise, in normalised
        units."""
        if init == "real":
            self.enough(ipc)
            return self.draw_classes(ipc, rng)
        if init != "noise":
            raise unknown("initial images", init, ["real", "noise"])
        return torch.randn(self.num_classes, ipc, *self.shape, generator=rng).to(self.device)

    def epoch(self, rng: torch.Generator) -> ImageSet:
        """The images of one training epoch: the set itself. A set backed by a generator overrides this and draws
        afresh."""
        return self

    # --- copies ----------------------------------------------------------------------------------------------------
    def to(self, device: torch.device | str) -> ImageSet:
        if self.device == torch.device(device):
            return self
        whitening = self.whitening and self.whitening.to(device)
        moved = ImageSet(self.images.to(device), self.labels.to(device), self.facts, whitening)
        if hasattr(self, "_sha256"):
            moved._sha256 = self._sha256
        return moved

    def under(self, whitening: Whitening | None) -> ImageSet:
        """This set in the units of another: whitened as that one is, or not at all. The pixels are shared.

        Raises: UserError: the images are stored in other units than that.
        """
        if whitening is self.whitening or (whitening is not None and whitening.equals(self.whitening)):
            return self
        if self.images.dtype != torch.uint8:
            stored = "images stored as float32 keep the normalisation or whitening they were made under"
            raise UserError(f"{self.facts.name}: {stored}")
        return ImageSet(self.images, self.labels, self.facts, whitening and whitening.to(self.device))

    def subset(self, index: Tensor, **facts: Any) -> ImageSet:
        """The images at `index`, with `facts` (fields of `Facts`) replaced."""
        index = index.to(self.device)
        facts = dataclasses.replace(self.facts, **facts)
        return ImageSet(self.images[index], self.labels[index], facts, self.whitening)

    def sha256(self) -> str:
        """Hash of shape, pixels and labels, equal on every device."""
        if not hasattr(self, "_sha256"):
            h = hashlib.sha256(f"{tuple(self.images.shape)}{self.images.dtype}{self.labels.dtype}".encode())
            for t in (self.images, self.labels):
                h.update(t.contiguous().cpu().numpy().data)
            self._sha256 = h.hexdigest()
        return self._sha256

    # --- files -----------------------------------------------------------------------------------------------------
    def save(self, path: str | Path) -> Path:
        """Write images, labels and facts to one `.safetensors` file, complete or not at all."""
        tensors = {"images": self.images, "labels": self.labels} | (self.whitening.tensors() if self.whitening else {})
        facts = json.dumps(dataclasses.asdict(self.facts), default=_plain)
        return write_tensors(expanded(path), tensors, {"format": "distill_lib.ImageSet/1", "facts": facts})

    @staticmethod
    def load(path: str | Path) -> ImageSet:
        """Read what `save` wrote, also that of a set of another kind, such as a generator, whose reader is in
        `READERS`.

        Raises: UserError: missing, truncated or foreign file.
        """
        path = expanded(path)
        try:
            with safe_open(path, "pt") as f:
                meta = f.metadata() or {}
                if reader := READERS.get(meta.get("format", "")):
                    return reader(path)
                if meta.get("format") == "distill_lib.GeneratedSet/1":
                    remedy = "import distill_lib.generators.generated to read it"
                    raise UserError(f"{path}: a set that is a generator; {remedy}")
                if meta.get("format") != "distill_lib.ImageSet/1":
                    raise UserError(f"{path}: a safetensors file, but not an ImageSet; write one with ImageSet.save")
                facts = json.loads(meta["facts"])
                # copies, which lie in memory as those of a set just made do: a product's rounding may depend on where a
                # tensor begins
                images, labels = f.get_tensor("images").clone(), f.get_tensor("labels").clone()
                stored = [k for k in f.keys() if k.startswith("whitening.")]
                parts = {k.removeprefix("whitening."): f.get_tensor(k).clone() for k in stored}
                whitening = Whitening(**parts) if parts else None
            facts = Facts(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()})
        except (SafetensorError, OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as err:
            raise UserError(f"{path}: cannot be read as an ImageSet ({err})") from None
        return ImageSet(images, labels, facts, whitening)


def _pick(members: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n of the positions, without replacement; with, where there are fewer."""
    if n <= len(members):
        return members[torch.randperm(len(members), generator=rng)[:n]]
    return members[torch.randint(len(members), (n,), generator=rng)]
