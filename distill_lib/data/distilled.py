"""Distilled sets as other codes wrote them, read without executing anything in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..core.errors import UserError
from . import catalogue, folders, imageset, prepare
from .imageset import ImageSet

Values = Literal["normalised", "pixels"]
IMAGES = ("images", "image", "x", "data", "image_syn", "x_train", "train_images")
LABELS = ("labels", "label", "y", "targets", "label_syn", "y_train", "train_labels")
ENDINGS = ".pt, .pth, .npz, .safetensors, or a folder with one folder of images per class"


# --- reading -----------------------------------------------------------------------------------------------------------
def read(path: str | Path, like: ImageSet, values: Values | None = None) -> ImageSet:
    """A distilled set from a file of any common form.

    A `.pt` or `.pth` file holds a dictionary with images and labels, a pair of them, images alone, or VICO's and DM's
    dictionary with a list of such pairs under "data" (the first is taken). An `.npz` or `.safetensors` file holds
    arrays named likewise. Images are (N, C, H, W), (N, H, W, C), (N, H, W) or (K, ipc, C, H, W). Labels are classes
    (N,) or soft labels (N, K); images without labels are taken class after class, with the labels of `labels_*.pt`
    beside `images_*.pt` where that exists. In a folder, every class has a folder of images named after it or its
    number.

    Args:
        like:   the test set it will be judged by: gives image shape, classes and normalisation.
        values: what float images hold: "normalised" (with `like`'s mean and std) or "pixels" (in [0, 1]). Not needed
        for
                8-bit pixels, image folders and this library's own files.
    Returns: the set; `facts.notes` state the assumptions.
    Raises:  UserError: says what the file has and what would work.
    """
    path = Path(path).expanduser()
    if values not in (None, "normalised", "pixels"):
        raise UserError(f"values {values!r}: normalised or pixels")
    if path.is_dir():
        return _folder(path, like, values)
    if not path.exists():
        raise UserError(f"{path}: no such file; a distilled set is {ENDINGS}")
    match path.suffix.lower():
        case ".pt" | ".pth":
            content = _torch(path)
        case ".npz":
            content = _npz(path)
        case ".safetensors":
            if _own(path):
                return _fitting(ImageSet.load(path), path, like)

            content = load_file(path)
        case other:
            raise UserError(f"{path}: cannot read {other or 'a file without an ending'}; a distilled set is {ENDINGS}")
    notes: list[str] = []
    images, labels = _pair(content, path, notes)
    return _as_set(images, labels, path, like, values, notes)


def _torch(path: Path) -> Any:
    scalar, types = (
        np._core.multiarray.scalar,
        {np.dtype, *(type(np.dtype(t)) for t in (np.float32, np.float64, np.int64, np.int32))},
    )
    numbers = [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        *types,
    ]  # VICO's files keep accuracies as numpy scalars
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # many kinds, from zip to unpickling
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UserError(
            f"{path}: cannot be read as plain tensors ({reason}); files that hold code are never run: save it again with "
            "torch.save({'images': images, 'labels': labels}, path)"
        ) from None


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return {k: torch.from_numpy(content[k]) for k in content.files}
    except Exception as err:  # damaged zip, objects, types torch has not
        raise UserError(
            f"{path}: cannot be read as plain arrays ({err}); save it with numpy.savez(path, images=..., labels=...)"
        ) from None


def _own(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as f:
            return (f.metadata() or {}).get("format", "").startswith("distill_lib.ImageSet")
    except (SafetensorError, OSError) as err:
        raise UserError(f"{path}: not a readable safetensors file ({err})") from None


def _pair(content: Any, path: Path, notes: list[str]) -> tuple[Tensor, Tensor | None]:
    """Images and labels out of whatever a file held."""
    if isinstance(content, dict):
        if isinstance(content.get("data"), (list, tuple)) and content["data"]:  # VICO: one pair per experiment
            if len(content["data"]) > 1:
                notes.append(f"the first of {len(content['data'])} sets in the file")
            return _pair(content["data"][0], path, notes)
        named = {str(k).lower(): v for k, v in content.items()}
        found = [
            next((named[k] for k in names if isinstance(named.get(k), Tensor)), None) for names in (IMAGES, LABELS)
        ]
        if found[0] is None:
            raise UserError(
                f"{path}: has {', '.join(map(str, content)) or 'nothing'}; expected images under one of {', '.join(IMAGES)}"
            )
        return found[0], found[1]
    if isinstance(content, (list, tuple)) and 1 <= len(content) <= 2 and all(isinstance(x, Tensor) for x in content):
        return content[0], content[1] if len(content) == 2 else None
    if isinstance(content, Tensor):
        beside = path.with_name(path.name.replace("images", "labels", 1))
        if beside != path and beside.exists():
            labels = _torch(beside)
            if isinstance(labels, Tensor):
                notes.append(f"labels from {beside.name}")
                return content, labels
        return content, None
    raise UserError(
        f"{path}: holds a {type(content).__name__}; expected a dictionary or pair of images and labels, or images alone"
    )


def _as_set(
    images: Tensor, labels: Tensor | None, path: Path, like: ImageSet, values: Values | None, notes: list[str]
) -> ImageSet:
    images = _channels_first(images.detach(), path, like)
    if labels is None:
        if len(images) % like.num_classes:
            raise UserError(
                f"{path}: {len(images)} images without labels cannot be the same number of each of {like.num_classes} classes"
            )
        notes.append("no labels in the file: taken class after class, as many of each")
        labels = torch.arange(like.num_classes).repeat_interleave(len(images) // like.num_classes)
    else:
        labels = _labels(labels.detach(), path, like, len(images))
    return ImageSet(_values(images, path, like, values, notes), labels, _facts(like, path, notes))


def _facts(like: ImageSet, path: Path, notes: Sequence[str]) -> imageset.Facts:
    return dataclasses.replace(
        like.facts, split="synthetic", source=path.name, licence="not stated", notes=tuple(notes), extra={}
    )


def _channels_first(images: Tensor, path: Path, like: ImageSet) -> Tensor:
    c, h, w = like.shape
    if images.ndim == 5:
        images = images.flatten(0, 1)
    if images.shape[1:] == (h, w) and c == 1:
        images = images[:, None]
    elif images.shape[1:] == (h, w, c) and (h, w, c) != like.shape:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1:] != like.shape or not len(images):
        raise UserError(
            f"{path}: images are {tuple(images.shape)}, {like.facts.name} has (N, {c}, {h}, {w}); "
            "for another resolution give it with the data set"
        )
    return images.contiguous()


def _labels(labels: Tensor, path: Path, like: ImageSet, n: int) -> Tensor:
    k = like.num_classes
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    labels = (
        labels.flatten() if labels.ndim == 2 and labels.shape == (k, n // k) and n != k else labels
    )  # one row per class
    if labels.shape == (n,) and (not labels.is_floating_point() or bool((labels == labels.round()).all())):
        labels = labels.long()
        if labels.min() < 0 or labels.max() >= k:
            raise UserError(
                f"{path}: labels {int(labels.min())}..{int(labels.max())}, but {like.facts.name} has classes 0..{k - 1}"
            )
        return labels
    if labels.shape == (n, k):
        return labels.float()
    raise UserError(
        f"{path}: labels are {tuple(labels.shape)} {labels.dtype}; expected ({n},) classes or ({n}, {k}) soft labels"
    )


def _values(images: Tensor, path: Path, like: ImageSet, values: Values | None, notes: list[str]) -> Tensor:
    if images.dtype == torch.uint8:
        if values == "normalised":
            raise UserError(f"{path}: 8-bit images are pixels and cannot be normalised values")
        return images
    if not images.is_floating_point():
        raise UserError(f"{path}: images are {images.dtype}; expected uint8 pixels or floats")
    images = images.float()
    low, high = images.min().item(), images.max().item()
    if not bool(torch.isfinite(images).all()):
        raise UserError(f"{path}: images hold NaN or infinite values")
    if values is None:
        raise UserError(
            f"{path}: float values from {low:.3g} to {high:.3g} may be pixels or normalised: say --pixels (in [0, 1]) or "
            f"--normalised (with {like.facts.name}'s mean {like.facts.mean} and std {like.facts.std})"
        )
    notes.append(
        f"images taken as {'normalised values' if values == 'normalised' else 'pixels in [0, 1]'} ({low:.3g} to {high:.3g})"
    )
    if values == "normalised":
        return images
    if low < -0.01 or high > 1.01:
        raise UserError(
            f"{path}: values from {low:.3g} to {high:.3g} are no pixels in [0, 1]; divide by 255, or say --normalised"
        )
    return like.facts.normalise(images)


def _folder(root: Path, like: ImageSet, values: Values | None) -> ImageSet:
    if values == "normalised":
        raise UserError(f"{root}: image files hold pixels, not normalised values")
    known = catalogue.DATASETS.get(like.facts.name)
    names = [p.name for p in root.iterdir() if p.is_dir()]
    wnids = known.wnids if known and set(known.wnids) & set(names) else ()
    dirs = folders.class_folders(root, like.facts.class_names, wnids)
    part = folders.folder_part(folders.Tree(d).top.everything for d in dirs)
    c, h, w = like.shape
    if h != w:
        raise UserError(f"{root}: image files are read for square images only; {like.facts.name} has {h}x{w}")
    out = np.empty((len(part.images), c, h, w), np.uint8)
    seen = prepare.fill(out, part, h, "bilinear", root.name)
    other = sorted(s for s in seen.sizes if s != (w, h))
    notes = [f"resized from {', '.join(f'{a}x{b}' for a, b in other[:3])} pixels"] if other else []
    notes += seen.notes(as_shown=True)
    return ImageSet(torch.from_numpy(out), torch.from_numpy(part.labels), _facts(like, root, notes))


def _fitting(own: ImageSet, path: Path, like: ImageSet) -> ImageSet:
    """A set of our own, which brings its facts; they must be those of the test set."""
    for what in ("shape", "num_classes"):
        if getattr(own, what) != getattr(like, what):
            raise UserError(
                f"{path}: {what.replace('_', ' of ')} {getattr(own, what)}, {like.facts.name} has {getattr(like, what)}"
            )
    return own
