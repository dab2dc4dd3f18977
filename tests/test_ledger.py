"""The ledger has every printed cell, with a status and a reason, and says of numbers only what the records say."""

import base64
import csv
import io
import re

import pytest

from distill_lib import ledger, paths, records, reported, tables
from distill_lib.records import Cell, Record

CELL = Cell("skd/table1_accuracy", "DM", "MNIST", 10, "ConvNet", "vico_dsa")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))


def record(cell=CELL, accuracies=(97.5, 97.3, 97.4), dataset="MNIST"):
    key = {"dataset": dataset, "protocol": {"name": "vico_dsa@100ep"}}
    return Record(cell, list(accuracies), [0] * len(accuracies), key, seconds={"distill": 20.0, "evaluate": 10.4}, memory_mb=512.0)


def line(cell=CELL):
    table = ledger.rows("skd")
    found = table[(table["experiment"] == cell.experiment) & (table["method"] == cell.method)]
    return found[(found["data set"] == cell.dataset) & (found["IPC"] == cell.ipc)].iloc[0]


def test_every_printed_cell_has_a_status_and_a_reason():
    table = ledger.rows()
    assert len(table) == sum(len(reported.cells_of(name)) for name in reported.experiments())
    assert set(table["status"]) <= set(ledger.STATUSES) and table["reason"].str.len().min() > 0
    printed = [row["text"] for name in reported.experiments() for row in reported.cells_of(name)]
    assert table["published"].tolist() == printed


def test_every_record_of_a_printed_cell_is_in_the_ledger():
    from distill_lib import experiment

    printed = {
        (p, r.cell)
        for p in ("full", "small")
        for f in sorted(paths.results(p).rglob("*.json"))
        if experiment.experiment((r := records.read(f)).cell.experiment).printed(r.cell)
    }
    table = ledger.rows()
    shown = table[table["seconds"] != ""].shape[0]
    cells = {(p, c) for name in reported.experiments() for c in ledger._cells(name).values() for p in ("full", "small") if records.path(c, p).exists()}
    assert printed == cells and shown >= len({c for _, c in printed})


def test_a_cell_that_was_never_measured_says_what_stands_in_the_way(results):
    table = ledger.rows()
    assert line()["status"] == "not run" and "full budget" in line()["reason"]
    lost = table[table["published"] == reported.LOST]
    assert set(lost["status"]) == {"source lost"}
    assert table[(table["data set"] == "ImageIDC")]["status"].unique().tolist() == ["data not free"]
    assert "data not free" not in set(table[table["data set"].isin(ledger.FREE)]["status"])


def test_a_reduced_budget_is_never_compared(results):
    record(accuracies=(97.3, 97.3)).save("small")
    found = line()
    assert found["status"] == "budget" and found["compared"] == "" and "vico_dsa@100ep" in found["reason"]
    assert (found["small"], found["full"], found["seconds"], found["memory MB"]) == ("97.3 ± 0.0", "", 30, 512)
    assert found["difference"] == f"{97.3 - reported.lookup(CELL.experiment, 'DM', 'MNIST', 10)['value']:+.1f}"


def test_a_stand_in_has_no_difference(results):
    record(dataset="FashionMNIST").save("small")
    assert line()["status"] == "stand-in" and line()["difference"] == "" and "FashionMNIST in place of MNIST" in line()["reason"]


@pytest.mark.parametrize(("shift", "status"), [(0.0, "matched"), (-20.0, "differs")])
def test_a_full_record_is_tested_for_equality(results, shift, status):
    value = reported.lookup(CELL.experiment, "DM", "MNIST", 10)["value"] + shift
    record(accuracies=[value + d for d in (-0.05, 0.0, 0.05, 0.02, -0.02)]).save("full")
    assert line()["status"] == status and line()["compared"]
    assert ledger.progress("skd").startswith("1 of ")


def test_one_network_decides_nothing(results):
    record(accuracies=[97.3]).save("full")
    assert line()["status"] == "undecided"


def test_the_summary_counts_every_cell_once(results):
    record().save("small")
    summary = ledger.summary()
    assert summary["cells"].sum() == len(ledger.rows())
    assert summary.drop(columns=["table or figure", "cells"]).sum(axis=1).tolist() == summary["cells"].tolist()
    assert summary.set_index("table or figure").loc[CELL.experiment, "budget"] == 1


def test_maps_hold_the_differences_in_the_layout_of_the_paper(results):
    assert ledger.maps("small") == {}
    record(accuracies=[90.0]).save("small")
    (name, found), = ledger.maps("small").items()
    assert name == CELL.experiment and found.shape == reported.matrix(name).shape
    assert found.loc["DM", ("MNIST", 10)] == pytest.approx(90 - reported.lookup(name, "DM", "MNIST", 10)["value"])
    assert found.notna().sum().sum() == 1


def test_what_follows_from_the_code_is_counted_not_measured():
    table = ledger.rows("uvit").set_index(["experiment", "data set", "quantity"])
    small = table.loc[("uvit/table1_configurations", "CIFAR100", "parameters")]
    assert (small["status"], small["full"], small["seconds"]) == ("matched", "44.307", "")
    mid = table.loc[("uvit/table1_configurations", "TinyImageNet", "parameters")]  # the paper's 131 M are of 1000 classes, not of its 200
    assert (mid["status"], mid["full"]) == ("differs", "130.326") and "with 1000" in mid["reason"]
    others = table.loc["uvit/table1_configurations"].drop(index=("TinyImageNet", "parameters"))
    assert set(others["status"]) == {"matched"}
    assert table.loc[("uvit/table2_fid", "CIFAR100", "sampling_steps"), "status"] == "matched"
    assert table.loc[("uvit/table2_fid", "CIFAR100", "fid"), "status"] == "not run"


def test_a_damaged_record_stops_the_ledger(results):
    from distill_lib.errors import UserError

    file = record().save("small")
    file.write_text(file.read_text().replace("97.5", "99.5"))
    with pytest.raises(UserError, match="changed since it was written"):
        ledger.rows()


def test_a_table_carries_itself_as_csv():
    frame = ledger.rows("uvit")
    html = tables.show(frame, "All cells, a \"table\".", filters=["status"])._repr_html_()
    address = re.search(r'download="all-cells-a-table.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', html)[1]
    lines = list(csv.reader(io.StringIO(base64.b64decode(address).decode())))
    assert lines[0] == list(frame.columns) and len(lines) == len(frame) + 1
    assert 'data-filters="status"' in html
    nested = tables.show(reported.matrix("skd/table1_accuracy"), "x")._repr_html_()
    head = base64.b64decode(re.search(r'base64,([^"]+)"', nested)[1]).decode().splitlines()[0]
    assert head.startswith('method,"MNIST, 1"')
