"""Data sets as checked, documented values.

real, test = data.load("CIFAR10")                      # uint8 ImageSets, memory-mapped
real, test = data.load("PathMNIST", resolution=64)     # MedMNIST's own 64 px file
real, test = data.load("ImageNette@64px")              # the same, said in the name
real, test = data.load("./my_photos", resolution=64)   # a folder, .npz or Hugging Face folder of your own
real, val, test = data.load_with_validation("CIFAR10", per_class=500)
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core import paths
from ..core.errors import UserError, unknown
from . import find, own, prepare
from .catalogue import DATASETS, MEASURED, NORMALISATIONS, Dataset, sized
from .folders import Split
from .imageset import Facts, ImageSet
from .prepare import RESIZE
from .read import Part, Source


def load(
    name: str | Path,
    resolution: int | None = None,
    *,
    folder: str | Path | None = None,
    resize: str | None = None,
    normalisation: str | None = None,
    channels: int | None = None,
    download: bool | None = None,
    split: Split | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[ImageSet, ImageSet]:
    """The training and the test set of a named data set, or of your own data.

    Looked for in `folder` alone if given; else in the folders of `DISTILL_DATA`, system packages and the user's cache,
    then downloaded. In a folder a set may lie in its torchvision or MedMNIST form, as `<name>.npz` or as an image
    folder. The pixels are prepared once per resolution into the user's cache and memory-mapped from there.

    Args:
        name:          one of `DATASETS`, with its resolution if wished: "ImageNette@64px", "PathMNIST@64px-bicubic"; or
        the path (with a slash, or ending in .npz) of your own .npz, image folder or Hugging
                       Face `datasets` folder.
        resolution:    px of the square images; by default the set's own. MedMNIST sets use the file of that size where
        there is one. folder:        the only place to look in.
        resize:        how images of another size get there, one of `RESIZE`; by default bilinear, for MedMNIST sets
        bicubic from 28 px.
                       Naming one for a MedMNIST set takes the 28 px file, as SLFD does for PathMNIST.
        normalisation: name of the mean and std, one of `NORMALISATIONS` or "measured"; by default the set's own.
        channels:      1 or 3, for your own data: convert every image to grey or colour.
        download:      may the set be fetched; by default yes, unless the environment has `DISTILL_OFFLINE`.
        split, classes: of your own folder, where its names do not say it: which folders hold which part, such as
                       {"train": ["a", "b"], "test": "c"}, and which class folders to read, in label order.
    Returns: training and test set, uint8; `.facts` names classes, licence, source and every deviation from the official
    set. Raises:  UserError: unknown name, set not found, damaged file, label out of range, class without images, mixed
    channels.
    """
    parts = _load(
        name, ("train", "test"), resolution, folder, resize, normalisation, channels, download, split, classes
    )
    return parts["train"], parts["test"]


def not_at_hand(name: str) -> str:
    """Why a named set cannot be read without a download; "" if it can. Reads no images."""
    base, resolution, resize = sized(name)
    dataset = DATASETS[base]
    try:
        find.locate(
            dataset, resolution if resize is None and resolution in dataset.sizes else 28, None, allow_download=False
        )
    except UserError:
        return f"data sets that are not at hand, see `distill list datasets`: {base}"
    return ""


def load_with_validation(
    name: str | Path, resolution: int | None = None, *, per_class: int | float = 0.1, seed: int = 0, **options: Any
):
    """As `load`, with a validation set: the source's own where it has one, else `per_class` training images of each
    class.

    Args:
        per_class: images of each class to hold out, or their share if below 1; unused where the source has a validation
        set.
    Returns: training, validation and test set.
    """
    wanted = ("train", "val", "test")
    keys = ("folder", "resize", "normalisation", "channels", "download", "split", "classes")
    if bad := set(options) - set(keys):
        raise unknown("option", sorted(bad)[0], keys)
    parts = _load(name, wanted, resolution, *(options.get(k) for k in keys))
    if "val" not in parts:
        parts["train"], parts["val"] = split(parts["train"], per_class, seed)
    return parts["train"], parts["val"], parts["test"]


def split(real: ImageSet, per_class: int | float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Hold out a class-balanced part of a set.

    Args:
        per_class: images of each class to hold out, or their share of the class if below 1 (at least one image).
    Returns: the rest, and the part held out (its facts say `validation`).
    Raises:  UserError: a class has too few images.
    """
    rest, held = (torch.from_numpy(i) for i in find.hold_out(real.hard_labels.cpu().numpy(), per_class, seed))
    note = f"validation: {per_class} of each class held out of the training set, seed {seed}"
    notes = (*real.facts.notes, note)
    return real.subset(rest, notes=notes), real.subset(held, split="validation", notes=notes)


