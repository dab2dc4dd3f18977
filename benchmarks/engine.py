"""What the engine adds to a cell: seconds of `run` around a cell whose method and evaluation do next to nothing.

    python benchmarks/engine.py [--cells 20]

The cell is measured with `run`, records and all, and the same calls of the method and of `evaluate` without it; the difference is
the engine's: status, locks, hashes, checkpoints, log, activity, record. What a process pays once (git, hash of the data) is counted
separately. The target is 0.6 s per cell: one per cent of a minute.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

from distill_lib import experiment
from distill_lib.device import pick
from distill_lib.evaluate import evaluate
from distill_lib.experiment import Experiment, Parameters, Task
from distill_lib.methods import METHODS, random_real
from distill_lib.records import Cell

NAME, DATA, NETWORK, PROTOCOL = "bench/engine", "FashionMNIST-mini", "ConvNetD1W8", "vico_noaug@1ep"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, default=20)
    number = options.parse_args().cells
    cells = [Cell(NAME, "Random", DATA, 1, NETWORK, "vico_noaug", f"variant {i}") for i in range(number + 1)]
    config = random_real.Config(ipc=1)

    def task(cell: Cell, params: Parameters) -> Task:
        return Task(cell, config, DATA, PROTOCOL, num_eval=1, seed=cells.index(cell))  # a set of its own

    toy = Experiment(NAME, "Trivial", Parameters, lambda p: cells, task, printed=lambda c: False)
    experiment.experiments = lambda: {NAME: toy}
    params = experiment.check_parameters(NAME, {"profile": "small"})

    def plain(seed: int) -> None:
        synthetic = METHODS["Random"].distill(real, config, seed=seed)
        evaluate(synthetic, test, PROTOCOL, network=NETWORK, num_eval=1, seed=seed, real=real)

    def with_engine(i: int) -> None:
        experiment.run(NAME, params, [cells[i]], say=lambda line: None)

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DISTILL_RESULTS": f"{folder}/results", "DISTILL_RUNS": f"{folder}/runs"}
        real, test = experiment._load(DATA, str(pick()))
        plain(number)
        start = time.perf_counter()
        with_engine(number)
        first = time.perf_counter() - start
        seconds: dict[str, list[float]] = {"plain": [], "engine": []}
        for i in range(number):  # alternating, so that a busy machine slows both
            for name, call in (("plain", plain), ("engine", with_engine)):
                start = time.perf_counter()
                call(i)
                seconds[name].append(time.perf_counter() - start)
    added = statistics.median(e - p for e, p in zip(seconds["engine"], seconds["plain"], strict=True))
    plain_, engine = (statistics.median(seconds[k]) for k in ("plain", "engine"))
    print(f"{number} cells on {sys.platform}: {plain_:.3f} s without, {engine:.3f} s with the engine: {added:.3f} s per cell,")
    print(f"{added / 60:.2%} of a cell of 60 s; the first cell of a process {first - engine:.2f} s more")


if __name__ == "__main__":
    main()
