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
from ..core.files import short
from ..core.paths import expanded
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
                       the path (with a slash, or ending in .npz) of your own .npz, archive, image folder or Hugging
                       Face `datasets` folder.
        resolution:    px of the square images; by default the set's own. MedMNIST sets use the file of that size where
                       there is one.
        folder:        the only place to look in.
        resize:        how images of another size get there, one of `RESIZE`; by default bilinear, for MedMNIST sets
                       bicubic from 28 px. Naming one for a MedMNIST set takes the 28 px file, as SLFD does for
                       PathMNIST.
        normalisation: name of the mean and std, one of `NORMALISATIONS` or "measured"; by default the set's own.
        channels:      1 or 3, for your own data: convert every image to grey or colour.
        download:      may the set be fetched; by default yes, unless the environment has `DISTILL_OFFLINE`.
        split, classes: of your own folder, where its names do not say it: which folders hold which part, such as
                       {"train": ["a", "b"], "test": "c"}, and which class folders to read, in label order.
    Returns: training and test set, uint8; `.facts` names classes, licence, source and every deviation from the official
             set.
    Raises:  UserError: unknown name, set not found, damaged file, label out of range, class without images, mixed
             channels, a folder that can be read in several ways.
    """
    parts = _load(("train", "test"), **locals())
    return parts["train"], parts["test"]


def not_at_hand(name: str) -> str:
    """Why a named set cannot be read without a download; "" if it can. Reads no images."""
    base, resolution, resize = sized(name)
    dataset = DATASETS[base]
    size = resolution if resize is None and resolution in dataset.sizes else 28
    try:
        find.locate(dataset, size, None, allow_download=False)
    except UserError:
        return f"data sets that are not at hand, see `distill list datasets`: {base}"
    return ""


def load_with_validation(
    name: str | Path, resolution: int | None = None, *, per_class: int | float = 0.1, seed: int = 0, **options: Any
):
    """As `load`, with a validation set: the source's own where it has one, else `per_class` training images of each
    class.

    Args:
        per_class: images of each class to hold out, or their share if below 1; unused where the source has a
                   validation set.
    Returns: training, validation and test set.
    """
    if bad := sorted(set(options) - set(OPTIONS)):
        raise unknown("option", bad[0], OPTIONS)
    parts = _load(("train", "val", "test"), name, resolution, **options)
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
             std (None where they are measured on loading), the sha256 of each split's official pixels and labels
             where it is known.
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
        row |= {"mean": mean, "std": std, "source": d.source, "notes": d.notes, "sizes": d.sizes or (d.resolution,)}
        rows.append(row | {key: getattr(d, key) for key in ("sha256", "class_names", "imagenet_indices")})
    return rows


# --- how a set is put together ---------------------------------------------------------------------------------------
OPTIONS = tuple(load.__kwdefaults__)


def _load(wanted: tuple[str, ...], name: str | Path, resolution: int | None, **options: Any) -> dict[str, ImageSet]:
    folder, resize, normalisation, channels, download, split, classes = map(options.get, OPTIONS)
    if not isinstance(name, Path):
        name, *said = sized(name)
        if any(a and b and a != b for a, b in zip(said, (resolution, resize))):
            given = f"resolution={resolution}, resize={resize}"
            raise UserError(f"{name} at {said} in its name, but {given}: give one or the other")
        resolution, resize = (b if a is None else a for a, b in zip(said, (resolution, resize)))
    named = {"resize rule": (resize, RESIZE), "normalisation": (normalisation, (*NORMALISATIONS, MEASURED))}
    for kind, (given, known) in named.items():
        if given is not None and given not in known:
            raise unknown(kind, given, known)
    if resolution is not None and not (isinstance(resolution, int) and 1 <= resolution <= 2048):
        raise UserError(f"resolution {resolution!r}: give a whole number of pixels from 1 to 2048")
    if isinstance(name, Path) or (name not in DATASETS and own.is_path(name)):
        if folder is not None:
            raise UserError(f"folder={str(folder)!r}: {str(name)!r} is a path already; give one or the other")
        if channels not in (None, 1, 3):
            raise UserError(f"channels={channels!r}: give 1 (grey) or 3 (colour)")
        path = Path(os.path.abspath(expanded(name)))  # a link stays one: what it points to may have no ending
        source = own.source(path, split, classes)
        dataset = own.dataset_of(path, source)
    else:
        if name not in DATASETS:
            known = unknown("dataset", name, DATASETS)
            raise UserError(f"{known}; or the path of your own data, with a slash: ./{name}")
        dataset = DATASETS[name]
        if channels is not None:
            has = f"{name} has {dataset.channels} channels"
            raise UserError(f"channels={channels}: {has}; only your own data are converted")
        if split is not None or classes is not None:
            raise UserError(f"split= and classes= are for your own folder of images; {name} has its parts and classes")
        resolution = resolution or dataset.resolution
        size = resolution if resize is None and resolution in dataset.sizes else 28
        allowed = not paths.switch("DISTILL_OFFLINE", False) if download is None else download
        source = find.locate(dataset, size, expanded(folder) if folder else None, allowed)
        if dataset.family == "tiny" and source.class_names:  # the source's files hold the names
            dataset = dataclasses.replace(dataset, class_names=source.class_names)
    rule = resize or ("bicubic" if dataset.sizes else "bilinear")
    copy = _Copy(dataset, source, resolution, rule, channels, "" if split is None else str(split))
    built, made = {}, []
    try:
        for part in wanted:  # train first: your own images decide there about channels and resolution
            if found := copy.name_of(part):
                built[part] = copy.prepared(found, part, made)
                shape = built[part][0].shape
                dataset = dataclasses.replace(copy.dataset, channels=shape[1])
                copy = dataclasses.replace(copy, dataset=dataset, resolution=shape[2])
    except UserError as err:
        for file in made:
            file.unlink(missing_ok=True)
        raise (find.not_in(source.archive, source.where, err) if source.archive else err) from None
    return _with_facts(copy.dataset, source, built, normalisation or dataset.normalisation)


Built = tuple[torch.Tensor, torch.Tensor, dict[str, Any]]  # images, labels, what was found out while preparing


@dataclasses.dataclass(frozen=True)
class _Copy:
    """A set as it was found, and how its pixels are wanted.

    `resolution` None and the dataset's channels 0: your own images decide.
    """

    dataset: Dataset
    source: Source
    resolution: int | None
    rule: str
    channels: int | None
    split: str  # as it was asked for: copies of one choice do not replace those of another

    @property
    def own(self) -> bool:
        return self.dataset.family == "own"

    def name_of(self, part: str) -> str:
        """The source's name for a part: where it has no test part, its validation part is the test set."""
        names = {p: p for p in self.source.splits}
        if "test" not in names:
            names["test"] = names.pop("val")
        return names.get(part, "")

    def prepared(self, found: str, split: str, made: list[Path]) -> Built:
        """One part, from the cache or into it; what is written is added to `made`."""
        dataset, source = self.dataset, self.source
        if dataset.family in ("bundled", "digits"):
            part, shape = self._read(found)
            return prepare.in_memory(part.labels, shape, lambda out: self._fill(out, part, split))
        kind = f"{dataset.class_names}{dataset.wnids}{self.channels}{' as shown' if self.own else ''}{self.split}"
        place = hashlib.sha256(os.fsencode(os.path.abspath(source.where)) + kind.encode()).hexdigest()[:8]
        px = f"{self.resolution}px" if self.resolution else "auto"
        name = f"{short(dataset.name)}-{split}-{px}-{self.rule}-{place}-{source.fingerprint()}.safetensors"
        path = paths.cache() / "prepared" / name
        if not path.is_file():
            with find.lock(path):
                if not path.is_file():
                    find.clear_stale(path)
                    part, shape = self._read(found)
                    prepare.write(path, part.labels, shape, lambda out: self._fill(out, part, split))
                    find.drop_outdated(path)
                    made.append(path)
        return prepare.open_prepared(path)

    def _read(self, found: str) -> tuple[Part, tuple[int, ...]]:
        """A part as it lies on disk, and the shape (N, C, R, R) it gets."""
        part, where = self.source.read(found), f"{self.source.where} ({found})"
        prepare.check_labels(part.labels, self.dataset.class_names, where)
        channels, size = self.dataset.channels, self.resolution
        if self.own:
            channels, size = own.shape(part, where, self.resolution, self.channels)
        elif isinstance(part.images, np.ndarray):
            channels = 1 if part.images.ndim == 3 else part.images.shape[-1]
        if self.dataset.channels not in (0, channels):
            has = f"{self.dataset.name} has {self.dataset.channels}"
            choose = "; choose channels=1 or channels=3" if self.own else ""
            raise UserError(f"{where}: images have {channels} channels; {has}{choose}")
        return part, (len(part.labels), channels, size, size)

    def _fill(self, out: np.ndarray, part: Part, split: str) -> dict[str, Any]:
        """Write a part's pixels into `out` (N, C, R, R); returns what is kept with them."""
        seen = prepare.fill(out, part, out.shape[-1], self.rule, f"{self.dataset.name} {split}", as_shown=self.own)
        mean, std = prepare.mean_and_std(out)
        notes = seen.notes(as_shown=self.own) + self._deviations(part, split, seen.sizes, out.shape[-1])
        return {"sha256": _sha256(out, part.labels), "mean": mean, "std": std, "notes": notes}

    def _deviations(self, part: Part, split: str, sizes: set[tuple[int, int]], resolution: int) -> list[str]:
        """How this copy differs from the official set, in words."""
        dataset, notes = self.dataset, []
        if dataset.family in ("idx", "cifar", "medmnist") and not part.verified:
            sha256 = None
            if isinstance(part.images, np.ndarray) and (dataset.copies or split in dataset.sha256):
                pixels = part.images if part.images.ndim == 4 else part.images[..., None]
                sha256 = _sha256(np.array(pixels.transpose(0, 3, 1, 2), order="C"), part.labels)
            which = f"the {split} images of this copy ({self.source.form})"
            if sha256 in dataset.copies:
                notes.append(dataset.copies[sha256])
            elif split not in dataset.sha256:
                notes.append(f"{which} could not be compared with a published checksum")
            elif sha256 != dataset.sha256[split]:
                notes.append(f"{which} are not the official ones, or in another order")
        n, per_class = len(part.labels), np.bincount(part.labels, minlength=dataset.num_classes)
        low, high = per_class.min(), per_class.max()
        spread = f"{low}" if low == high else f"{low} to {high}"
        if dataset.family == "imagenet":
            if split == "train" and not (low >= 732 and high <= 1300):
                notes.append(f"{spread} training images per class (ILSVRC-2012 has 732 to 1300)")
            if split == "test" and spread != "50":
                why = "fastai's split, not comparable with ILSVRC's"
                notes.append(f"{spread} test images per class instead of ILSVRC-2012's 50: {why}")
        elif dataset.counts.get(split) and n != dataset.counts[split]:
            notes.append(f"{n:,} {split} images instead of {dataset.counts[split]:,}")
        if dataset.frame and len(sizes) == 1 and min(sizes)[0] == max(sizes)[1]:
            px = f"{min(sizes)[0]} x {min(sizes)[0]} px"
            source = f"the source's are {dataset.frame}"
            notes.append(f"every image of this copy is {px} ({source}): squeezed or cropped before")
        if sizes != {(resolution, resolution)}:
            low, high = min(min(s) for s in sizes), max(max(s) for s in sizes)
            px = low if low == high else f"{low} to {high}"
            notes.append(f"resized from {px} px to {resolution} px: {RESIZE[self.rule]}")
        return notes


