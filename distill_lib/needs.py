"""What an experiment needs from outside the package: checked in an instant, before anything that takes seconds to import.

    folder("facebook/DiT-XL-2-256")            # where published weights in folders lie
    check("dgs/table1_imagewoof", "full")      # says everything that is missing, and where it may lie
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import paths, weights
from .errors import UserError

FOLDERS = {  # name on the hub: what it is, and a file that must be in it
    "facebook/DiT-XL-2-256": ("DiT-XL/2 at 256 pixels, 675 million parameters (CC BY-NC 4.0)", "transformer/config.json"),
    "stabilityai/sd-vae-ft-ema": ("the autoencoder that encodes (MIT)", "config.json"),
    "stabilityai/sd-vae-ft-mse": ("the autoencoder that decodes (MIT)", "config.json"),
}


@dataclass(frozen=True)
class Need:
    """Weights and data sets of an experiment's rows in one profile."""

    rows: tuple[str, ...]  # methods that need the weights
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # of `weights.FILES`
    data: str = ""  # folder with train/<wnid>, in words


_DGS = ("DiT", "Minimax", "DGS")
NEEDS = {
    ("dgs", "full"): Need(_DGS, tuple(FOLDERS), ("ResNet-50",), "imagenet"),
    ("dgs", "small"): Need(_DGS, (), ("TAEF2 encoder", "TAEF2 decoder", "MobileNetV2")),
}


def find_folder(name: str) -> Path | None:
    """Where a folder of weights lies: the path itself, its last part in a folder of weights, or the hub's cache; None where it does not."""
    if (path := Path(name).expanduser()).is_dir():
        return path
    for parent in paths.weight_folders():
        if (path := parent / name.rpartition("/")[2]).is_dir():
            return path
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser() / f"models--{name.replace('/', '--')}"
    snapshots = sorted((cache / "snapshots").glob("*"), key=lambda p: p.stat().st_mtime)
    return snapshots[-1] if snapshots else None


def folder(name: str) -> Path:
    """As `find_folder`. Raises: UserError: it is nowhere; says where it may lie and how to get it."""
    if (found := find_folder(name)) is None:
        raise UserError(f"{_missing(name)} is not here: {_where(name)}")
    return found


def _missing(name: str) -> str:
    return f"{name} ({FOLDERS[name][0]})" if name in FOLDERS else f"{name} (a folder of weights)"


def _where(name: str) -> str:
    return f"put its folder as {name.rpartition('/')[2]} into {_place()}, or fetch it with `hf download {name}`"


def _place() -> str:
    given = paths.weight_folders()[:1] if os.environ.get("DISTILL_WEIGHTS") or os.environ.get("DISTILL_DATA") else []
    return f"{given[0]}" if given else "a folder `weights` inside the folder that DISTILL_DATA names"


def check(experiment: str, profile: str, rows: list[str] | None = None) -> None:
    """Look for all that an experiment needs.

    Args:
        rows: methods to compute; None for all.
    Raises: UserError: one line for everything that is missing: what it is, and where to put it.
    """
    need = NEEDS.get((experiment.partition("/")[0], profile))
    if need is None or (rows is not None and not {r.lower() for r in rows} & {*(r.lower() for r in need.rows), "all"}):
        return
    lines = [f"{_missing(n)}: {_where(n)}" for n in need.folders if (at := find_folder(n)) is None or not (at / FOLDERS[n][1]).is_file()]
    files = {n: weights.FILES[n] for n in need.files if weights.find(n) is None}
    lines += [f"{n} ({f.about}): put {f.names[0]} into {_place()}" for n, f in files.items()]
    if need.data == "imagenet" and not _imagenet():
        lines.append("ImageNet (ILSVRC-2012): put imagenet/train/<wnid> and imagenet/val/<wnid> into the folder that DISTILL_DATA names")
    if lines:
        raise UserError(f"{experiment} at {profile} needs what is not here:\n- " + "\n- ".join(lines))


def rows(parameters: dict[str, Any], cells: str | None) -> list[str] | None:
    """The methods that a run's parameters and its selection of cells name; None where they name none, or by a pattern."""
    named = parameters.get("methods")
    if named is None and (found := re.search(r"method\s*=\s*([^,]+)", cells or "")):
        named = found[1].split("|")
    named = named.split(",") if isinstance(named, str) else named
    return None if not isinstance(named, list) or any("*" in str(n) for n in named) else [str(n).strip() for n in named]


def _imagenet() -> bool:
    places = ("imagenet", "ImageNet", "ILSVRC2012", "imagenet-1k", "ILSVRC/Data/CLS-LOC", ".")
    return any((f / p / "train").is_dir() and any((f / p / "train").glob("n[0-9]*")) for f in paths.data_folders() for p in places)
