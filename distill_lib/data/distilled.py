"""Distilled sets as other codes wrote them, read without executing anything in them, and without guessing in
silence."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..core.errors import UserError, unknown
from ..core.paths import expanded
from . import arrays, catalogue, folders, prepare
from . import read as files
from .imageset import ImageSet

Values = Literal["normalised", "pixels", "signed", "bytes"]
Order = Literal["classes", "rounds"]
Numbers = Literal["paper", "sorted"]
IMAGES = ("images", "image", "imgs", "img", "x", "data", "image_syn", "images_syn", "x_syn", "x_train", "train_images")
LABELS = ("labels", "label", "y", "targets", "target", "label_syn", "labels_syn", "y_syn", "y_train", "train_labels")
ENDINGS = ".pt, .pth, .npz, .npy, .safetensors, or a folder with one folder of images per class"
WAYS = {
    "pixels": "--pixels (in [0, 1])",
    "signed": "--signed (in [-1, 1])",
    "bytes": "--bytes (0 to 255)",
    "normalised": "--normalised",
}


@dataclasses.dataclass
class _Reading:
    """What is being read, how the caller wants it understood, and what had to be assumed."""

    path: Path
    like: ImageSet
    order: Order | None
    numbers: Numbers | None
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def places(self) -> Tensor | None:
        """The class of each number, where numbers count sorted wnids and the classes stand in another order."""
        known = catalogue.DATASETS.get(self.like.facts.name)
        if not known or self.numbers == "paper" or list(known.wnids) == sorted(known.wnids):
            return None
        if self.numbers is None:
            sorted_ = "where they count sorted wnids, as torchvision's ImageFolder does, say --numbers sorted"
            self.notes.append(f"class numbers taken in the order of the papers' tables; {sorted_}")
            self.numbers = "paper"
            return None
        return torch.tensor([known.wnids.index(w) for w in sorted(known.wnids)])

    def number(self, name: Any) -> int | None:
        """The number of the class of that name, whatever its case and punctuation; None where there is not one."""
        names, places = self.like.facts.class_names, self.places if self.numbers else None
        for form in (str, str.casefold, folders._plain):
            found = [i for i, known in enumerate(names) if form(known) == form(str(name)) != ""]
            if len(found) == 1:
                return found[0] if places is None else int(places.argsort()[found[0]])
        return None

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}")


def read(
    path: str | Path,
    like: ImageSet,
    values: Values | None = None,
    *,
    factor: int = 1,
    order: Order | None = None,
    numbers: Numbers | None = None,
) -> ImageSet:
    """A distilled set from a file of any common form.

    Images and labels are found by their names (`IMAGES`, `LABELS`), however deep in dictionaries, else by their shape.
    A pair is images and labels, a list of pairs several sets (the first is taken), a list or dictionary of image
    tensors one per class. Images are (N, C, H, W), (N, H, W, C), (N, H, W), or have classes and images per class in
    front. Labels are classes (N,) or soft labels (N, K), and may lie in a file beside: `labels_best.pt` beside
    `images_best.pt`. Images alone, with nothing beside them, are taken class after class. In a folder, every class has
    a folder of images named after it or its number: `cat`, `0`, `class_003`, `new007`.

    Args:
        like:    the test set it will be judged by: gives image shape, classes and normalisation.
        values:  what float images hold: "normalised" (with `like`'s mean and std), "pixels" (in [0, 1]), "signed" (in
                 [-1, 1]) or "bytes" (0 to 255). Not needed for 8-bit pixels and this library's own files.
        factor:  every image holds factor x factor small ones, as IDC stores them.
        order:   of images without labels: "classes", class after class, or "rounds", one of every class in turn.
        numbers: what the numbers of the classes of an ImageNet subset count: the order of the "paper", or "sorted"
                 wnids.
    Returns: the set; `facts.notes` state the assumptions.
    Raises:  UserError: says what the file has and what would work.
    """
    for what, given, known in (("values", values, Values), ("order", order, Order), ("numbers", numbers, Numbers)):
        if given not in (None, *get_args(known)):
            raise unknown(what, given, get_args(known))
    if factor < 1:
        raise UserError(f"factor {factor}: at least 1")
    of = _Reading(expanded(path), like, order, numbers)
    if of.path.is_dir():
        images, labels = _folder(of, values)
    elif not of.path.exists():
        raise of.fail(f"no such file; a distilled set is {ENDINGS}")
    elif of.path.suffix.lower() == ".safetensors" and _own(of.path):
        found = ImageSet.load(of.path)
        said = {"factor": factor > 1, "values": values, "order": order, "numbers": numbers}
        if extra := [what for what, given in said.items() if given]:
            raise of.fail(f"this library's own file says what it holds: leave {' and '.join(extra)} out")
        return _fitting(found, of)
    else:
        if (part := re.search(r"(\d+)[-_ ]?of[-_ ]?0*(\d+)", of.path.name)) and int(part[2]) > 1:
            raise of.fail(f"part {int(part[1])} of {part[2]} by its name; join the parts in one file")
        images, labels = _images_and_labels(_content(of.path), of)
        images = _values(images, of, values)
    if factor > 1:
        of.notes.append(f"every image cut into {factor} x {factor} parts, each enlarged to full size")
        pixels = images.float() / 255 if images.dtype == torch.uint8 else like.facts.pixels(images)
        images = like.facts.normalise(decode(pixels[None], factor)[0])
        labels = labels.repeat(factor**2, *[1] * (labels.ndim - 1))
    about = {"source": of.path.name, "licence": "not stated", "notes": tuple(of.notes)}
    return ImageSet(images, labels, dataclasses.replace(like.synthetic_facts(), **about))


def decode(images: Tensor, factor: int) -> Tensor:
    """Every stored image's factor x factor small images, enlarged to full size.

    Args:
        images: (K, m, C, H, W) pixels in [0, 1].
    Returns: (K, factor² m, C, H, W), all images' top left part first, then the part to its right, and so on.
    Source:  IDC's official code: padded with 0.5 to a multiple of the factor, bilinear, corners not aligned.
    """
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % factor, 0, -height % factor), value=0.5)
    h, w = padded.shape[-2] // factor, padded.shape[-1] // factor
    parts = padded.unflatten(-1, (factor, w)).unflatten(-3, (factor, h))  # (K, m, C, f, h, f, w)
    parts = parts.permute(0, 3, 5, 1, 2, 4, 6).flatten(1, 3)  # (K, f f m, C, h, w)
    enlarged = F.interpolate(parts.flatten(0, 1), size=(height, width), mode="bilinear", align_corners=False)
    return enlarged.unflatten(0, parts.shape[:2])


# --- what a file holds -----------------------------------------------------------------------------------------------
def _content(path: Path) -> Any:
    match path.suffix.lower():
        case ".pt" | ".pth":
            return _torch(path)
        case ".npz" | ".npy":
            shapes = arrays.headers(path)
            found = {k: _tensor(v) for k, v in arrays.read(path, shapes, shapes).items()}
            return found if path.suffix.lower() == ".npz" else found[path.stem]
        case ".safetensors":
            try:
                return load_file(path)
            except Exception as err:  # also types of numbers that this torch lacks
                raise files.unreadable(path, err, "not a readable safetensors file") from None
        case other:
            with open(path, "rb") as f:
                what = files.instead(f.read(512)) or f"a distilled set is {ENDINGS}"
            raise UserError(f"{path}: cannot read {other or 'a file without an ending'}; {what}")


def _tensor(array: np.ndarray) -> Tensor | list[str] | None:
    """Numbers as a tensor, text as a list; None for what is neither."""
    if array.dtype.kind in "US":
        return [x.decode(errors="replace") if isinstance(x, bytes) else x for x in array.flatten().tolist()]
    if array.dtype.kind not in "fiub":
        return None
    size = min(array.dtype.itemsize, 8)  # torch has no longer numbers, and the machine's order of bytes alone
    return torch.from_numpy(array.astype(f"{array.dtype.kind}{size}" if array.dtype.kind != "b" else bool))


def _torch(path: Path) -> Any:
    scalar = np._core.multiarray.scalar  # VICO's files keep accuracies as numpy scalars
    types = {np.dtype, *(type(np.dtype(t)) for t in (np.float32, np.float64, np.int64, np.int32))}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                arrays.fits(path, sum(info.file_size for info in archive.infolist()))
        numbers = torch.serialization.safe_globals([scalar, (scalar, "numpy.core.multiarray.scalar"), *types])
        with numbers, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's, about files that it refuses or reads
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as err:  # many kinds, from zip to unpickling
        code = re.search(r"GLOBAL ([\w.]+)", str(err))
        reason = ValueError(f"it holds {code[1]}") if code else err
        said = files.unreadable(path, reason, "cannot be read as plain tensors")
        again = "save it again with torch.save({'images': images, 'labels': labels}, path)"
        raise UserError(f"{said}; files that hold code are never run: {again}") from None


def _own(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as f:
            return (f.metadata() or {}).get("format", "").startswith("distill_lib.")
    except (SafetensorError, OSError) as err:
        raise files.unreadable(path, err, "not a readable safetensors file") from None


def _leaves(content: Any, of: _Reading, name: str = "") -> dict[str, Tensor]:
    """Every tensor in dictionaries and lists, and every list of numbers or of classes' names, by its own name, such as
    "best.labels"."""
    if isinstance(content, Tensor):
        x = content.detach()
        if x.layout != torch.strided or x.is_meta or x.untyped_storage().nbytes() < x.numel() * x.element_size():
            raise of.fail(f"{name or 'the tensor'} is sparse or repeats its own memory; save a plain copy of it")
        unsigned = x.dtype in (torch.uint16, torch.uint32, torch.uint64)  # in which torch computes nothing
        return {name: x.long() if unsigned else x}
    if isinstance(content, list | tuple) and content:
        if all(isinstance(x, str) for x in content):
            return {name: torch.tensor([-1 if (k := of.number(x)) is None else k for x in content])}
        if not any(isinstance(x, Tensor | dict | str) for x in content):
            with contextlib.suppress(ValueError, TypeError, RuntimeError, OverflowError):
                return {name: torch.tensor(content)}
    if not isinstance(content, dict | list | tuple):
        return {}
    inside = content.items() if isinstance(content, dict) else enumerate(content)
    return {k: v for key, x in inside for k, v in _leaves(x, of, f"{name}.{key}" if name else str(key)).items()}


def _images_and_labels(content: Any, of: _Reading) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) as they are stored, and labels, out of whatever a file held."""
    inside = content.get("data") if isinstance(content, dict) else content  # VICO: a list of pairs under "data"
    if isinstance(inside, list | tuple) and inside and isinstance(inside[0], list | tuple):
        if len(inside) > 1:
            of.notes.append(f"the first of {len(inside)} sets in the file")
        content = inside[0]
    leaves = _leaves(content, of)
    fitting = {name: y for name, x in leaves.items() if (y := _channels_first(x, of.like)) is not None}
    if len(fitting) == len(leaves) > 1 and (numbers := _classes(content, list(leaves), of)):
        images = [x if x.ndim == 4 else x[None] for x in fitting.values()]
        labels = torch.repeat_interleave(torch.tensor(numbers), torch.tensor([len(x) for x in images]))
        return torch.cat(images), _labels(labels, "labels", of, len(labels))
    if not isinstance(content, dict):  # images alone, or a pair
        names = {"": "images", "0": "images", "1": "labels"}
        leaves, fitting = ({names.get(k, k): x for k, x in found.items()} for found in (leaves, fitting))
    key = _images_key(leaves, fitting, content, of)
    images = fitting.pop(key)
    lead = images.shape[:-3]
    images = images.reshape(-1, *images.shape[-3:])
    others = {k: x for k, x in leaves.items() if k != key}
    called, labels = _given_labels(others, lead, of) or _labels_beside(lead, of) or ("labels", _in_order(lead, of))
    return images, _labels(labels, called, of, len(images))


