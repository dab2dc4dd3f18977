"""`distill recompute`: recorded cells computed anew, with nothing reused, and compared."""

import dataclasses
import importlib
import statistics

import pytest
from test_cli import call
from test_experiment import go, table  # noqa: F401

from distill_lib import experiments, records
from distill_lib.core import paths, store
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.experiments import compute
from distill_lib.experiments.recompute import comparisons
from distill_lib.experiments.recompute import recompute as compute_again
from distill_lib.tables import recomputed


def again(profile="small", **options):
    params = experiments.check_parameters("toy/table", {"profile": profile, "ipcs": [1]})
    lines = []
    return compute_again("toy/table", params, say=lines.append, **options), lines


def cell():
    return experiments.experiment("toy/table").cells(experiments.check_parameters("toy/table", {"profile": "small"}))[0]


def test_a_cell_is_made_anew_and_gives_the_same_numbers(table):  # noqa: F811
    go()
    before, calls = records.path(cell(), "small").read_bytes(), len(table.calls)
    (found,), lines = again()
    assert len(table.calls) == calls + 1, "the distilled set was reused"
    assert found.largest_difference == found.mean_difference == 0
    assert lines[-1].endswith("2 networks with the same accuracy")
    assert records.path(cell(), "small").read_bytes() == before
    assert not list((paths.runs() / "recomputed").glob("*/")) and not comparisons()


def test_the_command_counts_the_cells_with_the_same_accuracies(table, monkeypatch, capsys):  # noqa: F811
    go()
    status, out, _ = call(monkeypatch, capsys, "recompute", "toy/table", "--profile", "small", "-p", "ipcs=[1]")
    assert status == 0 and out.endswith("1 cells computed again: 1 with the same accuracies, 0 with others\n")


def test_it_runs_outside_a_checkout(table, monkeypatch):  # noqa: F811
    go()
    monkeypatch.setattr(records, "code_state", dict)
    (found,), _ = again()
    assert found.largest_difference == 0


def test_further_sets_tell_how_far_the_number_moves_with_the_seed(table):  # noqa: F811
    go()
    (found,), lines = again(sets=3, keep=True)
    assert found.again.done == [0, 1, 2] and len(found.pairs) == 2 and found.largest_difference == 0
    means = [statistics.mean(found.again.test_accuracy_pct[i : i + 2]) for i in (0, 2, 4)]
    assert found.spread == pytest.approx(statistics.stdev(means))
    assert recomputed.table().loc[0, "between seeds"] == f"{found.spread:.2f} (3 sets)"
    assert "0 of 1 cells moved by more than twice their own" in recomputed.sentence()[0]


def test_another_state_of_the_code_does_not_go_on_from_the_work_of_the_one_before(table, monkeypatch):  # noqa: F811
    go()
    monkeypatch.setattr(records, "code_state", lambda: {"commit": "abc", "changed_since_commit": True})
    code, folders = {"text": "a"}, []
    monkeypatch.setattr(store, "digest", lambda value, digest=store.digest: digest([value, code["text"]]))
    module = importlib.import_module("distill_lib.experiments.recompute")
    own = module._runs_of_its_own
    monkeypatch.setattr(module, "_runs_of_its_own", lambda name: folders.append(name) or own(name))
    again()
    again()
    code["text"] = "b"
    again()
    assert folders[0] == folders[1] != folders[2] and all("abc-changed-" in name for name in folders)


def changed(by):
    """The record's second network moved by some points."""
    record = records.load(cell(), "small")
    first, second = record.test_accuracy_pct
    dataclasses.replace(record, test_accuracy_pct=[first, second - by]).save("small")
    return first, second


def test_a_difference_is_said_beside_the_spread_and_kept(table):  # noqa: F811
    go()
    changed(1.5)
    (found,), lines = again(keep=True)
    assert found.mean_difference == pytest.approx(0.75) and found.largest_difference == pytest.approx(1.5)
    assert "+0.75 points, at most 1.50 in a network" in lines[-1]
    (shown,) = comparisons()
    assert shown.pairs == found.pairs and shown.again.made_by["processor"] is not None
    assert recomputed.table().loc[0, "difference of the means"] == "+0.75"
    assert "1 recorded cells" in recomputed.sentence()[0] and "moved by 0.75 points" in recomputed.sentence()[0]
    record = records.load(cell(), "small")  # a setting that came later and is off changes nothing
    dataclasses.replace(record, key={**record.key, "later": None}).save("small")
    assert len(comparisons()) == 1
    for other in ({"seed": 9}, {"data_sha256": "of other data"}):  # of other settings: not compared
        dataclasses.replace(record, key={**record.key, **other}).save("small")
        assert not comparisons() and "No recorded cell" in recomputed.sentence()[0]


def test_fewer_sets_do_not_replace_those_that_were_kept(table):  # noqa: F811
    go()
    again(sets=3, keep=True)
    _, lines = again(sets=1, keep=True)
    assert lines[-1] == "  not kept: 3 sets computed again on such a machine are there already"
    (shown,) = comparisons()
    assert shown.again.done == [0, 1, 2]
    (file,) = paths.results("recomputed").rglob("*.json")
    assert file.parent.parent.parent.name == "small"  # so that full does not replace it


def test_a_run_that_was_stopped_goes_on(table, monkeypatch):  # noqa: F811
    go()
    evaluate, seeds = compute.evaluate, []

    def stopped_once(*args, **options):
        seeds.append(options["seed"])
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(compute, "evaluate", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        again(sets=2)
    (found,), _ = again(sets=3)  # a run may ask for more than the one that was stopped
    assert seeds == [0, 1000, 1000, 2000] and found.again.done == [0, 1, 2] and found.largest_difference == 0
    assert not list((paths.runs() / "recomputed").glob("*/"))


def test_what_cannot_be_compared_is_an_error(table, monkeypatch):  # noqa: F811
    with pytest.raises(
        UserError, match="no recorded cell to compare with; see `distill plan toy/table --profile small"
    ):
        again()
    go()
    with pytest.raises(UserError, match="leave --keep out at smoke"):
        again("smoke", keep=True)
    with pytest.raises(TimeUp):
        again(time_limit=0.0)
    record = records.load(cell(), "small")
    dataclasses.replace(record, key={**record.key, "data_sha256": {"train": "0", "test": "0"}}).save("small")
    with pytest.raises(UserError, match="pixels or labels differ"):
        again()


def test_what_was_computed_again_and_kept_is_shown(monkeypatch):
    monkeypatch.delenv("DISTILL_RESULTS", raising=False)
    kept = sorted(paths.results("recomputed").rglob("*.json"))
    assert sorted(str(r.again.cell) for r in comparisons()) == sorted(str(records.read(f).cell) for f in kept)
