"""The user's own data: an .npz, an image folder, or a Hugging Face `datasets` folder on disk."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from . import folders, prepare, read
from .catalogue import DATASETS, MEASURED, Dataset
from .find import hold_out, unpacked
from .read import Part, Source

TEST_SHARE = 0.2  # of every class, where the data come without a test part
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_AUTO = 128  # px; the resolution chosen for images of mixed size is never above it


def is_path(name: str) -> bool:
    """Whether a data set's name is meant as a path."""
    return os.sep in name or "/" in name or name.endswith(".npz") or name.startswith(("~", "."))


def source(path: Path, split: folders.Split | None = None, classes: Sequence[str] | None = None) -> Source:
    """Your data as training and test part; without a test part, 20 % of every class is held out (seed 0).

    Args:
        split, classes: of a tree of images, see `folders.image_folder`.
    Raises: UserError: nothing there, or in no form that can be read.
    """
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        folder = unpacked(path)
        try:
            return source(folder, split, classes)
        except UserError as err:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(str(err).replace(str(folder), str(path))) from None
    tree = path.is_dir() and not _is_hugging_face(path)
    if not tree and (split is not None or classes is not None):
        raise UserError(f"{path}: split= and classes= are for a folder of images")
    if path.is_file() and path.suffix == ".npz":
        found = read.npz(path)
    elif not path.is_dir():
        what = "not an .npz file or an archive" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {what}; give an .npz file, a folder, or a .zip or .tar of one")
    elif not tree:
        found = hugging_face(path)
    else:
        found = folders.image_folder(path, split, classes)
    if not found.class_names:
        found.class_names = tuple(
            map(str, range(1 + max(int(found.read(s).labels.max(initial=0)) for s in found.splits)))
        )
    return _with_test(found)


def describe(path: Path, found: Source) -> Dataset:
    """The facts of your data, as far as the files tell; channels and resolution are found while preparing."""
    ending = next((e for e in ARCHIVES if path.name.lower().endswith(e)), path.suffix)
    name = path.name if path.is_dir() else path.name[: -len(ending)]
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
    seen = prepare.survey(part)
    if channels is None:
        grey, colour = (sum(seen.modes[m] for m in modes) for modes in (prepare.GREY, prepare.COLOUR))
        other = {m: n for m, n in seen.modes.items() if m not in prepare.GREY + prepare.COLOUR}
        mode = next(iter(other), "transparent in places" if seen.odd["clear"] else "")
        if mode:
            raise UserError(
                f"{where}: {other.get(mode, seen.odd['clear'])} images are {mode}; "
                "pass channels=1 or channels=3 to convert all (what is transparent becomes white)"
            )
        if grey and colour:
            raise UserError(
                f"{where}: mixed channels: {grey} grey and {colour} colour images; "
                "pass channels=1 or channels=3 to convert all"
            )
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
        return part, *hold_out(part.labels, TEST_SHARE, 0, found.class_names)

    def read_split(split: str) -> Part:
        part, rest, held = whole()
        return part.take(rest if split == "train" else held)

    note = f"no test part in your data: {TEST_SHARE:.0%} of every class is held out as test set, seed 0"
    return dataclasses.replace(found, splits=("train", "test"), read=read_split, notes=(*found.notes, note))


# --- Hugging Face ----------------------------------------------------------------------------------------------------
def _is_hugging_face(path: Path) -> bool:
    return any((path / f).is_file() for f in ("dataset_dict.json", "state.json")) or bool(parquet_files(path))


def parquet_files(root: Path) -> list[Path]:
    """Parquet files of a copied hub repository: in the folder or its `data` folder."""
    return sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])


def hugging_face(root: Path) -> Source:
    """A folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or a copy of a hub repository's parquet
    files.

    Raises: UserError: pyarrow is missing, damaged files, no image or label column.
    """
    try:
        import pyarrow as pa  # optional
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"{root}: reading Hugging Face folders needs pyarrow: pip install pyarrow") from None

    def table(files: list[Path]) -> Any:
        tables = []
        for f in files:
            try:
                if f.suffix == ".parquet":
                    tables.append(pq.read_table(f))
                else:
                    with pa.memory_map(str(f)) as m:
                        tables.append(pa.ipc.open_stream(m).read_all())
            except (pa.ArrowException, OSError, ValueError) as err:
                raise UserError(f"{f}: truncated or damaged ({err})") from None
        return pa.concat_tables(tables)

    def saved(folder: Path) -> list[Path]:
        try:
            return [folder / f["filename"] for f in json.loads((folder / "state.json").read_text())["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise UserError(f"{folder}: not a complete Hugging Face data set folder ({err})") from None

    parts: dict[str, list[Path]] = {}
    if parquet_files(root):
        for f in parquet_files(root):
            parts.setdefault(_split_name(f.name.split("-")[0].removesuffix(".parquet")), []).append(f)
    elif (root / "dataset_dict.json").is_file():
        for name in json.loads((root / "dataset_dict.json").read_text())["splits"]:
            parts[_split_name(name)] = saved(root / name)
    else:
        parts["all"] = saved(root)
    if not parts or not all(parts.values()):
        raise UserError(f"{root}: no data files in it")
    schema = table(next(iter(parts.values()))[:1]).schema
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    image, label, names = _columns(root, schema.names, features)

    def read_split(split: str) -> Part:
        t = table(parts[split])
        labels = np.asarray(t[label].to_numpy(zero_copy_only=False))
        if labels.dtype.kind not in "iu":
            raise UserError(f"{root}: column {label} holds {labels.dtype}; needed whole numbers without gaps")
        images = [row["bytes"] if row["bytes"] is not None else Path(row["path"]) for row in t[image].to_pylist()]
        return Part(images, labels.astype(np.int64))

    return Source(
        "Hugging Face folder", root, [f for fs in parts.values() for f in fs], tuple(parts), read_split, names
    )


def _split_name(name: str) -> str:
    return next((s for s, names in read.SPLIT_FOLDERS.items() if name.lower() in names), "all")


def _columns(root: Path, columns: list[str], features: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The image column, the label column and the class names."""
    images = [c for c in columns if features.get(c, {}).get("_type") == "Image"] or [
        c for c in columns if c in ("image", "img")
    ]
    classes = {c: tuple(features[c]["names"]) for c in columns if features.get(c, {}).get("_type") == "ClassLabel"}
    labels = [c for c in ("label", "labels", "fine_label") if c in columns] or list(classes)
    if len(images) != 1 or not labels:
        raise UserError(f"{root}: has the columns {', '.join(columns)}; needed one image column and a column `label`")
    return images[0], labels[0], classes.get(labels[0], ())