def _classes(content: Any, names: list[str], of: _Reading) -> list[int] | None:
    """The class of each tensor, where a list or dictionary holds one tensor of images for each; None where not."""
    if isinstance(content, dict):
        found = [int(n) if (k := of.number(n)) is None and n.isdecimal() else k for n in names]
        if None not in found and len(set(found)) < len(found):
            raise of.fail(f"two of its tensors are one class: {', '.join(names[:8])}")
        return None if None in found else found
    if len(names) != of.like.num_classes:
        needed = f"needed one of images, or one for each of {of.like.num_classes} classes"
        raise of.fail(f"a list of {len(names)} tensors of images; {needed}")
    of.notes.append(f"a list of {len(names)} tensors: one per class, in the order of the classes")
    return list(range(len(names)))


def _channels_first(images: Tensor, like: ImageSet) -> Tensor | None:
    """(..., C, H, W) of one of the forms that images have; None where they have another shape."""
    c, h, w = like.shape
    if 0 in images.shape or not 2 <= images.ndim <= 5:
        return None
    if images.ndim > 2 and images.shape[-3:] == (c, h, w):
        return images
    if images.ndim > 2 and images.shape[-3:] == (h, w, c):
        return images.movedim(-1, -3)
    if c == 1 and images.ndim == 3 and images.shape[-2:] == (h, w):
        return images.unsqueeze(-3)
    return None


