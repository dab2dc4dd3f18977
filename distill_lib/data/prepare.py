"""From a split as it lies on disk to uint8 pixels of one size: resized by a stated rule, decoded in parallel, kept
memory-mapped."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from safetensors import safe_open
from torch import Tensor
from tqdm.contrib.concurrent import thread_map

from ..core.errors import UserError
from ..core.files import atomically, undamaged, unwritable
from . import read
from .read import Part

FORMAT = "distill_lib.prepared/1"
HEADER = 16_384  # bytes kept for a prepared file's header, so that it can be written after the pixels
RESIZE = {
    "bilinear": "shorter side to the resolution (bilinear, antialiased), then a centre crop",
    "bicubic": "shorter side to the resolution (bicubic, antialiased), then a centre crop",
    "squeeze": "both sides to the resolution (bilinear, antialiased); the aspect ratio is lost",
}
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "SGI", "TIFF", "WEBP")  # others may run code (EPS)
GREY, COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
ORIENTATION = ExifTags.Base.Orientation
# what Pillow's readers raise at damaged files
UNREADABLE = (OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
UNREADABLE = (*UNREADABLE, Image.DecompressionBombError)


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


@dataclass
class Seen:
    """What was found in a split's images: their sizes (W, H), PIL modes, and what a reader of pixels should know."""

    sizes: set[tuple[int, int]] = field(default_factory=set)
    modes: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(n: int, look: Callable[[int, Seen], None], what: str = "") -> Seen:
        """What `look` finds in images 0 to n - 1, on all cores; `what` names the bar of progress."""

        def some(start: int) -> Seen:
            found = Seen()
            for i in range(start, min(start + 64, n)):
                look(i, found)
            return found

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        bar = {"desc": what, "unit": "image", "unit_scale": 64, "leave": False}
        bar["disable"] = not what or not sys.stderr.isatty()
        seen = Seen()
        for found in thread_map(some, range(0, n, 64), max_workers=min(32, cores), **bar):
            seen.sizes |= found.sizes
            seen.modes += found.modes
            seen.odd += found.odd
        return seen

    def notes(self, as_shown: bool) -> list[str]:
        """For `Facts.notes`. `as_shown` as in `fill`."""
        what = {
            "turned": f"a rotation tag: {'turned as it says' if as_shown else 'not turned, as the papers read them'}",
            "clear": f"transparent parts: {'white there' if as_shown else 'the colours under them are read'}",
            "several": "several frames or pages: the first is read",
        }
        return [f"{n:,} image{' has' if n == 1 else 's have'} {what[kind]}" for kind, n in sorted(self.odd.items())]


def open_image(item: Path | bytes | np.ndarray, decode: bool = True, name: str = "") -> Image.Image:
    """A PIL image, decoded or with its header only.

    Args:
        name: what an error calls an image that is no file.
    Raises: UserError: the file is missing, truncated, no image, or has more than 8 bits per channel.
    """
    if isinstance(item, np.ndarray):
        return Image.fromarray(item[..., 0] if item.ndim == 3 and item.shape[-1] == 1 else item)
    name = name or (f"{item}" if isinstance(item, Path) else "an image stored in the set")
    try:
        image = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=_formats())
        bits = _deep(image)
        if decode and not bits:
            image.load()
    except UNREADABLE as err:
        reason = "not an image of a known kind" if isinstance(err, UnidentifiedImageError) else str(err)
        if isinstance(err, Image.DecompressionBombError):
            millions = 2 * Image.MAX_IMAGE_PIXELS // 10**6
            reason = f"more than {millions} megapixels: make it smaller first, or raise PIL.Image.MAX_IMAGE_PIXELS"
        with suppress(OSError):
            reason = read.instead(item if isinstance(item, bytes) else item.open("rb").read(512)) or reason
        raise UserError(f"{name}: cannot be read as an image ({reason})") from None
    if bits:
        raise UserError(f"{name}: more than 8 bits per channel ({bits}); convert the images to 8 bits first")
    return image


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _deep(image: Image.Image) -> str:
    """What says that an image has more than 8 bits per channel: its mode, or how its file stores pixels; else ""."""
    if image.mode.startswith(("I", "F")):
        return image.mode
    stored = str([(tile[0], tile[3]) for tile in image.tile]) if isinstance(image, ImageFile) else ""
    found = re.search(r"[A-Za-z]+;(1[0-6]|32|64)[BLNSF]|SGI16", stored)
    if image.format == "PPM" and image.tile and isinstance(image.tile[0][3], tuple) and image.tile[0][3][1] > 255:
        return f"values up to {image.tile[0][3][1]}"
    if image.format == "AVIF":
        image.fp.seek(0)
        box = image.fp.read().partition(b"av1C")[2][:3]  # its third byte: a bit for 10 or 12 bits, one for 12
        return "10 or 12 bits" if box[2:] and box[2] & 0x40 else ""
    per_sample = getattr(image, "tag_v2", {}).get(258, ())  # TIFF's bits per sample
    if image.format == "JPEG2000":
        per_sample = _jpeg2000_bits(image)
    return found[0] if found else f"{max(per_sample)} bits" if max(per_sample, default=8) > 8 else ""


