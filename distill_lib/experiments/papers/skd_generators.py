"""SKD beside its Table 1: the cross-architecture table, the figures, and ablations of what the paper leaves open."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ...records import Cell
from ..definition import Experiment, Parameters, Skip, Task, names_of
from .skd import BESIDE, DATASETS, ROWS, STAND_INS, Numbers

TABLE2, FIGURE1, FIGURE2, ABLATIONS = (
    "skd/table2_cross_architecture",
    "skd/figure1_pipeline",
    "skd/figure2_images",
    "skd/ablations",
)
GALLERY, TIMELAPSE = "skd/gallery", "skd/timelapse"
GENERATORS = ["CGAN", "DiM", "SKD (no standardisation)", "SKD"]

# --- Table 2 -----------------------------------------------------------------------------------------------------------
METHODS2 = ["DSA", "KIP", "MTT", "FRePo", "DiM", "SKD (no standardisation)", "SKD"]
NETWORKS2 = ["ConvNet", "ResNet18", "AlexNet", "VGG11"]
SMALL2 = ["DiM", "SKD (no standardisation)", "SKD"]  # on FashionMNIST, whose generators Table 1 has made
SMALL2_EPOCHS, SMALL2_NETWORKS = 300, 2  # until the loss is flat; of each kind
SMALL2_TRAINED = {"ResNet18": "IDC-ThinResNet18"}  # in its place: half as many channels


class Table2Parameters(Parameters):
    methods: names_of("method", lambda: METHODS2) = METHODS2  # rows
    networks: names_of("network", lambda: NETWORKS2) = NETWORKS2  # columns


def table2_cells(params: Table2Parameters) -> list[Cell]:
    return [Cell(TABLE2, m, "CIFAR10", 10, n, ROWS[m]) for m in params.methods for n in params.networks]


def table2_task(cell: Cell, params: Parameters) -> Task | Skip:
    if cell.method not in METHODS:
        return Skip("method not implemented yet")
    if params.profile == "full":
        return Task(
            cell,
            METHODS[cell.method].paper_config("CIFAR10", 10),
            "CIFAR10",
            cell.protocol,
            num_eval=5,
            num_sets=5,
            seed=params.seed,
        )
    if cell.method not in SMALL2:
        return Skip(f"{params.profile} computes {', '.join(SMALL2)}")
    config = METHODS[cell.method].paper_config("FashionMNIST", 10)
    if params.profile == "smoke":
        if cell.network not in (["ConvNet", "AlexNet"] if cell.method == "SKD" else ["ConvNet"]):
            return Skip("smoke computes ConvNet, for SKD AlexNet too")
        return Task(
            cell, config.smoke(), STAND_INS["FashionMNIST"], f"{cell.protocol}@1ep", num_eval=1, seed=params.seed
        )
    budget, network = f"{cell.protocol}@{SMALL2_EPOCHS}ep", SMALL2_TRAINED.get(cell.network)
    return Task(
        cell, config.small(), "FashionMNIST", budget, num_eval=SMALL2_NETWORKS, seed=params.seed, network=network
    )


# --- ablations ---------------------------------------------------------------------------------------------------------
# name: (field, value); a field of `Config`, or "matching." or "gan." and one of those
VARIANTS: dict[str, tuple[str, Any]] = {
    "default": ("tau", 2.0),
    "lambda 0": ("weight", 0.0),
    "lambda 0.001": ("weight", 0.001),
    "lambda 0.1": ("weight", 0.1),
    "lambda 1": ("weight", 1.0),
    "tau 1": ("tau", 1.0),
    "tau 4": ("tau", 4.0),
    "biased std": ("std", "biased"),
    "no standardisation": ("standardise", False),
    "class means": ("matching.pairing", "class_mean"),
    "warm-up": ("matching.warm_up", 100),
    "embedding": ("target", "embedding"),
    "official normalisation": ("matching.official_norm", True),
    "concatenated label": ("gan.label", "concatenate"),
    "log loss": ("gan.loss", "vanilla"),
}
SMALL_ABLATION_EPOCHS = 50
SMOKE_VARIANTS = ["default", "lambda 1", "class means", "embedding", "log loss"]  # each another path through the code


class AblationParameters(Parameters):
    variants: names_of("variant", lambda: list(VARIANTS)) = list(VARIANTS)  # rows
    dataset: str = "FashionMNIST"


def varied(config: Any, name: str) -> Any:
    """A config with one variant's field changed."""
    field, value = VARIANTS[name]
    part, _, inner = field.rpartition(".")
    return replace(config, **({part: replace(getattr(config, part), **{inner: value})} if part else {inner: value}))


