"""U-ViT: how good its samples are (Table 2, Figures 3, 5 to 7), and what networks trained on them reach (Figure 4,
budgets)."""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from ...core.errors import TimeUp
from ...core.files import atomically
from ...core.loop import Loop
from ...core.settings import Count, replace, settings
from ...data import ImageSet
from ...evaluation.metrics.generative import Judge, Scores
from ...generators import uvit
from ...generators.uvit import ARCHITECTURES, parameter_count
from ...methods import METHODS
from ...records import Cell
from ..definition import Experiment, Numbers, Parameters, Skip, Task, names_of
from .skd import STAND_INS

TABLE1, TABLE2 = "uvit/table1_configurations", "uvit/table2_fid"
FIGURE1, FIGURE2, FIGURE4 = "uvit/figure1_overview", "uvit/figure2_architecture", "uvit/figure4_leaderboard"
SAMPLES, BUDGET = "uvit/figures5_7_samples", "uvit/accuracy_budget"
METHOD = "U-ViT"
PROTOCOL = "challenge"  # of the printed entry: every image seen in each epoch
STEPS = "challenge_steps"  # of our sets of many sizes: as many optimiser steps for each
EPOCHS = {"smoke": 10, "small": 300}  # of a set of ten images per class, which fix the steps; full: the protocol's 1000
PAPERS = ["CIFAR100", "TinyImageNet"]
DATASETS = [*PAPERS, "FashionMNIST", "CIFAR10"]  # the last two are ours: small budgets suffice for ten classes
CLASSES = {"CIFAR100": 100, "TinyImageNet": 200}  # else 10
JUDGES = {
    "TinyImageNet": "ConvNetD3"
}  # the challenge's script has depth 3 at 64 pixels too, where ConvNet has 4; else the cell's network
SMALL = "small computes FashionMNIST and CIFAR10"


def _config(dataset: str, ipc: int | None, profile: str) -> Any:
    return METHODS[METHOD].of_profile(dataset, profile, ipc)


def _protocol(profile: str, ipc: int | None) -> tuple[str, int]:
    """The protocol with its budget, and the networks trained."""
    if profile == "full":
        return STEPS, 3
    return f"{STEPS}@{EPOCHS[profile]}ep", 2 if profile == "small" and (ipc or 500) <= 10 else 1


def loaded(dataset: str, profile: str) -> str:
    return STAND_INS.get(dataset, dataset) if profile == "smoke" else dataset


class _Rows(Parameters):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # rows


# --- Table 2 and Figure 3
# ----------------------------------------------------------------------------------------------
@settings
class Quality:
    """What is measured of the samples, and of those at every moment of training whose weights were kept."""

    scores: Scores
    looks: Count = 10_000  # samples a moment
    version: int = 1


class Table2Parameters(_Rows):
    extractor: str = (
        "auto"  # features that FID is measured in: Inception, ResNet-56, a network's name; auto: the best at hand
    )


def table2_cells(params: Table2Parameters) -> list[Cell]:
    return [Cell(TABLE2, METHOD, d, None, "ConvNet", STEPS) for d in params.datasets]


def table2_task(cell: Cell, params: Table2Parameters) -> Task | Skip:
    """50,000 samples at full, as the paper; 2,000 at small; 100 at smoke: their scores, and the accuracy of a network
    trained on them."""
    profile = params.profile
    if profile != "full" and cell.dataset in PAPERS:
        return Skip(SMALL.replace("small", profile))
    if profile == "smoke" and cell.dataset != "FashionMNIST":
        return Skip("smoke computes the FashionMNIST stand-in")
    scores = Scores(extractor=params.extractor)
    each, quality = 50_000 // CLASSES.get(cell.dataset, 10), Quality(scores)
    if profile == "small":
        each, quality = 200, Quality(replace(scores.small(), samples=2_000), looks=300)
    elif profile == "smoke":
        each, quality = 10, Quality(scores.smoke(), looks=50)
    protocol, networks = _protocol(profile, each)
    config = _config(cell.dataset, each, profile)
    dataset, judge = loaded(cell.dataset, profile), JUDGES.get(cell.dataset)
    return Task(cell, config, dataset, protocol, networks, seed=params.seed, network=judge, scores=quality)


