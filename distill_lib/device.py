"""Which device to use, what a run cost on it, and compiling where a compiler is there."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .errors import UserError


def pick(name: str | None = None) -> torch.device:
    """The device to compute on: the one named, else `DISTILL_DEVICE`, else the first GPU, else the CPU.

    Raises: UserError: a GPU was asked for and there is none.
    """
    name = name or os.environ.get("DISTILL_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: use cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} was asked for but torch sees no GPU: use cpu, or install a CUDA build of torch")
    return device


def describe(device: torch.device | str) -> str:
    """The device in words, for records: a GPU's name, or the processor's with its thread count."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "CPU"
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


@dataclass
class Cost:
    """Wall seconds and peak memory of a block; memory on a GPU is what torch allocated, on a CPU the process's peak."""

    seconds: float = 0.0
    memory_mb: float = 0.0


@contextmanager
def measure(device: torch.device | str) -> Iterator[Cost]:
    """Fill in a `Cost` when the block ends."""
    device, cost = torch.device(device), Cost()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            cost.memory_mb = torch.cuda.max_memory_allocated(device) / 2**20
        else:
            cost.memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        cost.seconds = time.perf_counter() - start


@functools.cache
def can_compile() -> bool:
    """Whether torch.compile has what it needs; says once, in one line, when it has not. `DISTILL_COMPILE=0` turns it off."""
    if os.environ.get("DISTILL_COMPILE", "1") == "0":
        return False
    if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
        return True
    warnings.warn("no C++ compiler found: compiled paths run eagerly (same results, slower)", stacklevel=2)
    return False


def compiled(fn: Callable, **options) -> Callable:
    """`torch.compile(fn, **options)` where a compiler is there, else `fn` itself."""
    return torch.compile(fn, **options) if can_compile() else fn
