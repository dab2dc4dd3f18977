"""The ledger has every printed cell, with a status and a reason, and says of numbers only what the records say."""

import base64
import csv
import dataclasses
import io
import json
import re

import pytest
from test_cli import call

from distill_lib import experiments, records, tables
from distill_lib.core import paths
from distill_lib.experiments import engine
from distill_lib.records import Cell, Record, reported
from distill_lib.records import record as records_record
from distill_lib.tables import ledger, widgets

CELL = Cell("skd/table1_accuracy", "DM", "MNIST", 10, "ConvNet", "vico_dsa")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))


def record(cell=CELL, accuracies=(97.5, 97.3, 97.4), dataset="MNIST", sets=None, notes=(), metrics=None, num_sets=1):
    key = {"dataset": dataset, "protocol": {"name": "vico_dsa@100ep"}, "num_sets": num_sets}
    seconds, sets = {"distill": 20.0, "evaluate": 10.4}, sets or [0] * len(accuracies)
    return Record(cell, list(accuracies), sets, key, metrics or {}, seconds, 512.0, {"data_notes": list(notes)})


def line(cell=CELL):
    table = ledger.rows("skd")
    found = table[(table["experiment"] == cell.experiment) & (table["method"] == cell.method)]
    return found[(found["data set"] == cell.dataset) & (found["IPC"] == cell.ipc)].iloc[0]


def test_every_printed_cell_has_a_status_and_a_reason():
    table = ledger.rows()
    assert len(table) == sum(len(reported.cells_of(name)) for name in reported.experiment_names())
    assert set(table["status"]) <= set(ledger.STATUSES) and table["reason"].str.len().min() > 0
    names = [name for paper in reported.PAPERS for name in reported.experiment_names(paper)]  # in reading order
    assert sorted(names) == sorted(reported.experiment_names())
    printed = [row["text"] for name in names for row in reported.cells_of(name)]
    assert table["published"].tolist() == printed


def test_every_record_of_a_printed_cell_is_in_the_ledger():
    printed = {
        (p, r.cell)
        for p in ("full", "small")
        for f in sorted(paths.results(p).rglob("*.json"))
        if experiments.experiment((r := records_record.read(f)).cell.experiment).printed(r.cell)
    }
    table = ledger.rows()
    shown = table[table["seconds"] != ""].shape[0]
    cells = {
        (p, c)
        for name in reported.experiment_names()
        for c in ledger._cells(name).values()
        for p in ("full", "small")
        if records.path(c, p).exists()
    }
    assert printed == cells and shown >= len({c for _, c in printed})


def test_a_cell_that_was_never_measured_says_what_stands_in_the_way(results):
    table = ledger.rows()
    assert line()["status"] == "not run" and "full budget" in line()["reason"]
    lost = table[table["published"] == reported.LOST]
    assert set(lost["status"]) == {"source lost"}
    assert table[(table["data set"] == "ImageIDC")]["status"].unique().tolist() == ["not public"]
    assert "not public" not in set(table[table["data set"].isin(ledger.FREE)]["status"])


def test_a_reduced_budget_is_never_compared(results):
    record(accuracies=(97.3, 97.3)).save("small")
    found = line()
    assert (
        found["status"] == "small, own data"
        and found["compared"] == ""
        and "vico_dsa@100ep, 1 of 1 set x 2 networks" in found["reason"]
    )
    assert (found["small"], found["full"], found["seconds"], found["memory MB"]) == ("97.3 ± 0.0", "", 30, 512)
    assert found["difference"] == f"{97.3 - reported.lookup(CELL.experiment, 'DM', 'MNIST', 10)['value']:+.1f}"


def test_a_stand_in_has_no_difference(results):
    record(dataset="FashionMNIST").save("small")
    assert (
        line()["status"] == "small, stand-in"
        and line()["difference"] == ""
        and "FashionMNIST in place of MNIST" in line()["reason"]
    )


@pytest.mark.parametrize(("shift", "status"), [(0.0, "matched"), (-20.0, "differs")])
def test_a_full_record_is_tested_for_equality(results, shift, status):
    value = reported.lookup(CELL.experiment, "DM", "MNIST", 10)["value"] + shift
    record(accuracies=[value + d for d in (-0.05, 0.0, 0.05, 0.02, -0.02)]).save("full")
    assert line()["status"] == status and line()["compared"]
    assert ledger.progress("skd").splitlines()[0] == f"1 of 166 cells measured at the paper's protocol (1 {status})."


