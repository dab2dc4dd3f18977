"""Tables: the paper's number and ours side by side, never mixed, never invented."""

import base64
import dataclasses

import pandas as pd
import pytest

from distill_lib import experiments, figures, records, tables
from distill_lib.core.errors import UserError
from distill_lib.experiments import engine, registry
from distill_lib.experiments.papers import skd
from distill_lib.experiments.papers.skd import TABLE1
from distill_lib.records import Cell, Record


@pytest.fixture
def outcome(tmp_path, monkeypatch):
    """Recorded results: DM at full and small, Random at small under both protocols, full data at small."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))

    def put(profile, values, method, dataset="FashionMNIST", ipc=10, protocol="vico_dsa"):
        key = {"dataset": dataset, "protocol": {"name": protocol + ("" if profile == "full" else "@9ep")}}
        Record(
            Cell(TABLE1, method, dataset, ipc, protocol=protocol),
            values,
            [0] * len(values),
            key,
            seconds={"distill": 2.0},
        ).save(profile)

    put("full", [83.6, 83.4, 83.8], "DM")
    put("small", [70.0, 72.0], "DM")
    put("small", [60.0, 60.0], "Random", protocol="vico_noaug")
    put("small", [65.0, 65.0], "Random")
    put("small", [90.0], "Full data", ipc=None)
    params = experiments.check_parameters(
        TABLE1, {"methods": ["Random", "DM", "SKD", "Full data"], "datasets": ["FashionMNIST"]}
    )
    return engine.run(TABLE1, params)


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
    dataclasses.replace(
        record, metrics={"kernel_accuracy_pct": [61.25]}, key={**record.key, "network": "FRePoConvW32"}
    ).save("small")
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
    assert "not-run" in tables.show(tables.grid(outcome))._repr_html_()


def test_details_say_how_many_of_the_sets_were_measured(outcome):
    cell = Cell(TABLE1, "DM", "FashionMNIST", 10)
    record = records.load(cell, "full")
    dataclasses.replace(record, sets=[0, 0, 1], key={**record.key, "num_sets": 5}).save("full")
    row = tables.details(outcome).set_index(["method", "profile"]).loc[("DM", "full")]
    assert row["networks"] == "2 of 5 sets x 1 to 2 networks" and row["verdict"] == "undecided"
    assert tables.grid(outcome)["FashionMNIST", "IPC 10"].loc["DM"].tolist()[1] == "83.6 ± 0.2 (2 of 5 sets)"


# --- numbers for figures ----------------------------------------------------------------------------------------------
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
    assert experiments.paper_data(cell) == "ImageNette@224px"
    for profile, data in (("small", "ImageNette@64px"), ("full", "ImageNette@224px")):
        Record(cell, [50.0], [0], {"dataset": data, "protocol": {"name": "minimax_imagenet"}}).save(profile)
    outcome = engine.run(name, experiments.check_parameters(name, {"methods": ["DGS"], "datasets": ["ImageNette"]}))
    found = panels(tables.points(outcome))
    start = "ImageNette, IPC 10\n"
    assert list(found) == [f"{start}paper and ours, full", f"{start}ours, small; stand-in ImageNette at 64 px"]
    assert found[f"{start}ours, small; stand-in ImageNette at 64 px"] == [("ours, small", "ImageNette@64px", 50.0)]
    records.path(cell, "full").unlink()
    found = panels(tables.points(outcome))
    assert list(found) == [f"{start}paper, ImageNette at 224 px", f"{start}ours, small; stand-in ImageNette at 64 px"]
    assert len(figures.paper_and_ours(tables.points(outcome)).axes) == 2


@pytest.mark.parametrize(
    "name", [n for n, e in registry.experiments().items() if e.cells(experiments.check_parameters(n, {}))]
)
@pytest.mark.parametrize("panel", ["dataset", "network"])
def test_recorded_numbers_that_do_not_compare_never_share_a_panel(name, panel):
    frame = tables.marks(engine.run(name, experiments.check_parameters(name, {})), panel=panel)
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
    html = tables.show(
        pd.DataFrame({"name": ["a"], "what": ["a sentence of many words that has to wrap"]})
    )._repr_html_()
    assert '<th scope="col">name</th>' in html and '<th class="text" scope="col">what</th>' in html
    assert '<td class="text">a sentence' in html


def test_columns_without_a_number_of_ours_are_folded_behind_those_that_have_one(outcome):
    frame = tables.grid(outcome)
    assert list(dict.fromkeys(frame.columns.get_level_values(1)))[0] == "IPC 10"
    shown, folded = tables.show(frame)._repr_html_().split("<details>")
    assert "IPC 10" in shown and "IPC 50" not in shown and "IPC 50" in folded and "ours, small" not in folded


@pytest.mark.parametrize("below", [1, 3])
def test_rows_without_a_number_are_folded_below_the_others_and_stay_in_the_download(below):
    frame = pd.DataFrame({"claim": ["one", "two", "three"]})
    frame.attrs["folded"] = below, f"{below} planned"
    html = tables.show(frame, "Claims.")._repr_html_()
    shown, folded = html.split("<details>")
    assert [name in shown for name in frame["claim"]] == [at < 3 - below for at in range(3)]
    assert all(name in folded for name in frame["claim"][3 - below :]) and f"<summary>{below} planned" in folded
    assert html.count("Claims.") == 1
    table = base64.b64decode(html.partition("base64,")[2].partition('"')[0]).decode()
    assert table.split() == ["claim", "one", "two", "three"]


def test_every_row_of_costs_has_an_address_what_to_copy_and_its_record(outcome):
    rows = tables.details(outcome)
    row = rows.set_index(["method", "profile"]).loc[("DM", "small")]
    assert row["address"] == "dm_fashionmnist_ipc10_convnet_vico-dsa-small" and rows["address"].is_unique
    assert row["cite"].startswith("71.00 ± 1.00 % test accuracy; DM, FashionMNIST, IPC 10; budget small; vico_dsa@9ep;")
    html = tables.show(rows)._repr_html_()
    assert f'<tr id="{row["address"]}">' in html and f'data-copy="{row["cite"]}"' in html
    assert f"records/small/{TABLE1}/dm_fashionmnist_ipc10_convnet_vico-dsa.html" in html
    assert 'class="more"' in html and "9 more columns" not in html  # the unused ones are not there
    assert row["cite"] not in html.split("base64,")[1]


def test_a_table_without_rows_is_its_caption_alone():
    assert (
        tables.show(pd.DataFrame(columns=["a"]), "0 of 3 cells & none.")._repr_html_()
        == "<p>0 of 3 cells &amp; none.</p>"
    )


def test_what_was_made_once_for_several_cells_stands_beside_the_seconds(outcome):
    assert "shared" not in tables.details(outcome)
    record = records.load(Cell(TABLE1, "DM", "FashionMNIST", 10), "small")
    dataclasses.replace(record, shared={"generator cgan": {"seconds": 1234.5}}).save("small")
    row = tables.details(outcome).set_index(["method", "profile"]).loc[("DM", "small")]
    assert row["shared"] == "generator cgan: 1,234 s" and row["seconds"] == 2


def test_networks_that_are_not_trained_have_no_mark_and_no_number_in_any_table(outcome):
    cell = Cell(TABLE1, "DM", "FashionMNIST", 10)
    dataclasses.replace(records.load(cell, "small"), metrics={"train_loss": [2.2, 2.2]}).save("small")
    small = tables.points(outcome).query("who == 'ours, small'")
    assert "DM" not in set(small["method"]) and "Random" in set(small["method"])
    across = tables.across(outcome, "dataset")["FashionMNIST", "ours, small"]
    assert across["DM"] == "underfit"


def test_a_damaged_record_is_not_shown(outcome):
    file = records.path(Cell(TABLE1, "DM", "FashionMNIST", 10), "full")
    file.write_text(file.read_text().replace("83.6", "99.9"))
    with pytest.raises(UserError, match="changed since it was written"):
        tables.grid(outcome)


# --- ranks under one protocol -----------------------------------------------------------------------------------------
def test_an_interval_is_of_sets_where_there_are_several_else_of_networks():
    three_sets = [
        50.0,
        52.0,
        60.0,
        62.0,
        55.0,
        57.0,
    ]  # means 51, 61, 56; Student's t at 2 degrees of freedom is 4.302653
    mean, low, high = tables.mean_interval(three_sets, [0, 0, 1, 1, 2, 2])
    assert (mean, low, high) == pytest.approx((56.0, 56 - 4.302653 * 5 / 3**0.5, 56 + 4.302653 * 5 / 3**0.5), abs=1e-4)
    mean, low, high = tables.mean_interval([70.0, 72.0], [0, 0])  # 12.706205 at 1
    assert (mean, low, high) == pytest.approx((71.0, 71 - 12.706205, 71 + 12.706205), abs=1e-4)
    assert tables.mean_interval([1.0, 99.0], [0, 0])[1:] == (0.0, 100.0)  # no accuracy lies outside
    mean, low, high = tables.mean_interval([70.0], [0])
    assert mean == 70.0 and low != low and high != high


def test_ranks_are_shared_where_intervals_overlap():
    nan = float("nan")
    assert tables.rank_ranges([80, 60, 55, 40], [90, 70, 65, 50]) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert tables.rank_ranges([80, 70, 60], [90, 85, 72]) == [(1, 2), (1, 3), (2, 3)]  # overlaps are not handed on
    assert tables.rank_ranges([80, nan, 60], [90, nan, 70]) == [(1, 2), (1, 3), (2, 3)]
    assert tables.rank_ranges([], []) == []


@pytest.fixture
def fair(tmp_path, monkeypatch):
    """Fair cells of FashionMNIST: full and small, one of another budget, one of a stand-in; a single network."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))

    def put(profile, values, method, ipc=1, sets=None, protocol="vico_dsa", epochs=300, data="FashionMNIST"):
        budget = None if profile == "full" else epochs
        rules = {"name": protocol + (f"@{epochs}ep" if budget else ""), "epochs": 1000, "budget": budget}
        key = {"dataset": data, "protocol": rules, "network": "ConvNet"}
        Record(
            Cell(TABLE1, method, "FashionMNIST", ipc, protocol=protocol), values, sets or [0] * len(values), key
        ).save(profile)

    put("full", [83.6, 83.4, 83.8], "DM")
    put("small", [70.0, 70.2, 70.4], "DM")
    put("small", [70.1, 70.3, 70.5], "MTT")
    put("small", [60.0, 60.2, 60.4], "FRePo", protocol="vico_dsa+mse")
    put("small", [65.0, 65.2, 65.4], "FRePo")
    put("small", [50.0, 50.2, 40.0, 40.2, 45.0, 45.2], "Random", sets=[0, 0, 1, 1, 2, 2])
    put("small", [99.0, 99.1], "DSA", epochs=9)
    put("small", [98.0, 98.1], "CAFE", data="FashionMNIST-mini")
    put("small", [50.0], "DM", ipc=10, epochs=100)
    put("small", [10.0, 11.0], "KIP", protocol="vico_dsa+mse")
    params = experiments.check_parameters(skd.RANKING, {"datasets": ["FashionMNIST"]})
    return engine.run(TABLE1, params, skd.fair_cells(params))


