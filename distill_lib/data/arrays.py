"""Arrays in files, .npz and .npy: looked at before they are read, so that no header fills the memory, and never
unpickled."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np
import psutil
from numpy.lib import format as npy

from ..core.errors import UserError
from .read import SPLITS, Part, Source, md5, unreadable

Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
NAMES = ("class_names", "classes")


def headers(path: Path) -> Shapes:
    """Shape and type of every array in an .npz file; of the one in an .npy file under the name of the file.

    Raises: UserError: damaged, not such a file, Python objects inside.
    """
    found: Shapes = {}
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as f:
                found[path.stem] = _header(f, path.stat().st_size)
        else:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        with archive.open(info) as f:
                            found[info.filename.removesuffix(".npy")] = _header(f, info.file_size)
    except Exception as err:  # many kinds, from zip, zlib and the text of headers
        raise unreadable(path, err, "cannot be read as plain arrays") from None
    if objects := ", ".join(key for key, (_, dtype) in found.items() if dtype.hasobject):
        why = "which are never run: it cannot be read as plain arrays"
        save = "save numbers, and text as numpy.array(names, dtype=str)"
        raise UserError(f"{path}: {objects} holds Python objects, {why}; {save}")
    return found


def _header(f: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(f)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"numpy's format {version[0]}.{version[1]}")
    shape, _, dtype = read(f)
    needed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or needed != size - f.tell()):
        raise ValueError(f"an array of {needed:,} bytes in {size - f.tell():,} bytes")
    return shape, dtype


def read(path: Path, keys: Iterable[str], shapes: Shapes) -> dict[str, np.ndarray]:
    """Arrays that `headers` has found.

    Raises: UserError: damaged, or larger than the free memory.
    """
    keys = list(keys)
    fits(path, sum(math.prod(shapes[k][0]) * shapes[k][1].itemsize for k in keys))
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {path.stem: content}
        with content:
            return {key: content[key] for key in keys}
    except Exception as err:  # as above, and no memory
        raise unreadable(path, err, "truncated or damaged") from None


def fits(path: Path, needed: int) -> None:
    """Raises: UserError: `needed` bytes are more than the free memory."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise UserError(f"{path}: says that it holds {needed:,} bytes; {free:,} bytes of memory are free")


def whole_numbers(labels: np.ndarray, where: object) -> np.ndarray:
    """Labels as int64. Raises: UserError: they are no whole numbers, or too large."""
    if labels.dtype.kind not in "iub":
        raise UserError(f"{where}: labels are {labels.dtype}; needed whole numbers without gaps")
    if labels.size and int(labels.max()) >= 2**31:
        raise UserError(f"{where}: labels run from {labels.min()} to {labels.max()}; needed 0, 1, 2, ... without gaps")
    return labels.astype(np.int64)


def npz(path: Path, published_md5: Callable[[], str | None] = lambda: None, join_marks: bool = False) -> Source:
    """A data set in one file: MedMNIST's keys (`train_images`, `train_labels`, ...), Keras's (`x_train`, `y_train`,
    ...), or just `images` and `labels`.

    Optional key: `class_names` or `classes`.

    Args:
        join_marks: labels of several 0/1 marks per image become 0 (no mark) and 1 (any mark).
    Raises: UserError: not an npz file, keys missing, pickled objects inside.
    """
    shapes = headers(path)
    pairs = {}
    for split in SPLITS:
        for pair in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
            if set(pair) <= set(shapes):
                pairs.setdefault(split, pair)
    if {"images", "labels"} <= set(shapes) and "train" not in pairs:
        pairs = {"train" if pairs else "all": ("images", "labels"), **pairs}
    if not pairs:
        needs = "needs train_images, train_labels, test_images, test_labels, or images and labels"
        raise UserError(f"{path}: has the keys {', '.join(sorted(shapes)) or '(none)'}; {needs}")
    names_key = next((k for k in NAMES if k in shapes), None)
    unread = sorted(set(shapes) - {k for pair in pairs.values() for k in pair} - {names_key})

    @functools.cache
    def verified() -> bool:
        want = published_md5()
        return want is not None and md5(path) == want

    def part(split: str) -> Part:
        of_images, of_labels = pairs[split]
        images, labels = read(path, pairs[split], shapes).values()
        if images.dtype != np.uint8:
            raise UserError(f"{path}: {of_images} are {images.dtype}; save them as uint8 pixels, 0 to 255")
        if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
            images = images.transpose(0, 2, 3, 1)
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)) or 0 in images.shape[1:]:
            needed = "(N, H, W) or (N, H, W, C) with 1 or 3 channels, and pixels in them"
            raise UserError(f"{path}: {of_images} have shape {images.shape}; needed {needed}")
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if join_marks and labels.ndim == 2:
            labels = labels.any(1)
        if labels.ndim != 1 or labels.dtype.kind not in "iub" or len(labels) != len(images):
            needed = f"one whole number for each of {len(images)} images"
            raise UserError(f"{path}: {of_labels} are {labels.dtype} {labels.shape}; needed {needed}")
        return Part(images, whole_numbers(labels, f"{path} ({of_labels})"), verified())

    names = _class_names(path, names_key, shapes) if names_key else ()
    notes = (f"not read from {path.name}: {', '.join(unread)}",) if unread else ()
    return Source("npz", path, [path], tuple(pairs), part, names, notes)


def _class_names(path: Path, key: str, shapes: Shapes) -> tuple[str, ...]:
    shape, dtype = shapes[key]
    if len(shape) != 1 or not shape[0]:
        raise UserError(f"{path}: {key} has shape {shape}; needed a list with one name for each class")
    try:
        found = read(path, [key], shapes)[key].tolist()
        names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in found)
    except UnicodeDecodeError:
        raise UserError(f"{path}: {key} holds bytes that are no UTF-8 text; save the names as text") from None
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"{path}: {key} names {twice[0]!r} twice; every class needs a name of its own")
    return names
