"""The command line: lists, runs, and says one clear thing about bad input."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill_lib import __main__ as cli
from distill_lib.core import device, paths
from distill_lib.core.errors import UserError
from distill_lib.core.files import atomically
from distill_lib.evaluation import files
from distill_lib.experiments import Outcome, check_parameters, parameters
from distill_lib.publish import kernel_server, pages


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


def test_run_computes_then_reuses(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    words = ["run", "skd/table1_accuracy", "-p", "methods=Random", "-p", "ipcs=[1]", "-p", "datasets=FashionMNIST"]
    status, out, _ = call(monkeypatch, capsys, *words)
    assert status == 0 and "2 computed" in out and "vico_noaug@40ep" in out and re.search(r"\d+\.\d ± \d+\.\d", out)
    status, out, _ = call(monkeypatch, capsys, *words)
    assert status == 0 and "2 reused" in out and "computed" not in out


def test_a_run_whose_time_is_up_says_so_in_one_line_and_a_status(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    cells = "method=Random,dataset=FashionMNIST,ipc=1,protocol=vico_dsa"
    status, _, err = call(monkeypatch, capsys, "run", "skd/table1_accuracy", "--cells", cells, "--time-limit", "0.001s")
    assert status == 3 and err.startswith("error: ") and err.endswith("state saved\n") and err.count("\n") == 1


def test_run_asks_for_weights_only_where_a_cell_that_is_left_to_compute_needs_them(monkeypatch, capsys, tmp_path):
    for folder in ("DISTILL_WEIGHTS", "DISTILL_DATA"):
        monkeypatch.setenv(folder, str(tmp_path))
    monkeypatch.setattr("distill_lib.experiments.run", lambda *args, **options: Outcome(args[1]))
    status, _, err = call(monkeypatch, capsys, "run", "dgs/claims", "--profile", "small")
    assert status == 0 and not err  # no generator of the paper: its pools are drawn from a GAN
    words = ["run", "dgs/table1_imagewoof", "--profile", "small", "--cells", "method=DGS"]
    status, _, err = call(monkeypatch, capsys, *words)
    assert status == 2 and "dgs/table1_imagewoof at small needs what is not here" in err
    assert call(monkeypatch, capsys, *words[:-1], "method=Random,network=ConvNet-6")[0] == 0
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path))
    words = ["run", "slfd/table4_cifar10", "--profile", "full", "--cells"]
    status, out, _ = call(monkeypatch, capsys, *words, "ipc=1")
    assert status == 0 and re.search(r"\d+ cells will fail: .*imagenet32", out)
    status, _, err = call(monkeypatch, capsys, *words, "variant=generator=ImageNet")
    assert status == 2 and "no cell can be computed here" in err and "imagenet32" in err
    both = ["run", "slfd/table7_covariance_rank", *words[1:], "ipc=1"]  # of the first no cell can be computed
    status, out, _ = call(monkeypatch, capsys, *both)
    assert status == 0 and "cells will fail" in out


def test_every_option_of_evaluate_arrives(monkeypatch, capsys, tmp_path):
    images = np.random.default_rng(0).random((20, 1, 16, 16), dtype=np.float32)
    np.savez(tmp_path / "set.npz", images=images)
    how = "--pixels --factor 2 --order rounds --resolution 16 --normalisation half --seed 3 --num-eval 1"
    judged = "--dataset FashionMNIST-mini --protocol vico_noaug@1ep --networks MLP --json"
    seen, evaluate = [], files.evaluate
    monkeypatch.setattr(files, "evaluate", lambda s, *args, **options: seen.append(s) or evaluate(s, *args, **options))
    status, out, _ = call(monkeypatch, capsys, "evaluate", str(tmp_path / "set.npz"), *how.split(), *judged.split())
    (found,) = json.loads(out)
    assert status == 0 and found["seed"] == 3 and len(found["test_accuracy_pct"]) == 1
    assert found["bytes"]["images"] == 4 * 20 * 16 * 16 * 4  # each image is cut into four; four bytes a pixel
    notes = " ".join(found["notes"])
    assert "taken in rounds" in notes and "from 28 px to 16 px" in notes and "cut into 2 x 2 parts" in notes
    assert seen[0].facts.normalisation == "half" and seen[0].facts.mean == (0.5,)


def test_plan_says_why_a_page_has_no_cells(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "plan", "skd/figure1_pipeline")
    assert status == 0 and out == "skd/figure1_pipeline has no cells of its own: a drawing\n"


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
    assert cli.parse(["ipcs=[1, 10]", "method=DM", "seed=3"]) == {"ipcs": [1, 10], "method": "DM", "seed": 3}
    for bad in ("ipcs", "=3"):
        with pytest.raises(UserError, match=f"parameter '{bad}': write name=value"):
            cli.parse([bad])


@pytest.mark.parametrize("given", ["1,10", "1, 10", "[1, 10]", "(1, 10)", "['1', '10']", [1, 10], (1, 10)])
def test_a_list_is_understood_in_every_way_it_is_written(given):
    """papermill hands `-p` over as text, a notebook as a list, this command line as JSON or text."""
    given = cli.parse([f"ipcs={given}"])["ipcs"] if isinstance(given, str) else given
    assert check_parameters("skd/table1_accuracy", {"ipcs": given}).ipcs == [1, 10]


@pytest.mark.parametrize("given", ["1", 1, [1], "[1]", ["1"], (1,)])
def test_one_entry_is_a_list_of_one(given):
    assert check_parameters("skd/table1_accuracy", {"ipcs": given}).ipcs == [1]


@pytest.mark.parametrize("given", [64, "64", [64], "[64]", ["64"]])
def test_a_name_may_look_like_a_number(given):
    assert check_parameters("slfd/table5_pathmnist", {"resolutions": given}).resolutions == ["64"]


@pytest.mark.parametrize("given", ["DM,DC", "DM, DC", "[DM, DC]", '["DM", "DC"]', "['DM', 'DC']", ["DM", "DC"]])
def test_names_in_a_list_are_understood_too(given):
    assert check_parameters("skd/table1_accuracy", {"methods": given}).methods == ["DM", "DC"]


@pytest.mark.parametrize("given", ["", [], "[]", (), ","])
@pytest.mark.parametrize("name", ["ipcs", "methods"])
def test_an_empty_list_is_an_error(name, given):
    with pytest.raises(UserError, match=f"{name}: an empty list; name at least one, or leave the parameter out"):
        check_parameters("skd/table1_accuracy", {name: given})


CELL = 'profile: str = "smoke"\nipcs: list = [1]'


def test_what_papermill_and_ploomber_put_there_is_theirs():
    injected = "# Parameters\nipcs = [10]\nupstream = None\nproduct = {'nb': 'out.ipynb'}\nPAPERMILL_OUTPUT_PATH = 'o'"
    space = {"In": ["", CELL, injected], "ipc": 1}
    exec(f"{CELL}\n{injected}", space)
    assert parameters("skd/table1_accuracy", space).ipcs == [10]
    with pytest.raises(UserError, match="unknown parameter 'ipc'"):
        parameters("skd/table1_accuracy", {**space, "In": ["", CELL, f"{injected}\nipc = 1"]})


def test_a_page_run_twice_in_one_namespace_does_not_trip_over_what_it_left():
    space = {}
    for _ in range(2):
        exec(CELL, space)
        assert parameters("skd/table1_accuracy", space).ipcs == [1]
        space.update(ipc=1, iterations=30, sets={}, method="DM")  # what the last cell leaves behind
    with pytest.raises(UserError, match="unknown parameter 'ipc'"):
        parameters("skd/table1_accuracy", {"profile": "smoke", "ipc": 1})


# --- devices and folders ---------------------------------------------------------------------------------------------
def test_apple_s_gpu_is_used_where_it_computes(monkeypatch):
    with pytest.raises(
        UserError, match="'mps' was asked for but this torch cannot compute on Apple's GPU here: use cpu"
    ):
        device.pick("mps")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(UserError, match="cannot compute on Apple's GPU"):  # this torch was built without it
        device.pick("mps")
    monkeypatch.setattr(device, "_computes", lambda place: place.type == "mps")
    assert str(device.pick("mps")) == "mps" and device.describe("mps") == "Apple GPU (mps)"


def test_a_graphics_card_that_is_not_there_is_refused_by_its_number(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(device.pick("cuda:1")) == "cuda:1"
    with pytest.raises(UserError, match="'cuda:7' was asked for but torch sees 2 GPUs: the last is cuda:1"):
        device.pick("cuda:7")


def test_folders_and_switches_read_the_environment_as_a_user_means_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in (("DISTILL_RUNS", paths.runs), ("DISTILL_CACHE", paths.cache)):
        monkeypatch.delenv(variable, raising=False)
        default = folder()
        for empty in ("", "  "):
            monkeypatch.setenv(variable, empty)
            assert folder() == default and folder().is_absolute()
        monkeypatch.setenv(variable, "~/here")
        assert folder() == tmp_path / "here"
    monkeypatch.setenv("DISTILL_DATA", f"~/a{os.pathsep}{os.pathsep}/b")
    assert paths.given_data_folders() == [tmp_path / "a", Path("/b")]
    for text, on in (("0", False), ("no", False), ("OFF", False), ("1", True), ("yes", True), ("", True), (" ", True)):
        monkeypatch.setenv("DISTILL_COMPILE", text)
        assert paths.switch("DISTILL_COMPILE", True) is on
    assert paths.switch("DISTILL_NOTHING", False) is False


def test_a_folder_that_cannot_be_written_names_the_variable_that_moves_it(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(UserError, match="cannot write .*; set DISTILL_RUNS to a folder that can be written to"):
        pages.run(pages.notebooks(only="skd/figure1_pipeline"), "recorded")
    with pytest.raises(UserError, match="set DISTILL_RUNS"):
        atomically(paths.runs() / "a" / "b", lambda part: part.write_text(""))


@pytest.mark.parametrize("length", [40, 80, 97, 107, 200])
def test_a_long_folder_for_temporary_files_leaves_room_for_sockets(length, monkeypatch, tmp_path):
    long = tmp_path / ("x" * max(1, length - len(str(tmp_path)) - 1))
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with kernel_server.short_folder() as folder:
        assert len(folder) + len("/12345678/k-5") <= 103
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(UserError, match="TMPDIR .* is too long"):
        kernel_server.short_folder()


# --- what the shell sees ---------------------------------------------------------------------------------------------
def test_importing_the_library_loads_no_plotting_or_data_libraries():
    heavy = "pandas matplotlib torchvision medmnist timm sklearn seaborn papermill diffusers"
    imports = "import distill_lib.experiments, distill_lib.methods, distill_lib.evaluation, sys"
    code = f"{imports}; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_shell_runs_ends_with_its_output_and_its_status():
    run = functools.partial(subprocess.run, cwd=paths.ROOT, capture_output=True, text=True)
    done = run([sys.executable, "-m", "distill_lib", "list", "networks", "--json"])
    assert done.returncode == 0 and len(json.loads(done.stdout)) > 5
    done = run([sys.executable, "-m", "distill_lib", "list", "nothing"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nothing" in done.stderr
