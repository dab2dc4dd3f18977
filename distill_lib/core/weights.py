"""Published weights, found in the user's folders and checked before use. Nothing is downloaded."""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import paths
from .errors import UserError, unknown
from .files import read_tensors

FOLDERS = {  # name on the hub: what it is, and a file that must be in it
    "facebook/DiT-XL-2-256": ("DiT-XL/2 at 256 pixels, 675M parameters (CC BY-NC 4.0)", "transformer/config.json"),
    "stabilityai/sd-vae-ft-ema": ("the autoencoder that encodes (MIT)", "config.json"),
    "stabilityai/sd-vae-ft-mse": ("the autoencoder that decodes (MIT)", "config.json"),
}


def find_folder(name: str) -> Path | None:
    """Where a folder of weights lies: the path itself, its last part in a folder of weights, or the hub's cache."""
    if (path := Path(os.path.expanduser(name))).is_dir():
        return path
    for parent in paths.weight_folders():
        if (path := parent / name.rpartition("/")[2]).is_dir():
            return path
    hub = os.environ.get("HF_HUB_CACHE") or f"{os.environ.get('HF_HOME') or '~/.cache/huggingface'}/hub"
    cache = Path(os.path.expanduser(hub)) / f"models--{name.replace('/', '--')}"
    snapshots = sorted((cache / "snapshots").glob("*"), key=lambda p: p.stat().st_mtime)
    return snapshots[-1] if snapshots else None


def folder(name: str) -> Path:
    """The folder of weights that `find_folder` finds.

    Raises: UserError: it is not found; says where it may lie and how to get it.
    """
    if (found := find_folder(name)) is None:
        raise UserError(f"{said_missing(name)} is not here: {where_to_put(name)}")
    return found


def said_missing(name: str) -> str:
    return f"{name} ({FOLDERS[name][0]})" if name in FOLDERS else f"{name} (a folder of weights)"


def where_to_put(name: str) -> str:
    return f"put its folder as {name.rpartition('/')[2]} into {weights_place()}, or fetch it with `hf download {name}`"


def weights_place() -> str:
    given = paths.weight_folders()[:1] if os.environ.get("DISTILL_WEIGHTS") or paths.given_data_folders() else []
    return f"{given[0]}" if given else "a folder `weights` inside the folder that DISTILL_DATA names"


@dataclass(frozen=True)
class File:
    """A file of weights: what it is, its names on disk, and the first digits of its SHA-256 (or all 64)."""

    about: str
    names: tuple[str, ...]
    sha256: str


FILES = {
    "ResNet-20": File(
        "He et al.'s ResNet-20, trained on CIFAR-10 by Y. Idelbayev (BSD-2-Clause), 91.73 % on its test set",
        ("resnet20_cifar10.safetensors",),
        "067e58d1f213d012fea54d151d17091064bd0debafb040f28a5c14e66845cf9a",
    ),
    "ResNet-56": File(
        "He et al.'s ResNet-56, trained on CIFAR-10 by Y. Idelbayev (BSD-2-Clause), 93.39 % on its test set",
        ("resnet56_cifar10.safetensors",),
        "73e01676011c14ce404ecdee11e01f072a6a6b0d0eae5fab6163c4481dbdc33d",
    ),
    "Inception": File(
        "Inception-v3 of 2015-12-05 with which FID is defined, converted from TensorFlow, as pytorch-fid has it",
        ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
        "6726825d",
    ),
    "TAEF2 encoder": File(
        "encoder of the tiny autoencoder of FLUX.2's latents, O. Boer Bohan (MIT)",
        ("taef2_encoder.safetensors",),
        "b27725c7a3c70680941c5c8e6251e020de92bbfd7d6258e6f6bab99305bcf647",
    ),
    "TAEF2 decoder": File(
        "decoder of the tiny autoencoder of FLUX.2's latents, O. Boer Bohan (MIT)",
        ("taef2_decoder.safetensors",),
        "51a67c47dcbce2dfab3e0626d69a9efabf620d2169192c3e4cee27b83774a9f8",
    ),
    "MobileNetV2": File(
        "MobileNetV2 trained on ImageNet-1k, 8-bit weights, Google (Apache-2.0)",
        ("mobilenet_v2_imagenet1k_uint8.safetensors",),
        "d910047e9338eca240092b2c800d5720efc48200765b4a660044379b40227490",
    ),
    "ResNet-50": File(
        "torchvision's ResNet-50 trained on ImageNet-1k, weights IMAGENET1K_V1 (BSD-3-Clause)",
        ("resnet50-0676ba61.pth",),
        "0676ba61",
    ),
}


def find(name: str) -> Path | None:
    """Where the weights lie: in the folders of `DISTILL_WEIGHTS`, or in `weights` inside a data folder.

    Raises: UserError: an unknown name; a file of the right name with other contents.
    """
    if name not in FILES:
        raise unknown("weights", name, FILES)
    for folder in paths.weight_folders():
        for file in FILES[name].names:
            if (folder / file).is_file():
                return _checked(folder / file, FILES[name].sha256)
    return None


def need(name: str) -> Path:
    """The file of weights that `find` finds.

    Raises: UserError: they are not found; says where they may lie.
    """
    if (found := find(name)) is None:
        raise not_here(f"{name} ({FILES[name].names[0]}: {FILES[name].about})")
    return found


def not_here(what: str, first: str = "", instead: str = "") -> UserError:
    """The error for a file of weights that is nowhere.

    Args:
        first:   what to do before the file can be put into its folder.
        instead: what would work without it.
    """
    where = "put the file into a folder named in DISTILL_WEIGHTS, or into a folder `weights` inside a data folder"
    return UserError(f"the weights of {what} are not here: {first}{where}{instead}")


def find_file(name: str) -> Path | None:
    """A file of weights by a path of its own, from here or from the project's folder, or by its name in a folder of
    weights; None where it is in none of these."""
    places = (folder / name for folder in (Path(), paths.ROOT, *paths.weight_folders()))
    return next((place for place in places if place.is_file()), None)


def need_file(name: str, what: str, first: str = "", instead: str = "") -> Path:
    """As `find_file`. Raises: UserError: it is not found; see `not_here`."""
    if (file := find_file(name)) is None:
        raise not_here(what, first, instead)
    return file


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What a `.safetensors` file holds, or one that torch wrote (.pth, .pt, .bin), and its metadata.

    Nothing is unpickled but tensors, plain containers, and the settings that some trainings store beside their weights.

    Raises: UserError: a file that is missing or damaged, or that holds more.
    """
    try:
        if file.suffix == ".safetensors":
            return read_tensors(file)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True), {}
    except Exception as err:  # a damaged file can fail in any way
        more = isinstance(err, pickle.UnpicklingError)  # whose text advises to run what the file asks for
        why = "damaged, or it holds more than tensors" if more else (str(err) or type(err).__name__).splitlines()[0]
        raise UserError(f"{file}: cannot be read as weights ({why}); a file of tensors alone works") from None


@functools.cache
def _checked(file: Path, sha256: str) -> Path:
    with open(file, "rb") as f:
        actual = hashlib.file_digest(f, "sha256").hexdigest()
    if not actual.startswith(sha256):
        what = f"SHA-256 {actual[:16]}..., expected {sha256[:16]}"
        raise UserError(f"{file}: not the weights of this name ({what}); remove or replace the file")
    return file
