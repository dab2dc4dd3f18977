"""Which device to use, how to describe it, compiling for it, and going on when its memory runs out."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

from .errors import UserError
from .paths import switch


def pick(name: str | None = None) -> torch.device:
    """The device to compute on: the one named, else `DISTILL_DEVICE`, else the first CUDA device, else the CPU.

    Apple's GPU, `mps`, is used where it is named: it rounds otherwise, and no record here was made on one.
    Raises: UserError: no such device, or it does not compute.
    """
    name = name or os.environ.get("DISTILL_DEVICE", "").strip() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device {name!r}: use cpu, cuda, cuda:0 or mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r}, but torch sees no GPU: use cpu, or install a CUDA build of torch")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"device {name!r} was asked for but torch sees {count} GPUs: the last is cuda:{count - 1}")
    if device.type == "mps" and not (torch.backends.mps.is_available() and _computes(device)):
        raise UserError(f"device {name!r} was asked for but this torch cannot compute on Apple's GPU here: use cpu")
    if device.type == "cpu":
        keep_memory()
    else:
        set_rounding()
    return device


def _computes(device: torch.device) -> bool:
    """Whether a convolution and its derivative can be computed there."""
    try:
        x = torch.ones(1, 1, 3, 3, device=device, requires_grad=True)
        torch.nn.functional.conv2d(x, x).sum().backward()
        return bool(x.grad.cpu().isfinite().all())
    except RuntimeError:
        return False


def set_rounding() -> bool:
    """Let convolutions on a GPU, but not matrix products, round their float32 inputs to TF32 (10 bits after the point).

    This is PyTorch's own default, with which the papers' codes ran; it is set here so that no other code decides it,
    and every record says which it was. Kernel regressions solve in matrix products and need all bits. `DISTILL_TF32=0`
    keeps float32 everywhere.

    Returns: whether convolutions round.
    """
    wanted = switch("DISTILL_TF32", True)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = wanted, False
    return wanted


@functools.cache
def keep_memory() -> bool:
    """Let the C library keep the memory of freed tensors instead of returning it to the system.

    On Linux, tensors above a size come from fresh pages, and zeroing those takes longer than an elementwise operation
    on them: a ConvNet step on 64 images is 1.4 times as fast with this, at up to 1.5 times the memory.
    `DISTILL_KEEP_MEMORY=0` turns it off.

    Returns: whether the C library does.
    """
    if sys.platform != "linux" or not switch("DISTILL_KEEP_MEMORY", True):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        return bool(libc.mallopt(mmap, 2**30)) and bool(libc.mallopt(trim, 2**31 - 1))
    except (OSError, AttributeError):  # another C library
        return False


def send(x: torch.Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`x` on the device, in another type if one is given; a GPU's stream is not waited for.

    What is drawn on the CPU goes to a GPU in every step. From ordinary memory the copy would first wait until the GPU
    has done all that was asked of it, so that it idles while Python prepares the next step; from pinned memory it takes
    its place in the stream.
    """
    x = x.to(dtype or x.dtype)
    if torch.device(device).type == "cuda" and x.device.type == "cpu":
        return x.contiguous().pin_memory().to(device, non_blocking=True)  # of strided memory the copy would wait too
    return x.to(device)


def describe(device: torch.device | str) -> str:
    """The device in words, for records: a GPU's name, or the processor's with its thread count."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (mps)"
    model = "CPU"
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as f:
            model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"


def processor() -> list[str]:
    """Which of the instructions that decide a processor's speed and rounding here it has."""
    has = torch.cpu.get_capabilities()
    return [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "amx_bf16") if has.get(name)]


@functools.cache
def can_compile() -> bool:
    """Whether torch.compile finds a C++ compiler; warns once if not. `DISTILL_COMPILE=0` turns compiling off."""
    if not switch("DISTILL_COMPILE", True):
        return False
    if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
        return True
    warnings.warn("no C++ compiler found: compiled paths run eagerly (same results to rounding, slower)", stacklevel=2)
    return False


def compiled(fn: Callable, **options) -> Callable:
    """`torch.compile(fn, **options)` if there is a compiler, else `fn` itself."""
    return torch.compile(fn, **options) if can_compile() else fn


def out_of_memory(err: BaseException) -> bool:
    """Whether an error says that the device, or the machine, ran out of memory."""
    return isinstance(err, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(err)


class Pieces:
    """Runs a function over consecutive slices of 0..total, and over smaller ones from the moment memory runs out.

    Args:
        size: length of a slice; halved, for this and all later calls, whenever a slice does not fit.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, total: int, run: Callable[[slice], Any]) -> list[Any]:
        """[run(slice(0, size)), run(slice(size, 2 * size)), ...]: `run` must leave nothing behind where it fails.

        Raises: the out-of-memory error, where a slice of one does not fit either.
        """
        results, start = [], 0
        while start < total:
            stop = min(start + self.size, total)
            try:
                results.append(run(slice(start, stop)))
            except (RuntimeError, MemoryError) as err:
                if not out_of_memory(err) or stop - start == 1:
                    raise
                self.size = (stop - start) // 2
                said = f"out of memory: going on with {self.size} at a time (same result to rounding, slower)"
                warnings.warn(said, stacklevel=2)
            else:
                start = stop
                continue
            if torch.cuda.is_available():  # outside the handler, whose traceback keeps the failed slice's tensors alive
                torch.cuda.empty_cache()
        return results


def chunked(fn: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: int) -> torch.Tensor:
    """`fn` over slices of `x` along its first dimension, results concatenated; smaller slices where memory runs out."""
    return torch.cat(Pieces(size)(len(x), lambda part: fn(x[part])))
