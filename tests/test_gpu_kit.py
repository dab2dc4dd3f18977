"""The GPU kit: the whole chain without a GPU, what a bare machine lacks, and the way back into the results."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gpu_kit
import pytest
from filelock import FileLock
from test_cli import call

from distill_lib import experiments, records
from distill_lib.core.paths import ROOT
from distill_lib.experiments import engine
from distill_lib.experiments.import_folder import import_folder
from distill_lib.records import Cell, benchmarks

TABLE = "skd/table1_accuracy"


# --- the whole chain --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A copy of the code without git, as it is carried to another machine; beside it the kit that names its commit."""
    place = tmp_path_factory.mktemp("machine")
    for name in ("distill_lib", "benchmarks"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "tests/test_gpu.py", "tests/conftest.py"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    (place / "kit").mkdir()
    known = {"commit": "0123456789ab", "code_sha256": gpu_kit.code_sha256()}
    (place / "kit" / "commit.json").write_text(json.dumps(known))
    return place


def test_without_a_gpu_the_chain_ends_in_time_and_its_records_come_home(bare, monkeypatch, capsys, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DISTILL_", "PYTHONPATH", "MAKE"))}
    clean["DISTILL_CACHE"] = str(tmp_path / "cache")
    words = ["make", "gpu", "MINUTES=2", "OUT=out", "DEVICE=cpu", "KIT=kit", f"PYTHON={sys.executable}"]
    start = time.monotonic()
    done = subprocess.run(words, cwd=bare, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - start < 125
    report = json.loads((bare / "out" / "manifest.json").read_text())
    log = (bare / "out" / "log.txt").read_text()
    ends = {s["name"]: s["status"] for s in report["steps"]}
    assert list(ends) == ["tests", "benchmarks", "Random", "SKD, stage 1"], log
    assert set(ends.values()) <= {"done", gpu_kit.STOPPED, gpu_kit.CUT}, log
    assert report["made_by"]["commit"] == "0123456789ab" and "passed" in log
    files = list((bare / "out").iterdir())
    assert len(files) <= 8 and all(f.stat().st_size <= 16_000_000 for f in files)

    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    status, out, _ = call(monkeypatch, capsys, "import", str(bare / "out"))
    assert status == 0 and re.search(r"added .*\[smoke\]: Random, FashionMNIST, IPC 1", out)
    cells = ["--cells", "method=Random,dataset=FashionMNIST,ipc=1"]
    status, out, _ = call(monkeypatch, capsys, "plan", TABLE, "--profile", "smoke", *cells)
    assert status == 0 and out.count("recorded ") == 2
    status, out, _ = call(monkeypatch, capsys, "import", str(bare / "out"))
    assert status == 0 and "0 added" in out and "are recorded" in out


LACKING = (
    "scipy sklearn timm medmnist torchmetrics diffusers papermill nbformat jupyter_book sphinx dask hypothesis yaml"
)
START = f"""
import sys
sys.modules.update(dict.fromkeys({LACKING.split()}))  # None: not installed
import pytest
assert pytest.main(["--collect-only", "-q", "tests/test_gpu.py", "-p", "no:cacheprovider"]) == 0
sys.path.insert(0, "benchmarks")
import gpu_kit, suite
(words,) = (step.command[1:] for step in gpu_kit.steps("cuda", None) if step.name == "benchmarks")
names = words[: words.index("--repeats")]
assert len(suite.chosen(names)) >= len(names) > 0
sys.argv = ["distill", "fill", "{TABLE}", "--profile", "full", "--cells", "method=DM|SKD,ipc=1", "--dry-run"]
from distill_lib import __main__ as cli
cli.main()
"""


def test_the_kit_starts_on_a_machine_that_has_little_installed(bare):
    """The machine has PyTorch, torchvision, seaborn and typer; nothing else is imported but what the kit brings."""
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(bare)}
    done = subprocess.run([sys.executable, "-c", START], cwd=bare, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_what_the_kit_brings_is_locked():
    lock = (ROOT / "requirements.lock").read_text()
    assert all(f"\n{name}==" in lock for name in gpu_kit.PACKAGES)


def test_every_step_of_a_gpu_names_cells_that_exist():
    params = experiments.check_parameters(TABLE, {"profile": "full"})
    todo = gpu_kit.steps("cuda", ROOT / "tests.xml")
    assert sum(step.share for step in todo) == pytest.approx(1)
    for step in todo:
        if "--cells" in step.command:
            cells = step.command[step.command.index("--cells") + 1]
            assert experiments.select(experiments.experiment(TABLE).cells(params), cells)


# --- a run --------------------------------------------------------------------------------------------------------
def test_a_step_that_does_not_end_is_ended():
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    assert gpu_kit.ended(process, time.monotonic()) == gpu_kit.CUT and process.poll() is not None
    process = subprocess.Popen(["false"], start_new_session=True)
    assert gpu_kit.ended(process, time.monotonic() + 30) == "failed: exit status 1, see the log"
    process = subprocess.Popen(["sh", "-c", "exit 3"], start_new_session=True)  # as a run whose time is up
    assert gpu_kit.ended(process, time.monotonic() + 30) == gpu_kit.STOPPED


def test_a_second_run_goes_on_from_the_checkpoint_of_the_first(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(gpu_kit, "FILE_BYTES", 1000)
    out, stage = tmp_path / "out", "generators/cgan-MNIST/gan.safetensors"
    first = gpu_kit.Kit(out, tmp_path, 1, "cpu")
    state = os.urandom(2500)
    for name, body in {
        stage: state,
        "full/work/a/big.ckpt": os.urandom(9000),
        "full/logs/a.log": b"not needed",
    }.items():
        (first.work / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (first.work / "runs" / name).write_bytes(body)
    first.say("a line")
    first.pack()
    assert {f.stat().st_size <= 1000 for f in out.glob("checkpoint.zip.*")} == {True}
    report = json.loads((out / "manifest.json").read_text())
    assert len(report["not_carried"]) == 1 and "big.ckpt" in report["not_carried"][0]
    first.say("a line of a step that is killed before it is packed")
    second = gpu_kit.Kit(out, tmp_path, 1, "cpu")
    assert (second.work / "runs" / stage).read_bytes() == state
    assert not (second.work / "runs" / "full" / "logs").exists()
    (out / "checkpoint.zip.1").write_bytes(b"")
    with pytest.raises(SystemExit, match="checkpoint.zip.1: another checksum"):
        gpu_kit.Kit(out, tmp_path, 1, "cpu")
    assert (second.work / "runs" / stage).read_bytes() == state  # nothing was deleted


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_a_run_killed_while_its_files_are_renamed_goes_on_from_them(renamed, monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    out = tmp_path / "out"
    first = gpu_kit.Kit(out, tmp_path, 1, "cpu")
    first.say("a line")
    first.pack()
    first = gpu_kit.Kit(out, tmp_path, 1, "cpu")
    checkpoint = first.work / "runs" / "products" / "a.unfinished"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(os.urandom(900))
    rename, done = Path.replace, []

    def killed(path, target):
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Path, "replace", killed)
        first.pack()
    second = gpu_kit.Kit(out, tmp_path, 1, "cpu")
    assert (second.work / "runs" / "products" / "a.unfinished").stat().st_size == 900
    assert not list(out.glob("*.part"))
    (out / "checkpoint.zip.3.part").write_bytes(b"of a run that was killed while it wrote")
    gpu_kit.Kit(out, tmp_path, 1, "cpu")
    assert not list(out.glob("*.part"))


def test_a_run_killed_before_anything_was_packed_begins_again(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    for _ in range(2):
        gpu_kit.Kit(tmp_path / "out", tmp_path, 1, "cpu").say("a line")
    assert (tmp_path / "out" / "log.txt").read_text() == "a line\n" * 2


def test_a_folder_of_something_else_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(SystemExit, match="holds other files"):
        gpu_kit.Kit(tmp_path / "out", tmp_path, 1, "cpu")


def test_a_device_that_is_not_there_is_one_line(bare):
    words = [sys.executable, "benchmarks/gpu_kit.py", "run", "elsewhere", "--device", "cuda:99"]
    done = subprocess.run(words, cwd=bare, capture_output=True, text=True)
    assert done.returncode == 1 and "the library does not start on cuda:99" in done.stderr
    assert done.stderr.count("\n") == 1


# --- back home ----------------------------------------------------------------------------------------------------
FOUND = records.path(Cell(TABLE, "Random", "MNIST", 1), "full")


@pytest.fixture
def home(folders):
    """Results of this checkout: none yet."""
    return folders / "results"


def of_sets(record, *sets, **changes):
    """A record of some of its sets."""
    keep = [i for i, s in enumerate(record.sets) if s in sets]
    chosen = {
        "test_accuracy_pct": [record.test_accuracy_pct[i] for i in keep],
        "sets": [record.sets[i] for i in keep],
        "metrics": {},
        "made_by": {**record.made_by, "seeds": {k: [v[s] for s in sets] for k, v in record.made_by["seeds"].items()}},
    }
    return dataclasses.replace(record, **{**chosen, **changes})


def brought(folder, *found, **extra):
    """A folder as `make gpu` writes it."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "results.zip", "w") as z:
        for record in found:
            z.writestr(f"records/full/{TABLE}/{record.cell.stem}.json", json.dumps(record.to_json(), indent=1) + "\n")
        for name, body in extra.items():
            z.writestr(f"benchmarks/{name}.json", json.dumps(body))
    digest = hashlib.sha256((folder / "results.zip").read_bytes()).hexdigest()
    files = {"results.zip": {"sha256": digest}}
    (folder / "manifest.json").write_text(json.dumps({"format": gpu_kit.FORMAT, "files": files}))
    return folder


@pytest.fixture(scope="module")
def record():
    return records.read(FOUND)


def test_records_keep_who_measured_them_and_are_recorded_in_a_plan(record, home, monkeypatch, capsys, tmp_path):
    status, out, _ = call(monkeypatch, capsys, "import", str(brought(tmp_path / "out", record)))
    assert status == 0 and "sets 0, 1, 2, 3, 4 of 5" in out and "1 added, 0 left out" in out
    assert (home / "full" / TABLE / FOUND.name).read_bytes() == FOUND.read_bytes()
    cells = "method=Random,dataset=MNIST,ipc=1,protocol=vico_dsa"
    _, out, _ = call(monkeypatch, capsys, "plan", TABLE, "--profile", "full", "--cells", cells)
    assert out.startswith("recorded")


def test_sets_that_are_missing_here_are_added(record, home, tmp_path):
    of_sets(record, 0, 1).save("full")
    found = import_folder(brought(tmp_path / "out", of_sets(record, 2, 3)))
    assert found.added == [f"{TABLE} [full]: {record.cell}: sets 2, 3 of 5"]
    assert records.load(record.cell, "full").done == [0, 1, 2, 3]
    import_folder(brought(tmp_path / "out", of_sets(record, 0, 1, 2, 3, 4)))  # went on from what is here
    assert records.load(record.cell, "full").test_accuracy_pct == record.test_accuracy_pct
    other = of_sets(record, 0, 1, test_accuracy_pct=[50.0] * 10)
    assert "are recorded" in import_folder(brought(tmp_path / "out", other)).left_out[0]
    of_sets(record, 0).save("full")
    assert "does not go on" in import_folder(brought(tmp_path / "out", other)).left_out[0]
    assert records.load(record.cell, "full").done == [0]


def test_benchmarks_come_with_the_records(record, home, tmp_path):
    made_by = {"commit": "0123456789ab", "changed_since_commit": False}
    body = {"format": benchmarks.FORMAT, "device": "A GPU", "threads": 4, "entries": {"dm": {"name": "dm"}}}
    body["entries"]["dm"]["made_by"] = made_by
    found = import_folder(brought(tmp_path / "out", record, gpu=body))
    assert found.added[-1] == "benchmarks: A GPU, 4 threads, 1 entries"
    assert benchmarks.read(home / "benchmarks" / "a-gpu-4threads.json").entries == body["entries"]


def damage(folder):
    body = bytearray((folder / "results.zip").read_bytes())
    body[40] ^= 1
    (folder / "results.zip").write_bytes(body)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cell": Cell(TABLE, "Random", "Nowhere", 1)}, "is no cell of this version"),
        ({"cell": Cell("skd/table9", "Random", "MNIST", 1)}, "not in its own file"),
        ({"made_by": {"commit": "abc", "changed_since_commit": True}}, "made from uncommitted changes of abc"),
        ({"made_by": {"device": "A GPU"}}, "does not name the commit"),
        ({"made_by": {"commit": "abc", "earlier": [{"commit": "d", "changed_since_commit": True}]}}, "changes of d"),
        ({"test_accuracy_pct": [101.0] * 5}, "not a record"),
        (damage, "another checksum"),
        (lambda folder: (folder / "results.zip").unlink(), "not a whole folder of `make gpu`"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "not a whole folder of `make gpu`"),
    ],
)
def test_what_cannot_be_trusted_is_refused_whole(changes, says, record, home, monkeypatch, capsys, tmp_path):
    good = of_sets(records.read(FOUND.with_name("random_mnist_ipc10_convnet_vico-dsa.json")), 0)
    bad = of_sets(record, 0, **(changes if isinstance(changes, dict) else {}))
    folder = brought(tmp_path / "out", good, bad)
    if callable(changes):
        changes(folder)
    before = sorted(home.rglob("*"))
    status, _, err = call(monkeypatch, capsys, "import", str(folder))
    assert status == 2 and says in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(home.rglob("*")) == before


def test_a_record_here_of_other_settings_is_kept_and_the_others_come(record, home, tmp_path):
    good = of_sets(records.read(FOUND.with_name("random_mnist_ipc10_convnet_vico-dsa.json")), 0)
    of_sets(record, 0, key={**record.key, "seed": 7}).save("full")
    found = import_folder(brought(tmp_path / "out", good, of_sets(record, 0)))
    assert len(found.added) == 1 and "IPC 10" in found.added[0]
    assert "has other settings (seed: 7 -> 0); delete it to take this one" in found.left_out[0]
    assert records.load(record.cell, "full").key["seed"] == 7


def test_a_cell_that_is_being_computed_is_left_out(record, home, tmp_path):
    lock = engine.lock_file(record.cell, "full")
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        found = import_folder(brought(tmp_path / "out", of_sets(record, 0)))
    assert not found.added and "is being computed here now" in found.left_out[0]
    assert len(import_folder(tmp_path / "out").added) == 1


def test_a_record_of_other_settings_than_today_s_is_left_out(record, home, tmp_path):
    old = of_sets(record, 0, key={**record.key, "seed": 7})
    (line,) = import_folder(brought(tmp_path / "out", old)).left_out
    assert "stale: seed: 7 -> 0" in line and not records.files("full")
