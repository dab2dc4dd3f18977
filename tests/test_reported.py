"""The published numbers: complete, as printed, honest about what is lost or borrowed, and refused when damaged."""

import ast
import csv
import re

import pytest

from distill_lib import networks
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.data import DATASETS
from distill_lib.records import reported
from distill_lib.records.reported import LOST, PAPERS

CELLS = {  # experiment: rows x columns of the table
    "skd/table1_accuracy": 15 * 9 + 3,
    "skd/table2_cross_architecture": 7 * 4,
    "dgs/table1_imagewoof": 9 * 9,
    "dgs/table2_subsets": 6 * 4,
    "dgs/table3_distributions": 5 * 3,
    "dgs/table4_pool_size": 5 * 3,
    "uvit/table1_configurations": 2 * 5,
    "uvit/table2_fid": 2 * 3,
    "uvit/figure4_leaderboard": (9 + 5) * 3,
    "slfd/table1_imagenet_subsets": (2 + 5 + 5) * 10,
    "slfd/table2_highres": 2 * 5,
    "slfd/table3_merged": 2 * 5,
    "slfd/table4_cifar10": 4 * 5,
    "slfd/table5_pathmnist": 2 * 3,
    "slfd/table6_uvit": 4 * 5,
    "slfd/table7_covariance_rank": 6 * 5,
}
ATTRIBUTED = {
    "dgs/attributed_mgd3_table1": 5 * 6,
    "dgs/attributed_mgd3_table8": 15 * 8 - 12,  # GLaD at IPC 10 only
    "dgs/attributed_mgd3_table2": 2 * 3,
    "slfd/attributed_ld3m_table4": 6 * 6,
    "slfd/attributed_ld3m_other": 8,
    "slfd/attributed_mgd3_table4": 3 * 5,
    "slfd/attributed_gsdd": 14 * 6 - 9,  # nine cells of ImageYellow are not given
    "slfd/attributed_aggregator": 9,
}
METHODS = {
    *"Random Herding K-Center Forgetting DC DSA DM CAFE KIP MTT FRePo CGAN DiM SKD DiT IDC-1 Minimax DGS".split(),
    *"GLaD SLFD U-ViT".split(),
} | {"SKD (no standardisation)", "Full data"}
EXTRA_DATASETS = {"CIFAR100 and TinyImageNet", ""}  # the leaderboard's average; a number of no data set
NETWORKS = {*"ConvNet ResNet18 AlexNet VGG11 ViT ConvNet-6 ResNetAP-10 ResNet-18".split()}
NETWORKS |= {"cross-architecture mean", ""}


def rows_of(experiment):
    return reported.cells_of(experiment)


def test_every_table_has_every_cell():
    assert {e: len(rows_of(e)) for e in reported.experiment_names()} == CELLS
    assert {e: len(rows_of(e)) for e in reported.experiment_names(attributed=True)} == ATTRIBUTED
    for paper in PAPERS:
        assert len(reported.load(paper)) == len(
            {tuple(r[k] for k in reported.KEY) for r in reported.load(paper).to_dict("records")}
        )


def test_what_the_source_lost_is_said_cell_by_cell():
    for experiment in reported.experiment_names():
        lost = {r["status"] for r in rows_of(experiment)}
        leaderboard = {"printed", reported.OTHERS} if experiment == "uvit/figure4_leaderboard" else {"printed"}
        assert lost == ({LOST} if experiment.startswith("slfd/") else leaderboard), experiment


def test_the_leaderboard_has_two_cells_of_this_paper():
    own = [r for r in rows_of("uvit/figure4_leaderboard") if r["status"] == "printed"]
    assert [(r["method"], r["dataset"], r["text"]) for r in own] == [
        ("U-ViT", "CIFAR100", "0.3756"),
        ("U-ViT", "TinyImageNet", "0.2353"),
    ]


def test_a_number_printed_at_every_ipc_has_a_row_for_each():
    rows = reported.rows_of("dgs/table1_imagewoof", "Full data", "ImageWoof", network="ResNet-18")
    assert [r["ipc"] for r in rows] == [10, 20, 50] and {r["text"] for r in rows} == {"89.3 ± 1.2"}
    assert len(reported.rows_of("skd/table1_accuracy", "DM", "CIFAR10", 10)) == 1


