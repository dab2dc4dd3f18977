"""Seconds of `distill plan` for 10,000 cells: none, half and all of them recorded, the first time and with records that were read before.

    python benchmarks/plan.py [--cells 10000]

A synthetic experiment of real methods, data sets, networks and protocols; its records are as long as real ones. Reading the
records is included, starting Python and importing torch is not: those seconds are printed beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time

start = time.perf_counter()
from distill_lib import estimate, experiment, records  # noqa: E402
from distill_lib.experiment import Experiment, Parameters, Task  # noqa: E402
from distill_lib.methods import METHODS  # noqa: E402
from distill_lib.records import Cell, Record  # noqa: E402

IMPORT = time.perf_counter() - start
NAME = "bench/plan"
AXES = (
    ["Random", "Herding", "DC", "DSA", "DM", "CAFE", "MTT", "FRePo", "CGAN", "DiM"],
    ["MNIST", "FashionMNIST", "CIFAR10", "PneumoniaMNIST"],
    [1, 2, 5, 10, 50],
    ["ConvNet", "AlexNet", "VGG11", "ResNet18", "MLP"],
    ["vico_dsa", "vico_noaug"],
)


def cells(count: int) -> list[Cell]:
    """As many different cells: a further axis of the table repeats the others."""
    kinds = list(itertools.product(*AXES))
    return [Cell(NAME, *kinds[i % len(kinds)], f"variant {i // len(kinds)}") for i in range(count)]


def task(cell: Cell, params: Parameters) -> Task:
    return Task(cell, METHODS[cell.method].paper_config(cell.dataset, cell.ipc), cell.dataset, cell.protocol, seed=params.seed)


def write(cell: Cell, params: Parameters) -> None:
    """A record of the usual length: 5 networks, accuracy of every class."""
    values = [50.0 + i / 7 for i in range(5)]
    metrics = {"train_loss": values, "ece_pct": values, "per_class_accuracy_pct": [[v + k / 3 for k in range(10)] for v in values]}
    seconds = {"distill": 100.0, "evaluate": 30.0}
    key = {**task(cell, params).key, "data_sha256": {"train": "0" * 64, "test": "1" * 64}}
    made_by = {**records.provenance("cpu"), "data": cell.dataset, "data_notes": []}
    body = Record(cell, values, [0] * 5, key, metrics, seconds, 900.0, made_by, seconds).to_json()
    file = records.path(cell, params.profile)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body, indent=1) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, default=10_000)
    number = options.parse_args().cells
    all_cells, params = cells(number), Parameters(profile="full")
    toy = Experiment(NAME, "Synthetic", Parameters, lambda p: all_cells, task)
    experiment.experiments = lambda: {NAME: toy}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DISTILL_RESULTS": f"{folder}/results", "DISTILL_RUNS": f"{folder}/runs"}
        done = 0
        for share in (0.0, 0.5, 1.0):
            for cell in all_cells[done : (done := int(share * number))]:
                write(cell, params)
            time.sleep(1.1)  # a file as new could still change within one tick of its clock: not remembered
            for again in (False, True):
                estimate.per_image.cache_clear()
                estimate._operations.cache_clear()
                start, processor = time.perf_counter(), time.process_time()
                statuses = experiment.plan(NAME, params)
                middle = time.perf_counter()
                rows = estimate.rows(statuses, "full")
                end, processor = time.perf_counter(), time.process_time() - processor
                print(
                    f"{number} cells, {done} recorded, {'again' if again else 'the first time'}: {end - start:.2f} s "
                    f"(states {middle - start:.2f}, costs {end - middle:.2f}; {processor:.2f} s of processor time); {estimate.total(rows)}"
                )
    print(f"imports, once per process: {IMPORT:.1f} s")


if __name__ == "__main__":
    main()
