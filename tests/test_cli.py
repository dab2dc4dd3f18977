"""The command line: lists, runs, and says one clear thing about bad input."""

import functools
import json
import os
import subprocess
import sys

import pytest

from distill_lib import __main__ as cli
from distill_lib.core.errors import UserError


def call(monkeypatch, capsys, *words):
    """Exit status, stdout, stderr of the command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["distill", *words])
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize(
    "kind, name",
    [
        ("methods", "DM"),
        ("datasets", "CIFAR10"),
        ("networks", "ConvNet"),
        ("protocols", "vico_dsa"),
        ("experiments", "skd/table1_accuracy"),
    ],
)
def test_list_names_what_exists(monkeypatch, capsys, kind, name):
    status, out, _ = call(monkeypatch, capsys, "list", kind, "--json")
    rows = json.loads(out)
    assert status == 0 and name in [row["name"] for row in rows]
    status, out, _ = call(monkeypatch, capsys, "list", kind)
    assert status == 0 and name in out


@pytest.mark.parametrize(
    "words, message",
    [
        (["list", "method"], "unknown kind 'method': did you mean methods"),
        (["run", "skd/table1"], "unknown experiment 'skd/table1': did you mean skd/table1_accuracy?"),
        (["run", "skd/table1_accuracy", "--profile", "fast"], "unknown profile 'fast'"),
        (["run", "skd/table1_accuracy", "-p", "metods=DM"], "unknown parameter 'metods': did you mean methods"),
        (["run", "skd/table1_accuracy", "-p", "ipcs"], "parameter 'ipcs': write name=value"),
        (["run", "skd/table1_accuracy", "--time-limit", "soon"], "time limit 'soon': write it as 90s, 9m or 2h"),
        (["run", "skd/table1_accuracy", "--device", "tpu9"], "unknown device 'tpu9'"),
        (["bake"], "No such command 'bake'"),
    ],
)
def test_bad_input_is_one_line_and_a_status(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    status, _, err = call(monkeypatch, capsys, *words)
    assert status == 2
    assert message in err and err.startswith("error: ") and len(err.strip().splitlines()) == 1


def test_run_computes_then_reuses(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    words = ["run", "skd/table1_accuracy", "-p", "methods=Random", "-p", "ipcs=[1]", "-p", "datasets=FashionMNIST"]
    status, out, _ = call(monkeypatch, capsys, *words)
    assert status == 0 and "2 computed" in out and "vico_noaug@40ep" in out and "51.4 ± 3.8" in out
    status, out, _ = call(monkeypatch, capsys, *words)
    assert status == 0 and "2 reused" in out and "computed" not in out


def test_plan_says_where_every_cell_stands(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    status, out, _ = call(
        monkeypatch, capsys, "plan", "skd/table1_accuracy", "--profile", "full", "-p", "methods=Random,SKD", "--json"
    )
    rows = json.loads(out)
    assert status == 0 and len(rows) == 45
    assert {row["state"] for row in rows if row["cell"].startswith("Random")} == {"missing"}


@pytest.mark.parametrize("text, value", [("90s", 90), ("9m", 540), ("2h", 7200), ("30", 30)])
def test_time_limits(text, value):
    assert cli.seconds(text) == value


def test_parameters_are_json_where_they_read_as_json():
    assert cli.parse(["ipcs=[1, 10]", "profile=smoke", "seed=3"]) == {"ipcs": [1, 10], "profile": "smoke", "seed": 3}
    with pytest.raises(UserError):
        cli.parse(["=3x"][:0] + ["ipcs"])


def test_importing_the_library_loads_no_plotting_or_data_libraries():
    heavy = "pandas matplotlib torchvision medmnist timm sklearn seaborn papermill diffusers"
    imports = "import distill_lib.experiments, distill_lib.methods, distill_lib.evaluation, sys"
    code = f"{imports}; print([m for m in '{heavy}'.split() if m in sys.modules])"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_what_the_shell_runs_ends_with_its_output_and_its_status():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    run = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True)
    done = run([sys.executable, "-m", "distill_lib", "list", "networks", "--json"])
    assert done.returncode == 0 and len(json.loads(done.stdout)) > 5
    done = run([sys.executable, "-m", "distill_lib", "list", "nothing"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nothing" in done.stderr