def test_a_full_cell_names_what_other_readings_of_it_measured(results):
    cell = Cell("skd/table1_accuracy", "K-Center", "CIFAR10", 10, "ConvNet", "vico_noaug")
    record(cell, dataset="CIFAR10").save("full")
    assert "beside it" not in line(cell)["reason"]
    other = Cell(*[getattr(cell, f) for f in ("experiment", "method", "dataset", "ipc", "network")], "vico_dsa")
    record(other, accuracies=(20.0, 20.2), dataset="CIFAR10").save("small")  # another budget is no reason
    assert "beside it" not in line(cell)["reason"]
    record(other, accuracies=(20.0, 20.2), dataset="CIFAR10").save("full")
    reading = Cell(*list(vars(cell).values())[:6], "features of 5 epochs")
    record(reading, accuracies=(15.0, 15.0), dataset="CIFAR10").save("full")
    said = "measured beside it: 20.1 ± 0.1 under vico_dsa, 15.0 ± 0.0 with features of 5 epochs"
    assert line(cell)["reason"].endswith(said)
    record(Cell(*list(vars(cell).values())[:3], 50, "ConvNet", "vico_noaug"), dataset="CIFAR10").save("full")
    assert line(cell)["reason"].endswith(said)  # another cell of the table is none either
    assert line(cell)["status"] == "differs"
    assert ledger.gaps()[0] == f"K-Center, CIFAR10, IPC 10: printed 14.7 ± 0.9, here 97.4 ± 0.1; {said}."


def test_one_network_decides_nothing(results):
    record(accuracies=[97.3]).save("full")
    assert line()["status"] == "undecided"


def test_the_sets_of_a_full_record_are_what_varies(results):
    """Fifteen numbers decide where they are networks of the only set, and not where they are of three sets that
    differ."""
    printed = reported.lookup(CELL.experiment, "DM", "MNIST", 10)["value"]
    low_and_high = [printed + d for d in (-0.2, 0.0, 0.2) for _ in range(5)]
    sets = [i for i in range(3) for _ in range(5)]
    record(accuracies=low_and_high, sets=sets, num_sets=5).save("full")
    found = line()
    assert (
        found["status"] == "undecided"
        and "3 of ours" in found["compared"]
        and "3 of 5 sets x 5 networks" in found["reason"]
    )
    record(accuracies=low_and_high).save("full")  # the protocol asks for one set
    assert line()["status"] == "matched" and "1 of 1 set x 15 networks" in line()["reason"]
    record(accuracies=[printed] * 5, num_sets=5).save("full")
    assert (
        line()["status"] == "undecided"
        and "1 of 5 sets x 5 networks" in line()["reason"]
        and "one set" in line()["compared"]
    )
    record(accuracies=[printed - 20.0] * 5, num_sets=5).save("full")
    assert line()["status"] == "differs"


def test_data_that_deviate_are_named_beside_a_full_number(results):
    note = "this copy has 23 re-encoded test images: their pixels are decoded from JPEG"
    record(notes=[note, "not read from cifar10.npz: more"]).save("full")
    assert note in line()["reason"] and "not read" not in line()["reason"]  # what is in no image changes no number


def test_networks_that_are_not_trained_give_no_result(results):
    untrained = {"train_loss": [2.2, 2.25, 2.3]}
    record(metrics=untrained).save("small")
    found = line()
    assert (found["status"], found["small"], found["difference"]) == ("underfit", "underfit", "") and ledger.maps(
        "small"
    ) == {}
    assert "ConvNet at a training loss of 2.25, 2.30 before training" in found["reason"]
    record(metrics={"train_loss": [0.1, 0.2, 0.3]}).save("small")
    assert line()["status"] == "small, own data" and line()["small"] == "97.4 ± 0.1"
    record(metrics=untrained).save("full")  # the paper's own protocol leaves them so: its verdict stands, with a note
    assert (
        line()["status"] in ledger.FULL
        and "the networks hardly train" in line()["reason"]
        and line()["full"] == "97.4 ± 0.1"
    )


def test_a_generator_trained_on_the_data_stands_in_for_one_of_imagenet(results):
    """The small budget trains a conditional GAN on CIFAR-10 itself: not the generator in the heading of the row."""
    cell = Cell("slfd/table4_cifar10", "SLFD", "CIFAR10", 1, "cross-architecture mean", "glad", "generator=ImageNet")
    task = experiments.experiment(cell.experiment).task(
        cell, experiments.check_parameters(cell.experiment, {"profile": "small"})
    )
    said = ledger.stand_in(Record(cell, [20.0], [0], task.key))
    assert (
        said
        == "the generator's family cGAN in place of StyleGAN-XL, the generator's weights trained in place of imagenet"
    )
    whole = experiments.experiment(cell.experiment).task(
        cell, experiments.check_parameters(cell.experiment, {"profile": "full"})
    )
    assert ledger.stand_in(Record(cell, [20.0], [0], whole.key)) == ""


