"""SKD: generative dataset distillation based on self-knowledge distillation (Li et al., ICASSP 2025)."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...methods import METHODS
from ...records import Cell
from ..definition import Experiment, Numbers, Parameters, Skip, Task, names_of

TABLE1, RANKING = "skd/table1_accuracy", "skd/fair_ranking"

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
# One protocol for all rows: exactly IPC images per class, drawn once from a generator, train the table's ConvNet.
# It has a step size of its own, so the one that MTT learns is not used.
FAIR = "vico_dsa"
LEARNED = (
    f"{FAIR}+mse"  # the same for labels that were learned with the images: no probabilities, so by the squared error
)
# Rows measured under other protocols than their own too. Fair: learned labels as they are, and their arg-max.
# Generators draw without limit in the paper; under dim_fixed one fixed set is trained on as they are.
AGAIN = {
    "Random": [FAIR],
    "Herding": [FAIR],
    "K-Center": [FAIR],
    "Forgetting": [FAIR],
    "DC": [FAIR],
    "KIP": [LEARNED, FAIR],
    "MTT": [FAIR],
    "FRePo": [LEARNED, FAIR],
    **{name: ["dim_fixed", FAIR] for name in ("CGAN", "DiM", "SKD (no standardisation)", "SKD")},
}
# The printed numbers of these rows are of other networks than the table's ConvNet; their fair cells are of the ConvNet.
# FRePo's are of its own network without norm, KIP's of one of width 1024 with a step size tuned per cell, which is not
# published; FRePo's takes its place, a choice of ours.
NETWORK = {"KIP": "FRePoConv", "FRePo": "FRePoConv"}
NARROW = {"smoke": "FRePoConvW32", "small": "FRePoConvW64"}  # the same network at a quarter and at half of the width
# Methods the paper does not print, measured beside its rows.
BESIDE = {"IDC-1": ["vico_dsa", "idc_small"]}
# Other readings of a row, each with the setting it changes; measured beside it under its own protocol.
READINGS = {"Forgetting": {"never learned first": {"never_learned": "most"}}}
DATASETS = ["MNIST", "FashionMNIST", "CIFAR10"]
IPCS = [1, 10, 50]

# What the smaller profiles compute; the page names it beside every number. Epochs by images per class, None for full
# data.
STAND_INS = {"FashionMNIST": "FashionMNIST-mini", "CIFAR10": "BloodCells-mini"}  # smoke: real data inside the package
SMOKE_EPOCHS = {1: 40, 10: 15, None: 1}
SMOKE_FAIR = [
    "Random",
    "FRePo",
    "SKD",
]  # measured under the fair protocol too at smoke; for DM and others it is their own
SMALL_CELLS = {"MNIST": [1], "FashionMNIST": [1, 10], "CIFAR10": [1]}
SMALL_EPOCHS = {1: 300, 10: 100, None: 2}


class Table1Parameters(Parameters):
    methods: names_of("method", lambda: [*ROWS, *BESIDE]) = [*ROWS, *BESIDE]  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # column groups
    ipcs: Numbers = IPCS  # images per class


def table1_cells(params: Table1Parameters) -> list[Cell]:
    """Every cell of the table; beside a row the same under the protocol of those it is compared with, and its other
    readings; then methods of ours.
    """
    cells = []
    for method in params.methods:
        rows = [
            (protocol, "")
            for protocol in ([ROWS[method], *AGAIN.get(method, [])] if method in ROWS else BESIDE[method])
        ]
        for protocol, reading in rows + [(ROWS[method], reading) for reading in READINGS.get(method, {})]:
            for dataset in params.datasets:
                for ipc in [None] if method == "Full data" else params.ipcs:
                    cells.append(Cell(TABLE1, method, dataset, ipc, "ConvNet", protocol, reading))
    return cells


def table1_task(cell: Cell, params: Parameters) -> Task | Skip:
    if cell.method not in METHODS:
        return Skip("method not implemented yet")
    config = METHODS[cell.method].paper_config(cell.dataset, cell.ipc)
    if cell.variant:
        config = replace(config, **READINGS[cell.method][cell.variant])
    if params.profile == "smoke":
        return _smoke(cell, config.smoke(), params)
    if params.profile == "small":
        if cell.ipc not in [*SMALL_CELLS[cell.dataset], None]:
            return Skip(f"small computes {cell.dataset} at IPC {SMALL_CELLS[cell.dataset]}")
        budget = f"{cell.protocol}@{SMALL_EPOCHS[cell.ipc]}ep"
        sets = 3 if cell.method == "Random" else 1
        return Task(
            cell,
            config.small(),
            cell.dataset,
            budget,
            1 if cell.ipc is None else 3,
            sets,
            params.seed,
            _network(cell, params),
        )
    sets = 1 if cell.ipc is None else 5
    return Task(
        cell,
        config,
        cell.dataset,
        cell.protocol,
        num_eval=5,
        num_sets=sets,
        seed=params.seed,
        network=_network(cell, params),
    )


def _network(cell: Cell, params: Parameters) -> str | None:
    """The network trained in place of the table's under the row's own protocol, in the profile's width."""
    name = NETWORK.get(cell.method) if cell.protocol == ROWS.get(cell.method) else None
    return name and NARROW.get(params.profile, name)


def _smoke(cell: Cell, config: Any, params: Parameters) -> Task | Skip:
    """Minutes for the whole table: every method once, DM and the two baselines in a few cells more."""
    if cell.dataset not in STAND_INS:
        return Skip(f"no stand-in for {cell.dataset} in the package")
    own = cell.protocol in (ROWS.get(cell.method), BESIDE.get(cell.method, [None])[0])
    if cell.variant or (not own and not (cell.method in SMOKE_FAIR and cell.protocol in (FAIR, LEARNED))):
        return Skip(f"smoke measures each row under its own protocol, {', '.join(SMOKE_FAIR)} under the fair one too")
    more = cell.method in ("Random", "DM")
    if cell.ipc is not None and cell.ipc not in ([1, 10] if more and cell.dataset == "FashionMNIST" else [1]):
        return Skip("smoke computes IPC 1, for Random and DM on FashionMNIST IPC 10 too")
    if cell.dataset == "CIFAR10" and not more:
        return Skip("smoke computes the CIFAR10 stand-in for Random and DM")
    budget = f"{cell.protocol}@{SMOKE_EPOCHS[cell.ipc]}ep"
    networks = 1 if cell.ipc is None else 2
    return Task(
        cell,
        config,
        STAND_INS[cell.dataset],
        budget,
        num_eval=networks,
        seed=params.seed,
        network=_network(cell, params),
    )


def fair_cells(params: Table1Parameters) -> list[Cell]:
    """The cells of the table under the one protocol for all rows; full data are no distilled set and are left out."""
    return [c for c in table1_cells(params) if c.protocol in (FAIR, LEARNED) and c.ipc]


def labels(cell: Cell) -> str:
    """What the networks of a fair cell learn: hard labels, labels learned with the images, or the arg-max of those."""
    if cell.protocol == LEARNED:
        return "learned"
    return "arg-max of learned" if LEARNED in AGAIN.get(cell.method, []) else "hard"


EXPERIMENTS = [
    Experiment(
        TABLE1,
        "SKD, Table 1: test accuracy",
        Table1Parameters,
        table1_cells,
        table1_task,
        lambda c: c.protocol == ROWS.get(c.method) and not c.variant,
    ),
    Experiment(
        RANKING,
        "SKD, Table 1 under one protocol",
        Table1Parameters,
        lambda params: [],
        lambda cell, params: Skip("measured by Table 1"),
    ),
]
