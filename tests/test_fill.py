"""`distill fill`: the cheapest missing number first, set by set, until the time is up; stopped and started again it
loses nothing."""

import os
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from filelock import FileLock

from distill_lib import __main__ as cli
from distill_lib import data, experiments, records
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.core.settings import settings
from distill_lib.experiments import Experiment, Parameters, Skip, Task, engine, estimate, fill, prerequisites, registry
from distill_lib.experiments.method_costs import WORK
from distill_lib.methods import METHODS, random_real
from distill_lib.records import Cell, record

NETWORK, PROTOCOL = "MLP", "vico_noaug"


class Slow:
    """Random, which can be told to take its time or to fail for some IPC."""

    VERSION, Config = 1, random_real.Config

    def __init__(self):
        self.calls, self.fails = [], set()

    def distill(self, real, cfg, seed, loop=None):
        self.calls.append((cfg.ipc, seed))
        if cfg.ipc in self.fails:
            raise RuntimeError("no such luck")
        return random_real.distill(real, cfg, seed)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Three cells on the digits with three sets each, one on a data set that is nowhere, one that is skipped."""
    for name in ("RESULTS", "RUNS", "CACHE", "DATA"):
        monkeypatch.setenv(f"DISTILL_{name}", str(tmp_path / name.lower()))
    method = Slow()
    monkeypatch.setitem(METHODS, "Slow", method)
    monkeypatch.setitem(WORK, "Slow", WORK["Random"])

    def cells(params):
        return [
            *(Cell("toy/table", "Slow", "digits", ipc, NETWORK, PROTOCOL) for ipc in (4, 2, 1)),
            Cell("toy/table", "Slow", "TinyImageNet", 1, NETWORK, PROTOCOL),
            Cell("toy/table", "Slow", "digits", 9, NETWORK, PROTOCOL),
        ]

    def task(cell, params):
        if cell.ipc == 9:
            return Skip("too many")
        config, protocol = random_real.Config(ipc=cell.ipc), f"{PROTOCOL}@{2 * cell.ipc}ep"
        return Task(cell, config, cell.dataset, protocol, num_eval=2, num_sets=3, seed=params.seed)

    toy = Experiment("toy/table", "Toy", Parameters, cells, task, printed=lambda cell: cell.ipc != 2)
    monkeypatch.setattr(registry, "experiments", lambda: {"toy/table": toy})
    return method


def order(jobs):
    return [(job.cell.ipc, job.sets) for job in jobs]


def learned(monkeypatch, seconds_per_operation=1e-9):
    """Rates as if a record had told them."""
    known = estimate.Rates(["a machine, any threads"])
    known.rates["a machine, any threads", "evaluate", NETWORK] = [estimate.Rate(seconds_per_operation, 1.0, "a cell")]
    monkeypatch.setattr(estimate, "rates", lambda profile: known)


def test_the_cheapest_number_comes_first_and_further_sets_count_more(table, monkeypatch):
    learned(monkeypatch)
    jobs, left_out = fill.plan("full")
    assert Counter(order(jobs)) == Counter((ipc, n) for ipc in (1, 2, 4) for n in (1, 2, 3))
    weight = [job.seconds * job.sets for job in jobs]
    assert weight == sorted(weight) and order(jobs)[0] == (1, 1)
    assert all(order(jobs).index((ipc, n)) < order(jobs).index((ipc, n + 1)) for ipc in (1, 2, 4) for n in (1, 2))
    assert sum(left_out.values()) == 1 and "TinyImageNet" in next(iter(left_out))
    assert order(fill.plan("full", sets=1)[0]) == [(1, 1), (2, 1), (4, 1)]


def test_a_stage_is_paid_by_the_first_job_that_needs_it_and_its_cost_is_spread_in_the_order(table, monkeypatch):
    """The same stage for the cells of two tables, and a third table without one, whose sets cost 500 s each."""
    toy = registry.experiments()["toy/table"]
    monkeypatch.setitem(METHODS, "Staged", SimpleNamespace(VERSION=1, stage1=lambda cfg: {"stage": Stage()}))
    monkeypatch.setitem(WORK, "Staged", WORK["Random"])
    named = {"toy/table": "Slow", "toy/other": "Staged", "toy/third": "Staged"}

    def table_of(name):
        cells = [Cell(name, named[name], "digits", ipc, NETWORK, PROTOCOL) for ipc in (1, 2)]
        return replace(toy, name=name, cells=lambda params: cells)

    tables = {name: table_of(name) for name in named}
    monkeypatch.setattr(registry, "experiments", lambda: tables)

    def jobs_with(stage):
        known = estimate.Rates(["a machine, any threads"])
        monkeypatch.setattr(estimate, "rates", lambda profile: known)
        monkeypatch.setattr(estimate, "_stage_operations", lambda *args: 1.0)
        monkeypatch.setattr(estimate, "_operations", lambda task: (0.0, 500.0 if task.maker == "Slow" else 60.0))
        known.rates["a machine, any threads", "evaluate", NETWORK] = [estimate.Rate(1.0, 1.0, "a cell")]
        known.rates["a machine, any threads", "stage", "stage"] = [estimate.Rate(stage, 1.0, "a GAN")]
        return fill.plan("full", sets=1)[0]

    cheap = jobs_with(1200.0)  # 300 s for each of four numbers, and 60 s more: less than 500
    assert [job.cell.method for job in cheap] == ["Staged"] * 4 + ["Slow"] * 2
    assert [job.seconds for job in cheap] == [1260.0, 60.0, 60.0, 60.0, 500.0, 500.0] and "a GAN" in cheap[0].basis
    dear = jobs_with(2400.0)  # 600 s for each of four numbers
    assert [job.cell.method for job in dear] == ["Slow"] * 2 + ["Staged"] * 4
    assert {job.cell.experiment for job in dear[2:]} == {"toy/other", "toy/third"}


@settings
class Stage:
    seed: int = 0


def test_it_stops_when_the_time_is_up_and_goes_on_to_the_same_numbers(table, tmp_path, monkeypatch):
    jobs, _ = fill.plan("full")
    assert all(job.seconds is None for job in jobs)  # no record: nothing is claimed, all is done all the same
    run = engine.run
    ended = iter([False, False, True])

    def one(*args, **options):
        if next(ended, True):
            time.sleep(0.01)
            args = (*args[:3], 1e-9, *args[4:])
        return run(*args, **options)

    monkeypatch.setattr(engine, "run", one)
    done = fill.run(jobs, time_limit=3600.0, say=lambda line: None)
    assert len(done["computed"]) == 2
    monkeypatch.setattr(engine, "run", run)
    rest, _ = fill.plan("full")
    assert len(rest) == 7
    fill.run(rest, say=lambda line: None)
    assert fill.plan("full")[0] == [] and sorted(table.calls) == sorted(
        (ipc, seed) for ipc in (1, 2, 4) for seed in range(3)
    )
    grown = {f.name: record.read(f) for f in records.files("full")}
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "elsewhere" / "runs"))
    params = experiments.check_parameters("toy/table", {"profile": "full"})
    at_once = run("toy/table", params, registry.experiments()["toy/table"].cells(params)[:3], say=lambda line: None)
    for status in at_once:
        found = grown[f"{status.cell.stem}.json"]
        pairs = lambda r: sorted(zip(r.sets, r.test_accuracy_pct, strict=True))  # noqa: E731
        assert pairs(found) == pairs(status.record) and found.key == status.record.key


def test_a_cell_that_fails_is_tried_once_and_the_others_are_computed(table):
    table.fails = {2}
    jobs, _ = fill.plan("full")
    done = fill.run(jobs, say=lambda line: None)
    assert len(done["computed"]) == 6 and len(done["failed"]) == 1 and "no such luck" in done["failed"][0]
    assert [c for c in table.calls if c[0] == 2] == [(2, 0)]


def test_a_cell_of_another_process_is_left_to_it(table):
    jobs, _ = fill.plan("full", cells="ipc=1", sets=1)
    lock = paths.runs() / "locks" / "full" / "toy/table" / f"{jobs[0].cell.stem}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        assert fill.run(jobs, say=lambda line: None) == {"computed": [], "failed": [], "elsewhere": [str(jobs[0])]}


def test_the_command_says_first_what_it_will_do(table, monkeypatch, capsys):
    nice = []
    monkeypatch.setattr(os, "nice", nice.append)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    cli.fill(None, "full", None, "ipc=1", 2, "", None, None, dry_run=True)
    told = capsys.readouterr().out
    assert (
        "2 sets of 1 cells to compute at full" in told
        and "set 2 of 3" in told
        and "TinyImageNet (1 cells)" in told
        and nice == [19]
    )
    assert not records.files("full")
    cli.fill(None, "full", None, "ipc=1", 1, "2h", 1, None, dry_run=False)
    assert "1 computed" in capsys.readouterr().out and len(records.files("full")) == 1
    table.fails = {1}
    with pytest.raises(UserError, match="1 cells failed: .*no such luck"):
        cli.fill(None, "full", None, "ipc=1", None, "", None, None, dry_run=False)


def test_a_set_that_is_at_hand_is_told_from_one_that_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    assert data.not_at_hand("digits") == data.not_at_hand("FashionMNIST-mini") == ""
    assert "TinyImageNet" in data.not_at_hand("TinyImageNet") and "ImageWoof" in data.not_at_hand("ImageWoof@64px")


@pytest.mark.parametrize(
    "method, dataset, file",
    [("GLaD", "CIFAR10", "imagenet32.safetensors"), ("U-ViT", "CIFAR100", "cifar10_uvit_small.pth")],
)
def test_cells_whose_weights_are_not_here_are_left_out_before_they_are_begun(
    method, dataset, file, monkeypatch, tmp_path
):
    for folder in ("DISTILL_WEIGHTS", "DISTILL_DATA"):
        monkeypatch.setenv(folder, str(tmp_path))
    config = METHODS[method].paper_config(dataset, 1)
    with pytest.raises(UserError, match=file):
        prerequisites.check_weights(SimpleNamespace(config=config, dataset=dataset))
    prerequisites.check_weights(SimpleNamespace(config=config.small(), dataset=dataset))


def test_fill_leaves_out_cells_whose_weights_are_not_here_and_goes_on_with_the_others(monkeypatch, tmp_path):
    for folder in ("DISTILL_WEIGHTS", "DISTILL_DATA", "DISTILL_RESULTS"):
        monkeypatch.setenv(folder, str(tmp_path))
    jobs, left_out = fill.plan("full", ["slfd/table4_cifar10"])
    lacking = sum(n for why, n in left_out.items() if "imagenet32.safetensors" in why)
    assert lacking and all(job.cell.axes.get("generator") != "ImageNet" for job in jobs)
