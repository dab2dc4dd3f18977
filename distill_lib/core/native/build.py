"""C++ of our own: compiled with the system's compiler on first use and kept in the cache folder."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from .. import paths
from ..device import can_compile
from ..errors import UserError
from ..files import atomically

HEADER = Path(__file__).with_name("parallel.h")  # what the files share


def build(source: Path, name: str) -> Path:
    """Compile a file for this processor, unless the cache folder has it; returns the shared library.

    Raises: subprocess.SubprocessError, OSError: the compiler failed or could not be started.
            UserError: there is no place to keep the result.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or "c++"
    command = [compiler, "-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
    key = repr((source.read_bytes(), HEADER.read_bytes(), command, _processor())).encode()
    library = paths.cache() / "kernels" / f"{name}-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            compiled = Path(folder) / library.name
            command += [f"-I{HEADER.parent}", "-o", str(compiled), str(source)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            atomically(library, lambda part: shutil.copyfile(compiled, part))
    return library


def kernel(
    build: Callable[[], Path], load: Callable[[Path], ctypes.CDLL], what: str
) -> Callable[[], ctypes.CDLL | None]:
    """A function that gives the loaded library, or warns once and gives None if it cannot be compiled.

    `DISTILL_COMPILE=0` turns it off.
    """

    @functools.cache
    def get() -> ctypes.CDLL | None:
        if not can_compile():
            return None
        try:
            return load(build())
        except (OSError, subprocess.SubprocessError, UserError) as err:
            reason = (getattr(err, "stderr", None) or str(err)).strip().splitlines()[:1]
            said = f"{what} could not be compiled ({''.join(reason)}): same results to rounding, slower"
            warnings.warn(said, stacklevel=2)
            return None

    return get


def _processor() -> str:
    """What -march=native depends on: a cache folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"
