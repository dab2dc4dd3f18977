"""What NVIDIA's management library says of a GPU: driver version, and energy drawn so far. It comes with the driver.

Nothing here is needed to compute: where the library or a reading is missing, the answer is None.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch


@functools.cache
def _library() -> Any:
    """The library, initialised; None where there is none."""
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def driver() -> str | None:
    """Version of the GPU driver, such as 580.65.06."""
    library, text = _library(), ctypes.create_string_buffer(96)
    if library is None or library.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))) != 0:
        return None
    return text.value.decode()


def joules(device: torch.device | str) -> float | None:
    """Energy a whole GPU has drawn since its driver was loaded; None on a CPU, a part of a GPU, and GPUs before Volta."""
    device = torch.device(device)
    handle = _handle(device.index if device.index is not None else torch.cuda.current_device()) if device.type == "cuda" else None
    millijoules = ctypes.c_ulonglong()
    if handle is None or _library().nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
        return None
    return millijoules.value / 1000


@functools.cache
def _handle(index: int) -> Any:
    library, handle = _library(), ctypes.c_void_p()
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    if library is None or uuid is None or library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) != 0:
        return None
    return handle