def facts_table(brief: bool = False) -> list[dict[str, Any]]:
    """One row of plain values per named set, for lists and pages; reads no data.

    Args:
        brief: only what fits on a line.
    Returns: all facts: class names in index order, images per split (None where the source does not fix it), mean and
    std (None
             where they are measured on loading), the sha256 of each split's official pixels and labels where it is
             known.
    """
    rows = []
    for d in DATASETS.values():
        row = {
            "name": d.name,
            "classes": d.num_classes,
            "image": f"{d.resolution}x{d.resolution}x{d.channels}",
            **{split: d.counts.get(split) or None for split in ("train", "val", "test")},
            "normalisation": d.normalisation,
            "licence": d.licence,
        }
        if brief:
            row["licence"] = re.split("[;:]", d.licence)[0]
            rows.append({k: "-" if v is None else v for k, v in row.items() if k != "normalisation"})
            continue
        mean, std = NORMALISATIONS.get(d.normalisation, (None, None))
        rows.append(
            row
            | {
                "mean": mean,
                "std": std,
                "source": d.source,
                "notes": d.notes,
                "sizes": d.sizes or (d.resolution,),
                "sha256": d.sha256,
            }
            | {"class_names": d.class_names, "imagenet_indices": d.imagenet_indices}
        )
    return rows


# --- how a set is put together
# -----------------------------------------------------------------------------------------
def _load(
    name: str | Path,
    wanted: tuple[str, ...],
    resolution: int | None,
    folder: str | Path | None,
    resize: str | None,
    normalisation: str | None,
    channels: int | None,
    download: bool | None,
    parts: Split | None,
    classes: Sequence[str] | None,
) -> dict[str, ImageSet]:
    if not isinstance(name, Path):
        name, *said = sized(name)
        if any(a and b and a != b for a, b in zip(said, (resolution, resize))):
            raise UserError(
                f"{name} at {said} in its name, but resolution={resolution}, resize={resize}: give one or the other"
            )
        resolution, resize = (b if a is None else a for a, b in zip(said, (resolution, resize)))
    if resize is not None and resize not in RESIZE:
        raise unknown("resize rule", resize, RESIZE)
    if normalisation is not None and normalisation not in (*NORMALISATIONS, MEASURED):
        raise unknown("normalisation", normalisation, (*NORMALISATIONS, MEASURED))
    if resolution is not None and not (isinstance(resolution, int) and 1 <= resolution <= 2048):
        raise UserError(f"resolution {resolution!r}: give a whole number of pixels from 1 to 2048")
    if isinstance(name, Path) or (name not in DATASETS and own.is_path(name)):
        if folder is not None:
            raise UserError(f"folder={str(folder)!r}: {str(name)!r} is a path already; give one or the other")
        return _load_own(
            Path(name).expanduser().resolve(),
            wanted,
            resolution,
            resize or "bilinear",
            normalisation or MEASURED,
            channels,
            parts,
            classes,
        )
    if name not in DATASETS:
        raise UserError(f"{unknown('dataset', name, DATASETS)}; or the path of your own data, with a slash: ./{name}")
    dataset = DATASETS[name]
    if channels is not None:
        raise UserError(
            f"channels={channels}: {name} has {dataset.channels} channels; only your own data are converted"
        )
    if parts is not None or classes is not None:
        raise UserError(f"split= and classes= are for your own folder of images; {name} has its parts and classes")
    resolution = resolution or dataset.resolution
    size = resolution if resize is None and resolution in dataset.sizes else 28
    allowed = not paths.switch("DISTILL_OFFLINE", False) if download is None else download
    source = find.locate(dataset, size, Path(folder).expanduser() if folder else None, allowed)
    if dataset.family == "tiny" and source.class_names:  # the source's files hold the names
        dataset = dataclasses.replace(dataset, class_names=source.class_names)
    rule = resize or ("bicubic" if dataset.sizes else "bilinear")
    parts = _parts(source)
    built = {s: _prepared(dataset, source, parts[s], s, resolution, rule) for s in wanted if s in parts}
    return _with_facts(dataset, source, built, normalisation or dataset.normalisation)