def test_numbers_of_other_papers_stay_apart_and_name_their_source():
    for paper in PAPERS:
        for row in reported.load(paper).to_dict("records"):
            borrowed = row["experiment"].split("/")[1].startswith("attributed_")
            assert (row["status"] == "attributed") == borrowed
            if borrowed:
                assert re.search(r"MGD3|LD3M|GSDD|aggregator", row["source"]) and row["note"]


def test_names_are_the_ones_of_the_library():
    for experiment in reported.experiment_names():
        for row in rows_of(experiment):
            team = "team=" in row["variant"]
            assert team or row["method"] in METHODS, row
            assert row["dataset"] in DATASETS or row["dataset"] in EXTRA_DATASETS, row
            assert row["network"] in NETWORKS, row


@pytest.mark.parametrize(
    "experiment, cell, text",
    [
        ("skd/table1_accuracy", ("Random", "MNIST", 1), "64.9 ± 3.5"),
        ("skd/table1_accuracy", ("DM", "CIFAR10", 1), "26.5 ± 0.4"),
        ("skd/table1_accuracy", ("KIP", "MNIST", 10), "97.5 ± 0.0"),
        ("skd/table1_accuracy", ("CGAN", "CIFAR10", 1), "46.4 ± 1.2"),
        ("skd/table1_accuracy", ("SKD (no standardisation)", "FashionMNIST", 50), "89.5 ± 0.2"),
        ("skd/table1_accuracy", ("SKD", "CIFAR10", 50), "74.0 ± 0.1"),
        ("skd/table1_accuracy", ("Full data", "CIFAR10", None), "84.8 ± 0.1"),
        ("skd/table2_cross_architecture", ("KIP", "CIFAR10", 10, "AlexNet"), "24.4 ± 3.9"),
        ("skd/table2_cross_architecture", ("SKD", "CIFAR10", 10, "VGG11"), "69.2 ± 0.1"),
        ("dgs/table1_imagewoof", ("Herding", "ImageWoof", 20, "ResNetAP-10"), "34.9 ± 0.1"),
        ("dgs/table1_imagewoof", ("IDC-1", "ImageWoof", 10, "ResNet-18"), "36.9 ± 0.4"),
        ("dgs/table1_imagewoof", ("DGS", "ImageWoof", 50, "ConvNet-6"), "52.0 ± 0.6"),
        ("dgs/table1_imagewoof", ("Full data", "ImageWoof", None, "ResNet-18"), "89.3 ± 1.2"),
        ("dgs/table2_subsets", ("DiT", "ImageIDC", 50), "64.3 ± 0.6"),
        ("dgs/table3_distributions", ("DGS", "ImageWoof", 50, None, "distribution=Cliff"), "56.6 ± 0.8"),
        ("dgs/table4_pool_size", ("DGS", "ImageWoof", 20, None, "pool=6xIPC"), "42.7 ± 1.1"),
        ("uvit/table1_configurations", ("U-ViT", "TinyImageNet", None, None, None, "parameters"), "131 M"),
        ("uvit/table2_fid", ("U-ViT", "CIFAR100", None, None, None, "fid"), "39.85"),
        ("uvit/table2_fid", ("U-ViT", "TinyImageNet", None, None, None, "training_time"), "about 54 h"),
        ("uvit/figure4_leaderboard", ("U-ViT", "TinyImageNet", None, None, "track=2"), "0.2353"),
        ("uvit/figure4_leaderboard", ("Guang", "CIFAR100", None, None, "rank=3"), "0.01"),
        ("slfd/table1_imagenet_subsets", ("SLFD", "ImNet-Cats", 1, "ConvNet", "match=DM"), LOST),
        ("slfd/attributed_ld3m_table4", ("GLaD", "ImNet-C", 10, None, "match=DM"), "49.7 ± 0.4"),
        ("slfd/attributed_gsdd", ("MTT", "ImageYellow", 1, "ConvNet"), "47.5"),
        ("dgs/attributed_mgd3_table8", ("Minimax", "ImageWoof", 100, "ResNet-18"), "65.7 ± 0.4"),
        ("dgs/attributed_mgd3_table1", ("MGD3", "ImageIDC", 10), "55.9 ± 2.1"),
        ("dgs/attributed_mgd3_table2", ("Minimax", "ImageNet-100", 20, "ConvNet-6"), "29.3 ± 0.4"),
    ],
)
def test_cells_read_as_printed(experiment, cell, text):
    assert reported.lookup(experiment, *cell)["text"] == text