def _named(key: str, names: Sequence[str]) -> bool:
    return any(part in names for part in key.lower().split("."))


def _listed(leaves: dict[str, Tensor]) -> str:
    return ", ".join(f"{k} {tuple(v.shape)}" for k, v in list(leaves.items())[:8])


def _images_key(leaves: dict[str, Tensor], fitting: dict[str, Tensor], content: Any, of: _Reading) -> str:
    """Which of the tensors the images are: the one with such a name, else the only one of such a shape."""
    named = [k for k in fitting if _named(k, IMAGES)] or list(fitting)
    c, h, w = of.like.shape
    if len(named) == 1:
        if not _named(named[0], IMAGES):
            of.notes.append(f"images from {named[0]}")
        return named[0]
    if named:
        several = _listed({k: leaves[k] for k in named})
        raise of.fail(f"several could be the images: {several}; leave one, under `images`")
    if wrong := [v for k, v in leaves.items() if _named(k, IMAGES)]:
        has = f"{of.like.facts.name} has (N, {c}, {h}, {w}); for another resolution give it with the data set"
        raise of.fail(f"images are {tuple(wrong[0].shape)}, {has}")
    what = f"has {_listed(leaves)}" if leaves else f"holds a {type(content).__name__}"
    raise of.fail(f"{what}; expected images under one of {', '.join(IMAGES)}, and labels")


