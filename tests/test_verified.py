"""A plan reads a record once: afterwards only where its file was touched, and what is wrong with it is always said."""

import json
import os

import pytest

from distill_lib import experiments, records
from distill_lib.core import paths
from distill_lib.experiments import Experiment, Parameters, Task, registry
from distill_lib.methods import METHODS
from distill_lib.records import Cell, Record, record, summaries

NAME = "toy/table"
CELLS = [Cell(NAME, "DM", "FashionMNIST", ipc) for ipc in (1, 10, 50)]


def task(cell, params):
    return Task(
        cell, METHODS["DM"].paper_config(cell.dataset, cell.ipc), cell.dataset, "vico_dsa@60ep", seed=params.seed
    )


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    toy = Experiment(NAME, "A toy", Parameters, lambda p: CELLS, task)
    monkeypatch.setattr(registry, "experiments", lambda: {NAME: toy})
    return Parameters(profile="small")


def save(cell, params, **changes):
    """A record as old as one that is remembered."""
    key = {**task(cell, params).key, "data_sha256": {"train": "0"}}
    return Record(cell, [50.0, 51.0], [0, 0], key, made_by={"device": "a machine", "at": "then"}, **changes).save(
        "small"
    )


@pytest.fixture
def old(monkeypatch):
    monkeypatch.setattr(summaries, "FRESH_S", -1.0)


@pytest.fixture
def reads(monkeypatch):
    seen = []
    read = record.read
    monkeypatch.setattr(record, "read", lambda file: seen.append(file.name) or read(file))
    return seen


def states(params):
    return [s.state for s in experiments.plan(NAME, params)]


def test_a_plan_reads_a_record_once(params, old, reads):
    first, second = (save(c, params) for c in CELLS[:2])
    expected = [(s.state, s.why) for s in (experiments.status(c, params) for c in CELLS)]
    reads.clear()  # `status` reads every time
    for _ in range(3):
        assert [(s.state, s.why) for s in experiments.plan(NAME, params)] == expected
    assert sorted(reads) == sorted([first.name, second.name])
    save(CELLS[0], params, memory_mb=7.0)
    assert states(params) == ["recorded", "recorded", "missing"] and reads[2:] == [first.name]


def test_a_file_as_new_as_the_tick_of_a_clock_is_read_again(params, reads):
    save(CELLS[0], params)
    assert states(params) == states(params) == ["recorded", "missing", "missing"]
    assert len(reads) == 2


def test_other_settings_make_a_remembered_record_stale_with_its_reason(params, old):
    save(CELLS[0], params)
    states(params)
    found = experiments.plan(NAME, Parameters(profile="small", seed=3))[0]
    assert (found.state, found.why) == ("stale", "seed: 0 -> 3") and found.record.key["seed"] == 0


def test_an_edit_that_hides_its_time_is_seen(params, old):
    file = save(CELLS[0], params)
    assert states(params)[0] == "recorded"
    before = file.stat()
    file.write_text(file.read_text().replace("50.0", "60.0"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and file.stat().st_mtime_ns == before.st_mtime_ns
    found = experiments.plan(NAME, params)[0]
    assert found.state == "damaged" and "changed since it was written" in found.why


def test_a_record_in_the_place_of_another_is_seen(params, old):
    file = save(CELLS[0], params)
    states(params)
    other = file.with_name(f"{CELLS[1].stem}.json")
    other.write_bytes(file.read_bytes())
    for _ in range(2):
        found = experiments.plan(NAME, params)[1]
        assert found.state == "damaged" and "another cell" in found.why


def test_a_removed_record_is_missing(params, old):
    file = save(CELLS[0], params)
    states(params)
    file.unlink()
    assert states(params) == ["missing"] * 3


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 1}', '{"format": 1, "records": {"a": 3}}', '{"format": 9, "records": {}}', "\0" * 9],
)
def test_a_useless_copy_is_made_again(params, old, content):
    save(CELLS[0], params)
    expected = states(params)
    store = paths.runs() / "verified" / "small.json"
    store.write_text(content)
    assert states(params) == expected
    assert json.loads(store.read_text())["records"]


def test_a_folder_that_cannot_be_written_does_not_stop_a_plan(params, old):
    save(CELLS[0], params)
    paths.runs().parent.mkdir(exist_ok=True)
    paths.runs().write_text("not a folder")
    assert states(params) == ["recorded", "missing", "missing"]


def test_a_plan_of_remembered_records_opens_none_of_them(params, old, reads, monkeypatch):
    save(CELLS[0], params)
    states(params)
    reads.clear()
    monkeypatch.setattr(records, "load", lambda *a: pytest.fail("a record was opened"))
    assert states(params)[0] == "recorded" and reads == []
