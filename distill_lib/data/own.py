"""The user's own data: an .npz, an image folder, or a Hugging Face `datasets` folder on disk."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..core.errors import UserError, printable
from . import arrays, folders, prepare, tables
from .catalogue import DATASETS, MEASURED, Dataset
from .find import hold_out, not_in, unpacked
from .read import Part, Source

TEST_SHARE = 0.2  # of every class, where the data come without a test part
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_AUTO = 128  # px; the resolution chosen for images of mixed size is never above it


def is_path(name: str) -> bool:
    """Whether a data set's name is meant as a path."""
    ending = name.lower().endswith((".npz", ".parquet", *ARCHIVES))
    return os.sep in name or "/" in name or ending or name.startswith(("~", "."))


def source(path: Path, split: folders.Split | None = None, classes: Sequence[str] | None = None) -> Source:
    """Your data as training and test part; without a test part, 20 % of every class is held out (seed 0).

    Args:
        split, classes: of a tree of images, see `folders.image_folder`.
    Raises: UserError: nothing there, or in no form that can be read.
    """
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        folder = unpacked(path)
        inside = list(folder.iterdir())
        only = inside[0] if len(inside) == 1 and inside[0].suffix.lower() == ".npz" else folder
        try:
            return dataclasses.replace(source(only, split, classes), archive=path)
        except UserError as err:
            raise not_in(path, folder, err) from None
    choice = split is not None or classes is not None
    tree = folders.Tree(path) if path.is_dir() else None
    if tree and (not tables.inside(tree) or (choice and tree.top.everything)):
        found = folders.image_folder(path, split, classes, tree)
    elif choice:
        raise UserError(f"{path}: split= and classes= are for a folder of images")
    elif tree:
        found = _tables(tree)
    elif path.is_file() and path.suffix.lower() == ".npz":
        found = arrays.npz(path)
    elif path.is_file() and path.suffix.lower() in (".parquet", ".arrow"):
        found = tables.read(path)
    else:
        what = "not an .npz or .parquet file or an archive" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {what}; give an .npz or .parquet file, a folder, or a .zip or .tar of one")
    if not found.class_names:
        found.class_names = _numbered(found)
    if len(found.class_names) < 2:
        raise UserError(f"{path}: has the one class {found.class_names[0]}; needed at least two classes")
    return _with_test(found)


def _tables(tree: folders.Tree) -> Source:
    """The tables in a folder, and notes of what else lies there.

    Raises: UserError: there are class folders of images too, which the tables do not name.
    """
    found, named = tables.read(tree.path, tree.tables), set()
    if tree.top.everything:
        named = {i for part in found.splits for i in found.read(part).images if isinstance(i, Path)}
        if not named:
            folders.beside_tables(tree)
    tree.endings -= Counter(f.suffix.lower() for f in found.files)
    if (tree.path / "state.json").is_file() or (tree.path / "dataset_dict.json").is_file():
        del tree.endings[".json"]  # which say what the set is
    found.notes = tuple(tree.notes(named))
    return found


def _numbered(found: Source) -> tuple[str, ...]:
    """Names for classes that have numbers alone.

    Raises: UserError: no number of a class, 0, 1, 2, ..., may be left out; said before anything is made of its size.
    """
    labels = [found.read(split).labels for split in found.splits]
    if not any(map(len, labels)):
        raise UserError(f"{found.where}: no images")
    low, high = min(int(x.min(initial=0)) for x in labels), max(int(x.max(initial=0)) for x in labels)
    if low < 0 or high >= max(map(len, labels), default=0):
        run = f"labels run from {low} to {high} in {sum(map(len, labels))} images"
        raise UserError(f"{found.where}: {run}; needed 0, 1, 2, ... without gaps")
    if all(x.min(initial=1) == 1 for x in labels):
        raise UserError(f"{found.where}: labels run from 1 to {high}; numbers of classes begin at 0: subtract 1")
    return tuple(map(str, range(high + 1)))


def dataset_of(path: Path, found: Source) -> Dataset:
    """The facts of your data, as far as the files tell; channels and resolution are found while preparing."""
    ending = next((e for e in ARCHIVES if path.name.lower().endswith(e)), path.suffix)
    name = path.name if path.is_dir() else path.name[: -len(ending)]
    facts = {"normalisation": MEASURED, "licence": "the owner's", "source": f"your own {found.form}"}
    facts |= {"name": f"{name}-own" if name in DATASETS else printable(name), "class_names": found.class_names}
    return Dataset(family="own", channels=0, resolution=0, counts={"train": 0, "test": 0}, **facts)


def shape(part: Part, where: object, resolution: int | None, channels: int | None) -> tuple[int, int]:
    """Channels and resolution your images are prepared to.

    The resolution is the one asked for; else the images' own where all are square and equal; else the smallest shorter
    side, at most 128 px. Images that are all grey get 1 channel, all in colour 3.
    Raises: UserError: grey and colour mixed, or transparency or 16 bits, and `channels` does not say what to make of
    them.
    """
    seen = prepare.survey(part)
    if channels is None:
        grey, colour = (sum(seen.modes[m] for m in modes) for modes in (prepare.GREY, prepare.COLOUR))
        other = {m: n for m, n in seen.modes.items() if m not in prepare.GREY + prepare.COLOUR}
        mode = next(iter(other), "transparent in places" if seen.odd["clear"] else "")
        if mode or (grey and colour):
            what = f"mixed channels: {grey} grey and {colour} colour images; "
            what = f"{other.get(mode, seen.odd['clear'])} images are {mode}; " if mode else what
            clear = " (what is transparent becomes white)" if mode else ""
            raise UserError(f"{where}: {what}pass channels=1 or channels=3 to convert all{clear}")
        channels = 1 if grey else 3
    if resolution is None:
        shorter = min(min(s) for s in seen.sizes)
        same_square = len(seen.sizes) == 1 and len(set(*seen.sizes)) == 1
        resolution = shorter if same_square else min(shorter, LARGEST_AUTO)
    return channels, resolution


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
        try:
            return part, *hold_out(part.labels, TEST_SHARE, 0, found.class_names)
        except UserError as err:
            raise UserError(f"{found.where}: {err}") from None

    def read_split(split: str) -> Part:
        part, rest, held = whole()
        return part.take(rest if split == "train" else held)

    note = f"no test part in your data: {TEST_SHARE:.0%} of every class is held out as test set, seed 0"
    return dataclasses.replace(found, splits=("train", "test"), read=read_split, notes=(*found.notes, note))
