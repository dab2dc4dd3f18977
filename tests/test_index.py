"""The index: a row per record and nothing that the records do not say."""

import csv
import json
import math

import pytest
from test_cli import call
from test_records import CELL, record

from distill_lib import records
from distill_lib.core import paths
from distill_lib.records import Cell, export


def table(file):
    with open(file, newline="") as f:
        return list(csv.DictReader(f))


def test_every_row_is_what_its_record_says(tmp_path):
    """Of the records in this checkout, by the plainest reading of their files."""
    count, damaged = export.write(tmp_path / "index.csv")
    rows = table(tmp_path / "index.csv")
    files = [f for p in ("full", "small") for f in sorted(paths.results(p).rglob("*.json"))]
    assert damaged == [] and count == len(rows) == len(files) > 0
    for row, file in zip(rows, files, strict=True):
        body = json.loads(file.read_text())
        values = body["test_accuracy_pct"]
        mean = sum(values) / len(values)
        assert (
            paths.results("full").parent / row["record"] == file
            and row["profile"] == file.relative_to(paths.results("full").parent).parts[0]
        )
        assert float(row["test_accuracy_pct"]) == pytest.approx(mean, abs=1e-4)
        if len(values) > 1:
            assert float(row["std_pct"]) == pytest.approx(
                math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)), abs=1e-4
            )
        assert float(row["distill_seconds"]) == body["seconds"]["distill"] and int(row["networks"]) == len(values)
        cell = body["cell"]
        assert (row["experiment"], row["method"], row["dataset"], row["variant"]) == tuple(
            cell[k] for k in ("experiment", "method", "dataset", "variant")
        )
        sets, planned = len(set(body["sets"])), body["key"].get("num_sets")
        assert (int(row["sets"]), row["of_sets"]) == (sets, str(max(sets, planned)) if planned else "")
        losses = body["metrics"].get("train_loss")
        if losses and body["key"]["protocol"]["loss"] == "ce" and not body["key"]["protocol"]["cutmix"]:
            assert (row["underfit"] != "") == (
                sum(losses) / len(losses) > 0.6 * math.log(len(body["metrics"]["per_class_accuracy_pct"][0]))
            )
        assert row["ipc"] == str(cell["ipc"] or "all") and row["protocol"] == body["key"]["protocol"]["name"]
        assert row["commit"] == body["made_by"]["commit"] and row["device"] == body["made_by"]["device"]


def test_what_was_not_measured_is_empty(folders):
    record().save("small")
    full_data = Cell("skd/table1_accuracy", "DM", "FashionMNIST")
    record(
        cell=full_data, cpu_seconds={"distill": 1.5, "evaluate": 2.0}, joules={"distill": 10.0, "evaluate": 5.0}
    ).save("full")
    export.write(folders / "index.csv")
    full, small = table(folders / "index.csv")
    assert (full["ipc"], full["cpu_seconds"], full["joules"], full["test_accuracy_pct"], full["std_pct"]) == (
        "all",
        "3.5",
        "15.0",
        "70.875",
        "0.625",
    )
    assert (small["ipc"], small["cpu_seconds"], small["joules"], small["device"]) == ("10", "", "", "")


def test_a_damaged_record_has_no_row_and_is_named(folders, monkeypatch, capsys):
    record().save("small")
    other = Cell("skd/table1_accuracy", "DM", "MNIST", 10)
    records.path(other, "small").write_text(
        records.path(CELL, "small").read_text()
    )  # the same record under another cell's name
    edited = record(cell=Cell("skd/table1_accuracy", "DM", "MNIST", 1)).save("small")
    edited.write_text(edited.read_text().replace("71.5", "99.5"))
    status, out, err = call(monkeypatch, capsys, "index")
    assert (
        status == 2
        and "1 records" in out
        and "2 records have no row" in err
        and "checksum differs" in err
        and "another cell" in err
    )
    assert [row["test_accuracy_pct"] for row in table(folders / "runs" / "index.csv")] == ["70.875"]


def test_the_index_is_where_the_command_is_told_to_put_it(folders, monkeypatch, capsys):
    record().save("small")
    status, out, _ = call(monkeypatch, capsys, "index", "--output", str(folders / "here" / "table.csv"))
    assert status == 0 and len(table(folders / "here" / "table.csv")) == 1 and "1 records" in out
