"""Image folders: what lies where in a tree, and the images of every class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import UserError
from .read import SPLIT_FOLDERS, Part, Source

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


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