def test_look_up_gives_numbers_for_computing():
    row = reported.lookup("skd/table1_accuracy", "DM", "CIFAR10", 10, "ConvNet", "")
    assert (row["value"], row["std"], row["trials"], row["source"]) == (48.9, 0.6, 5, "Table 1, row DM")
    fraction = reported.lookup("uvit/figure4_leaderboard", "U-ViT", "CIFAR100", variant="track=2, rank=1")
    assert fraction["value"] == pytest.approx(37.56) and fraction["text"] == "0.3756" and fraction["std"] is None
    lost = reported.lookup("slfd/table5_pathmnist", "SLFD", "PathMNIST", 1, variant="resolution=64")
    assert (lost["value"], lost["std"], lost["trials"]) == (None, None, None)


@pytest.mark.parametrize("library, paper", reported.NETWORKS.items())
def test_look_up_takes_the_library_s_name_of_a_network(library, paper):
    assert library in networks.NETWORKS
    cell = ("dgs/table1_imagewoof", "Minimax", "ImageWoof", 20)
    assert reported.lookup(*cell, library) == reported.lookup(*cell, paper) is not None


def test_a_changed_answer_leaves_the_next_one_alone():
    reported.lookup("skd/table1_accuracy", "DM", "CIFAR10", 10)["value"] = 0.0
    assert reported.lookup("skd/table1_accuracy", "DM", "CIFAR10", 10)["value"] == 48.9


def test_look_up_of_what_is_not_in_the_table_is_none():
    assert reported.lookup("skd/table1_accuracy", "IDC-1", "CIFAR10", 10) is None
    assert reported.lookup("skd/table1_accuracy", "DM", "CIFAR10", 20) is None
    assert reported.lookup("skd/table1_accuracy", "DM", "CIFAR10", 10, "VGG11") is None
    assert reported.lookup("skd/table1_accuracy", "DiM", "CIFAR10", 10, variant="sampling=fixed") is None


def test_an_open_axis_that_decides_is_an_error_naming_it():
    with pytest.raises(
        UserError, match=r"5 different numbers for DGS on ImageWoof.*variant: distribution=Hill, distribution=Ground"
    ):
        reported.lookup("dgs/table3_distributions", "DGS", "ImageWoof", 10)
    with pytest.raises(UserError, match="ipc: 1, 10, 50"):
        reported.lookup("skd/table1_accuracy", "DM", "CIFAR10")
    with pytest.raises(UserError, match="quantity: fid, sampling_steps, training_time"):
        reported.lookup("uvit/table2_fid", "U-ViT", "CIFAR100")
    with pytest.raises(UserError, match="axis=value"):
        reported.lookup("dgs/table3_distributions", "DGS", "ImageWoof", 10, variant="Cliff")


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UserError, match="unknown paper 'SKD': did you mean skd"):
        reported.load("SKD")
    with pytest.raises(UserError, match="unknown experiment 'skd/table1': did you mean skd/table1_accuracy"):
        reported.matrix("skd/table1")
    with pytest.raises(UserError, match="unknown experiment 'dm/table1'"):
        reported.cells_of("dm/table1")


def test_matrix_has_the_layout_of_the_paper():
    table = reported.matrix("skd/table1_accuracy")
    assert list(table.index[:3]) == ["Random", "Herding", "K-Center"]
    assert list(table.index[-3:]) == ["SKD (no standardisation)", "SKD", "Full data"]
    assert list(table.columns) == [(d, i) for d in ("MNIST", "FashionMNIST", "CIFAR10") for i in (1, 10, 50)]
    assert table.loc["SKD", ("CIFAR10", 50)] == "74.0 ± 0.1"
    assert list(table.loc["Full data", "MNIST"]) == ["99.6 ± 0.0"] * 3  # printed across the three columns

    table = reported.matrix("dgs/table1_imagewoof")
    assert list(table.columns) == ["Random", "K-Center", "Herding", "DiT", "DM", "IDC-1", "Minimax", "DGS", "Full data"]
    assert list(table.index) == [(i, n) for i in (10, 20, 50) for n in ("ConvNet-6", "ResNetAP-10", "ResNet-18")]
    assert reported.matrix("dgs/table3_distributions").loc["Slope"].tolist() == [
        "37.8 ± 0.4",
        "42.7 ± 0.7",
        "56.1 ± 0.6",
    ]
    assert reported.matrix("uvit/table2_fid").loc[("CIFAR100", "DPM-Solver")].tolist() == ["39.85", "50", "about 27 h"]
    assert reported.matrix("uvit/figure4_leaderboard").loc[("2", "1", "zheli")].tolist() == [
        "0.3756",
        "0.2353",
        "0.3054",
    ]


