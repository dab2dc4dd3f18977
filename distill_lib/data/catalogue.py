"""`DATASETS`: every named data set with its facts, from `datasets.csv`. Nothing here reads the sets themselves."""

from __future__ import annotations

import csv
import functools
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

# Mean and std per channel, of pixels in [0, 1]. A set's entry names its default; `load(..., normalisation=)` takes any.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST": ((0.1307,), (0.3081,)),
    "FashionMNIST": ((0.2861,), (0.3530,)),
    "SVHN": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    # The std is the mean of the images' own std, not the std of the set. Most codes of the field use it.
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR10-FRePo": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # the std of all pixels
    "CIFAR100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # GLaD's code on its rendered images: SVHN's mean by mistake.
    "GLaD-renders": ((0.4377, 0.4438, 0.4728), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),  # any number of channels; MedMNIST's examples
    # Measured by this library: on 4,000 training images at 64 px; on the 28 px training images; on all images.
    "BloodCells": ((0.6812, 0.6442, 0.6633), (0.2578, 0.2559, 0.2548)),
    "PneumoniaMNIST": ((0.5719,), (0.1684,)),
    "digits": ((0.3053,), (0.3762,)),
}
MEASURED = "measured"  # mean and std of the training images as loaded
DIGITS = ("MNIST", "SVHN", "digits")  # SVHN has no entry: other code's settings and files of sets name it


@dataclass(frozen=True)
class Dataset:
    """The facts of one named set, as documented by its source.

    `counts` holds the images of each split the source has (train, test and perhaps val); 0 where the source does not
    say.
    """

    name: str
    family: str  # which reader: bundled, digits, idx, cifar, medmnist, tiny, imagenet, folder
    class_names: tuple[str, ...]
    channels: int
    resolution: int  # px; the one loaded when none is asked for
    counts: dict[str, int]
    normalisation: str
    licence: str
    source: str
    notes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()  # px the source distributes, where there are several
    wnids: tuple[str, ...] = ()  # of ImageNet classes, in label order
    imagenet_indices: tuple[int, ...] = ()  # of ImageNet classes, in label order
    frame: str = ""  # px of the source's images, where they are not `resolution` square
    sha256: dict[str, str] = field(default_factory=dict)  # of each split's official pixels and labels, where known
    copies: dict[str, str] = field(default_factory=dict)  # sha256 of a known other copy -> how it differs
    follows: str = ""  # of a cut: the set whose published settings it takes, see `like`
    union: bool = False  # of several published ImageNet subsets

    @property
    def is_imagenet_subset(self) -> bool:
        return self.family == "imagenet"

    @property
    def mirrors(self) -> bool:
        """Whether a mirrored image still shows its class: a mirrored digit is not a digit."""
        return self.name.removesuffix("-own") not in DIGITS

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def _rows(file: str) -> list[dict[str, str]]:
    with open(Path(__file__).parent / file, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def _several(text: str) -> tuple[str, ...]:
    """The values of a field that holds several."""
    return tuple(text.split("|")) if text else ()


def _datasets() -> dict[str, Dataset]:
    """The rows of `datasets.csv`, in its order.

    The classes of ImageNet subsets stand in `imagenet_subsets.csv`, in the label order of GLaD, IDC and Minimax, which
    is not the sorted order of a folder listing.
    """
    subsets: dict[str, list[dict[str, str]]] = {}
    for row in _rows("imagenet_subsets.csv"):
        subsets.setdefault(row["set"], []).append(row)
    found = {}
    for row in _rows("datasets.csv"):
        name = row["name"]
        members = subsets.get(name) or [r for s in _several(row["union"]) for r in subsets[s]]
        if name == "SLFD-94":  # six classes belong to two of the united subsets: each is kept once
            members = list({r["wnid"]: r for r in members}.values())
        classes = tuple(r["name"] for r in members) or _several(row["classes"])
        found[name] = Dataset(
            **{k: row[k] for k in ("name", "family", "normalisation", "licence", "source", "frame", "follows")},
            **{k: int(row[k]) for k in ("channels", "resolution")},
            **{k: dict(pair.split("=") for pair in _several(row[k])) for k in ("sha256", "copies")},
            class_names=classes or tuple(f"class {k}" for k in range(200)),  # Tiny ImageNet's files hold its names
            counts={split: int(row[split]) for split in ("train", "val", "test") if row[split]},
            notes=_several(row["notes"]),
            sizes=tuple(map(int, _several(row["sizes"]))),
            wnids=tuple(r["wnid"] for r in members),
            imagenet_indices=tuple(int(r["index"]) for r in members),
            union=bool(row["union"]),
        )
    return found


def sized(name: str) -> tuple[str, int | None, str | None]:
    """A set's name, and the resolution and the resize rule said with it.

    >>> sized("ImageNette@64px"), sized("PathMNIST@64px-bicubic"), sized("CIFAR10")
    (('ImageNette', 64, None), ('PathMNIST', 64, 'bicubic'), ('CIFAR10', None, None))
    """
    found = re.fullmatch(r"(.+)@(\d+)px(?:-(\w+))?", name)
    return (found[1], int(found[2]), found[3]) if found and found[1] in DATASETS else (name, None, None)


def side(name: str) -> int:
    """Pixels along a side of the set of this name, of a cut its own; 0 where a set of that name is not known.

    >>> side("ImageNette@64px"), side("TinyImageNet"), side("my own")
    (64, 64, 0)
    """
    base, pixels, _ = sized(name)
    return pixels or (DATASETS[base].resolution if base in DATASETS else 0)


def like(name: str) -> Dataset:
    """The set whose published settings hold for a set of this name: of a cut the full one, whatever the resolution.

    For a name without an entry, such as the user's own folder: a set without facts and of no family.

    >>> like("FashionMNIST-mini").name, like("ImageNette@64px").is_imagenet_subset, like("my own").name
    ('FashionMNIST', True, 'my own')
    """
    base = sized(name)[0]
    if base not in DATASETS and (meant := _plain_names().get(_plain(base))):
        warnings.warn(f"{base!r} is taken for a set of your own; the settings of {meant} have that name", stacklevel=3)
    found = DATASETS.get(base) or Dataset(base, "", (), 0, 0, {}, MEASURED, "not stated", "")
    return DATASETS[found.follows] if found.follows else found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def _plain_names() -> dict[str, str]:
    return {_plain(name): name for name in DATASETS}


DATASETS: dict[str, Dataset] = _datasets()