def measure(task: Task, synthetic: ImageSet, real: ImageSet, test: ImageSet, loop: Loop) -> dict[str, list[Any]]:
    """Scores of the set, by name, and `curve`: those of samples at every kept moment of training, from the same noise.

    Interrupted, it goes on with the moment it was at.
    """
    of, config = task.scores, task.config
    judge = Judge(real, test, of.scores, task.seed, loop)
    out: dict[str, list[Any]] = {
        "features": [judge.about()],
        **{name: [value] for name, value in judge(synthetic).items()},
    }
    trained = METHODS[METHOD].prepare(real, task.config, task.seed, loop)
    file = loop.folder / "curve.json" if loop.folder else None
    curve = json.loads(file.read_text()) if file and file.exists() else []
    few = Judge(real, None, replace(of.scores, samples=of.looks), task.seed, loop)
    steps, labels = trained.steps, torch.arange(of.looks) % real.num_classes
    for step in steps[len(curve) :]:
        if loop.deadline is not None and time.monotonic() > loop.deadline:
            raise TimeUp(f"scores: stopped at {len(curve)} of {len(steps)} moments of training, which are kept")
        model = trained.model(step).to(real.device)
        images = uvit.generate(
            model,
            labels,
            task.seed,
            0,
            config.steps,
            config.sampler,
            config.batch,
            config.precision,
            guidance=config.guidance,
        )
        curve.append({"step": step, **few.distances(ImageSet(images, labels.to(real.device), real.facts))})
        if file:
            atomically(file, lambda part: part.write_text(json.dumps(curve)))
        if loop.tell:
            loop.tell("curve", len(curve), len(steps), {"step": step})
    return out | {"curve": [curve]}


# --- accuracy against images and seconds
# -------------------------------------------------------------------------------
BUDGET_METHODS = [METHOD, "Random"]
IPCS, SECONDS = [1, 10, 50, 100, 500], [2, 15, 60, 150, 600]
SMALL_IPCS, SMALL_SECONDS = [1, 10, 100], [15, 60]  # what the smaller profiles compute
SMOKE_IPCS, SMOKE_SECONDS = [1, 10], [2]


class BudgetParameters(_Rows):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # panels
    methods: names_of("method", lambda: BUDGET_METHODS) = BUDGET_METHODS  # curves
    ipcs: Numbers = IPCS  # images per class
    seconds: Numbers = SECONDS  # of generation


def budget_cells(params: BudgetParameters) -> list[Cell]:
    cells = [
        Cell(BUDGET, m, d, ipc, "ConvNet", STEPS)
        for d in params.datasets
        for m in params.methods
        for ipc in params.ipcs
    ]
    timed = [Cell(BUDGET, METHOD, d, None, "ConvNet", STEPS, f"{s} s") for d in params.datasets for s in params.seconds]
    return cells + (timed if METHOD in params.methods else [])