@pytest.mark.parametrize("experiment", sorted(CELLS | ATTRIBUTED))
def test_matrix_shows_every_number_once_per_place(experiment):
    table = reported.matrix(experiment)
    assert table.index.is_unique and table.columns.is_unique
    shown = [t for t in table.to_numpy().ravel() if t != reported.ABSENT]
    spread = 6 if experiment == "skd/table1_accuracy" else 0  # three full-data values across three columns each
    assert len(shown) == (CELLS | ATTRIBUTED)[experiment] + spread
    if experiment.startswith("slfd/table"):
        assert set(shown) == {LOST}


def test_matrix_of_settings():
    assert reported.matrix("skd/settings").loc[("lambda_skd", "MNIST", ""), "value"] == "0.001"
    assert reported.matrix("slfd/settings")["value"].tolist().count(LOST) == 5


def test_every_layout_is_used():
    assert set(reported.LAYOUTS) == {e for p in PAPERS for e in reported.load(p)["experiment"]}


def test_provenance_kip_repeats_dsa_on_fashionmnist():
    kip, dsa = (
        [reported.lookup("skd/table1_accuracy", m, "FashionMNIST", i) for i in (1, 10, 50)] for m in ("KIP", "DSA")
    )
    assert [r["text"] for r in kip] == [r["text"] for r in dsa]
    assert all("identical to the DSA row" in r["note"] for r in kip)


def test_provenance_the_same_setting_in_two_skd_tables():
    def pair(method):
        one = reported.lookup("skd/table1_accuracy", method, "CIFAR10", 10)
        two = reported.lookup("skd/table2_cross_architecture", method, "CIFAR10", 10, "ConvNet")
        return (one["value"], one["std"]) == (two["value"], two["std"]), two["note"]

    agrees = {m: pair(m) for m in ("DSA", "KIP", "MTT", "FRePo", "DiM", "SKD (no standardisation)", "SKD")}
    assert [m for m, (same, _) in agrees.items() if not same] == ["DSA", "KIP", "MTT", "FRePo"]
    assert all(("Table 1 prints" in note) == (not same) for same, note in agrees.values())


def test_provenance_three_dgs_tables_share_one_row():
    for ipc in (10, 20, 50):
        own = reported.lookup("dgs/table1_imagewoof", "DGS", "ImageWoof", ipc, "ResNetAP-10")["text"]
        assert (
            own
            == reported.lookup("dgs/table3_distributions", "DGS", "ImageWoof", ipc, variant="distribution=Scale")[
                "text"
            ]
        )
        assert own == reported.lookup("dgs/table4_pool_size", "DGS", "ImageWoof", ipc, variant="pool=5xIPC")["text"]


def test_provenance_dgs_cells_that_differ_from_their_source_say_so():
    differing = 0
    for row in rows_of("dgs/table1_imagewoof"):
        other = reported.lookup("dgs/attributed_mgd3_table8", row["method"], "ImageWoof", row["ipc"], row["network"])
        differs = other is not None and other["text"] != row["text"]
        assert differs == ("differs from the Minimax paper" in row["note"]), row
        differing += differs
    assert differing == 9 + 3  # every Minimax cell, three of IDC-1
    for row in rows_of("dgs/table2_subsets"):
        if other := reported.lookup("dgs/attributed_mgd3_table1", row["method"], row["dataset"], row["ipc"]):
            assert (other["text"] != row["text"]) == ("differs from MGD3" in row["note"]), row