# --- labels ----------------------------------------------------------------------------------------------------------
def _given_labels(leaves: dict[str, Tensor], lead: Sequence[int], of: _Reading) -> tuple[str, Tensor] | None:
    """The labels among the other tensors of a file, with their name; None where there is no other tensor.

    Raises: UserError: tensors of which none, or more than one, could be the labels; lists them.
    """
    n, k = math.prod(lead), of.like.num_classes
    shapes = {(n,), (n, 1), (n, k), (k, n // k), tuple(lead), (*lead, k)}  # a label, or K soft ones, for every image
    leaves = {key: x for key, x in leaves.items() if x.numel() > 1 or _named(key, LABELS)}
    fitting = {key: x for key, x in leaves.items() if tuple(x.shape) in shapes and x.numel() in (n, n * k)}
    if not leaves:
        return None
    named = [key for name in LABELS for key in leaves if _named(key, (name,))]
    named = named or [key for key in leaves if re.search("label|target", key.lower())]
    key = next((key for key in named or fitting if key in fitting), None)
    if key is None or (not named and len(fitting) > 1):
        needed = f"({n},) classes or ({n}, {k}) soft labels under one name, `labels`"
        only = "or the images alone, class after class"
        raise of.fail(f"beside {n} images it has {_listed(leaves)}; expected {needed}; {only}")
    if not _named(key, LABELS) or len(fitting) > 1:
        unused = [other for other in fitting if other != key]
        of.notes.append(f"labels from {key}" + (f"; not read: {', '.join(unused)}" if unused else ""))
    return key, fitting[key]


def _labels_beside(lead: Sequence[int], of: _Reading) -> tuple[str, Tensor] | None:
    """The labels in a file beside: its name has a word for labels, and no word that the images' name lacks.

    Raises: UserError: several files, or one that holds no labels of these images.
    """
    said, mine = {"label", "labels", "target", "targets", "y"}, _words(of.path)
    endings = (".pt", ".pth", ".npy", ".npz", ".safetensors", ".csv", ".txt", ".json", ".pkl")
    near: dict[int, list[Path]] = {}
    for file in sorted(of.path.parent.iterdir()):
        words = _words(file)
        if file != of.path and file.suffix.lower() in endings and words & said and words - said - {"soft"} <= mine:
            near.setdefault(len(mine - words), []).append(file)
    if not near:
        return None
    file, *more = near[min(near)]
    if more:
        shown = ", ".join(f.name for f in (file, *more))
        raise of.fail(f"several files beside it may hold its labels: {shown}; keep one there")
    leaves = _leaves(_content(file), of)
    if len(leaves) == 1:
        leaves = {"labels": next(iter(leaves.values()))}
    found = _given_labels(leaves, lead, dataclasses.replace(of, path=file))
    if found is None:
        raise of.fail(f"{file.name} beside it holds no labels")
    of.notes.append(f"labels from {file.name}")
    return found


def _words(file: Path) -> set[str]:
    return set(re.findall(r"[a-z]+|\d+", file.stem.lower()))


def _in_order(lead: Sequence[int], of: _Reading) -> Tensor:
    """The labels of images that have none: class after class, or in rounds.

    Raises: UserError: the number of images, or the shape, does not go with the classes; it could be either.
    """
    k, n = of.like.num_classes, math.prod(lead)
    if n % k:
        raise of.fail(f"{n} images without labels cannot be the same number of each of {k} classes")
    may = [order for order, classes in zip(get_args(Order), lead) if classes == k]
    if len(lead) == 1:
        may = list(get_args(Order))
    elif not may or (of.order or may[0]) not in may:
        shape = f"{tuple(lead)} of each shape; {k} classes need ({k}, ipc) or (ipc, {k})"
        raise of.fail(f"images without labels are {shape}")
    elif len(may) == 2 and of.order is None:
        raise of.fail(f"images without labels are ({k}, {k}): say --order classes or --order rounds")
    order, labels = of.order or may[0], torch.arange(k)
    how = {"classes": "class after class", "rounds": "in rounds, one of every class in turn"}[order]
    of.notes.append(f"no labels in the file: taken {how}, {n // k} of each")
    return labels.repeat_interleave(n // k) if order == "classes" else labels.repeat(n // k)


def _labels(labels: Tensor, called: str, of: _Reading, n: int) -> Tensor:
    """(N,) int64 classes or (N, K) float32 soft labels, numbered as `like` is."""
    k, places = of.like.num_classes, of.places
    if labels.ndim > 1 and labels.numel() == n * k and labels.shape[-1] == k and not labels.is_complex():
        soft = labels.reshape(n, k).float()
        if not bool(torch.isfinite(soft).all()):
            raise of.fail(f"{called} hold NaN or infinite values")
        return soft if places is None else soft[:, places.argsort()]
    labels = labels.flatten()
    whole = not labels.is_complex() and (not labels.is_floating_point() or bool((labels == labels.round()).all()))
    if len(labels) != n or not whole or labels.dtype == torch.bool:
        shape = f"{tuple(labels.shape)} {labels.dtype}"
        raise of.fail(f"{called} are {shape}; expected ({n},) classes or ({n}, {k}) soft labels")
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= k:
        hint = "; subtract 1" if low == 1 and high == k else ""
        raise of.fail(f"{called} {int(low)}..{int(high)}, but {of.like.facts.name} has classes 0..{k - 1}{hint}")
    labels = labels.long() if places is None else places[labels.long()]
    if absent := [c for i, c in enumerate(of.like.facts.class_names) if not bool((labels == i).any())]:
        of.notes.append(f"no images of {len(absent)} of {k} classes: {', '.join(absent[:5])}")
    return labels


# --- values ----------------------------------------------------------------------------------------------------------
def _values(images: Tensor, of: _Reading, values: Values | None) -> Tensor:
    """uint8 pixels, or float32 in `like`'s units.

    Raises: UserError: values that cannot be what they are said to be, or that nobody has said anything about.
    """
    arrays.fits(of.path, 2 * images.numel() * images.element_size())
    images = images.contiguous()
    if not images.is_floating_point():
        if images.is_complex() or images.dtype == torch.bool or images.is_quantized:
            raise of.fail(f"images are {images.dtype}; expected uint8 pixels or floats")
        low, high, as_bytes = images.min().item(), images.max().item(), images.dtype == torch.uint8
        said = (None, "bytes", "pixels") if as_bytes else (None, "bytes")
        if values not in said or low < 0 or high > 255:
            why = "; 8-bit images are pixels and cannot be normalised values" if as_bytes else ""
            raise of.fail(f"images are {images.dtype} from {low} to {high}; expected uint8 pixels or floats{why}")
        if values is None and (high == 1 if as_bytes else high <= 1):
            raise of.fail(
                f"images are {images.dtype} from {low} to {high}; say --bytes, or save floats and say --pixels"
            )
        return images.to(torch.uint8)
    images = images.float()
    low, high = images.min().item(), images.max().item()
    if not bool(torch.isfinite(images).all()):
        raise of.fail("images hold NaN or infinite values")
    possible = {
        "pixels": -0.01 <= low and high <= 1.01,
        "signed": -1.01 <= low < 0 and high <= 1.01,
        "bytes": -0.5 <= low and 2 < high <= 255.5,
        "normalised": low < 0 and max(-low, high) <= 100,
    }
    may = " or ".join(WAYS[way] for way, fits in possible.items() if fits) or "none of " + ", ".join(WAYS)
    facts, run = of.like.facts, f"{low:.3g} to {high:.3g}"
    if values is None:
        units = f"{facts.name} is normalised with mean {facts.mean} and std {facts.std}"
        raise of.fail(f"float values from {run} may be {may}: say which ({units})")
    way = WAYS[values].removeprefix("--")
    if not possible[values]:
        raise of.fail(f"values from {run} are no {way}; they may be {may}")
    of.notes.append(f"images taken as {way} ({run})")
    if values == "normalised":
        return images
    return facts.normalise({"pixels": images, "signed": (images + 1) / 2, "bytes": images / 255}[values])


# --- folders ---------------------------------------------------------------------------------------------------------
def _folder(of: _Reading, values: Values | None) -> tuple[Tensor, Tensor]:
    if values in ("normalised", "signed"):
        raise of.fail(f"image files hold pixels, not {values} values")
    c, h, w = of.like.shape
    if h != w:
        raise of.fail(f"image files are read for square images only; {of.like.facts.name} has {h}x{w}")
    tree = folders.Tree(of.path)
    images = [folders.Tree(folder).top.everything for folder in _class_folders(of, tree.top)]
    part = folders.folder_part(images)
    if empty := [name for name, mine in zip(of.like.facts.class_names, images) if not mine]:
        raise of.fail(f"no images of class {empty[0]}")
    if c == 1 and set(prepare.survey(part).modes) - set(prepare.GREY):
        of.notes.append("colour images turned grey")
    out = np.empty((len(part.images), c, h, w), np.uint8)
    seen = prepare.fill(out, part, h, "bilinear", of.path.name)
    if seen.odd["clear"]:
        raise of.fail(f"{seen.odd['clear']} images have transparent parts; save them without")
    if other := sorted(s for s in seen.sizes if s != (w, h)):
        of.notes.append(f"resized from {', '.join(f'{a}x{b}' for a, b in other[:3])} pixels")
    of.notes += [*seen.notes(as_shown=True), *tree.notes(set(part.images))]
    return torch.from_numpy(out), torch.from_numpy(part.labels)


def _class_folders(of: _Reading, top: folders.Folder) -> list[Path]:
    """The folder of every class: named by its wnid, its name, or its number behind the same letters in all.

    Raises: UserError: a class has no folder or two, or folders are named otherwise.
    """
    names, known = of.like.facts.class_names, catalogue.DATASETS.get(of.like.facts.name)
    there = list(top.folders)
    wnids = known.wnids if known and set(known.wnids) & set(there) else ()
    matched = [re.fullmatch(r"(\D*)(\d+)", name) for name in there]
    numbered = all(matched) and len({m[1].casefold() for m in matched}) == 1 and not wnids
    if numbered and not all(of.number(name) is not None for name in there):
        at = {int(m[2]): name for m, name in zip(matched, there)}
        if len(at) < len(there):
            raise of.fail(f"{', '.join(there[:5])}: two folders have the same number; rename or join them")
        if sorted(at) == list(range(1, len(names) + 1)):
            of.notes.append(f"folders count from 1: {at[1]} is class 0, {names[0]}")
            at = {k - 1: name for k, name in at.items()}
        if sorted(at) == list(range(len(names))):
            order = range(len(names)) if of.places is None else of.places.argsort().tolist()
            return [of.path / at[k] for k in order]
    odd = [name for name in there if name not in wnids and of.number(name) is None]
    wrong = [f"{', '.join(odd[:5])} is no class of {of.like.facts.name}"] if odd else []
    try:
        found = folders.class_folders(of.path, names, wnids)
        if not odd:
            return found
    except UserError as err:
        wrong.insert(0, str(err).removeprefix(f"{of.path}: "))
    files_in = [p.name for p in sorted(of.path.iterdir()) if p.suffix.lower() in (".pt", ".pth", ".npz", ".npy")]
    wrong += [f"name the folders after the classes, or 0 to {len(names) - 1}, or class000"]
    wrong += [f"or give the file {files_in[0]} in it"] if files_in else []
    wrong += [f"perhaps you mean {of.path / there[0]}"] if len(there) == 1 and odd else []
    raise of.fail("; ".join(wrong))


def _fitting(own: ImageSet, of: _Reading) -> ImageSet:
    """A set of our own, which brings its facts; they must be those of the test set."""
    facts = {
        "shape": lambda s: s.shape,
        "number of classes": lambda s: s.num_classes,
        "classes": lambda s: s.facts.class_names,
    }
    for what, fact in facts.items():
        if fact(own) != fact(of.like):
            raise of.fail(f"{what} {str(fact(own))[:90]}, {of.like.facts.name} has {str(fact(of.like))[:90]}")
    mine, theirs = own.facts, of.like.facts
    measured = mine.normalisation == theirs.normalisation == catalogue.MEASURED and own.whitening is None
    if measured and (mine.mean, mine.std) != (theirs.mean, theirs.std):
        images = own.images if own.images.dtype == torch.uint8 else theirs.normalise(mine.pixels(own.images))
        was, now = (", ".join(f"{m:.4f}" for m in facts.mean) for facts in (mine, theirs))
        note = f"mean and deviation of the training images have changed since (mean {was}, now {now}): normalised anew"
        facts = dataclasses.replace(mine, mean=theirs.mean, std=theirs.std, notes=(*mine.notes, note))
        return ImageSet(images, own.labels, facts)
    return own
