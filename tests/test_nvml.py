"""Driver and energy of a GPU, read through a stand-in for NVIDIA's library: there need be no GPU here."""

import time
import types

import pytest
import torch

from distill_lib.core import measure


class NotReported(Exception):
    """Stands for pynvml.NVMLError."""


class Library:
    """Answers as pynvml does: values, or its exception."""

    NVMLError = NotReported

    def __init__(self, known="GPU-1234", readings=(), here=True):
        self.known, self.readings, self.here = known, iter(readings), here

    def nvmlInit(self):
        if not self.here:
            raise NotReported("no library")

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != self.known:
            raise NotReported("not found")
        return 7

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        assert handle == 7
        for millijoules in self.readings:
            return millijoules
        raise NotReported("not supported")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with the identity 1234."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="1234"))
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)


def test_the_energy_of_a_block_is_the_difference_of_two_readings(gpu, monkeypatch):
    monkeypatch.setattr(measure, "pynvml", Library(readings=[5_000_000, 5_001_500]))
    with measure.measure("cuda") as cost:
        sum(range(1000))
    assert cost.joules == pytest.approx(1.5) and cost.memory_mb == 3 and measure.driver() == "580.65.06"


@pytest.mark.parametrize("library", [Library(here=False), Library(known="MIG-1234", readings=[1]), Library()])
def test_what_is_not_reported_is_not_claimed(gpu, monkeypatch, library):
    monkeypatch.setattr(measure, "pynvml", library)
    assert measure.joules("cuda:0") is None and (library.here or measure.driver() is None)


def test_a_processor_reports_no_energy_and_a_missing_driver_is_no_error():
    assert measure.joules("cpu") is None
    assert measure.driver() is None or measure.driver()[0].isdigit()  # the library itself, whatever is installed here


def test_processor_time_is_not_wall_time():
    with measure.measure("cpu") as cost:
        time.sleep(0.2)
    assert cost.seconds >= 0.2 > 0.1 > cost.cpu_seconds
