"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import paths
from .errors import UserError


def short(name: str, size: int = 60) -> str:
    """The start of a name, of at most so many bytes of UTF-8, for the name of a file."""
    return name.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


class DiskFull(UserError):
    """A file did not fit on its disk; whatever was there before is unchanged."""


def atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under a temporary name in its folder, then rename: it is there whole or not at all.

    Raises: UserError: it cannot be written; DiskFull where that is why.
    """
    path, part = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{short(path.name, 180)}-", suffix=".part")
        os.close(handle)
        part = Path(name)
        write(part)
        with open(part, "rb") as f:
            os.fsync(f.fileno())
        part.chmod(0o644)
        os.replace(part, path)
    except UserError:
        raise
    except Exception as err:
        if full(err, path):
            raise DiskFull(f"cannot write {path}: No space left on device; nothing was changed") from None
        if isinstance(err, OSError):
            raise unwritable(path, err) from None
        raise
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


def unwritable(path: Path, err: OSError) -> UserError:
    """The error for a file that cannot be written; names the variable that moves its folder, where there is one."""
    hint, places = (
        "",
        {
            "DISTILL_RUNS": paths.runs,
            "DISTILL_CACHE": paths.cache,
            "DISTILL_RESULTS": lambda: paths.results("small").parent,
        },
    )
    with contextlib.suppress(UserError):  # there is no such folder
        moved = next((variable for variable, place in places.items() if path.is_relative_to(place())), "")
        hint = moved and f"; set {moved} to a folder that can be written to"
    return UserError(f"cannot write {path}: {err.strerror or err}; nothing was changed{hint}")


def check_writable(folder: Path) -> None:
    """Before work whose outcome goes there. Raises: UserError: no file can be written below the folder."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the errors of a block that writes to `path` into one line."""
    try:
        yield
    except OSError as err:
        raise unwritable(path, err) from None


def write_json(path: Path, body: Any) -> Path:
    """Write a JSON file. Raises: see `atomically`."""
    return atomically(path, lambda part: part.write_text(json.dumps(body, indent=1) + "\n"))


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> Path:
    """Write tensors of any device, with their metadata, to a `.safetensors` file. Raises: see `atomically`."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return atomically(path, lambda part: save_file(tensors, part, about))


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file, on the CPU."""
    with safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}


@contextlib.contextmanager
def undamaged(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn what goes wrong while a file of ours is read into one clear error that names the file and the remedy.

    Raises: UserError: the file is missing or damaged, or its content does not fit.
    """
    try:
        yield
    except UserError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as err:
        raise UserError(f"{path}: damaged ({err}); {remedy}") from None


def full(err: Exception, path: Path) -> bool:
    """Whether an error says that the disk of `path` is full; torch and safetensors have their own errors for it."""
    if isinstance(err, OSError):
        return err.errno in (errno.ENOSPC, errno.EDQUOT)
    silent = isinstance(err, RuntimeError) and shutil.disk_usage(path.parent).free < 2**20
    return silent or "No space left" in str(err)


def sweep(folder: Path, seconds: float = 3600.0) -> None:
    """Remove what processes that were killed in mid-write left in a folder, `seconds` ago or earlier."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > seconds:
                part.unlink()