def _sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """`ImageSet.sha256` of (N, C, H, W) pixels and their labels."""
    blank = (0.0,) * images.shape[1]
    facts = Facts("", ("",) * (int(labels.max()) + 1), blank, blank)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), facts).sha256()


def _with_facts(dataset: Dataset, source: Source, built: dict[str, Built], normalisation: str) -> dict[str, ImageSet]:
    if normalisation == MEASURED:
        measured = built["train"][2]
        mean, std = measured["mean"], [v or 1.0 for v in measured["std"]]  # a constant channel is left as it is
    else:
        mean, std = NORMALISATIONS[normalisation]
        if normalisation == "half":
            mean, std = mean * dataset.channels, std * dataset.channels
        if len(mean) != dataset.channels:
            has = f"{dataset.name} has {dataset.channels}"
            raise UserError(f"normalisation {normalisation} is for {len(mean)} channels; {has}")
    found = [note for _, _, meta in built.values() for note in meta["notes"]]
    notes = tuple(dict.fromkeys([*dataset.notes, *source.notes, *found]))
    same = {k: getattr(dataset, k) for k in ("name", "class_names", "licence", "source", "imagenet_indices")}
    facts = Facts(**same, mean=tuple(mean), std=tuple(std), notes=notes, normalisation=normalisation)
    sets = {}
    for s, (images, labels, meta) in built.items():
        sets[s] = ImageSet(images, labels, dataclasses.replace(facts, split={"val": "validation"}.get(s, s)))
        sets[s]._sha256 = meta["sha256"]
    return sets