def test_provenance_leaderboard_averages():
    off = []
    for row in rows_of("uvit/figure4_leaderboard"):
        if row["dataset"] == "CIFAR100 and TinyImageNet":
            key = {"experiment": row["experiment"], "method": row["method"], "variant": row["variant"]}
            parts = [reported.lookup(dataset=d, **key) for d in ("CIFAR100", "TinyImageNet")]
            gap = abs(sum(p["value"] for p in parts) / 200 - row["value"])
            if gap > 0.5001 * 10 ** -len(row["text"].split(".")[1]):
                off.append(row["method"])
                assert "the printed columns average to" in row["note"]
    assert off == ["Zhou_chuhao", "yrGuan"]


def test_notes_are_grouped_by_text():
    notes = reported.notes("skd/table1_accuracy").set_index("note")
    assert notes.loc["identical to the DSA row in mean and deviation, almost surely a copying slip"].tolist() == [
        "KIP",
        3,
    ]
    assert len(reported.notes("slfd/table4_cifar10")) == 1


def test_every_accuracy_lies_between_zero_and_the_full_data():
    for paper in ("skd", "dgs"):
        for experiment in reported.experiment_names(paper):
            for row in rows_of(experiment):
                full = reported.lookup(experiment, "Full data", row["dataset"], network=row["network"])
                assert 0 < row["value"] <= (full["value"] if full else 100), row


def test_files_are_plain_text_as_committed():
    for paper in PAPERS:
        raw = (paths.reported() / f"{paper}.csv").read_bytes()
        assert b"\r" not in raw and raw.endswith(b"\n")
        for row in csv.reader(raw.decode().splitlines()):
            assert all(field == field.strip() for field in row)


# ------------------------------------------------------------------------------------------------------- damaged files


PRINTED = paths.reported()


def damaged(folder, change):
    """A copy of skd.csv, changed."""
    (folder / "skd.csv").write_text(change((PRINTED / "skd.csv").read_text()))
    return folder


