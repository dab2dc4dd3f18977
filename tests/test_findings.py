"""Sentences about results follow from the records, say what is inside the spread, and say what was not measured."""

import dataclasses
import re
from dataclasses import replace

import pytest

from distill_lib import experiments
from distill_lib.core.errors import UserError
from distill_lib.records import Cell, Record
from distill_lib.tables import findings

T1, DIM = "skd/table1_accuracy", "dim"


def made(cell, *values, sets=None, **metrics):
    """A record of the small budget with these accuracies."""
    this = experiments.experiment(cell.experiment)
    key = this.task(cell, experiments.check_parameters(cell.experiment, {"profile": "small"})).key
    loss = [0.5] * len(values)
    return Record(cell, list(values), sets or [0] * len(values), key, {"train_loss": loss, **metrics})


def skd_column(protocol=DIM, **values):
    names = {"CGAN": "CGAN", "DiM": "DiM", "plain": "SKD (no standardisation)", "SKD": "SKD"}
    cells = {name: Cell(T1, names[name], "FashionMNIST", 10, "ConvNet", protocol) for name in values}
    return {cells[name]: made(cells[name], v - 0.1, v, v + 0.1) for name, v in values.items()}


def woof(method, ipc, *values, network="ConvNet-6"):
    cell = Cell("dgs/table1_imagewoof", method, "ImageWoof", ipc, network, "minimax_imagenet")
    return {cell: made(cell, *values)}


# --- one record, two records ------------------------------------------------------------------------------------------
def test_a_difference_is_judged_by_the_deviation_over_networks():
    cells = [Cell(T1, name, "FashionMNIST", 10, "ConvNet", DIM) for name in ("SKD", "CGAN")]
    wide, narrow = made(cells[0], 68.0, 72.0), made(cells[1], 71.9, 72.1)  # deviations 2.0 and 0.1
    assert findings.verdict(wide, narrow) == "inside"
    assert findings.verdict(made(cells[0], 69.9, 70.1), narrow) == "below"
    assert findings.verdict(narrow, made(cells[0], 69.9, 70.1)) == "above"
    assert findings.verdict(made(cells[0], 50.0), narrow) == "no spread"
    three = [made(cell, v - 0.1, v, v + 0.1, sets=[0, 1, 2]) for cell, v in zip(cells, (68.0, 72.0), strict=True)]
    assert findings.versus("SKD", three[0], "CGAN", three[1]) == "SKD is 4.0 points below CGAN, outside the spread"
    assert findings.versus("SKD", three[0], "CGAN", narrow).endswith("outside the spread of networks")  # of one set


def test_few_test_images_leave_a_spread_of_their_own():
    (one,), (other,) = (woof(name, 10, v, v).values() for name, v in (("DGS", 10.0), ("Random", 12.0)))
    assert findings.deviation(one) == pytest.approx(100 * (0.1 * 0.9 / 500) ** 0.5)  # 50 test images of ten classes
    assert findings.verdict(one, other) == "inside"
    assert findings.versus("A", other, "B", one) == "A is 2.0 points above B, inside the spread of networks"


@pytest.mark.parametrize(
    "cell, trained, whole",
    [
        (Cell("skd/table2_cross_architecture", "SKD", "CIFAR10", 10, "ResNet18", DIM), "dim@30ep", (60, 2_000)),
        (
            Cell("dgs/table1_imagewoof", "DGS", "ImageWoof", 10, "ConvNet-6", "minimax_imagenet"),
            "minimax_imagenet@60ep",
            (120, 4_000),
        ),
        (Cell(T1, "Random", "MNIST", 1, "ConvNet", "vico_noaug"), "vico_noaug@300ep", (301, 1_001)),
    ],
)
def test_steps_are_those_of_the_protocol_with_and_without_its_budget(cell, trained, whole):
    record = made(cell, 50.0)
    budget = record.key["protocol"]["name"]
    scale = int(budget.rpartition("@")[2][:-2]) / int(trained.rpartition("@")[2][:-2])  # the budget may be raised
    assert findings.steps(record) == pytest.approx(whole[0] * scale, rel=0.01)
    assert findings.steps(record, budget=False) == whole[1]


