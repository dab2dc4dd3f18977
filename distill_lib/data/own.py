"""The user's own data: an .npz, an image folder, or a Hugging Face `datasets` folder on disk."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from . import arrays, prepare, read, tables
from .catalogue import DATASETS, MEASURED, Dataset
from .find import hold_out
from .read import Part, Source

TEST_SHARE = 0.2  # of every class, where the data come without a test part
LARGEST_AUTO = 128  # px; the resolution chosen for images of mixed size is never above it


def is_path(name: str) -> bool:
    """Whether a data set's name is meant as a path."""
    return os.sep in name or "/" in name or name.endswith(".npz") or name.startswith(("~", "."))


def source(path: Path) -> Source:
    """Your data as training and test part; without a test part, 20 % of every class is held out (seed 0).

    Raises: UserError: nothing there, or in no form that can be read.
    """
    if path.is_file() and path.suffix == ".npz":
        found = arrays.npz(path)
    elif tables.found(path):
        found = tables.read(path)
    elif not path.is_dir():
        what = "not an .npz or .parquet file" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {what}; give an .npz or .parquet file, or a folder")
    else:
        found = read.image_folder(path) or one_folder(path)
    if not found.class_names:
        found.class_names = _numbered(found)
    return _with_test(found)


def _numbered(found: Source) -> tuple[str, ...]:
    """Names for classes that have numbers alone.

    Raises: UserError: no number of a class, 0, 1, 2, ..., may be left out; said before anything is made of its size.
    """
    labels = [found.read(split).labels for split in found.splits]
    low, high = min(int(x.min(initial=0)) for x in labels), max(int(x.max(initial=0)) for x in labels)
    if low < 0 or high >= max(map(len, labels), default=0):
        n = sum(map(len, labels))
        raise UserError(
            f"{found.where}: labels run from {low} to {high} in {n} images; needed 0, 1, 2, ... without gaps"
        )
    if all(x.min(initial=1) == 1 for x in labels):
        raise UserError(f"{found.where}: labels run from 1 to {high}; numbers of classes begin at 0: subtract 1")
    return tuple(map(str, range(high + 1)))


def describe(path: Path, found: Source) -> Dataset:
    """The facts of your data, as far as the files tell; channels and resolution are found while preparing."""
    name = path.name if path.is_dir() else path.stem
    return Dataset(
        name=f"{name}-own" if name in DATASETS else name,
        family="own",
        class_names=found.class_names,
        channels=0,
        resolution=0,
        counts={"train": 0, "test": 0},
        normalisation=MEASURED,
        licence="the owner's",
        source=f"your own {found.form}",
    )


def shape(part: Part, where: object, resolution: int | None, channels: int | None) -> tuple[int, int]:
    """Channels and resolution your images are prepared to.

    The resolution is the one asked for; else the images' own where all are square and equal; else the smallest shorter
    side, at most 128 px. Images that are all grey get 1 channel, all in colour 3.
    Raises: UserError: grey and colour mixed, or transparency or 16 bits, and `channels` does not say what to make of
    them.
    """
    sizes, modes = prepare.survey(part)
    deep = [m for m in modes if m.startswith(("I", "F"))]
    if deep:
        raise UserError(
            f"{where}: {modes[deep[0]]} images have more than 8 bits per channel ({deep[0]}); convert them to 8 bits first"
        )
    if channels is None:
        grey, colour = sum(modes.get(m, 0) for m in prepare.GREY), sum(modes.get(m, 0) for m in prepare.COLOUR)
        other = {m: n for m, n in modes.items() if m not in prepare.GREY + prepare.COLOUR}
        if other:
            mode, n = next(iter(other.items()))
            raise UserError(
                f"{where}: {n} images are {mode}; pass channels=1 or channels=3 to convert all (transparency is dropped)"
            )
        if grey and colour:
            raise UserError(
                f"{where}: mixed channels: {grey} grey and {colour} colour images; pass channels=1 or channels=3 to convert all"
            )
        channels = 1 if grey else 3
    if resolution is None:
        shorter = min(min(s) for s in sizes)
        same_square = len(sizes) == 1 and min(sizes)[0] == min(sizes)[1]
        resolution = shorter if same_square else min(shorter, LARGEST_AUTO)
    return channels, resolution


def one_folder(root: Path) -> Source:
    """A folder with one folder per class and no split."""
    dirs = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(dirs) < 2:
        raise UserError(
            f"{root}: needs train/<class>/ and test/<class>/, or a folder for each of at least two classes; found {len(dirs)} folders in it"
        )
    images = {d: read.image_files(d) for d in dirs}
    files = [f for mine in images.values() for f in mine]
    return Source(
        "image folder", root, files, ("all",), lambda _: read.folder_part(dirs, images), tuple(d.name for d in dirs)
    )


def _with_test(found: Source) -> Source:
    """The same source with the splits train and test, and val where there is one besides a test part."""
    if "test" in found.splits and "train" in found.splits:
        return found
    if "train" in found.splits and "val" in found.splits:
        found.notes += ("the test set is the validation part of your data: there is no test part",)
        return found
    if len(found.splits) > 1 or found.splits[0] not in ("all", "train"):
        raise UserError(f"{found.where}: holds {', '.join(found.splits)}; a train part is needed")
    only = found.splits[0]

    @functools.cache
    def whole() -> tuple[Part, np.ndarray, np.ndarray]:
        part = found.read(only)
        prepare.check_labels(part.labels, found.class_names, found.where)
        return part, *hold_out(part.labels, TEST_SHARE, 0)

    def read_split(split: str) -> Part:
        part, rest, held = whole()
        return part.take(rest if split == "train" else held)

    note = f"no test part in your data: {TEST_SHARE:.0%} of every class is held out as test set, seed 0"
    return Source(
        found.form, found.where, found.files, ("train", "test"), read_split, found.class_names, (*found.notes, note)
    )
