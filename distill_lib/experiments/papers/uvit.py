"""U-ViT: how good its samples are (Table 2, Figures 3, 5 to 7), and what networks trained on them reach (Figure 4,
budgets)."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...evaluation.metrics.generative import Scores
from ...generators.uvit import ARCHITECTURES, parameter_count
from ...methods import METHODS
from ...records import Cell
from ..definition import STAND_INS, Experiment, Numbers, Parameters, Skip, Task, at_budget, cross, names_of, page
from ..sample_scores import Quality, score_samples

TABLE1, TABLE2 = "uvit/table1_configurations", "uvit/table2_fid"
FIGURE1, FIGURE2, FIGURE4 = "uvit/figure1_overview", "uvit/figure2_architecture", "uvit/figure4_leaderboard"
SAMPLES, BUDGET = "uvit/figures5_7_samples", "uvit/accuracy_budget"
METHOD = "U-ViT"
PROTOCOL = "challenge"  # of the printed entry: every image seen in each epoch
STEPS = "challenge_steps"  # of our sets of many sizes: as many optimiser steps for each
EPOCHS = {"smoke": 10, "small": 300}  # of a set of ten images per class, which fix the steps; full: the protocol's 1000
IN_PAPER = ["CIFAR100", "TinyImageNet"]
DATASETS = [*IN_PAPER, "FashionMNIST", "CIFAR10"]  # the last two are ours: small budgets suffice for ten classes
CLASSES = {"CIFAR100": 100, "TinyImageNet": 200}  # else 10
# The challenge's script has depth 3 at 64 pixels too, where ConvNet has 4; else the cell's network.
JUDGES = {"TinyImageNet": "ConvNetD3"}


def loaded(dataset: str, profile: str) -> str:
    """The data set that a profile loads."""
    return STAND_INS.get(dataset, dataset) if profile == "smoke" else dataset


def config_of(dataset: str, ipc: int | None, profile: str) -> Any:
    """U-ViT's settings in a profile."""
    return at_budget(METHODS[METHOD].paper_config(dataset, ipc), profile)


def _task(cell: Cell, params: Parameters, config: Any, size: int | None, **more: Any) -> Task:
    """A cell's task with these settings; `size`: images per class."""
    profile = params.profile
    protocol = STEPS if profile == "full" else f"{STEPS}@{EPOCHS[profile]}ep"
    networks = 3 if profile == "full" else 2 if profile == "small" and (size or 500) <= 10 else 1
    more |= {"seed": params.seed, "network": JUDGES.get(cell.dataset)}
    return Task(cell, config, loaded(cell.dataset, profile), protocol, num_eval=networks, **more)


def _other_data(cell: Cell, params: Parameters) -> Skip | None:
    """The data sets that the smaller profiles leave out."""
    if params.profile != "full" and cell.dataset in IN_PAPER:
        return Skip(f"{params.profile} computes FashionMNIST and CIFAR10")
    if params.profile == "smoke" and cell.dataset != "FashionMNIST":
        return Skip("smoke computes the FashionMNIST stand-in")
    return None


class _Rows(Parameters):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # rows


# --- Table 2 and Figure 3 -------------------------------------------------------------------------
class Table2Parameters(_Rows):
    # features that FID is measured in: Inception, ResNet-56, a network's name; auto: the best at hand
    extractor: str = "auto"


def table2_cells(params: Table2Parameters) -> list[Cell]:
    return [Cell(TABLE2, METHOD, d, None, "ConvNet", STEPS) for d in params.datasets]


def table2_task(cell: Cell, params: Table2Parameters) -> Task | Skip:
    """50,000 samples at full, as the paper; 2,000 at small; 100 at smoke: their scores, and the accuracy of a network
    trained on them."""
    if skip := _other_data(cell, params):
        return skip
    scores, profile = Scores(extractor=params.extractor), params.profile
    each, quality = 50_000 // CLASSES.get(cell.dataset, 10), Quality(scores)
    if profile == "small":
        each, quality = 200, Quality(replace(scores.small(), samples=2_000), looks=300)
    elif profile == "smoke":
        each, quality = 10, Quality(scores.smoke(), looks=50)
    return _task(cell, params, config_of(cell.dataset, each, profile), each, scores=quality)