# --- SKD --------------------------------------------------------------------------------------------------------------
def test_an_order_that_is_turned_round_is_said_to_be():
    said = "\n".join(findings.skd(skd_column(CGAN=73.0, DiM=71.0, plain=70.0, SKD=69.0), {}, {}))
    assert "CGAN above DiM above SKD, is the reverse of the printed one, SKD above DiM above CGAN." in said
    assert "SKD is 4.0 points below CGAN, outside the spread of networks; the printed difference is +5.0." in said
    assert (
        "SKD is above CGAN outside the spread of networks in 0 of 1 measured settings, and below in 1. The paper prints"
        in said
    )
    assert "Of the 4 rows measured here, each under its own protocol, SKD has rank 4; by the printed numbers" in said


def test_the_printed_order_is_said_to_be_the_printed_one():
    said = "\n".join(findings.skd(skd_column(CGAN=69.0, DiM=71.0, plain=71.5, SKD=73.0), {}, {}))
    assert "SKD above DiM above CGAN, is the printed one." in said and "reverse" not in said
    assert "SKD is 4.0 points above CGAN, outside the spread of networks" in said


def test_a_fixed_set_and_another_protocol_are_compared_with_the_printed_one():
    fixed = skd_column("dim_fixed", CGAN=70.0, SKD=66.0)
    table = skd_column(CGAN=73.0, DiM=71.0, plain=70.0, SKD=69.0) | fixed
    assert "costs the generators 3.0 points at 10 images per class." in findings.fixed(table)[0]
    plain, again = (Cell(T1, "Random", "CIFAR10", 1, "ConvNet", name) for name in ("vico_noaug", "vico_dsa"))
    (said,) = findings.augmented({plain: made(plain, 58.0, 59.0, 60.0), again: made(again, 53.0, 54.0, 55.0)})
    assert "CIFAR10, 1 image per class, -5.0 (rows: 1)." in said and "in 0 of 1 comparisons, and below in 1." in said
    assert findings.augmented({plain: made(plain, 58.0)}) == []
    digits = [dataclasses.replace(cell, dataset="MNIST") for cell in (plain, again)]  # augmented under both
    assert findings.augmented({cell: made(cell, 58.0) for cell in digits}) == []


def test_another_reading_of_a_row_is_not_taken_for_the_row():
    cells = [
        Cell(T1, "Forgetting", "MNIST", 1, "ConvNet", "vico_noaug", reading) for reading in ("", "never learned first")
    ]
    found = {cell: made(cell, v) for cell, v in zip(cells, (35.0, 13.0), strict=True)}
    assert (
        findings.columns(found, "vico_noaug")["MNIST", 1]
        == findings.columns(found)["MNIST", 1]
        == {"Forgetting": found[cells[0]]}
    )


def test_ablations_say_where_the_default_stands_and_that_one_set_cannot_tell():
    at = {"default": 70.0, "lambda 0": 72.0, "lambda 1": 72.5, "tau 1": 68.0}
    cells = {v: Cell("skd/ablations", "SKD", "FashionMNIST", 10, "ConvNet", DIM, v) for v in at}
    said = "\n".join(findings.skd({}, {}, {cells[v]: made(cells[v], x - 0.1, x + 0.1) for v, x in at.items()}))
    assert "by its mean the default is number 3 of 4; *lambda 0* is 2.0 points above the default, outside" in said
    assert "one set of a variant, with 2 networks, cannot tell what the setting does" in said
    two = {cells[v]: made(cells[v], x - 0.1, x + 0.1, sets=[0, 1]) for v, x in at.items()}
    assert "cannot tell" not in "\n".join(findings.skd({}, {}, two))


def test_the_best_rows_are_named_together_and_a_rank_is_a_range():
    at = {"DM": 78.71, "MTT": 78.72, "Random": 73.0, "SKD": 68.0, "Forgetting": 55.0}
    cells = {m: Cell(T1, m, "FashionMNIST", 10, "ConvNet", "vico_dsa") for m in at}
    table = {cells[m]: made(cells[m], x - 1.5, x, x + 1.5) for m, x in at.items()}
    said = findings.skd_first(table, {}, {})
    assert "DM and MTT reach 78.7 %, random real images 73.0 % and SKD 68.0 %." in said
    assert "SKD's rank is 3 to 4 of 5" in said and said.endswith("it is number 1 of 5.")


