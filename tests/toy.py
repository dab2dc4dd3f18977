"""A small experiment of real methods on the digits, and processes that run it: what the tests of interruptions share.

Processes are forked from a server that has imported everything, so that starting one takes no seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

# what every process would import as it goes
import pandas  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch._dynamo  # noqa: F401

from distill_lib import __main__ as cli
from distill_lib.core.loop import Loop
from distill_lib.core.settings import replace
from distill_lib.experiments import Experiment, Parameters, Task, registry
from distill_lib.methods import dm, random_real, selection
from distill_lib.networks.reference import Training
from distill_lib.records import Cell

NAME = "toy/table"
JUDGE = {"network": "ConvNetD1W8", "protocol": "vico_dsa"}


class Axes(Parameters):
    methods: list[str] = ["Herding", "DM"]  # stage 1, distillation and evaluation between them
    variants: list[str] = [""]


def cells(params: Axes) -> list[Cell]:
    return [
        Cell(NAME, m, "digits", 1, JUDGE["network"], JUDGE["protocol"], v)
        for m in params.methods
        for v in params.variants
    ]


def task(cell: Cell, params: Axes) -> Task:
    config = {
        "Herding": selection.Config(ipc=1, training=Training(network="ConvNetD1W8", epochs=2, batch=64, per_class=30)),
        "DM": replace(dm.paper_config("digits", 1), network="ConvNetD1W8", iterations=15, batch_real=8),
        "Random": random_real.Config(ipc=1),
    }[cell.method]
    return Task(cell, config, "digits", f"{cell.protocol}@5ep", num_eval=2, seed=params.seed)


def experiments() -> dict[str, Experiment]:
    return {NAME: Experiment(NAME, "Toy", Axes, cells, task, printed=lambda cell: False)}


# --- processes -------------------------------------------------------------------------------------------------------
def context() -> multiprocessing.context.BaseContext:
    server, before = multiprocessing.get_context("forkserver"), os.environ.get("PYTHONPATH")
    server.set_forkserver_preload(["toy"])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*sys.path, before or ""]
    )  # Python 3.11's server does not take over sys.path
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return server


def folders(place: Path) -> dict[str, str]:
    return {"DISTILL_RESULTS": str(place / "results"), "DISTILL_RUNS": str(place / "runs")}


def command(place: Path, words: list[str], steps: Connection, interrupted: str = "") -> None:
    """The command line, in a process of its own that saves its state after every step and tells `steps` of each before
    it begins.

    In the phase `interrupted`, if there is such a phase, the process gets what Ctrl-C sends.
    """
    os.environ |= folders(place)
    registry.experiments = experiments
    start = Loop.__init__

    def often(self: Loop, *args: object, **options: object) -> None:
        start(self, *args, **{**options, "every": 0.0})
        self.watch = watch

    def watch(name: str, step: int, live: object) -> None:
        steps.send((name, step))
        if interrupted and name.startswith(interrupted) and step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    Loop.__init__ = often
    sys.stdout = sys.stderr = open(place / "printed.txt", "a")
    sys.argv = ["distill", *words]
    cli.main()