def test_a_ranking_never_mixes_profiles_budgets_or_data(fair):
    frame = tables.ranking(fair, skd.labels)
    best = frame.dropna(subset="mean").groupby(["profile", "data", "IPC", "budget"], sort=False)
    ours = {group: list(part["method"]) for group, part in best}
    assert ours == {
        ("full", "FashionMNIST", 1, "1000 epochs"): ["DM"],
        ("small", "FashionMNIST", 1, "300 epochs"): ["MTT", "DM", "FRePo", "FRePo", "Random"],
        ("small", "FashionMNIST", 1, "9 epochs"): ["DSA"],
        ("small", "FashionMNIST-mini", 1, "300 epochs"): ["CAFE"],
        ("small", "FashionMNIST", 10, "100 epochs"): ["DM"],
    }
    main = frame[(frame["profile"] == "small") & (frame["budget"] == "300 epochs") & (frame["data"] == "FashionMNIST")]
    assert len(main) == len([s for s in fair if s.cell.ipc == 1])  # what was not run stands in the list too
    plain = {
        (m, x): (mean, low, high, first, last)
        for m, x, mean, low, high, first, last in main[["method", "labels", "mean", "low", "high", "first", "last"]]
        .dropna()
        .values.tolist()
    }
    for mean, low, high, first, last in plain.values():  # a plain count
        assert first == 1 + sum(other[1] > high for other in plain.values()) and last == len(plain) - sum(
            other[2] < low for other in plain.values()
        )
        assert low < mean < high
    assert plain["DM", "hard"][3:] == plain["MTT", "hard"][3:] == (1, 2)
    assert (
        plain["FRePo", "arg-max of learned"][3:] == (3, 3)
        and plain["FRePo", "learned"][3:] == (4, 4)
        and plain["Random", "hard"][3:] == (5, 5)
    )