def _jpeg2000_bits(image: ImageFile) -> list[int]:
    """Bits of every component, from the codestream's SIZ marker: Pillow cuts colours to 8 bits without a word."""
    image.fp.seek(0)
    siz = image.fp.read().partition(b"\xff\x4f\xff\x51")[2][36:]  # what stands before are sizes
    return [(bits & 127) + 1 for bits in siz[2 : 2 + 3 * int.from_bytes(siz[:2]) : 3]]


def _pixels(part: Part, i: int, mode: str, as_shown: bool, seen: Seen) -> Image.Image:
    """Image `i` in the mode wanted, and what is special about it."""
    item = part.images[i]
    if isinstance(item, np.ndarray):
        image = open_image(item)
        seen.sizes.add(image.size)
        return image.convert(mode)
    name = part.name(i)
    with open_image(item, decode=False, name=name) as image:
        try:
            several = getattr(image, "n_frames", 1) > 1
            turned = image.format == "TIFF" and _orientation(image) > 1  # Pillow turns TIFF itself
            image.load()
            turned = turned or _orientation(image) > 1
            if as_shown and turned:
                image = ImageOps.exif_transpose(image)
            over = image.convert("RGBA") if image.has_transparency_data else None
            clear = over is not None and over.getextrema()[3][0] < 255
            if as_shown and clear:
                image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
            seen.sizes.add(image.size)
            seen.odd += Counter(turned=turned, clear=clear, several=several)
            return image.convert(mode)
        except UNREADABLE as err:
            raise UserError(f"{name}: cannot be read as an image ({err})") from None


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation tag: 1 upright, 2 to 8 mirrored or turned."""
    try:
        tag = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block of any kind says nothing
        return 1
    return tag if tag in range(1, 9) else 1


def survey(part: Part) -> Seen:
    """Sizes, modes and transparency of a split's images, from the files' headers alone."""
    if isinstance(part.images, np.ndarray):
        h, w = part.images.shape[1:3]
        mode = "L" if part.images.ndim == 3 or part.images.shape[-1] == 1 else "RGB"
        return Seen({(w, h)}, Counter({mode: len(part.images)}))

    def look(i: int, seen: Seen) -> None:
        with open_image(part.images[i], decode=False, name=part.name(i)) as image:
            seen.sizes.add(image.size)
            seen.modes[image.mode] += 1
            seen.odd["clear"] += image.has_transparency_data

    return Seen.of(len(part.images), look)


def fill(out: np.ndarray, part: Part, resolution: int, rule: str, what: str, as_shown: bool = True) -> Seen:
    """Write a split's pixels into `out` (N, C, R, R) uint8, decoding on all cores.

    Args:
        as_shown: as a viewer shows the images: turned as their rotation tag says, white where they are transparent.
                  False: as stored, which is how the papers' codes read the named sets.
    """
    n, channels = out.shape[:2]
    if isinstance(part.images, np.ndarray) and part.images.shape[1:3] == (resolution, resolution):
        images = part.images if part.images.ndim == 4 else part.images[..., None]
        if images.shape[-1] == channels:
            for i in range(0, n, 4096):
                out[i : i + 4096] = images[i : i + 4096].transpose(0, 3, 1, 2)
            return Seen({(resolution, resolution)})

    def write_one(i: int, seen: Seen) -> None:
        pixels = np.asarray(resize(_pixels(part, i, "L" if channels == 1 else "RGB", as_shown, seen), resolution, rule))
        out[i] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

    return Seen.of(n, write_one, what)


def mean_and_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and std per channel of (N, C, H, W) uint8 pixels in [0, 1], exact: from counts of the 256 values."""
    counts = np.zeros((images.shape[1], 256))
    step = max(1, 2**22 // (images.shape[2] * images.shape[3]))  # images that take 32 MB as bincount's int64
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
        run = f"labels run from {labels.min()} to {labels.max()}"
        raise UserError(f"{where}: {run}; the set has {classes} classes, 0 to {classes - 1}")
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(empty):
        raise UserError(f"{where}: class {empty[0]} ({class_names[empty[0]]}) has no images")


# --- prepared files --------------------------------------------------------------------------------------------------
# A prepared file is a safetensors file: labels (N,) int64, then images (N, C, R, R) uint8, with the facts found while
# preparing in its metadata. Written by hand because the pixels of a large set never fit in memory at once.


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
        raise unwritable(path, err) from None
    if free < start + size:
        needed = f"{start + size:,} bytes are needed, {free:,} are free"
        raise UserError(f"{path.parent}: {needed}; set DISTILL_CACHE to a folder on a larger disk")

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
    with undamaged(path, "delete it to prepare it again"), safe_open(path, "pt") as f:
        meta = f.metadata() or {}
        if meta.get("format") != FORMAT:
            raise UserError(f"{path}: not a prepared data set; delete it to prepare it again")
        return f.get_tensor("images"), f.get_tensor("labels"), json.loads(meta["meta"])


def in_memory(
    labels: np.ndarray, shape: tuple[int, ...], fill_in: Callable[[np.ndarray], dict[str, Any]]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What `write` and `open_prepared` do, without a file: for the small sets inside the package."""
    out = np.empty(shape, np.uint8)
    meta = fill_in(out)
    return torch.from_numpy(out), torch.from_numpy(labels), meta
