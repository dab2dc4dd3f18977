"""What the engine adds to a cell, how long a plan of many cells takes, and how long the library takes to start.

engine: `run` around a cell whose method and evaluation do next to nothing, against the same calls without it: status,
locks, hashes, checkpoints, log, activity, record. plan: states and costs of cells of real methods, data sets, networks
and protocols, half of them recorded, with records that were read before. start: Python, torch and the library, against
Python and torch.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

import suite
import torch

from distill_lib import experiments, records
from distill_lib.core.device import pick
from distill_lib.core.loop import Loop
from distill_lib.evaluation import evaluate
from distill_lib.experiments import Experiment, Parameters, Task, compute, engine, estimate, registry
from distill_lib.methods import METHODS, random_real
from distill_lib.records import Cell, Record

NAME, DATA, NETWORK, PROTOCOL = "bench/engine", "FashionMNIST-mini", "ConvNetD1W8", "vico_noaug@1ep"
AXES = (
    ["Random", "Herding", "DC", "DSA", "DM", "CAFE", "MTT", "FRePo", "CGAN", "DiM"],
    ["MNIST", "FashionMNIST", "CIFAR10", "PneumoniaMNIST"],
    [1, 2, 5, 10, 50],
    ["ConvNet", "AlexNet", "VGG11", "ResNet18", "MLP"],
    ["vico_dsa", "vico_noaug"],
)


def folders() -> tempfile.TemporaryDirectory:
    """A place for records and runs, gone with the object."""
    folder = tempfile.TemporaryDirectory(prefix="distill-benchmark-")
    os.environ |= {"DISTILL_RESULTS": f"{folder.name}/results", "DISTILL_RUNS": f"{folder.name}/runs"}
    return folder


@suite.benchmark(
    "engine",
    "a cell of next to no work ({cells} of them)",
    "method and evaluation called without the engine",
    size={"cells": 1},
    quick={"cells": 1},
    tolerance=1e-9,
    target={"added_seconds": 0.6},
)
def overhead(side: str, device: str, cells: int) -> suite.Call:
    folder, config, numbers = folders(), random_real.Config(ipc=1), itertools.count()

    def task(cell: Cell, params: Parameters) -> Task:
        return Task(cell, config, DATA, PROTOCOL, num_eval=1, seed=int(cell.variant))  # a set of its own

    def all_cells(params: Parameters) -> list[Cell]:
        return [Cell(NAME, "Random", DATA, 1, NETWORK, "vico_noaug", str(i)) for i in range(1000)]

    toy = Experiment(NAME, "Trivial", Parameters, all_cells, task, printed=lambda c: False)
    registry.experiments = lambda: {NAME: toy}
    params, known = experiments.check_parameters(NAME, {"profile": "small"}), all_cells(None)
    real, test = compute.load_on(DATA, str(pick(device)))

    def plain(seed: int) -> list[float]:
        synthetic = METHODS["Random"].distill(real, config, seed=seed, loop=Loop(bar=False))
        return evaluate(
            synthetic, test, PROTOCOL, network=NETWORK, num_eval=1, seed=seed, real=real, loop=Loop(bar=False)
        ).test_accuracy_pct

    def ours(seed: int) -> list[float]:
        assert os.path.isdir(folder.name)
        (status,) = engine.run(NAME, params, [known[seed]], say=lambda line: None)
        return status.record.test_accuracy_pct

    run = plain if side == "plain" else ours
    return lambda: torch.tensor([run(next(numbers)) for _ in range(cells)])


@suite.benchmark(
    "plan",
    "states and costs of {cells} cells, half of them recorded and read before",
    "",
    size={"cells": 10_000},
    quick={"cells": 8},
)
def plan(side: str, device: str, cells: int) -> suite.Call:
    folder, kinds, params = folders(), list(itertools.product(*AXES)), Parameters(profile="full")
    known = [Cell(NAME, *kinds[i % len(kinds)], f"variant {i // len(kinds)}") for i in range(cells)]

    def task(cell: Cell, params: Parameters) -> Task:
        return Task(
            cell,
            METHODS[cell.method].paper_config(cell.dataset, cell.ipc),
            cell.dataset,
            cell.protocol,
            seed=params.seed,
        )

    toy = Experiment(NAME, "Synthetic", Parameters, lambda p: known, task)
    registry.experiments = lambda: {NAME: toy}
    for cell in known[: cells // 2]:
        write(cell, task(cell, params), params.profile)
    time.sleep(1.1)  # a file as new could still change within one tick of its clock: not remembered

    def run() -> dict[str, float]:
        assert os.path.isdir(folder.name)
        estimate.per_image.cache_clear()
        estimate._operations.cache_clear()
        rows = estimate.rows(experiments.plan(NAME, params), params.profile)
        return {"recorded": sum(row["state"] == "recorded" for row in rows)}

    return run


def write(cell: Cell, task: Task, profile: str) -> None:
    """A record of the usual length: 5 networks, accuracy of every class."""
    values = [50.0 + i / 7 for i in range(5)]
    metrics = {
        "train_loss": values,
        "ece_pct": values,
        "per_class_accuracy_pct": [[v + k / 3 for k in range(10)] for v in values],
    }
    seconds = {"distill": 100.0, "evaluate": 30.0}
    made_by = {**provenance(), "data": cell.dataset, "data_notes": []}
    body = Record(
        cell,
        values,
        [0] * 5,
        {**task.key, "data_sha256": {"train": "0" * 64, "test": "1" * 64}},
        metrics,
        seconds,
        900.0,
        made_by,
        seconds,
    )
    file = records.path(cell, profile)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body.to_json(), indent=1) + "\n")


@functools.cache
def provenance() -> dict:
    return records.provenance("cpu")


# --- start -----------------------------------------------------------------------------------------------------------
def python(*words: str) -> suite.Call:
    environment = {
        k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"
    }  # a second start finds the bytecode
    return lambda: (
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment) and None
    )


@suite.benchmark(
    "start-import",
    "python -c 'import {modules}'",
    "python -c 'import torch'",
    size={"modules": "distill_lib.experiments, distill_lib.methods"},
    quick={"modules": "distill_lib"},
    target={"seconds": 3.0},
    elsewhere=True,
)
def start_import(side: str, device: str, modules: str) -> suite.Call:
    return python("-c", f"import {modules}" if side == "ours" else "import torch")


@suite.benchmark(
    "start-plan",
    "distill plan {name} --profile full",
    "python -c 'import torch'",
    size={"name": "skd/table1_accuracy"},
    quick={"name": "skd/table1_accuracy"},
    target={"seconds": 3.0},
    elsewhere=True,
)
def start_plan(side: str, device: str, name: str) -> suite.Call:
    return python(
        *(["-m", "distill_lib", "plan", name, "--profile", "full"] if side == "ours" else ["-c", "import torch"])
    )