def test_a_ranking_says_what_its_intervals_are_of_and_lists_what_was_not_run(fair):
    frame = tables.ranking(fair, skd.labels)
    shown = tables.ranked(frame[frame["profile"] == "small"]).set_index(["data", "IPC", "budget", "method", "labels"])
    random = shown.loc["FashionMNIST", 1, "300 epochs", "Random", "hard"]
    assert (random["rank"], random["ours"], random["interval of"], random["measured on"]) == (
        "5",
        "45.1",
        "sets",
        "3 sets × 2 networks",
    )
    dm = shown.loc["FashionMNIST", 1, "300 epochs", "DM", "hard"]
    assert (dm["rank"], dm["interval of"], dm["measured on"]) == ("1–2", "networks only", "1 set × 3 networks")
    single = shown.loc["FashionMNIST", 10, "100 epochs", "DM", "hard"]
    assert (single["rank"], single["95 % interval"]) == ("only row", "none")
    assert single["measured on"] == "1 set × 1 network"
    rows = shown.reset_index()
    assert set(rows.loc[rows["method"] == "SKD", "rank"]) == {"not run"}
    assert rows.loc[rows["method"] == "every row", ["IPC", "rank"]].values.tolist() == [[50, "not run"]]
    assert rows.loc[rows["rank"] == "underfit", ["method", "labels", "ours"]].values.tolist() == [
        ["KIP", "learned", ""]
    ]
    html = tables.show(tables.ranked(frame), "Ranks.", filters=["data"])._repr_html_()
    assert "not-run" in html and "nan" not in html.lower()