def _load_own(
    path: Path,
    wanted: tuple[str, ...],
    resolution: int | None,
    rule: str,
    normalisation: str,
    channels: int | None,
    split: Split | None,
    classes: Sequence[str] | None,
) -> dict[str, ImageSet]:
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels!r}: give 1 (grey) or 3 (colour)")
    source = own.source(path, split, classes)
    dataset, parts = own.describe(path, source), _parts(source)
    built = {"train": _prepared(dataset, source, parts["train"], "train", resolution, rule, channels)}
    _, found, resolution, _ = built["train"][0].shape
    dataset = dataclasses.replace(dataset, channels=found, resolution=resolution)
    for s in wanted[1:]:
        if s in parts:
            built[s] = _prepared(dataset, source, parts[s], s, resolution, rule, channels)
    return _with_facts(dataset, source, built, normalisation)


def _parts(source: Source) -> dict[str, str]:
    """The set's splits, each with the source's name for it: where the source has no test part, its validation part is
    the test set."""
    have = {s: s for s in source.splits}
    if "test" not in have:
        have["test"] = have.pop("val")
    return have


Built = tuple[torch.Tensor, torch.Tensor, dict[str, Any]]  # images, labels, what was found out while preparing


def _prepared(
    dataset: Dataset,
    source: Source,
    found: str,
    split: str,
    resolution: int | None,
    rule: str,
    channels: int | None = None,
) -> Built:
    """One split, from the cache or into it. Your own data (channels 0 at first) decide about channels and resolution
    themselves."""

    def read() -> tuple[Part, tuple[int, ...]]:
        part, where = source.read(found), f"{source.where} ({found})"
        prepare.check_labels(part.labels, dataset.class_names, where)
        if dataset.family == "own":
            has, size = own.shape(part, where, resolution, channels)
        else:
            array = isinstance(part.images, np.ndarray)
            has, size = (
                1 if array and part.images.ndim == 3 else part.images.shape[-1] if array else dataset.channels,
                resolution,
            )
        if dataset.channels not in (0, has):
            raise UserError(f"{where}: images have {has} channels; {dataset.name} has {dataset.channels}")
        return part, (len(part.labels), has, size, size)

    def fill_in(out: np.ndarray, part: Part) -> dict[str, Any]:
        as_shown = dataset.family == "own"
        seen = prepare.fill(out, part, out.shape[-1], rule, f"{dataset.name} {split}", as_shown)
        mean, std = prepare.moments(out)
        sha256 = _sha256(out, part.labels)
        notes = seen.notes(as_shown) + _deviations(dataset, source, part, split, seen.sizes, out.shape[-1], rule)
        return {"sha256": sha256, "mean": mean, "std": std, "notes": notes}

    if dataset.family in ("bundled", "digits"):
        part, shape = read()
        return prepare.in_memory(part.labels, shape, lambda out: fill_in(out, part))
    place = hashlib.sha256(
        os.fsencode(os.path.abspath(source.where))
        + f"{dataset.class_names}{dataset.wnids}{channels}{' as shown' * (dataset.family == 'own')}".encode()
    ).hexdigest()[:8]
    px = f"{resolution}px" if resolution else "auto"
    path = paths.cache() / "prepared" / f"{dataset.name}-{split}-{px}-{rule}-{place}-{source.fingerprint()}.safetensors"
    if not path.is_file():
        with find.lock(path):
            if not path.is_file():
                find.clear_stale(path)
                part, shape = read()
                prepare.write(path, part.labels, shape, lambda out: fill_in(out, part))
                find.drop_outdated(path)
    return prepare.open_prepared(path)


