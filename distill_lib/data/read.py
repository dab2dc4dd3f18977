"""Readers: from every form a set may lie in on disk to a `Source`. Each error names the file and what is wrong with
it."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import UserError

SPLITS = ("train", "val", "test")


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
    archive: what `where` was unpacked from, of your own data.
    """

    form: str
    where: Path
    files: Sequence[Path]
    splits: tuple[str, ...]
    read: Callable[[str], Part]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    key: str = ""
    archive: Path | None = None

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
            files = [folder / f"{stem}-{kind}-ubyte{ending}" for ending in ("", ".gz")]
            found[split, kind] = next((f for f in files if f.is_file()), None)
    missing = [f"{kind} of the {split} part" for (split, kind), file in found.items() if file is None]
    if len(missing) == len(found):
        return None
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing; fetch the set again")

    def read(split: str) -> Part:
        images, labels = idx(found[split, "images-idx3"]), idx(found[split, "labels-idx1"])
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            unlike = f"{images.shape} pixels do not go with {labels.shape} labels"
            raise UserError(f"{found[split, 'images-idx3']}: {unlike}")
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
            if md5(folder / f) != want:
                raise UserError(f"{folder / f}: its md5 is not the published {want}; fetch it again")
        whole = cls(str(folder.parent), train=split == "train")
        return Part(whole.data, np.asarray(whole.targets, np.int64), verified=True)

    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing; fetch the set again")
    return Source("torchvision", folder, files, ("train", "test"), read)


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


def unreadable(path: Path, err: BaseException, what: str) -> UserError:
    """The error for a file that a reader refused: what lies there instead, or what the reader said, in one line.

    Nothing is passed on that advises to unpickle.
    """
    try:
        with open(path, "rb") as f:
            head = f.read(512)
    except OSError as no:
        return UserError(f"{path}: cannot be read: {no.strerror or no}")
    whole = False
    with suppress(zipfile.BadZipFile):  # raised for some archives that are none
        whole = zipfile.is_zipfile(path)
    kinds = {
        b"\x93NUMPY": "a single array (.npy)",
        b"PK": "" if whole else "a zip archive, cut short",
        b"\x80": "a Python pickle, which may hold code and is never run",
        b"\x89HDF": "an HDF5 file",
        b"PAR1": "a parquet file",
        b"ARROW1": "an Arrow file",
        b"\x1f\x8b": "a gzip archive",
        b"\x89PNG": "a PNG image",
        b"\xff\xd8\xff": "a JPEG image",
    }
    said = " ".join(str(err).split())[:200] or type(err).__name__
    if any(word in said for word in ("pickle", "weights_only", "torch.load")):
        said = "it holds more than plain data"
    kind = next((kind for start, kind in kinds.items() if head.startswith(start)), "")
    return UserError(f"{path}: {what} ({instead(head) or (f'it is {kind}: {said}' if kind else said)})")
