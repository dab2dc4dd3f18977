"""Where things lie: the only module that knows folders. Each is read from the environment when asked for, not at
import."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("recorded", "smoke", "small", "full")
RESULT_PROFILES = ("full", "small")  # those whose records are results, the best first
# below a data folder; train/<wnid> in it
IMAGENET_FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "imagenet-1k", "ILSVRC/Data/CLS-LOC", ".")


def results(profile: str) -> Path:
    """Folder of the records of one profile: `results/<profile>`, except smoke records, which live in `runs/smoke`."""
    if profile == "smoke":
        return runs() / "smoke" / "records"
    return Path(os.environ.get("DISTILL_RESULTS", ROOT / "results")) / profile


def reported() -> Path:
    """Folder of the numbers the papers print, one CSV per paper."""
    return ROOT / "results" / "reported"


def runs() -> Path:
    """Folder for what git ignores: checkpoints, synthetic sets, logs, executed notebooks (`DISTILL_RUNS`)."""
    return Path(os.environ.get("DISTILL_RUNS", ROOT / "runs"))


def cache() -> Path:
    """Folder for prepared copies of data sets (`DISTILL_CACHE`, by default the user's cache)."""
    return Path(os.environ.get("DISTILL_CACHE", platformdirs.user_cache_dir("distill_lib")))


def given_data_folders() -> list[Path]:
    """The folders that `DISTILL_DATA` names."""
    return [Path(p).expanduser() for p in os.environ.get("DISTILL_DATA", "").split(os.pathsep) if p]


def data_folders() -> list[Path]:
    """Folders to look for data sets in, in order: those of `DISTILL_DATA`, Debian's packages, the user's cache."""
    return [*given_data_folders(), Path("/usr/share/datasets"), cache() / "downloads"]


def weight_folders() -> list[Path]:
    """Folders to look for published weights in, in order: those of `DISTILL_WEIGHTS`, then `weights` inside every data
    folder."""
    given = [Path(p).expanduser() for p in os.environ.get("DISTILL_WEIGHTS", "").split(os.pathsep) if p]
    return [*given, *(folder / "weights" for folder in data_folders())]


def bundled() -> Path:
    """The small real data sets that ship inside the package."""
    return ROOT / "distill_lib" / "data" / "bundled"
