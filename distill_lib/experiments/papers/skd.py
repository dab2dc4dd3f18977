"""SKD: generative dataset distillation based on self-knowledge distillation (Li et al., ICASSP 2025).

Table 1 and its ranking under one protocol, Table 2, the figures, and ablations of what the paper leaves open.
"""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from ...methods import METHODS
from ...records import Cell
from ..definition import STAND_INS, Experiment, Numbers, Parameters, Skip, Task, at_budget, changed, names_of, page

TABLE1, RANKING, TABLE2 = "skd/table1_accuracy", "skd/fair_ranking", "skd/table2_cross_architecture"
FIGURE1, FIGURE2, ABLATIONS = "skd/figure1_pipeline", "skd/figure2_images", "skd/ablations"
GALLERY, TIMELAPSE = "skd/gallery", "skd/timelapse"

# Rows in the paper's order, with the protocol that produced the printed numbers.
ROWS = {
    "Random": "vico_noaug",
    "Herding": "vico_noaug",
    "K-Center": "vico_noaug",
    "Forgetting": "vico_noaug",
    "DC": "vico_noaug",
    "DSA": "vico_dsa",
    "DM": "vico_dsa",
    "CAFE": "vico_dsa",
    "KIP": "frepo_mse",
    "MTT": "mtt",
    "FRePo": "frepo_mse",
    "CGAN": "dim",
    "DiM": "dim",
    "SKD (no standardisation)": "dim",
    "SKD": "dim",
    "Full data": "vico_dsa",
}
GENERATORS = ["CGAN", "DiM", "SKD (no standardisation)", "SKD"]
# One protocol for all rows: exactly IPC images per class, drawn once from a generator, train the table's ConvNet.
# It has a step size of its own, so the one that MTT learns is not used.
FAIR = "vico_dsa"
# The same for labels that were learned with the images: no probabilities, so by the squared error.
LEARNED = f"{FAIR}+mse"
# Rows measured under other protocols than their own too. Fair: learned labels as they are, and their arg-max.
# Generators draw without limit in DiM's code, and SKD's text does not say; under dim_fixed one fixed set is trained
# on as they are.
AGAIN = {
    **dict.fromkeys(["Random", "Herding", "K-Center", "Forgetting", "DC", "MTT"], [FAIR]),
    **dict.fromkeys(["KIP", "FRePo"], [LEARNED, FAIR]),
    **dict.fromkeys(GENERATORS, ["dim_fixed", FAIR]),
}
# The printed numbers of these rows are of other networks than the table's ConvNet; their fair cells are of the ConvNet.
# FRePo's are of its own network without norm, KIP's of one of width 1024 with a step size tuned per cell, which is not
# published; FRePo's takes its place, a choice of ours.
NETWORK = {"KIP": "FRePoConv", "FRePo": "FRePoConv"}
NARROW = {"smoke": "FRePoConvW32", "small": "FRePoConvW64"}  # the same network at a quarter and at half of the width
# Methods the paper does not print, measured beside its rows; the first protocol is their own.
BESIDE = {"IDC-1": ["vico_dsa", "idc_small"]}
# Other readings of a row, each with the setting it changes; measured beside it under its own protocol. How long the
# network behind Herding's and K-Center's features was trained is not published, and on FashionMNIST Herding's printed
# accuracies hardly grow with the number of images, as if each image were chosen for itself.
FEWER_EPOCHS = ("training.epochs", 5)
READINGS: dict[str, dict[str, tuple[str, Any]]] = {
    "Forgetting": {"never learned first": ("never_learned", "most")},
    "Herding": {"features of 5 epochs": FEWER_EPOCHS, "nearest to the mean": ("nearest", True)},
    "K-Center": {"features of 5 epochs": FEWER_EPOCHS},
}
DATASETS = ["MNIST", "FashionMNIST", "CIFAR10"]
IPCS = [1, 10, 50]

# What the smaller profiles compute; the page names it beside every number. Epochs by images per class, None for full
# data.
SMOKE_EPOCHS = {1: 40, 10: 15, None: 1}
SMOKE_FAIR = ["Random", "FRePo", "SKD"]  # under the fair protocol too; for DM and others it is their own
SMALL_CELLS = {"MNIST": [1], "FashionMNIST": [1, 10], "CIFAR10": [1]}
SMALL_EPOCHS = {1: 300, 10: 100, None: 2}


# --- Table 1 --------------------------------------------------------------------------------------
class Table1Parameters(Parameters):
    methods: names_of("method", lambda: [*ROWS, *BESIDE]) = [*ROWS, *BESIDE]  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # column groups
    ipcs: Numbers = IPCS  # images per class


