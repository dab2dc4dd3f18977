"""Readers: from every form a set may lie in on disk to a `Source`. Each error names the file and what is wrong with
it."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
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
    """

    form: str
    where: Path
    files: Sequence[Path]
    splits: tuple[str, ...]
    read: Callable[[str], Part]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash of the path, size and time of every file."""
        h = hashlib.sha256()
        for f in self.files:
            s = os.stat(f)
            h.update(f"{os.path.abspath(f)}\0{s.st_size}\0{s.st_mtime_ns}\n".encode())
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
            files = [f for f in (folder / f"{stem}-{kind}-ubyte", folder / f"{stem}-{kind}-ubyte.gz") if f.is_file()]
            if not files:
                return None
            found[split, kind] = files[0]

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


# --- image folders ---------------------------------------------------------------------------------------------------
def split_folders(root: Path) -> dict[str, Path]:
    """The folders of `root` that hold a split: train, val or validation, test, in any case."""
    if not root.is_dir():
        return {}
    by_lower = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    return {s: by_lower[n] for s, names in SPLIT_FOLDERS.items() for n in names if n in by_lower}


def image_files(folder: Path) -> list[Path]:
    """Image files under a folder, sorted by path."""
    return sorted(
        Path(top, f)
        for top, _, files in os.walk(folder, followlinks=True)
        for f in files
        if f.lower().endswith(IMAGE_SUFFIXES) and not f.startswith(".")
    )


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def class_folders(root: Path, class_names: Sequence[str], wnids: Sequence[str] = ()) -> list[Path]:
    """The folder of each class, in label order: named by wnid, class name or label number.

    Raises: UserError: a class has no folder.
    """
    found = {p.name.lower(): p for p in root.iterdir() if p.is_dir()}
    found |= {slug(name): p for name, p in found.items()} | {
        str(int(name)): p for name, p in found.items() if name.isdigit()
    }
    folders, missing = [], []
    for k, name in enumerate(class_names):
        names = [wnids[k]] if wnids else [name.lower(), slug(name), str(k)]
        hit = next((found[n] for n in names if n in found), None)
        folders.append(hit)
        if hit is None:
            missing.append(f"{name} ({names[0]})" if wnids else name)
    if missing:
        flat = any(f.name.startswith("ILSVRC2012_val_") for f in list(root.iterdir())[:1])
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{root}: no folder for {len(missing)} of {len(class_names)} classes: {some}"
            + (
                "; the validation images lie flat: torchvision.datasets.ImageNet(root, split='val') sorts them into class folders"
                if flat
                else ""
            )
        )
    return folders


def folder_part(class_dirs: Iterable[Path], given: dict[Path, list[Path]] | None = None) -> Part:
    """Every image of every class folder, with the folder's position as label.

    Raises: UserError: a class without images.
    """
    files, labels = [], []
    for k, d in enumerate(class_dirs):
        mine = (given or {}).get(d) or image_files(d)
        if not mine:
            raise UserError(f"{d}: class without images (looked for {', '.join(IMAGE_SUFFIXES)})")
        files += mine
        labels += [k] * len(mine)
    return Part(files, np.asarray(labels, np.int64))


def image_folder(
    root: Path, class_names: Sequence[str] = (), wnids: Sequence[str] = (), form: str = "image folder"
) -> Source | None:
    """A folder with train and val or test, each with one folder per class; without names, the classes are the sorted
    folder names.

    Returns: None where `root` has no train folder.
    Raises:  UserError: neither test nor val folder beside it where `class_names` are given, or a class without a
    folder.
    """
    splits = split_folders(root)
    if "train" not in splits:
        return None
    if len(splits) < 2 and class_names:
        raise UserError(f"{root}: has a train folder but neither val nor test beside it")
    names = tuple(class_names)
    if not names:
        names = tuple(sorted(p.name for p in splits["train"].iterdir() if p.is_dir() and not p.name.startswith(".")))
        if not names:
            raise UserError(
                f"{splits['train']}: no class folders in it; put the images of each class into a folder of its own"
            )
        extra = {
            p.name for s in splits.values() for p in s.iterdir() if p.is_dir() and not p.name.startswith(".")
        } - set(names)
        if extra:
            raise UserError(f"{root}: {', '.join(sorted(extra))} has a test or val folder but no train folder")
    listed = {s: class_folders(d, names, wnids) for s, d in splits.items()}
    images = {d: image_files(d) for dirs in listed.values() for d in dirs}
    files = [f for mine in images.values() for f in mine]
    return Source(form, root, files, tuple(splits), lambda split: folder_part(listed[split], images), names)


def tiny_imagenet(root: Path) -> Source | None:
    """tiny-imagenet-200 as Stanford distributes it; its labelled `val` part is the test set."""
    words, annotations = root / "words.txt", root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        return None
    wnids = sorted(p.name for p in (root / "train").iterdir() if p.is_dir())
    if len(wnids) != 200:
        raise UserError(f"{root / 'train'}: {len(wnids)} class folders instead of 200; fetch the set again")
    names = (
        dict(line.rstrip("\n").split("\t", 1) for line in words.read_text().splitlines() if "\t" in line)
        if words.is_file()
        else {}
    )
    label = {w: k for k, w in enumerate(wnids)}
    images = {root / "train" / w: image_files(root / "train" / w) for w in wnids}
    files = [f for mine in images.values() for f in mine] + image_files(root / "val" / "images")
    rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines() if line]
    unknown = sorted({w for _, w in rows} - set(wnids))
    if unknown:
        raise UserError(f"{annotations}: names {unknown[0]}, which has no folder under train")
    rows.sort(key=lambda row: (label[row[1]], row[0]))

    def read(split: str) -> Part:
        if split == "train":
            return folder_part(images, images)
        return Part([root / "val" / "images" / f for f, _ in rows], np.asarray([label[w] for _, w in rows], np.int64))

    class_names = tuple(names.get(w, w).split(",")[0] for w in wnids)
    return Source("Stanford's folder", root, [*files, annotations], ("train", "test"), read, class_names)


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
    kinds = {
        b"\x93NUMPY": "a single array (.npy)",
        b"PK": "a zip archive, cut short or of another program",
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
