"""The dask engine: the same records as in one process; a killed worker costs nothing but time; no cell twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from test_cli import call

from distill_lib import experiments, records
from distill_lib.core import progress
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.experiments import cluster, engine

dask = pytest.importorskip("dask", reason="needs dask.distributed")
pytest.importorskip("distributed", reason="needs dask.distributed")
NAME = "skd/table1_accuracy"
CELLS = "method=Random,dataset=FashionMNIST,ipc=1,protocol=vico_dsa"


@pytest.fixture
def folders(folders, monkeypatch):
    monkeypatch.setenv(
        "OMP_NUM_THREADS", str(torch.get_num_threads())
    )  # of every worker: as many as here, for the same bits
    return folders


def chosen(ipc="1", protocol="*"):
    params = experiments.check_parameters(NAME, {"profile": "smoke"})
    return params, experiments.select(
        experiments.experiment(NAME).cells(params), f"method=Random,dataset=FashionMNIST,ipc={ipc},protocol={protocol}"
    )


def numbers(cells):
    return {c.stem: records.load(c, "smoke").test_accuracy_pct for c in cells}


def test_two_workers_of_which_one_is_killed_record_every_cell_once(folders, monkeypatch):
    params, cells = chosen()
    killed, starts = [], []

    def kill_one():  # as soon as a worker is in the middle of a cell, that worker's process is gone
        end = time.monotonic() + 120
        while not killed and time.monotonic() < end:
            for note in progress.running():
                if note["total"] and note["pid"] != os.getpid():
                    os.kill(note["pid"], signal.SIGKILL)
                    killed.append(note["pid"])
                    return
            time.sleep(0.05)

    hunter = threading.Thread(target=kill_one)
    hunter.start()
    outcome = cluster.run(NAME, params, cells, workers=2, say=starts.append)
    hunter.join()
    assert killed, "no worker was seen at work"
    assert {s.state for s in outcome} <= {"computed", "reused"} and len(outcome.statuses) == len(cells)
    spread = numbers(cells)
    for cell in cells:  # none twice: every log says "recorded" once
        assert progress.log_path(cell, "smoke").read_text().count("recorded: ") == 1
    monkeypatch.setenv("DISTILL_RUNS", str(folders / "other"))
    engine.run(NAME, params, cells, say=lambda line: None)
    assert numbers(cells) == spread  # one process and many compute the same numbers


def test_what_cells_share_is_one_task(folders):
    submitted = []

    class Client:
        def submit(self, function, *args, key, **options):
            submitted.append((function.__name__, key.rpartition("-")[0]))
            return key

    params = experiments.check_parameters(NAME, {"profile": "small"})
    cells = experiments.select(
        experiments.experiment(NAME).cells(params), "method=MTT|Herding|K-Center|CGAN|SKD,dataset=FashionMNIST,ipc=1|10"
    )
    shared = {}
    for cell in (c for c in cells if not c.variant):
        task = experiments.status(cell, params).task
        cluster._shared(Client(), task, list(range(task.num_sets)), cluster.WorkerOrder("small"), shared)
    stages = [key for name, key in submitted if name == "_stage1"]
    assert sorted(s.rpartition("-")[0] for s in stages) == ["conditional-GAN", "expert-trajectories", "feature-network"]
    sets = [key for name, key in submitted if name == "_set"]
    assert len(sets) == len(set(sets)) == 2 + 2 + 2 + 1 + 1  # two of every image method, one generator each


def test_a_cluster_that_cannot_be_says_why(folders, monkeypatch, capsys):
    chosen = ["run", NAME, "--cells", "method=Random,ipc=1", "--engine", "dask"]
    for words, says in ((["--workers", "0"], "at least 1"), (["--scheduler", "nowhere"], "no dask scheduler answers")):
        status, _, err = call(monkeypatch, capsys, *chosen, *words)
        assert status == 2 and says in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.fixture
def scheduler(folders):
    """The address of a dask scheduler in a process of its own, and a function that gives it a worker."""
    file, started = folders / "scheduler.json", []

    def start(*words):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                stderr=subprocess.DEVNULL,
                cwd=Path(cluster.__file__).parent.parent,
            )
        )

    start("scheduler", "--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    end = time.monotonic() + 60
    while (
        not (file.exists() and file.read_text().rstrip().endswith("}")) and time.monotonic() < end
    ):  # it is written in place
        time.sleep(0.1)
    address = json.loads(file.read_text())["address"]
    yield (
        address,
        lambda: start("worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(folders)),
    )
    for process in reversed(started):
        process.terminate()
        process.wait()


def test_a_running_scheduler_computes_on_its_worker(folders, scheduler, monkeypatch, capsys):
    address, add_worker = scheduler
    assert address.startswith("tcp://")
    add_worker()
    params, cells = chosen(protocol="vico_dsa")
    words = f"run {NAME} --profile smoke --cells {CELLS} --engine dask --scheduler {address}".split()
    for expected in (
        f"{len(cells)} computed",
        f"{len(cells)} reused",
    ):  # the second run finds the scheduler as the first left it
        status, out, _ = call(monkeypatch, capsys, *words)
        assert status == 0 and expected in out
    spread = numbers(cells)
    monkeypatch.setenv("DISTILL_RUNS", str(folders / "other"))
    engine.run(NAME, params, cells, say=lambda line: None)
    assert numbers(cells) == spread


def test_a_scheduler_without_workers_is_not_waited_for_in_silence(folders, scheduler):
    params, cells = chosen()
    with pytest.raises(UserError, match="has no worker; start one with `dask worker tcp://"):
        cluster.run(NAME, params, cells, scheduler=scheduler[0], say=lambda line: None)


def test_slurm_without_a_description_of_its_jobs_says_where_to_write_one(folders):
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    params, cells = chosen()
    with pytest.raises(UserError, match="jobqueue.yaml"):
        cluster.run(NAME, params, cells, scheduler="slurm", say=lambda line: None)


@pytest.fixture
def sbatch(folders, monkeypatch):
    """A function that puts a program in the place of `sbatch`, and describes a job."""
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    monkeypatch.setenv("PATH", str(folders / "bin"))

    def put(script):
        (folders / "bin").mkdir(exist_ok=True)
        (folders / "bin" / "sbatch").write_text(f"#!/bin/sh\n{script}\n")
        (folders / "bin" / "sbatch").chmod(0o755)

    with dask.config.set({"jobqueue.slurm.cores": 1, "jobqueue.slurm.memory": "2GB"}):
        yield put


@pytest.mark.parametrize(
    "script, says",
    [
        (None, "there is no `sbatch` here"),
        ("echo 'sbatch: error: Invalid account' >&2; exit 1", "sbatch refused a job: sbatch: error: Invalid account"),
        ("exit 1", "sbatch refused a job: it failed without a word"),
        ("echo Welcome", "sbatch refused a job: .*job id"),
        ("exec /bin/sleep 60", "sbatch refused a job: no answer in 2 seconds"),
    ],
)
def test_slurm_that_takes_no_job_says_why_in_a_line(script, says, sbatch, monkeypatch, capfd):
    if script:
        sbatch(script)
    monkeypatch.setattr(cluster, "ANSWER", 2)
    params, cells = chosen(protocol="vico_dsa")
    start = time.monotonic()
    with pytest.raises(UserError, match=says) as error:
        cluster.run(NAME, params, cells, scheduler="slurm", time_limit=30, say=lambda line: None)
    assert "\n" not in str(error.value) and time.monotonic() - start < 20
    assert "_submit_job" not in capfd.readouterr().err  # no traceback of the submission


def test_a_refusal_is_told_though_the_cluster_fails_to_close(sbatch, monkeypatch):
    from distributed.deploy.cluster import Cluster

    closed = Cluster.__exit__

    def fails(self, *error):
        closed(self, *error)
        raise AssertionError("Status.running")

    sbatch("exit 1")
    monkeypatch.setattr(Cluster, "__exit__", fails)
    params, cells = chosen(protocol="vico_dsa")
    with pytest.raises(UserError, match="sbatch refused a job: it failed without a word"):
        cluster.run(NAME, params, cells, scheduler="slurm", time_limit=30, say=lambda line: None)


def test_a_job_that_waits_in_the_queue_is_spoken_of_until_the_time_is_up(sbatch, monkeypatch):
    sbatch("echo 'Submitted batch job 42'")
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    said, (params, cells) = [], chosen(protocol="vico_dsa")
    with pytest.raises(TimeUp, match="before any worker had started"):
        cluster.run(NAME, params, cells, scheduler="slurm", time_limit=3, say=said.append)
    assert "waiting for a worker" in said[0] and "squeue" in said[0]


def test_a_time_limit_holds_where_workers_do_not_answer(monkeypatch):
    class Client:
        def nthreads(self):
            return {}

    def never(futures, timeout, return_when):
        raise TimeoutError

    monkeypatch.setattr("distributed.wait", never)
    monkeypatch.setattr(cluster, "GRACE", 0)
    with pytest.raises(TimeUp, match="not every worker has answered"):
        list(cluster._finished(Client(), ["one"], time.time() - 1, print))


@pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed (Debian: slurm-wlm, munge)")
def test_a_real_slurm_of_one_node_computes_a_cell(folders):
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    _, (cell,) = chosen(protocol="vico_dsa")
    here = Path(__file__).parent
    words = f"run {NAME} --cells {CELLS} --engine dask --scheduler slurm".split()
    done = subprocess.run(
        [here / "slurm_single_node.sh", sys.executable, "-m", "distill_lib", *words],
        cwd=here.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 computed" in done.stdout and "dask-worker" in done.stdout.splitlines()[-1]  # in a job of that name
    assert records.load(cell, "smoke") and "recorded: " in progress.log_path(cell, "smoke").read_text()


def test_every_worker_of_a_machine_takes_a_gpu_of_its_own(monkeypatch, tmp_path):
    """Whatever its name or address; one more than there are shares."""
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cluster, "_HELD", [])
    monkeypatch.delenv("DISTILL_DEVICE", raising=False)
    own = cluster._own_gpu.__wrapped__
    assert [own(2), own(2)] == ["cuda:0", "cuda:1"] and own(2) in ("cuda:0", "cuda:1")
    assert cluster._place("cpu") == "cpu"
    monkeypatch.setenv("DISTILL_DEVICE", "cpu")
    assert cluster._place(None) == "cpu"


def test_a_damaged_record_fails_its_cell_and_stays(folders):
    params, cells = chosen(protocol="vico_dsa")
    outcome = engine.run(NAME, params, cells, say=lambda line: None)
    file = records.path(cells[0], "smoke")
    body = json.loads(file.read_text())
    body["test_accuracy_pct"][0] = 99.0
    file.write_text(json.dumps(body))
    (now,) = experiments.plan(NAME, params, cells)
    assert now.state == "damaged" and "checksum differs" in now.why and outcome.of("computed")
    with pytest.raises(UserError, match="checksum differs"):
        engine.run(NAME, params, cells, say=lambda line: None)
    assert json.loads(file.read_text())["test_accuracy_pct"][0] == 99.0  # not overwritten: whoever changed it decides