def ablation_cells(params: AblationParameters) -> list[Cell]:
    return [Cell(ABLATIONS, "SKD", params.dataset, 10, "ConvNet", "dim", variant) for variant in params.variants]


def ablation_task(cell: Cell, params: Parameters) -> Task | Skip:
    config = varied(METHODS["SKD"].paper_config(cell.dataset, 10), cell.variant)
    if params.profile == "full":
        return Task(cell, config, cell.dataset, "dim", num_eval=5, num_sets=3, seed=params.seed)
    if params.profile == "smoke":
        if cell.variant not in SMOKE_VARIANTS:
            return Skip(f"smoke computes {', '.join(SMOKE_VARIANTS)}")
        return Task(
            cell, config.smoke(), STAND_INS.get(cell.dataset, cell.dataset), "dim@1ep", num_eval=1, seed=params.seed
        )
    if VARIANTS[cell.variant][0].startswith("gan."):
        return Skip("small trains one GAN per data set, and this variant needs another")
    return Task(cell, config.small(), cell.dataset, f"dim@{SMALL_ABLATION_EPOCHS}ep", num_eval=2, seed=params.seed)


# --- Figure 2 ----------------------------------------------------------------------------------------------------------
class Figure2Parameters(Parameters):
    methods: names_of("method", lambda: GENERATORS) = GENERATORS  # whose generators draw
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS
    per_class: int = 10  # images of every class


# --- sets to look at ---------------------------------------------------------------------------------------------------
IN_GALLERY = [m for m in [*ROWS, *BESIDE] if m != "Full data"]
FILMED = ["DM", "DC", "MTT", "CAFE"]


class GalleryParameters(Parameters):
    methods: names_of("method", lambda: IN_GALLERY) = IN_GALLERY  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS
    ipcs: Numbers = [1, 10]  # images per class


class TimelapseParameters(Parameters):
    methods: names_of("method", lambda: FILMED) = FILMED
    datasets: names_of("dataset", lambda: DATASETS) = ["FashionMNIST"]
    moments: int = 16  # at which the set is kept and trained on


EXPERIMENTS = [
    Experiment(TABLE2, "SKD, Table 2: other networks", Table2Parameters, table2_cells, table2_task),
    Experiment(
        FIGURE1, "SKD, Figure 1: the pipeline", Parameters, lambda params: [], lambda cell, params: Skip("a drawing")
    ),
    Experiment(
        FIGURE2,
        "SKD, Figure 2: images",
        Figure2Parameters,
        lambda params: [],
        lambda cell, params: Skip("drawn from Table 1's generators"),
    ),
    Experiment(
        GALLERY,
        "Gallery of distilled sets",
        GalleryParameters,
        lambda params: [],
        lambda cell, params: Skip("shows the sets of Table 1"),
    ),
    Experiment(
        TIMELAPSE,
        "Sets while they are distilled",
        TimelapseParameters,
        lambda params: [],
        lambda cell, params: Skip("repeats sets of Table 1"),
    ),
    Experiment(ABLATIONS, "SKD, ablations", AblationParameters, ablation_cells, ablation_task, lambda cell: False),
]