def second_line(change):
    def apply(text):
        header, first, rest = text.split("\n", 2)
        fields = next(csv.reader([first]))
        row = dict(zip(header.split(","), fields, strict=True)) | change
        quoted = ",".join('"' + v.replace('"', '""') + '"' for v in row.values())
        return f"{header}\n{quoted}\n{rest}"

    return apply


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The folder that the published numbers are looked for in."""
    monkeypatch.setattr(reported.paths, "reported", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.replace(",std,", ",deviation,", 1), "column std missing"),
        (lambda t: t.replace("\n", ",extra\n", 1), "unexpected column extra"),
        (lambda t: "", "column experiment, method"),
        (lambda t: t.replace("\n", "\nskd/table1_accuracy,Random\n", 1), "line 2: 2 fields, expected 14"),
        (lambda t: t.replace("\n", "\n" + t.split("\n")[5] + "\n", 1), "is already in line 2"),
        (lambda t: t + '"skd/table1', "not a readable CSV"),
        (second_line({"value": "sixty"}), "line 2: value 'sixty' is not a number"),
        (second_line({"value": ""}), "line 2: value '' is not a number"),
        (second_line({"value": "nan"}), "line 2: value 'nan' is not a number"),
        (second_line({"std": "3,5"}), "line 2: std '3,5' is not a number"),
        (second_line({"std": "-3.5"}), "line 2: std '-3.5' is negative"),
        (second_line({"ipc": "1.0"}), "line 2: ipc '1.0' is not a positive whole number"),
        (second_line({"trials": "0"}), "line 2: trials '0' is not a positive whole number"),
        (second_line({"method": ""}), "line 2: method is empty"),
        (second_line({"source": ""}), "line 2: source is empty"),
        (
            second_line({"status": "guessed"}),
            "unknown status 'guessed'.*printed, others' entry, not in the source, attributed",
        ),
        (second_line({"status": "not in the source"}), "status 'not in the source', but value '64.9'"),
        (second_line({"status": "attributed"}), "numbers of other papers belong into skd/attributed_"),
        (second_line({"unit": "percent"}), "unknown unit 'percent'"),
        (second_line({"variant": "Cliff"}), "line 2: 'Cliff' is not of the form 'axis=value"),
        (second_line({"experiment": "dgs/table1_imagewoof"}), "does not belong to the paper 'skd'"),
        (second_line({"experiment": "skd/table9"}), "unknown experiment 'skd/table9'"),
    ],
)
def test_a_damaged_file_is_one_clear_error(elsewhere, change, message):
    damaged(elsewhere, change)
    with pytest.raises(UserError, match=message):
        reported.load("skd")


def test_an_absent_or_unreadable_file_is_one_clear_error(elsewhere):
    with pytest.raises(UserError, match="no file with the published numbers of skd.*restore it from git"):
        reported.load("skd")
    (elsewhere / "skd.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a readable CSV"):
        reported.load("skd")


def test_an_edited_file_is_read_again(elsewhere):
    damaged(elsewhere, lambda t: t)
    assert reported.lookup("skd/table1_accuracy", "Random", "MNIST", 1)["text"] == "64.9 ± 3.5"
    (elsewhere / "skd.csv").unlink()
    damaged(elsewhere, second_line({"value": "65.0"}))
    assert reported.lookup("skd/table1_accuracy", "Random", "MNIST", 1)["text"] == "65.0 ± 3.5"


# --------------------------------------------------------------------------------------------------- pages built on
# them

BOOK = paths.ROOT / "book"
SOLVER_TIMES = (
    "1.0000 0.9345 0.8640 0.7874 0.7028 0.6077 0.4989 0.3760 0.2502 0.1466 0.0788 0.0402 0.0194 0.0086 0.0034 0.0011 "
    "0.0003 0.0001"
)
NOISE = "100.0 100.0 100.0 99.9 99.7 98.8 95.9 87.4 69.1 45.2 26.0 14.1 7.5 4.0 2.1 1.1 0.6 0.3"
LIVE = {  # page: what its live cells print
    "skd": "KL = 0.050706, in the loss: 0.002028",
    "dgs": "[2, 0, 1, 0, 1, 1, 0, 1, 0, 4] [1, 0, 1, 0, 1, 0, 0, 0, 0, 2]",
    "uvit": "\n".join(
        ["evaluations in each step: [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2]"]
        + [f"time {t}: noise {n} %" for t, n in zip(SOLVER_TIMES.split(), NOISE.split(), strict=True)]
    ),
    "slfd": "L_sto = 0.580018, mean CE = 0.632188",
    "protocols": "vico_dsa@60ep {0.01: 32, 0.001: 29}",
    "differences": "lr_from_set: False -> True\nname: 'vico_dsa' -> 'mtt'\nnum_eval: 20 -> 5",
}


@pytest.mark.parametrize("page", sorted(LIVE))
def test_the_code_of_a_page_runs_and_shows_what_the_page_says(page, capsys):
    cells = re.findall(
        r"^```\{code-cell\} ipython3\n(?::[^\n]*\n)*\n?(.*?)^```$", (BOOK / f"{page}.md").read_text(), re.M | re.S
    )
    assert cells
    names = {}
    for code in cells:
        assert max(map(len, code.splitlines())) < 80, "the page cuts longer lines"
        body = ast.parse(code)
        if isinstance(body.body[-1], ast.Expr) and "tables.show" in code:
            shown = eval(compile(ast.Expression(body.body.pop().value), page, "eval"), exec_all(body, names))
            assert shown.frame.size and "<table" in shown._repr_html_()
        else:
            exec_all(body, names)
    assert capsys.readouterr().out.strip().endswith(LIVE[page])  # tables that a page displays are printed before


def exec_all(body, names):
    exec(compile(body, "cell", "exec"), names)
    return names


@pytest.mark.parametrize("paper", PAPERS)
def test_every_printed_table_of_a_paper_has_a_notebook_that_its_page_belongs_to(paper):
    contents = (paths.ROOT / "_toc.yml").read_text().splitlines()
    pages = {line.partition("file: ")[2] for line in contents}
    assert f"book/{paper}" in pages
    assert {f"notebooks/{experiment}" for experiment in reported.experiment_names(paper)} <= pages


def test_every_citation_is_in_the_bibliography():
    keys = re.findall(r"^@\w+\{(\S+),$", (BOOK / "references.bib").read_text(), re.M)
    assert len(keys) == len(set(keys))
    for page in BOOK.glob("*.md"):
        for cited in re.findall(r"\{cite(?::[a-z]+)?\}`([^`]+)`", page.read_text()):
            assert set(cited.split(",")) <= set(keys), (page.name, cited)
