"""From a split as it lies on disk to uint8 pixels of one size: resized by a stated rule, decoded in parallel, kept
memory-mapped."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from ..core.errors import UserError
from ..core.files import atomically
from .read import Part

FORMAT = "distill_lib.prepared/1"
HEADER = 16_384  # bytes kept for a prepared file's header, so that it can be written after the pixels
RESIZE = {
    "bilinear": "shorter side to the resolution (bilinear, antialiased), then a centre crop",
    "bicubic": "shorter side to the resolution (bicubic, antialiased), then a centre crop",
    "squeeze": "both sides to the resolution (bilinear, antialiased); the aspect ratio is lost",
}
GREY, COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")


def resize(image: Image.Image, resolution: int, rule: str) -> Image.Image:
    """A PIL image made `resolution` x `resolution` by the named rule; untouched where it has that size already."""
    w, h = image.size
    if (w, h) == (resolution, resolution):
        return image
    method = Image.Resampling.BICUBIC if rule == "bicubic" else Image.Resampling.BILINEAR
    if rule == "squeeze":
        return image.resize((resolution, resolution), method)
    scale = resolution / min(w, h)
    w, h = max(resolution, round(w * scale)), max(resolution, round(h * scale))
    left, top = (w - resolution) // 2, (h - resolution) // 2
    return image.resize((w, h), method).crop((left, top, left + resolution, top + resolution))


def open_image(item: Path | bytes | np.ndarray, decode: bool = True) -> Image.Image:
    """A PIL image, decoded or with its header only.

    Raises: UserError: the file is missing, truncated or no image.
    """
    if isinstance(item, np.ndarray):
        return Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[-1] == 1 else item)
    try:
        image = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)
        if decode:
            image.load()
        return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        name = "an image stored in the set" if isinstance(item, bytes) else item
        raise UserError(f"{name}: cannot be read as an image ({err})") from None


def survey(part: Part) -> tuple[set[tuple[int, int]], dict[str, int]]:
    """Sizes (W, H) of a split's images, and how many have each PIL mode, from the files' headers alone."""
    if isinstance(part.images, np.ndarray):
        h, w = part.images.shape[1:3]
        grey = part.images.ndim == 3 or part.images.shape[-1] == 1
        return {(w, h)}, {"L" if grey else "RGB": len(part.images)}

    def look(start: int) -> tuple[set[tuple[int, int]], list[str]]:
        had, found = set(), []
        for item in part.images[start : start + 64]:
            with open_image(item, decode=False) as image:
                had.add(image.size)
                found.append(image.mode)
        return had, found

    sizes, modes = set(), Counter()
    with ThreadPoolExecutor(_workers()) as pool:
        for had, found in pool.map(look, range(0, len(part.images), 64)):
            sizes |= had
            modes.update(found)
    return sizes, modes


def fill(out: np.ndarray, part: Part, resolution: int, rule: str, what: str) -> set[tuple[int, int]]:
    """Write a split's pixels into `out` (N, C, R, R) uint8, decoding on all cores.

    Returns: the sizes (W, H) the images had.
    """
    n, channels = out.shape[:2]
    mode = "L" if channels == 1 else "RGB"
    if isinstance(part.images, np.ndarray) and part.images.shape[1:3] == (resolution, resolution):
        images = part.images if part.images.ndim == 4 else part.images[..., None]
        if images.shape[-1] == channels:
            for i in range(0, n, 4096):
                out[i : i + 4096] = images[i : i + 4096].transpose(0, 3, 1, 2)
            return {(resolution, resolution)}

    def some(start: int) -> tuple[int, set[tuple[int, int]]]:
        stop, had = min(start + 64, n), set()
        for i in range(start, stop):
            image = open_image(part.images[i])
            had.add(image.size)
            pixels = np.asarray(resize(image.convert(mode), resolution, rule))
            out[i] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
        return stop - start, had

    sizes = set()
    quiet = not sys.stderr.isatty()
    with (
        ThreadPoolExecutor(_workers()) as pool,
        tqdm(total=n, desc=what, unit="image", disable=quiet, leave=False) as bar,
    ):
        try:
            for done, had in pool.map(some, range(0, n, 64)):
                sizes |= had
                bar.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sizes


def _workers() -> int:
    return min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and std per channel of (N, C, H, W) uint8 pixels in [0, 1], exact: from counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256))
    step = max(
        1, 2**22 // (images.shape[2] * images.shape[3])
    )  # images whose pixels take 32 MB as the int64 bincount makes of them
    for i in range(0, len(images), step):
        for c in range(images.shape[1]):
            counts[c] += np.bincount(images[i : i + step, c].ravel(), minlength=256)
    value = np.arange(256) / 255
    total = counts.sum(1)
    mean = counts @ value / total
    return mean.tolist(), np.sqrt(np.maximum(counts @ value**2 / total - mean**2, 0)).tolist()


def check_labels(labels: np.ndarray, class_names: tuple[str, ...], where: object) -> None:
    """Raises: UserError: a label out of range, a class without images, or no images at all."""
    classes = len(class_names)
    if not len(labels):
        raise UserError(f"{where}: no images")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{where}: labels run from {labels.min()} to {labels.max()}; the set has {classes} classes, 0 to {classes - 1}"
        )
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(empty):
        raise UserError(f"{where}: class {empty[0]} ({class_names[empty[0]]}) has no images")


# --- prepared files --------------------------------------------------------------------------------------------------
# A prepared file is a safetensors file: labels (N,) int64, then images (N, C, R, R) uint8, with the facts found while
# preparing in its metadata. Written by hand because the pixels of a large set never fit in memory at once.


def unwritable(folder: Path, err: OSError) -> UserError:
    return UserError(
        f"cannot write to {folder} ({err.strerror or err}); set DISTILL_CACHE to a folder that can be written to"
    )


def write(
    path: Path, labels: np.ndarray, shape: tuple[int, ...], fill_in: Callable[[np.ndarray], dict[str, Any]]
) -> None:
    """Write a prepared file, complete or not at all.

    Args:
        shape:   (N, C, R, R) of the images.
        fill_in: writes the pixels into a memory-mapped array of that shape and returns the metadata.
    Raises: UserError: the disk is full or the folder cannot be written to.
    """
    size = int(np.prod(shape, dtype=np.int64))
    start = 8 + HEADER + labels.nbytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as err:
        raise unwritable(path.parent, err) from None
    if free < start + size:
        raise UserError(
            f"{path.parent}: {start + size:,} bytes are needed, {free:,} are free; set DISTILL_CACHE to a folder on a larger disk"
        )

    def make(part: Path) -> None:
        with open(part, "r+b") as f:
            f.truncate(start + size)
            f.seek(8 + HEADER)
            f.write(labels.tobytes())
        out = np.memmap(part, np.uint8, "r+", offset=start, shape=shape)
        meta = fill_in(out)
        out.flush()
        header = {
            "__metadata__": {"format": FORMAT, "meta": json.dumps(meta)},
            "labels": {"dtype": "I64", "shape": list(labels.shape), "data_offsets": [0, labels.nbytes]},
            "images": {"dtype": "U8", "shape": list(shape), "data_offsets": [labels.nbytes, labels.nbytes + size]},
        }
        text = json.dumps(header).encode().ljust(HEADER)
        if len(text) > HEADER:
            raise UserError(f"{path}: the facts of this set are too long to store")
        with open(part, "r+b") as f:
            f.write(struct.pack("<Q", HEADER) + text)

    atomically(path, make)


def open_prepared(path: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Memory-mapped images, labels and metadata of a prepared file.

    Raises: UserError: not a prepared file, or truncated.
    """
    try:
        with safe_open(path, "pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != FORMAT:
                raise UserError(f"{path}: not a prepared data set; delete it to prepare it again")
            return f.get_tensor("images"), f.get_tensor("labels"), json.loads(meta["meta"])
    except (SafetensorError, OSError, KeyError, ValueError) as err:
        if isinstance(err, UserError):
            raise
        raise UserError(f"{path}: damaged prepared data set ({err}); delete it to prepare it again") from None


def in_memory(
    labels: np.ndarray, shape: tuple[int, ...], fill_in: Callable[[np.ndarray], dict[str, Any]]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What `write` and `open_prepared` do, without a file: for the small sets inside the package."""
    out = np.empty(shape, np.uint8)
    meta = fill_in(out)
    return torch.from_numpy(out), torch.from_numpy(labels), meta
