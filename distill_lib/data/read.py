"""Readers: from every form a set may lie in on disk to a `Source`. Each error names the file and what is wrong with
it."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import UserError

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass
class Part:
    """One split as it lies on disk, nothing resized yet.

    images: (N, H, W) or (N, H, W, C) uint8 pixels, or N files, or N encoded files in memory.
    labels: (N,) int64.
    verified: the files carry the published checksums.
    names: where each encoded image came from, such as "train.parquet, row 7", for messages.
    """

    images: np.ndarray | list[Path] | list[bytes]
    labels: np.ndarray
    verified: bool = False
    names: Sequence[str] = ()

    def take(self, index: np.ndarray) -> Part:
        images = self.images[index] if isinstance(self.images, np.ndarray) else [self.images[i] for i in index]
        return Part(images, self.labels[index], self.verified, [self.names[i] for i in index] if self.names else ())

    def name(self, i: int) -> str:
        """How a message names image `i`."""
        return str(self.images[i]) if isinstance(self.images[i], Path) else self.names[i] if self.names else f"row {i}"


@dataclass
class Source:
    """Where a set was found and how to read its splits.

    files: everything the pixels depend on; a prepared copy is made again when one of them changes.
    key: what else they depend on: which files are which part and class.
    """

    form: str
    where: Path
    files: Sequence[Path]
    splits: tuple[str, ...]
    read: Callable[[str], Part]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    key: str = ""

    def fingerprint(self) -> str:
        """Hash of the path, size and time of every file."""
        h = hashlib.sha256(self.key.encode())
        for f in self.files:
            s = os.stat(f)
            h.update(os.fsencode(os.path.abspath(f)) + f"\0{s.st_size}\0{s.st_mtime_ns}\n".encode())
        return h.hexdigest()[:16]


def md5(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


# --- MNIST and FashionMNIST ------------------------------------------------------------------------------------------
def idx(path: Path) -> np.ndarray:
    """The array in an idx file of unsigned bytes, plain or gzipped.

    Raises: UserError: not an idx file, or fewer or more bytes than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as err:
        raise UserError(f"{path}: truncated or damaged ({err}); fetch it again") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise UserError(f"{path}: not an idx file of unsigned bytes")
    dims = raw[3]
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims]) if len(raw) >= 4 + 4 * dims else ()
    want = 4 + 4 * dims + int(np.prod(shape, dtype=np.int64))
    if not shape or len(raw) != want:
        raise UserError(f"{path}: truncated or damaged: {len(raw)} bytes where its header says {want}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def idx_folder(folder: Path) -> Source | None:
    """The four files of MNIST or FashionMNIST, as torchvision or Debian keep them."""
    found = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        for kind in ("images-idx3", "labels-idx1"):
            files = [folder / f"{stem}-{kind}-ubyte", folder / f"{stem}-{kind}-ubyte.gz"]
            found[split, kind] = next((f for f in files if f.is_file()), None)
    missing = [f"{kind} of the {split} part" for (split, kind), file in found.items() if file is None]
    if len(missing) == len(found):
        return None
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing; fetch the set again")

    def read(split: str) -> Part:
        images, labels = idx(found[split, "images-idx3"]), idx(found[split, "labels-idx1"])
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise UserError(
                f"{found[split, 'images-idx3']}: {images.shape} pixels do not go with {labels.shape} labels"
            )
        return Part(images, labels.astype(np.int64))

    return Source("idx files", folder, list(found.values()), ("train", "test"), read)


# --- CIFAR -----------------------------------------------------------------------------------------------------------
def cifar_folder(folder: Path, name: str) -> Source | None:
    """CIFAR-10 or CIFAR-100 as torchvision keeps them: pickles, so they are opened only if their md5 is the published
    one."""
    if not folder.is_dir():
        return None
    from torchvision import datasets  # here: torchvision takes more than a second to import

    cls = getattr(datasets, name)
    files = [folder / f for f, _ in [*cls.train_list, *cls.test_list]] + [folder / cls.meta["filename"]]

    def read(split: str) -> Part:
        for f, want in {**dict(cls.train_list), **dict(cls.test_list), cls.meta["filename"]: cls.meta["md5"]}.items():
            if not (folder / f).is_file():
                raise UserError(f"{folder}: {f} is missing; fetch the set again")
            if md5(folder / f) != want:
                raise UserError(f"{folder / f}: its md5 is not the published {want}; fetch it again")
        whole = cls(str(folder.parent), train=split == "train")
        return Part(whole.data, np.asarray(whole.targets, np.int64), verified=True)

    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing; fetch the set again")
    return Source("torchvision", folder, files, ("train", "test"), read)


# --- npz -------------------------------------------------------------------------------------------------------------
def npz(path: Path, published_md5: Callable[[], str | None] = lambda: None, join_marks: bool = False) -> Source:
    """A file with MedMNIST's keys (`train_images`, `train_labels`, ...), or just `images` and `labels`.

    Optional key: `class_names` or `classes`.

    Args:
        join_marks: labels of several 0/1 marks per image become 0 (no mark) and 1 (any mark).
    Raises: UserError: not an npz file, keys missing, pickled objects inside.
    """
    try:
        with np.load(path, allow_pickle=False) as z:
            keys = set(z.files)
            names = next((tuple(map(str, z[k])) for k in ("class_names", "classes") if k in keys), ())
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, AttributeError) as err:
        raise UserError(f"{path}: cannot be read as an npz file ({err})") from None
    splits = tuple(s for s in SPLIT_FOLDERS if {f"{s}_images", f"{s}_labels"} <= keys)
    if not splits and {"images", "labels"} <= keys:
        splits = ("all",)
    if not splits:
        raise UserError(
            f"{path}: has the keys {', '.join(sorted(keys)) or '(none)'}; needs train_images, train_labels, test_images, test_labels, "
            "or images and labels"
        )

    @functools.cache
    def verified() -> bool:
        want = published_md5()
        return want is not None and md5(path) == want

    def read(split: str) -> Part:
        prefix = "" if split == "all" else f"{split}_"
        try:
            with np.load(path, allow_pickle=False) as z:
                images, labels = z[f"{prefix}images"], z[f"{prefix}labels"]
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as err:
            raise UserError(f"{path}: truncated or damaged ({err})") from None
        if images.dtype != np.uint8:
            raise UserError(f"{path}: {prefix}images are {images.dtype}; save them as uint8 pixels, 0 to 255")
        if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
            images = images.transpose(0, 2, 3, 1)
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
            raise UserError(
                f"{path}: {prefix}images have shape {images.shape}; needed (N, H, W) or (N, H, W, C) with 1 or 3 channels"
            )
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if join_marks and labels.ndim == 2:
            labels = labels.any(1)
        if labels.ndim != 1 or labels.dtype.kind not in "iub" or len(labels) != len(images):
            raise UserError(
                f"{path}: {prefix}labels are {labels.dtype} {labels.shape}; needed one whole number for each of {len(images)} images"
            )
        return Part(images, labels.astype(np.int64), verified())

    return Source("npz", path, [path], splits, read, names)


def instead(head: bytes) -> str:
    """What a file holds instead of data, from its first bytes: "" where it is none of the usual mishaps."""
    start = head[:512].lstrip().lower()
    if not head:
        return "the file is empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run: git lfs pull"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not the file itself; fetch it again"
    return ""
