"""Where things lie: the only module that knows folders. Each is read from the environment when asked for, not at
import."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from .errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = (ROOT / "pyproject.toml").is_file()  # else the package was installed by itself
PROFILES = ("recorded", "smoke", "small", "full")
RESULT_PROFILES = ("full", "small")  # those whose records are results, the best first
# below a data folder; train/<wnid> in it
IMAGENET_FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "imagenet-1k", "ILSVRC/Data/CLS-LOC", ".")


def expanded(text: str | Path) -> Path:
    """A path as a user wrote it, `~` read as the home folder.

    Raises: UserError: this user has no home folder, or there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no home folder to put for `~`; write the whole path") from None


def _place(variable: str, name: str = "", kind: str = "data") -> Path:
    """The folder that a variable of the environment names; else the checkout's, or for a cache and for an installed
    package the user's own."""
    if given := os.environ.get(variable, "").strip():
        return expanded(given)
    if CHECKOUT and kind == "data":
        return ROOT / name
    of_user = platformdirs.user_cache_dir if kind == "cache" else platformdirs.user_data_dir
    try:
        folder = Path(of_user("distill_lib"))
    except RuntimeError:  # of newer platformdirs; older ones return ~ as it is
        folder = Path("~")
    if os.environ.get("HOME") == "" or not folder.is_absolute():
        raise UserError(f"this user has no home folder (HOME): set {variable} to a folder that can be written to")
    return folder / name


def switch(variable: str, default: bool) -> bool:
    """Whether a variable of the environment turns something on: 1, true, yes, on; 0, false, no, off; empty is unset.

    Raises: UserError: any other value.
    """
    value = os.environ.get(variable, "").strip().lower()
    if value not in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        raise UserError(f"{variable}={value}: write 1 or 0")
    return value in ("1", "true", "yes", "on") if value else default


def needs_checkout(what: str) -> None:
    """Raises: UserError: the package was installed without the project's pages, which `what` needs."""
    if not CHECKOUT:
        raise UserError(f"{what} needs the project's files besides the package: run it from a clone of the repository")


def results(profile: str) -> Path:
    """Folder of one profile's records: `results/<profile>` (`DISTILL_RESULTS`); smoke records live in `runs/smoke`."""
    if profile == "smoke":
        return runs() / "smoke" / "records"
    return _place("DISTILL_RESULTS", "results") / profile


def shown(profile: str) -> tuple[str, ...]:
    """The profiles whose results a page shows that is in `profile`, the best first."""
    return RESULT_PROFILES if profile == "recorded" else (profile,)


def kept(profile: str, name: str) -> Path | None:
    """The file of that name below the results that a page in `profile` shows; None if it is not there."""
    return next((file for one in shown(profile) if (file := results(one) / name).exists()), None)


def reported() -> Path:
    """Folder of the numbers the papers print, one CSV per paper."""
    return ROOT / "distill_lib" / "records" / "printed"


def runs() -> Path:
    """Folder for what git ignores: checkpoints, synthetic sets, logs, executed notebooks (`DISTILL_RUNS`)."""
    return _place("DISTILL_RUNS", "runs")


def cache() -> Path:
    """Folder for prepared copies of data sets (`DISTILL_CACHE`, by default the user's cache)."""
    return _place("DISTILL_CACHE", kind="cache")


def given_data_folders() -> list[Path]:
    """The folders that `DISTILL_DATA` names."""
    return _folders("DISTILL_DATA")


def data_folders() -> list[Path]:
    """Folders to look for data sets in, in order: those of `DISTILL_DATA`, Debian's packages, the user's cache."""
    return [*given_data_folders(), Path("/usr/share/datasets"), cache() / "downloads"]


def weight_folders() -> list[Path]:
    """Folders to look for published weights in, in order: those of `DISTILL_WEIGHTS`, then `weights` inside every data
    folder."""
    return [*_folders("DISTILL_WEIGHTS"), *(folder / "weights" for folder in data_folders())]


def _folders(variable: str) -> list[Path]:
    return [expanded(p.strip()) for p in os.environ.get(variable, "").split(os.pathsep) if p.strip()]


def bundled() -> Path:
    """The small real data sets that ship inside the package."""
    return ROOT / "distill_lib" / "data" / "bundled"