# --- DGS, U-ViT -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ceiling, limits", [(17.0, True), (60.0, False)])
def test_rows_below_what_few_random_images_reach_in_print_have_no_order(ceiling, limits):
    table = woof("Random", 10, 12.0, 13.0) | woof("DGS", 10, 12.5, 12.0) | woof("Full data", None, ceiling)
    said = "\n".join(findings.dgs(table, {}, {}, {}))
    assert f"ConvNet-6 {ceiling} % (24.3 %)" in said
    assert ("their order says nothing about the methods" in said) == limits
    assert "single networks reach 12.0 to 13.0 %, where guessing has 10 %" in said


def test_a_pool_that_is_harder_than_real_images_is_said_to_be():
    shown = {"about": {"data": "A"}, "classes": {"x": {"pool": [0.8, 0.6], "real": [0.1]}}}
    (said,) = findings.pool_difficulty(shown)
    assert "harder than the real images in 1 of 1 classes, by mean difficulty: x 0.70 against 0.10." in said
    assert said.endswith("does not hold here.") and findings.pool_difficulty({}) == []
    (said,) = findings.pool_difficulty({"about": {"data": "A"}, "classes": {"x": {"pool": [0.1], "real": [0.2]}}})
    assert "in 0 of 1 classes" in said and said.endswith("That is the paper's premise.")


def test_what_the_generator_loses_is_told_beside_real_images_where_no_claim_decides_it(monkeypatch):
    monkeypatch.setattr(findings, "decided", lambda paper: "")
    made_by, real = (
        Cell("uvit/accuracy_budget", m, "FashionMNIST", 10, "ConvNet", "challenge_steps") for m in ("U-ViT", "Random")
    )
    alone = {made_by: made(made_by, 70.0, 70.2, images=[100])}
    assert "is not known" in findings.uvit({}, alone)[0]
    both = alone | {real: made(real, 74.0, 74.2)}
    assert (
        "the generated set is 4.0 points below as many random real images, outside the spread of networks."
        in findings.uvit({}, both)[0]
    )
    monkeypatch.setattr(findings, "decided", lambda paper: "Paired repeats decide 13 of 13 claims.")
    assert findings.uvit({}, both) == []


# --- pages ------------------------------------------------------------------------------------------------------------
def test_cells_without_a_record_are_named_and_others_counted():
    cells = [Cell(T1, "CGAN", "CIFAR10", 1, "ConvNet", DIM), Cell(T1, "CGAN", "CIFAR10", 1, "ConvNet", "dim_fixed")]
    said = findings.not_measured(cells)
    assert said.endswith(
        "not measured yet at this budget: CIFAR10, 1 image per class: CGAN; and 1 cell that the paper does not print."
    )
    assert findings.not_measured([]) == ""


@pytest.mark.parametrize("paper", findings.PAPERS)
def test_without_records_a_page_says_only_what_is_missing(paper, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    said = findings.of(paper)
    assert said and all("not measured" in sentence for sentence in said)


@pytest.mark.parametrize("paper", findings.PAPERS)
def test_the_records_at_hand_give_a_list_that_a_page_shows(paper):
    said = findings.of(paper)
    if all("not measured" in sentence for sentence in said):
        pytest.skip("no record of this paper at the small budget")
    assert said[-1] == findings.SPREAD and "rest on a single distilled set" in said[-2]
    assert said._repr_markdown_().count("\n- ") == len(said) - 1 and str(said) == "\n".join(said)
    assert all(s.endswith(".") and "nan" not in s and "  " not in s.replace("\n  - ", " ") for s in said)


@pytest.mark.parametrize("paper", findings.PAPERS)
def test_the_first_finding_of_a_paper_is_short_and_has_numbers(paper, tmp_path, monkeypatch):
    (said,) = findings.headline(paper)
    assert len(said) < 700 and len(re.findall(r"\d+\.\d %|\d+ %", said)) >= 3, said
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    assert findings.headline(paper) == ["Nothing has been measured yet."]


def test_networks_that_are_not_trained_are_named_and_their_numbers_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    for cell, record in skd_column(CGAN=73.0, DiM=71.0, plain=70.0, SKD=69.0).items():
        loss = [2.3] * 3 if cell.method == "SKD" else [0.5] * 3
        replace(record, metrics={"train_loss": loss}).save("small")
    said = "\n".join(findings.of("skd"))
    assert "hardly trained, so no result: SKD, FashionMNIST, IPC 10" in said and "69.0" not in said
    assert "SKD" not in {cell.method for cell in findings.measured(T1)}


def test_an_unknown_paper_is_named_with_those_that_exist():
    with pytest.raises(UserError, match="unknown paper 'sdk'.*skd"):
        findings.of("sdk")
