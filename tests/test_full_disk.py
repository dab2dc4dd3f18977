"""A full disk stops a run with one clear error; what was recorded before stays as it was, and nothing half-written is
left."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import toy
from safetensors.torch import save_file
from test_cli import call

from distill_lib import experiments, records
from distill_lib.core.files import DiskFull, atomically
from distill_lib.experiments import registry

RUN = ["run", toy.NAME, "--profile", "small", "-p", 'methods=["Random"]']


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount")
    made = mounted and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, text=True
    )
    if not made or made.returncode:
        pytest.skip(f"a small file system needs Linux and root ({made.stderr.strip() if made else 'not here'})")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place):
    with open(place / "filling", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass


def files(place):
    return {
        f.relative_to(place).as_posix(): f.read_bytes()
        for f in place.rglob("*")
        if f.is_file() and f.suffix not in (".lock", ".log")
    }


@pytest.mark.parametrize("full", ["DISTILL_RESULTS", "DISTILL_RUNS"])
def test_a_full_disk_stops_the_run_and_leaves_old_records_as_they_were(disk, tmp_path, monkeypatch, capsys, full):
    monkeypatch.setattr(registry, "experiments", toy.experiments)
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv(full, str(disk))
    status, out, err = call(monkeypatch, capsys, *RUN, "-p", 'variants=["before"]')
    assert status == 0, err
    fill(disk)
    before = files(disk), files(tmp_path / "results")
    status, out, err = call(monkeypatch, capsys, *RUN, "-p", 'variants=["before", "after", "later"]')
    assert (
        status == 2
        and "No space left on device" in err
        and "Traceback" not in err
        and len(err.strip().splitlines()) == 1
    )
    assert "later" not in out  # it stops at once: no further cell is computed only to be lost
    assert (files(disk), files(tmp_path / "results")) == before
    (disk / "filling").unlink()
    status, out, _ = call(monkeypatch, capsys, *RUN, "-p", 'variants=["before", "after", "later"]')
    assert status == 0 and "2 computed, 1 reused" in out
    params = experiments.check_parameters(
        toy.NAME, {"profile": "small", "methods": ["Random"], "variants": ["before", "after", "later"]}
    )
    assert len({tuple(records.load(c, "small").test_accuracy_pct) for c in toy.cells(params)}) == 1


def test_every_way_of_writing_says_that_the_disk_is_full(disk):
    old = atomically(disk / "old", lambda part: part.write_text("old"))
    fill(disk)
    tensor = torch.zeros(2**18)
    for write in (
        lambda part: part.write_bytes(bytes(2**20)),
        lambda part: torch.save(tensor, part),
        lambda part: save_file({"a": tensor}, part),
    ):
        with pytest.raises(DiskFull, match="old: No space left on device; nothing was changed"):
            atomically(old, write)
        assert old.read_text() == "old" and sorted(f.name for f in disk.iterdir()) == ["filling", "old"]