def test_a_number_printed_at_every_ipc_is_filled_at_each(results):
    cell = Cell("dgs/table1_imagewoof", "Full data", "ImageWoof", None, "ResNet-18", "minimax_imagenet")
    record(cell, accuracies=[89.0, 89.3, 89.6], dataset="ImageWoof@224px").save("full")
    table = ledger.rows("dgs")
    found = table[(table["method"] == "Full data") & (table["network"] == "ResNet-18")]
    assert (
        found["IPC"].tolist() == [10, 20, 50]
        and set(found["full"]) == {"89.3 ± 0.2"}
        and set(found["status"]) <= set(ledger.FULL)
    )
    assert ledger.progress("dgs").startswith("3 of 135 cells measured")


def test_a_record_of_an_earlier_version_says_so(results):
    params = experiments.check_parameters(CELL.experiment, {"profile": "full"})
    key = experiments.experiment(CELL.experiment).task(CELL, params).key
    Record(CELL, [97.5] * 5, [0] * 5, key).save("full")
    assert "stale" not in line()["reason"]
    Record(CELL, [97.5] * 5, [0] * 5, key | {"code": {**key["code"], "evaluate": 0}}).save("full")
    assert "stale (code.evaluate: 0 -> " in line()["reason"]


def test_entries_of_others_are_in_no_total(results):
    table = ledger.rows("uvit")
    board = table[table["experiment"] == "uvit/figure4_leaderboard"]
    assert board["status"].value_counts().to_dict() == {"others' entry": 40, "not run": 2}
    assert set(board[board["status"] == "not run"]["method"]) == {"U-ViT"}
    assert ledger.progress("uvit").startswith(
        "0 of 18 cells measured"
    ) and "not among these cells: 40." in ledger.progress("uvit")


def test_the_front_page_counts_what_the_record_files_say():
    """By the plainest reading of the files: a cell is measured where a record of its own at full exists, and nowhere
    else."""
    measured, at_small = set(), set()
    for profile, cells in (("full", measured), ("small", at_small)):
        for file in sorted(paths.results(profile).glob("*/*/*.json")):
            cells.add(tuple(json.loads(file.read_text())["cell"].values()))
    full = small = printed = 0
    for name in reported.experiment_names():
        for row in reported.cells_of(name):
            cell = ledger._cells(name).get(tuple(row[k] for k in reported.KEY))
            key = cell and dataclasses.astuple(cell)
            printed += row["status"] != "others' entry"
            full += key in measured
            small += key in at_small and key not in measured
    first, *others = ledger.progress().splitlines()
    assert first.startswith(f"{full} of {printed} cells measured at the paper's protocol")
    (said,) = (line for line in others if line.startswith("At a small budget")) if small else ("",)
    assert sum(map(int, re.findall(r"\d+", said))) == small
    table = ledger.rows()
    called = table[table["status"].isin(ledger.FULL)]
    assert len(called) == full and (called["full"] != "").all() and (table["full"] != "").sum() == full
    assert not called["seconds"].eq("").any()


def test_the_parts_that_the_front_page_names_add_up():
    said = widgets.headline()
    total, full, small, counted, lost, none = (
        int(re.search(rf"(\d+) {words}", re.sub(r" \(.*?\)", "", said))[1])
        for words in (
            "numbers that could",
            "of them under the papers' own",
            "more at a small",
            "more, such as",
            "are lost",
            "have no result",
        )
    )
    assert total == full + small + counted + lost + none
    assert sum(map(int, re.findall(r"\d+", said[said.rindex("(") :]))) == none
    rows = ledger.rows()
    sets = rows[rows["status"].isin(ledger.FULL)]["reason"].str.extract(r"(\d+) of (\d+) sets").dropna()
    fewer = int((sets[0].astype(int) < sets[1].astype(int)).sum())
    assert ledger.incomplete() == fewer and (not fewer or f"{fewer} of these with fewer" in said)