def test_protocols_are_compared_on_the_sets_that_both_have(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    for protocol, values, sets in (("vico_noaug", [10.0, 20.0, 60.0], [0, 1, 2]), ("vico_dsa", [22.0, 24.0], [1, 1])):
        key = {"dataset": "MNIST", "protocol": {"name": f"{protocol}@9ep", "budget": 9}, "network": "ConvNet"}
        Record(Cell(TABLE1, "Random", "MNIST", 1, protocol=protocol), values, sets, key).save("small")
    outcome = engine.run(TABLE1, experiments.check_parameters(TABLE1, {"datasets": ["MNIST"], "ipcs": [1]}))
    ((budget, frame),) = tables.under_protocols(outcome).items()
    assert budget == "small, 9 epochs"
    assert frame.iloc[0, 3:].to_dict() == {"vico_noaug@9ep": "20.0 (1 x 1)", "vico_dsa@9ep": "23.0 ± 1.0 (1 x 2)"}


def test_the_ranking_figure_has_a_panel_where_rows_can_be_compared_and_a_line_at_random(fair):
    table = tables.ranking(fair, skd.labels)
    sizes = table.dropna(subset="mean").groupby(["profile", "data", "IPC", "budget"]).size()
    figure = figures.ranking(table)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert len(sizes) == 5 and len(panels) == (sizes > 1).sum() == 1  # a row that is alone has no rank
    main = panels["FashionMNIST, IPC 1\nsmall, 300 epochs"]
    names = [t.get_text() for t in main.get_yticklabels()]
    assert names == ["MTT", "DM", "FRePo, arg-max of learned", "FRePo, learned", "Random"]
    dashed = [line.get_xdata()[0] for line in main.lines if line.get_linestyle() == "--"]
    assert dashed == pytest.approx([45.1])
    dotted = [bars.get_linestyle()[0][1] is not None for bars in main.collections]
    assert dotted == [True, True, True, True, False]  # bars of networks alone, and of Random's three sets
    assert figures.ranking(table[table["method"] == "Random"]).axes  # one row is better than no figure
    (axis,) = figures.ranking(table[table["method"] != "Random"]).axes
    assert "--" not in {line.get_linestyle() for line in axis.lines}