def table1_cells(params: Table1Parameters) -> list[Cell]:
    """For each row its own cells, then those under further protocols, then its other readings."""
    cells = []
    for method in params.methods:
        protocols = [ROWS[method], *AGAIN.get(method, [])] if method in ROWS else BESIDE[method]
        readings = [(protocols[0], reading) for reading in READINGS.get(method, {})]
        for protocol, reading in [*((protocol, "") for protocol in protocols), *readings]:
            cells += [
                Cell(TABLE1, method, dataset, ipc, "ConvNet", protocol, reading)
                for dataset in params.datasets
                for ipc in ([None] if method == "Full data" else params.ipcs)
            ]
    return cells


def table1_task(cell: Cell, params: Parameters) -> Task | Skip:
    config = METHODS[cell.method].paper_config(cell.dataset, cell.ipc)
    if cell.variant:
        config = changed(config, *READINGS[cell.method][cell.variant])
    config, full_data = at_budget(config, params.profile), cell.ipc is None
    both = {"seed": params.seed, "network": _network(cell, params)}
    if params.profile == "full":
        return Task(cell, config, cell.dataset, cell.protocol, num_eval=5, num_sets=1 if full_data else 5, **both)
    if params.profile == "small":
        if READINGS.get(cell.method, {}).get(cell.variant) == FEWER_EPOCHS:
            return Skip("full alone: the features of small are trained for hardly longer")
        if cell.ipc not in [*SMALL_CELLS[cell.dataset], None]:
            return Skip(f"small computes {cell.dataset} at IPC {SMALL_CELLS[cell.dataset]}")
        budget, sets = f"{cell.protocol}@{SMALL_EPOCHS[cell.ipc]}ep", 3 if cell.method == "Random" else 1
        return Task(cell, config, cell.dataset, budget, num_eval=1 if full_data else 3, num_sets=sets, **both)
    if reason := _not_in_smoke(cell):
        return Skip(reason)
    budget = f"{cell.protocol}@{SMOKE_EPOCHS[cell.ipc]}ep"
    return Task(cell, config, STAND_INS[cell.dataset], budget, num_eval=1 if full_data else 2, **both)


def _network(cell: Cell, params: Parameters) -> str | None:
    """The network trained in place of the table's under the row's own protocol, in the profile's width."""
    name = NETWORK.get(cell.method) if cell.protocol == ROWS.get(cell.method) else None
    return name and NARROW.get(params.profile, name)


def _not_in_smoke(cell: Cell) -> str:
    """Why smoke does not compute a cell; "" if it does. Minutes for the whole table: every method once, DM and the two
    baselines in a few cells more."""
    if cell.dataset not in STAND_INS:
        return f"no stand-in for {cell.dataset} in the package"
    own = cell.protocol in (ROWS.get(cell.method), BESIDE.get(cell.method, [None])[0])
    if cell.variant or (not own and not (cell.method in SMOKE_FAIR and cell.protocol in (FAIR, LEARNED))):
        return f"smoke measures each row under its own protocol, {', '.join(SMOKE_FAIR)} under the fair one too"
    more = cell.method in ("Random", "DM")
    if cell.ipc is not None and cell.ipc not in ([1, 10] if more and cell.dataset == "FashionMNIST" else [1]):
        return "smoke computes IPC 1, for Random and DM on FashionMNIST IPC 10 too"
    if cell.dataset == "CIFAR10" and not more:
        return "smoke computes the CIFAR10 stand-in for Random and DM"
    return ""


def fair_cells(params: Table1Parameters) -> list[Cell]:
    """The cells of the table under the one protocol for all rows; full data are no distilled set and are left out."""
    return [c for c in table1_cells(params) if c.protocol in (FAIR, LEARNED) and c.ipc]


def labels(cell: Cell) -> str:
    """What the networks of a fair cell learn: hard labels, labels learned with the images, or the arg-max of those."""
    if cell.protocol == LEARNED:
        return "learned"
    return "arg-max of learned" if LEARNED in AGAIN.get(cell.method, []) else "hard"


# --- Table 2 --------------------------------------------------------------------------------------
METHODS2 = ["DSA", "KIP", "MTT", "FRePo", "DiM", "SKD (no standardisation)", "SKD"]
NETWORKS2 = ["ConvNet", "ResNet18", "AlexNet", "VGG11"]
SMALL2 = ["DiM", "SKD (no standardisation)", "SKD"]  # on FashionMNIST, whose generators Table 1 has made
SMALL2_EPOCHS, SMALL2_NETWORKS = 300, 2  # until the loss is flat; of each kind
SMALL2_TRAINED = {"ConvNet": "ConvNet", "ResNet18": "IDC-ThinResNet18"}  # in its place: half as many channels


class Table2Parameters(Parameters):
    methods: names_of("method", lambda: METHODS2) = METHODS2  # rows
    networks: names_of("network", lambda: NETWORKS2) = NETWORKS2  # columns