def _sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """`ImageSet.sha256` of (N, C, H, W) pixels and their labels."""
    blank = (0.0,) * images.shape[1]
    facts = Facts("", ("",) * (int(labels.max()) + 1), blank, blank)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), facts).sha256()


def _deviations(
    dataset: Dataset, source: Source, part: Part, split: str, sizes: set[tuple[int, int]], resolution: int, rule: str
) -> list[str]:
    """How this copy differs from the official set, in words."""
    notes = []
    if dataset.family in ("idx", "cifar", "medmnist") and not part.verified:
        sha256 = None
        if isinstance(part.images, np.ndarray) and (dataset.copies or split in dataset.sha256):
            pixels = part.images if part.images.ndim == 4 else part.images[..., None]
            sha256 = _sha256(np.array(pixels.transpose(0, 3, 1, 2), order="C"), part.labels)
        if sha256 in dataset.copies:
            notes.append(dataset.copies[sha256])
        elif split in dataset.sha256 and sha256 != dataset.sha256[split]:
            notes.append(
                f"the {split} images of this copy ({source.form}) are not the official ones, or in another order"
            )
        elif split not in dataset.sha256:
            notes.append(
                f"the {split} images of this copy ({source.form}) could not be compared with a published checksum"
            )
    n, per_class = len(part.labels), np.bincount(part.labels, minlength=dataset.num_classes)
    spread = f"{per_class.min()}" if per_class.min() == per_class.max() else f"{per_class.min()} to {per_class.max()}"
    if dataset.family == "imagenet":
        if split == "train" and not (per_class.min() >= 732 and per_class.max() <= 1300):
            notes.append(f"{spread} training images per class (ILSVRC-2012 has 732 to 1300)")
        if split == "test" and spread != "50":
            notes.append(
                f"{spread} test images per class instead of ILSVRC-2012's 50: fastai's split, not comparable with ILSVRC's"
            )
    elif dataset.counts.get(split) and n != dataset.counts[split]:
        notes.append(f"{n:,} {split} images instead of {dataset.counts[split]:,}")
    if dataset.frame and len(sizes) == 1 and min(sizes)[0] == max(sizes)[1]:
        side = min(sizes)[0]
        notes.append(
            f"every image of this copy is {side} x {side} px (the source's are {dataset.frame}): squeezed or cropped before"
        )
    if sizes != {(resolution, resolution)}:
        low, high = min(min(s) for s in sizes), max(max(s) for s in sizes)
        notes.append(f"resized from {low if low == high else f'{low} to {high}'} px to {resolution} px: {RESIZE[rule]}")
    return notes


def _with_facts(dataset: Dataset, source: Source, built: dict[str, Built], normalisation: str) -> dict[str, ImageSet]:
    if normalisation == MEASURED:
        found = built["train"][2]
        mean, std = found["mean"], [v or 1.0 for v in found["std"]]  # a constant channel is left as it is
    else:
        mean, std = NORMALISATIONS[normalisation]
        if normalisation == "half":
            mean, std = mean * dataset.channels, std * dataset.channels
        if len(mean) != dataset.channels:
            raise UserError(
                f"normalisation {normalisation} is for {len(mean)} channels; {dataset.name} has {dataset.channels}"
            )
    notes = dict.fromkeys(
        [*dataset.notes, *source.notes, *(note for _, _, meta in built.values() for note in meta["notes"])]
    )
    facts = Facts(
        name=dataset.name,
        class_names=dataset.class_names,
        mean=tuple(mean),
        std=tuple(std),
        licence=dataset.licence,
        source=dataset.source,
        notes=tuple(notes),
        normalisation=normalisation,
        imagenet_indices=dataset.imagenet_indices,
    )
    sets = {}
    for s, (images, labels, meta) in built.items():
        sets[s] = ImageSet(images, labels, dataclasses.replace(facts, split={"val": "validation"}.get(s, s)))
        sets[s]._sha256 = meta["sha256"]
    return sets