def budget_task(cell: Cell, params: Parameters) -> Task | Skip:
    profile, seconds = params.profile, int(cell.variant.split()[0]) if cell.variant else None
    if profile != "full":
        if cell.dataset in PAPERS:
            return Skip(SMALL.replace("small", profile))
        ipcs, times = (SMALL_IPCS, SMALL_SECONDS) if profile == "small" else (SMOKE_IPCS, SMOKE_SECONDS)
        if profile == "smoke" and cell.dataset != "FashionMNIST":
            return Skip("smoke computes the FashionMNIST stand-in")
        if cell.ipc not in ipcs if seconds is None else seconds not in times:
            return Skip(f"{profile} computes IPC {ipcs} and {times} seconds")
    dataset = loaded(cell.dataset, profile)
    (protocol, networks), judge = _protocol(profile, cell.ipc), JUDGES.get(cell.dataset)
    if cell.method != METHOD:
        config = METHODS[cell.method].paper_config(cell.dataset, cell.ipc)
        config = config.small() if profile == "small" else config
        return Task(cell, config, dataset, protocol, networks, seed=params.seed, network=judge)
    config = _config(cell.dataset, cell.ipc, profile)
    if seconds is not None:
        config = replace(config, seconds=float(seconds), ipc=None)
    return Task(cell, config, dataset, protocol, networks, seed=params.seed, network=judge)


# --- Figure 4 ----------------------------------------------------------------------------------------------------------
LIMIT = 600  # seconds of the challenge


class Figure4Parameters(Parameters):
    datasets: names_of("dataset", lambda: PAPERS) = PAPERS  # ours is measured on these


def figure4_cells(params: Figure4Parameters) -> list[Cell]:
    return [Cell(FIGURE4, METHOD, d, None, "ConvNet", PROTOCOL, "track=2") for d in params.datasets]


def figure4_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile != "full":
        return Skip(f"{params.profile} cannot train on {cell.dataset}; what its own budget gives stands in {BUDGET}")
    config, judge = METHODS[METHOD].paper_config(cell.dataset), JUDGES.get(cell.dataset)
    return Task(cell, config, cell.dataset, PROTOCOL, num_eval=3, seed=params.seed, network=judge)


# --- Figures 5 to 7 ----------------------------------------------------------------------------------------------------
class SamplesParameters(_Rows):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # grids
    per_class: int = 4  # images of every class; one where there are a hundred classes or more, as in the paper


# --- Table 1 -----------------------------------------------------------------------------------------------------------
def counted(row: dict[str, Any]) -> float | None:
    """What a printed row of Tables 1 and 2 says of the sizes and settings, as they are here; None for what has to be
    measured."""
    model = row["axes"].get("model", "").removeprefix("UViT-")
    if model not in ARCHITECTURES:
        return METHODS["U-ViT"].paper_config(row["dataset"]).steps if row["quantity"] == "sampling_steps" else None
    of = replace(ARCHITECTURES[model], num_classes={"Small": 100, "Mid": 200}[model])  # CIFAR-100, TinyImageNet
    sizes = {
        "layers": of.depth + 1,
        "hidden_size": of.width,
        "mlp_size": of.mlp_ratio * of.width,
        "heads": of.heads,
        "parameters": parameter_count(of) / 1e6,
    }
    return sizes[row["quantity"]]


def _drawing(name: str, title: str, reason: str, parameters: type[Parameters] = Parameters, **more: Any) -> Experiment:
    return Experiment(name, title, parameters, lambda params: [], lambda cell, params: Skip(reason), **more)


EXPERIMENTS = [
    _drawing(FIGURE1, "U-ViT, Figure 1: overview", "a drawing"),
    _drawing(FIGURE2, "U-ViT, Figure 2: architecture", "a drawing"),
    _drawing(TABLE1, "U-ViT, Table 1: configurations", "counted from models that are built", counted=counted),
    Experiment(
        TABLE2,
        "U-ViT, Table 2 and Figure 3: FID",
        Table2Parameters,
        table2_cells,
        table2_task,
        lambda cell: False,
        measure,
        counted,
    ),
    Experiment(FIGURE4, "U-ViT, Figure 4: leaderboard", Figure4Parameters, figure4_cells, figure4_task),
    _drawing(SAMPLES, "U-ViT, Figures 5 to 7: samples", "drawn from Table 2's generators", SamplesParameters),
    Experiment(
        BUDGET, "U-ViT: accuracy by images and seconds", BudgetParameters, budget_cells, budget_task, lambda cell: False
    ),
]