def table2_cells(params: Table2Parameters) -> list[Cell]:
    rules = {**ROWS, "KIP": "vico_dsa"}  # printed as MTT's authors measured it: hard labels, networks of 128 channels
    return [Cell(TABLE2, m, "CIFAR10", 10, n, rules[m]) for m in params.methods for n in params.networks]


def table2_task(cell: Cell, params: Parameters) -> Task | Skip:
    dataset, ipc = "CIFAR10" if params.profile == "full" else "FashionMNIST", 10
    config = at_budget(METHODS[cell.method].paper_config(dataset, ipc), params.profile)
    if params.profile == "full":
        return Task(cell, config, dataset, cell.protocol, num_eval=5, num_sets=5, seed=params.seed)
    if cell.method not in SMALL2:
        return Skip(f"{params.profile} computes {', '.join(SMALL2)}")
    if params.profile == "smoke":
        if cell.network != "ConvNet" and (cell.network, cell.method) != ("AlexNet", "SKD"):
            return Skip("smoke computes ConvNet, for SKD AlexNet too")
        return Task(cell, config, STAND_INS[dataset], f"{cell.protocol}@1ep", num_eval=1, seed=params.seed)
    if cell.network not in SMALL2_TRAINED:
        return Skip(f"small computes {', '.join(SMALL2_TRAINED)}")
    budget, network = f"{cell.protocol}@{SMALL2_EPOCHS}ep", SMALL2_TRAINED[cell.network]
    return Task(cell, config, dataset, budget, num_eval=SMALL2_NETWORKS, seed=params.seed, network=network)


# --- ablations ------------------------------------------------------------------------------------
VARIANTS: dict[str, tuple[str, Any]] = {  # name: field of `Config` or of its parts, value
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


def ablation_cells(params: AblationParameters) -> list[Cell]:
    return [Cell(ABLATIONS, "SKD", params.dataset, 10, "ConvNet", "dim", variant) for variant in params.variants]


def ablation_task(cell: Cell, params: Parameters) -> Task | Skip:
    config = changed(METHODS["SKD"].paper_config(cell.dataset, 10), *VARIANTS[cell.variant])
    config = at_budget(config, params.profile)
    if params.profile == "full":
        return Task(cell, config, cell.dataset, "dim", num_eval=5, num_sets=3, seed=params.seed)
    if params.profile == "smoke":
        if cell.variant not in SMOKE_VARIANTS:
            return Skip(f"smoke computes {', '.join(SMOKE_VARIANTS)}")
        stand_in = STAND_INS.get(cell.dataset, cell.dataset)
        return Task(cell, config, stand_in, "dim@1ep", num_eval=1, seed=params.seed)
    if VARIANTS[cell.variant][0].startswith("gan."):
        return Skip("small trains one GAN per data set, and this variant needs another")
    return Task(cell, config, cell.dataset, f"dim@{SMALL_ABLATION_EPOCHS}ep", num_eval=2, seed=params.seed)


# --- Figure 2 -------------------------------------------------------------------------------------
class Figure2Parameters(Parameters):
    methods: names_of("method", lambda: GENERATORS) = GENERATORS  # whose generators draw
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS
    per_class: int = 10  # images of every class


# --- sets to look at --------------------------------------------------------------------------------------------------
IN_GALLERY = [m for m in [*ROWS, *BESIDE] if m != "Full data"]
FILMED = ["DM", "DC", "MTT", "CAFE"]


class GalleryParameters(Parameters):
    methods: names_of("method", lambda: IN_GALLERY) = IN_GALLERY  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS
    ipcs: Numbers = [1, 10]  # images per class


class TimelapseParameters(Parameters):
    methods: names_of("method", lambda: FILMED) = FILMED
    datasets: names_of("dataset", lambda: DATASETS) = ["FashionMNIST"]
    moments: Annotated[int, pydantic.Field(ge=2)] = 16  # at which the set is kept and trained on


def _is_printed(cell: Cell) -> bool:
    return cell.protocol == ROWS.get(cell.method) and not cell.variant


EXPERIMENTS = [
    Experiment(TABLE1, "SKD, Table 1: test accuracy", Table1Parameters, table1_cells, table1_task, _is_printed),
    page(RANKING, "SKD, Table 1 under one protocol", "measured by Table 1", Table1Parameters),
    Experiment(TABLE2, "SKD, Table 2: other networks", Table2Parameters, table2_cells, table2_task),
    page(FIGURE1, "SKD, Figure 1: the pipeline", "a drawing"),
    page(FIGURE2, "SKD, Figure 2: images", "drawn from Table 1's generators", Figure2Parameters),
    page(GALLERY, "Gallery of distilled sets", "shows the sets of Table 1", GalleryParameters),
    page(TIMELAPSE, "Sets while they are distilled", "repeats sets of Table 1", TimelapseParameters),
    Experiment(ABLATIONS, "SKD, ablations", AblationParameters, ablation_cells, ablation_task, lambda cell: False),
]
