"""Driver and energy of a GPU, read through a stand-in for NVIDIA's library: there need be no GPU here."""

import ctypes
import types

import pytest
import torch

from distill_lib.core import measure, nvml


class Library:
    """Answers as libnvidia-ml does: values through pointers, 0 for success."""

    def __init__(self, known=b"GPU-1234", reading=None):
        self.known, self.readings = known, iter(reading or [])

    def nvmlSystemGetDriverVersion(self, text, length):
        text.value = b"580.65.06"
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        handle._obj.value = 7
        return 0 if uuid == self.known else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, millijoules):
        assert handle.value == 7
        try:
            millijoules._obj.value = next(self.readings)
        except StopIteration:
            return 3  # not supported
        return 0


@pytest.fixture
def gpu(monkeypatch):
    """Puts a library in place, and a GPU with the identity 1234."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)

    def put(library):
        monkeypatch.setattr(nvml, "_library", lambda: library)
        nvml._handle.cache_clear()

    yield put
    nvml._handle.cache_clear()


def test_the_energy_of_a_block_is_the_difference_of_two_readings(gpu):
    gpu(Library(reading=[5_000_000, 5_001_500]))
    with measure.measure("cuda") as cost:
        sum(range(1000))
    assert cost.joules == pytest.approx(1.5) and cost.memory_mb == 3 and nvml.driver() == "580.65.06"


@pytest.mark.parametrize("library", [None, Library(known=b"MIG-1234", reading=[1]), Library(reading=[])])
def test_what_is_not_reported_is_not_claimed(gpu, library):
    gpu(library)
    assert nvml.joules("cuda:0") is None and (library or nvml.driver() is None)


def test_a_processor_reports_no_energy_and_a_missing_library_is_no_error(monkeypatch):
    assert nvml.joules("cpu") is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("no such file")))
    nvml._library.cache_clear()
    try:
        assert nvml.driver() is None
    finally:
        nvml._library.cache_clear()


def test_processor_time_is_not_wall_time():
    import time

    with measure.measure("cpu") as cost:
        time.sleep(0.2)
    assert cost.seconds >= 0.2 > 0.1 > cost.cpu_seconds