def test_pages_and_commands_count_alike(monkeypatch, capsys):
    """A notebook's line, the list of experiments and the plan say what the ledger says."""
    status, out, _ = call(monkeypatch, capsys, "list", "experiments", "--json")
    assert status == 0
    listed = {line["name"]: line["cells"] for line in json.loads(out)}
    for name in reported.experiment_names():
        found, cells = ledger.counts_of(name), listed[name]
        assert cells["printed"] == sum(row["status"] != "others' entry" for row in reported.cells_of(name))
        assert cells["full"] == sum(found[s] for s in ledger.FULL)
        assert (cells["small"], cells["stand-in"], cells["underfit"]) == tuple(
            found[s] for s in (ledger.OWN, ledger.STAND_IN, "underfit")
        )
        outcome = engine.run(name, experiments.check_parameters(name, {}))
        if outcome.statuses:
            assert tables.counts(outcome) == ledger.sentence(found)
        kept = {p: {c for c in ledger._cells(name).values() if records.path(c, p).exists()} for p in ("small", "full")}
        for profile, cells in kept.items():
            params = experiments.check_parameters(name, {"profile": profile})
            planned = experiments.plan(name, params, list(cells))
            assert {s.state for s in planned} <= {"recorded", "partial", "stale"}, name
        missing = [c for c in ledger._cells(name).values() if c not in kept["full"]]
        assert not {s.state for s in experiments.plan(name, params, missing)} & {"recorded", "partial", "stale"}
    status, out, _ = call(monkeypatch, capsys, "list", "experiments")
    assert status == 0 and "of 138 full" in " ".join(out.split())


def test_a_selection_counts_its_own_cells(results):
    record().save("small")
    params = experiments.check_parameters(CELL.experiment, {"methods": ["DM", "Full data"], "datasets": ["MNIST"]})
    said = tables.counts(engine.run(CELL.experiment, params))
    assert said.splitlines() == [
        "0 of 4 cells measured at the paper's protocol.",
        "At a small budget: 1 on the paper's data.",
        "Not measured: 3 not run.",
    ]


def test_the_summary_counts_every_cell_once(results):
    record().save("small")
    summary = ledger.summary()
    assert (summary["cells"] + summary["others' entry"]).sum() == len(ledger.rows())
    statuses = summary.drop(columns=["table or figure", "cells", "others' entry", "page"])
    assert statuses.sum(axis=1).tolist() == summary["cells"].tolist()
    assert summary.set_index("page").loc[CELL.experiment, "small, own data"] == 1


def test_maps_hold_the_differences_in_the_layout_of_the_paper(results):
    assert ledger.maps("small") == {}
    record(accuracies=[90.0]).save("small")
    ((name, found),) = ledger.maps("small").items()
    assert name == CELL.experiment and found.shape == reported.matrix(name).shape
    assert found.loc["DM", ("MNIST", 10)] == pytest.approx(90 - reported.lookup(name, "DM", "MNIST", 10)["value"])
    assert found.notna().sum().sum() == 1


def test_what_follows_from_the_code_is_counted_not_measured():
    table = ledger.rows("uvit").set_index(["experiment", "data set", "quantity"])
    small = table.loc[("uvit/table1_configurations", "CIFAR100", "parameters")]
    assert (small["status"], small["counted"], small["full"], small["seconds"]) == (
        "counted from code",
        "44.307",
        "",
        "",
    )
    assert small["reason"].startswith("equal as printed")
    mid = table.loc[
        ("uvit/table1_configurations", "TinyImageNet", "parameters")
    ]  # the paper's 131 M are of 1000 classes, not of its 200
    assert (mid["status"], mid["counted"]) == ("counted from code", "130.326")
    assert mid["reason"].startswith("not equal") and "with 1000" in mid["reason"]
    others = table.loc["uvit/table1_configurations"].drop(index=("TinyImageNet", "parameters"))
    assert set(others["status"]) == {"counted from code"} and others["reason"].str.startswith("equal as printed").all()
    assert table.loc[("uvit/table2_fid", "CIFAR100", "sampling_steps"), "status"] == "counted from code"
    assert table.loc[("uvit/table2_fid", "CIFAR100", "fid"), "status"] == "not run"


def test_a_damaged_record_stops_the_ledger(results):
    from distill_lib.core.errors import UserError

    file = record().save("small")
    file.write_text(file.read_text().replace("97.5", "99.5"))
    with pytest.raises(UserError, match="changed since it was written"):
        ledger.rows()


def test_a_table_carries_itself_as_csv():
    frame = ledger.rows("uvit")
    html = tables.show(frame, 'All cells, a "table".', filters=["status"])._repr_html_()
    address = re.search(r'download="all-cells-a-table.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html)[1]
    lines = list(csv.reader(io.StringIO(base64.b64decode(address).decode())))
    assert lines[0] == [name for name in frame.columns if name != "cite"] and len(lines) == len(frame) + 1
    assert 'data-filters="status"' in html
    nested = tables.show(reported.matrix("skd/table1_accuracy"), "x")._repr_html_()
    head = base64.b64decode(re.search(r'base64,([^"]+)"', nested)[1]).decode().splitlines()[0]
    assert head.startswith('method,"MNIST, 1"')