# --- accuracy against images and seconds ----------------------------------------------------------
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
    cells = cross(BUDGET, dataset=params.datasets, method=params.methods, ipc=params.ipcs, protocol=STEPS)
    if METHOD not in params.methods:
        return cells
    times = [f"{seconds} s" for seconds in params.seconds]
    return cells + cross(BUDGET, dataset=params.datasets, variant=times, method=METHOD, protocol=STEPS)


def budget_task(cell: Cell, params: Parameters) -> Task | Skip:
    profile, seconds = params.profile, int(cell.variant.split()[0]) if cell.variant else None
    if skip := _other_data(cell, params):
        return skip
    if profile != "full":
        ipcs, times = (SMALL_IPCS, SMALL_SECONDS) if profile == "small" else (SMOKE_IPCS, SMOKE_SECONDS)
        if cell.ipc not in ipcs if seconds is None else seconds not in times:
            return Skip(f"{profile} computes IPC {ipcs} and {times} seconds")
    if cell.method == METHOD:
        config = config_of(cell.dataset, cell.ipc, profile)
        if seconds is not None:
            config = replace(config, seconds=float(seconds), ipc=None)
    else:
        config = METHODS[cell.method].paper_config(cell.dataset, cell.ipc)
        config = config.small() if profile == "small" else config
    return _task(cell, params, config, cell.ipc)


# --- Figure 4 -------------------------------------------------------------------------------------
LIMIT = 600  # seconds of the challenge


class Figure4Parameters(Parameters):
    datasets: names_of("dataset", lambda: IN_PAPER) = IN_PAPER  # ours is measured on these


def figure4_cells(params: Figure4Parameters) -> list[Cell]:
    return [Cell(FIGURE4, METHOD, d, None, "ConvNet", PROTOCOL, "track=2") for d in params.datasets]


def figure4_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile != "full":
        return Skip(f"{params.profile} cannot train on {cell.dataset}; what its own budget gives stands in {BUDGET}")
    config, judge = METHODS[METHOD].paper_config(cell.dataset), JUDGES.get(cell.dataset)
    return Task(cell, config, cell.dataset, PROTOCOL, num_eval=3, seed=params.seed, network=judge)


# --- Figures 5 to 7 -------------------------------------------------------------------------------
class SamplesParameters(_Rows):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # grids
    per_class: int = 4  # images of every class; one of a hundred classes or more, as in the paper


# --- Table 1 --------------------------------------------------------------------------------------
def counted(row: dict[str, Any]) -> float | None:
    """The value here of a printed size or setting of Tables 1 and 2; None for what has to be measured."""
    model = row["axes"].get("model", "").removeprefix("UViT-")
    if model not in ARCHITECTURES:
        return METHODS[METHOD].paper_config(row["dataset"]).steps if row["quantity"] == "sampling_steps" else None
    arch = replace(ARCHITECTURES[model], num_classes={"Small": 100, "Mid": 200}[model])  # CIFAR-100, TinyImageNet
    sizes = {
        "layers": arch.depth + 1,
        "hidden_size": arch.width,
        "mlp_size": arch.mlp_ratio * arch.width,
        "heads": arch.heads,
        "parameters": parameter_count(arch) / 1e6,
    }
    return sizes[row["quantity"]]


_FID = Experiment(
    TABLE2,
    "U-ViT, Table 2 and Figure 3: FID",
    Table2Parameters,
    table2_cells,
    table2_task,
    printed=lambda cell: False,
    measure=score_samples,
    counted=counted,
)
_BUDGET = Experiment(
    BUDGET, "U-ViT: accuracy by images and seconds", BudgetParameters, budget_cells, budget_task, lambda cell: False
)
EXPERIMENTS = [
    page(FIGURE1, "U-ViT, Figure 1: overview", "a drawing"),
    page(FIGURE2, "U-ViT, Figure 2: architecture", "a drawing"),
    page(TABLE1, "U-ViT, Table 1: configurations", "counted from models that are built", counted=counted),
    _FID,
    Experiment(FIGURE4, "U-ViT, Figure 4: leaderboard", Figure4Parameters, figure4_cells, figure4_task),
    page(SAMPLES, "U-ViT, Figures 5 to 7: samples", "drawn from Table 2's generators", SamplesParameters),
    _BUDGET,
]
