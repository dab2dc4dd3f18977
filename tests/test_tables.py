"""Tables: the paper's number and ours side by side, never mixed, never invented."""

import dataclasses

import pandas as pd
import pytest

from distill_lib import experiment, figures, records, tables
from distill_lib.errors import UserError
from distill_lib.experiments.skd import TABLE1
from distill_lib.records import Cell, Record


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    """Recorded results: DM at full and small, Random at small under both protocols, full data at small."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))

    def put(profile, values, method, dataset="FashionMNIST", ipc=10, protocol="vico_dsa"):
        key = {"dataset": dataset, "protocol": {"name": protocol + ("" if profile == "full" else "@9ep")}}
        Record(Cell(TABLE1, method, dataset, ipc, protocol=protocol), values, [0] * len(values), key, seconds={"distill": 2.0}).save(profile)

    put("full", [83.6, 83.4, 83.8], "DM")
    put("small", [70.0, 72.0], "DM")
    put("small", [60.0, 60.0], "Random", protocol="vico_noaug")
    put("small", [65.0, 65.0], "Random")
    put("small", [90.0], "Full data", ipc=None)
    params = experiment.check_parameters(TABLE1, {"methods": ["Random", "DM", "SKD", "Full data"], "datasets": ["FashionMNIST"]})
    return experiment.run(TABLE1, params)


def test_each_profile_has_columns_of_its_own(outcome):
    frame = tables.grid(outcome)
    at10 = frame["FashionMNIST", "IPC 10"]
    assert list(at10.columns) == ["paper", "ours, full", "ours, small"]
    assert at10.loc["DM"].tolist() == ["83.6 ± 0.2", "83.6 ± 0.2", "71.0 ± 1.0"]
    assert at10.loc["SKD"].tolist() == ["89.0 ± 0.5", "not run", "not run"]
    assert list(frame["FashionMNIST", "IPC 50"].columns) == ["paper"]


def test_a_second_protocol_is_a_row_without_a_printed_number(outcome):
    at10 = tables.grid(outcome)["FashionMNIST", "IPC 10"]
    assert at10.loc["Random"].tolist() == ["73.8 ± 0.7", "not run", "60.0 ± 0.0"]
    assert at10.loc["Random (vico_dsa)"].tolist() == ["", "not run", "65.0 ± 0.0"]


def test_differences_compare_equal_protocols_and_verdicts_full_budgets_only(outcome):
    rows = tables.details(outcome)
    by = {(r["method"], r["protocol"]): r for _, r in rows.iterrows()}
    assert (by["DM", "vico_dsa"]["difference"], by["DM", "vico_dsa"]["verdict"]) == ("+0.0", "matched")
    assert (by["DM", "vico_dsa@9ep"]["difference"], by["DM", "vico_dsa@9ep"]["verdict"]) == ("-12.6", "small, own data")
    assert (by["Random", "vico_dsa@9ep"]["paper"], by["Random", "vico_dsa@9ep"]["difference"]) == ("", "")


def test_kernel_and_network_accuracy_are_columns_of_their_own_where_a_record_has_both(outcome):
    assert "kernel regression" not in tables.details(outcome).columns
    cell = Cell(TABLE1, "DM", "FashionMNIST", 10)
    record = records.load(cell, "small")
    dataclasses.replace(record, metrics={"kernel_accuracy_pct": [61.25]}, key={**record.key, "network": "FRePoConvW32"}).save("small")
    row = tables.details(outcome).set_index(["method", "profile"]).loc[("DM", "small")]
    assert (row["ours"], row["kernel regression"], row["network"]) == ("71.0 ± 1.0", "61.2", "FRePoConvW32")


def test_counts_are_of_printed_cells(outcome):
    first, small, missing = tables.counts(outcome).splitlines()
    assert first == "1 of 10 cells measured at the paper's protocol (1 matched)."
    assert small == "At a small budget: 2 on the paper's data." and missing == "Not measured: 7 not run."


def test_networks_that_are_not_trained_are_marked_in_place_of_a_number(outcome):
    cell = Cell(TABLE1, "DM", "FashionMNIST", 10)
    for profile in ("small", "full"):
        dataclasses.replace(records.load(cell, profile), metrics={"train_loss": [2.2, 2.2]}).save(profile)
    at10 = tables.grid(outcome)["FashionMNIST", "IPC 10"]
    assert at10.loc["DM"].tolist() == ["83.6 ± 0.2", "83.6 ± 0.2", "underfit"]
    row = tables.details(outcome).set_index(["method", "profile"]).loc[("DM", "small")]
    assert (row["verdict"], row["difference"]) == ("underfit", "")
    assert 'not-run' in tables.show(tables.grid(outcome))._repr_html_()


def test_details_say_how_many_of_the_sets_were_measured(outcome):
    cell = Cell(TABLE1, "DM", "FashionMNIST", 10)
    record = records.load(cell, "full")
    dataclasses.replace(record, sets=[0, 0, 1], key={**record.key, "num_sets": 5}).save("full")
    row = tables.details(outcome).set_index(["method", "profile"]).loc[("DM", "full")]
    assert row["networks"] == "2 of 5 sets x 1 to 2 networks" and row["verdict"] == "undecided"
    assert tables.grid(outcome)["FashionMNIST", "IPC 10"].loc["DM"].tolist()[1] == "83.6 ± 0.2 (2 of 5 sets)"


# --- numbers for figures -----------------------------------------------------------------------------------------------
def panels(frame):
    """Panel -> who, on which data, at which values."""
    rows = frame.assign(value=frame["value"].round(6)).groupby("panel", sort=False)
    return {name: [tuple(p) for p in part[["who", "data", "value"]].values] for name, part in rows}


def test_a_figure_gets_the_panels_that_have_a_number_of_ours_and_each_budget_in_its_own(outcome):
    at10 = {name.removeprefix("FashionMNIST, IPC 10\n"): part for name, part in panels(tables.points(outcome)).items()}
    assert list(at10) == ["paper and ours, full", "paper and ours, small"]
    paper = [("paper", "FashionMNIST", v) for v in (73.8, 83.6, 89.0)]
    assert sorted(at10["paper and ours, full"]) == sorted([*paper, ("ours, full", "FashionMNIST", 83.6)])
    ours = [("ours, small", "FashionMNIST", v) for v in (60.0, 71.0)]  # under each row's own protocol
    assert sorted(at10["paper and ours, small"]) == sorted([*paper, *ours])


def test_a_stand_in_has_panels_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    name = "dgs/table2_subsets"
    cell = Cell(name, "DGS", "ImageNette", 10, "ResNetAP-10", "minimax_imagenet")
    assert tables.paper_data(cell) == "ImageNette@224px"
    for profile, data in (("small", "ImageNette@64px"), ("full", "ImageNette@224px")):
        Record(cell, [50.0], [0], {"dataset": data, "protocol": {"name": "minimax_imagenet"}}).save(profile)
    outcome = experiment.run(name, experiment.check_parameters(name, {"methods": ["DGS"], "datasets": ["ImageNette"]}))
    found = panels(tables.points(outcome))
    start = "ImageNette, IPC 10\n"
    assert list(found) == [f"{start}paper and ours, full", f"{start}ours, small; stand-in ImageNette at 64 px"]
    assert found[f"{start}ours, small; stand-in ImageNette at 64 px"] == [("ours, small", "ImageNette@64px", 50.0)]
    records.path(cell, "full").unlink()
    found = panels(tables.points(outcome))
    assert list(found) == [f"{start}paper, ImageNette at 224 px", f"{start}ours, small; stand-in ImageNette at 64 px"]
    assert len(figures.paper_and_ours(tables.points(outcome)).axes) == 2


@pytest.mark.parametrize("name", [n for n, e in experiment.experiments().items() if e.cells(experiment.check_parameters(n, {}))])
@pytest.mark.parametrize("panel", ["dataset", "network"])
def test_recorded_numbers_that_do_not_compare_never_share_a_panel(name, panel):
    frame = tables.marks(experiment.run(name, experiment.check_parameters(name, {})), panel=panel)
    for _, part in frame.groupby("panel"):
        assert part["data"].nunique() == 1 and part.loc[part["who"] != "paper", "who"].nunique() <= 1


def test_a_figure_refuses_numbers_that_do_not_compare():
    def point(who, data):
        return {"panel": "ConvNet", "method": "SKD", "who": who, "data": data, "value": 70.0, "std": 0.0}

    both = pd.DataFrame([point("paper", "CIFAR10"), point("ours, small", "FashionMNIST")])
    with pytest.raises(UserError, match="panel 'ConvNet' .*data sets.*: CIFAR10 and FashionMNIST"):
        figures.paper_and_ours(both)
    both = pd.DataFrame([point("ours, full", "CIFAR10"), point("ours, small", "CIFAR10")])
    with pytest.raises(UserError, match="budgets.*: ours, full and ours, small"):
        figures.paper_and_ours(both)
    axis = figures.paper_and_ours(pd.DataFrame([point("paper", "CIFAR10"), point("ours, small", "CIFAR10")])).axes[0]
    assert axis.get_title() == "ConvNet" and len(axis.containers) == 2


def test_html_marks_columns_escapes_text_and_names_itself(outcome):
    html = tables.show(tables.grid(outcome), "accuracy <percent>")._repr_html_()
    assert "accuracy &lt;percent&gt;" in html and "not-run" in html and 'role="region"' in html


def test_long_texts_and_their_headings_stand_on_the_left():
    html = tables.show(pd.DataFrame({"name": ["a"], "what": ["a sentence of many words that has to wrap"]}))._repr_html_()
    assert 'col0" >name' in html and 'col1 text" >what' in html and 'col1 text" >a sentence' in html


def test_a_damaged_record_is_not_shown(outcome):
    file = records.path(Cell(TABLE1, "DM", "FashionMNIST", 10), "full")
    file.write_text(file.read_text().replace("83.6", "99.9"))
    with pytest.raises(Exception, match="changed since it was written"):
        tables.grid(outcome)
