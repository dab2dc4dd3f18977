"""What a block costs: seconds, processor time, energy, peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pynvml
import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


@dataclass
class Cost:
    """Wall seconds, seconds of processor time (all threads of the process), energy and peak memory of a block.

    Processor time well below wall seconds times threads, on a CPU, says that the machine was busy with something else.
    Energy is the whole GPU's, whoever used it; None if the device does not report it.
    Memory on a GPU is what torch allocated; on a CPU it is the process's resident peak in the block on Linux, elsewhere
    since the process began.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joules: float | None = None
    memory_mb: float = 0.0


def driver() -> str | None:
    """Version of NVIDIA's driver, such as 580.65.06; None without a driver."""
    try:
        pynvml.nvmlInit()  # as often as you like: the library counts
        return pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return None


def joules(device: torch.device | str) -> float | None:
    """Energy a whole GPU has drawn since its driver was loaded.

    None on a CPU, on a part of a GPU, and on GPUs before Volta.
    """
    if torch.device(device).type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # it counts millijoules
    except pynvml.NVMLError:
        return None


def give_back(device: torch.device | str) -> None:
    """Return the memory of freed tensors on a CPU to the system, which `keep_memory` keeps; on a GPU nothing happens.

    For between two passes of gigabytes each: where freed pieces do not fit, a second pass would take fresh memory
    beside what the first has left, a fifth more in all. Fresh pages cost a few percent of such a pass.
    """
    if torch.device(device).type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_peak() -> None:
    """Start the process's peak memory again from what it holds now, if the system can; what the C library kept is
    returned first."""
    give_back("cpu")
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def peak_mb() -> float:
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as f:
        return int(next(line for line in f if line.startswith("VmHWM:")).split()[1]) / 2**10
    if resource is None:
        return psutil.Process().memory_info().peak_wset / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _peak_on(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_mb()


_open: list[tuple[torch.device, Cost]] = []  # blocks that are measured now, one inside the other


@contextlib.contextmanager
def measure(device: torch.device | str) -> Iterator[Cost]:
    """Fill in a `Cost` when the block ends; a block inside it may be measured too."""
    device, cost = torch.device(device), Cost()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    for place, outer in _open:  # whose peak so far is about to be forgotten
        outer.memory_mb = max(outer.memory_mb, _peak_on(place))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()
    _open.append((device, cost))
    drawn, cpu, start = joules(device), time.process_time(), time.perf_counter()
    try:
        yield cost
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        _open.pop()
        for place, other in (*_open, (device, cost)):
            other.memory_mb = max(other.memory_mb, _peak_on(place))
        cost.seconds, cost.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        if drawn is not None and (now := joules(device)) is not None:
            cost.joules = now - drawn
