"""DGS: enhancing generative dataset distillation with difficulty-guided sampling (Li et al., ICCV 2025 workshop)."""

from __future__ import annotations

from typing import Any

from ...core.settings import Count, replace
from ...methods import METHODS
from ...records import Cell
from ..definition import Experiment, Numbers, Parameters, Skip, Task, names_of

TABLE1, TABLE2, TABLE3, TABLE4 = (
    "dgs/table1_imagewoof",
    "dgs/table2_subsets",
    "dgs/table3_distributions",
    "dgs/table4_pool_size",
)
FIGURE1, FIGURE2, FIGURE3, FIGURE4 = (
    "dgs/figure1_workflow",
    "dgs/figure2_difficulty",
    "dgs/figure3_examples",
    "dgs/figure4_targets",
)
PROTOCOL = "minimax_imagenet"
ROWS = ["Random", "K-Center", "Herding", "DiT", "DM", "IDC-1", "Minimax", "DGS", "Full data"]
ROWS2 = ["Random", "DiT", "Minimax", "DGS"]
IPCS = [10, 20, 50]
NETWORKS = ["ConvNet-6", "ResNetAP-10", "ResNet-18"]
DATASETS = ["ImageNette", "ImageIDC"]
DISTRIBUTIONS = ["Hill", "Ground", "Slope", "Cliff", "Scale"]
POOLS = [2, 3, 4, 5, 6]

# What each profile loads and trains. Minimax evaluates at 224 pixels. At 64, IDC's ResNets keep every pixel in their
# first layers, which makes them as slow as at 224; the small budget gives ResNetAP-10 the ImageNet stem instead and
# half the channels, and smoke mostly ConvNets.
SIDE = {"full": 224, "small": 64}
STAND_IN = "BloodCells-mini"  # smoke: real data inside the package, in colour, as the protocol's augmentation needs
TRAINED = {
    "full": {"ConvNet-6": "ConvNetD6", "ResNetAP-10": "IDC-ResNetAP10", "ResNet-18": "IDC-ResNet18"},
    "small": {"ConvNet-6": "ConvNetD6W32", "ResNetAP-10": "IDC-LargeThinResNetAP10"},
    "smoke": {"ConvNet-6": "ConvNetD2W32", "ResNetAP-10": "ConvNetW32", "ResNet-18": "IDC-ThinResNet10"},
}
SMALL_IPC, SMALL_FULL_EPOCHS = 10, 300
# What small trains: epochs, until the loss falls no more (2000 are the published ones), and networks on each set.
SMALL_EPOCHS = {"ConvNet-6": (2000, 3), "ResNetAP-10": (600, 2)}
SMALL_DATASETS = ["ImageWoof", "ImageNette"]  # fastai's copies
TESTED = 50  # test images of every class at small: as many as ILSVRC-2012 has
SMOKE_EPOCHS, SMOKE_FULL_EPOCHS = 4, 1
MATCHED = {"small": "ConvNetW32", "smoke": "ConvNetW32"}  # network of DM and IDC-1 in the smaller profiles
CLASSES = ["Shih-Tzu", "English foxhound"]  # of Figures 2 and 3


# --- how a cell is measured
# ----------------------------------------------------------------------------------------------
def config_of(method: str, dataset: str, ipc: int | None, profile: str) -> Any:
    """A method's settings in a profile. Selection and matching work on narrower networks where a budget is small."""
    if profile == "smoke":
        config = METHODS[method].paper_config(STAND_IN, ipc).smoke()
    else:
        config = METHODS[method].paper_config(dataset, ipc)
        config = config.small() if profile == "small" else config
    if profile in MATCHED:
        if method in ("DM", "IDC-1"):
            config = replace(config, network=MATCHED[profile])
        if method in ("Herding", "K-Center"):
            network = MATCHED["smoke"] if profile == "smoke" else TRAINED["small"]["ResNetAP-10"]
            config = replace(config, training=replace(config.training, network=network))
    return config


def task_of(cell: Cell, config: Any, params: Parameters) -> Task:
    profile, full_data = params.profile, cell.ipc is None
    network = TRAINED[profile][cell.network]
    if profile == "full":
        fixed = cell.method in (
            "Full data",
            "K-Center",
            "Herding",
        )  # their set is always the same: three networks on one
        sets, networks = (1, 3) if fixed else (3, 1)
        return Task(cell, config, f"{cell.dataset}@{SIDE['full']}px", PROTOCOL, networks, sets, params.seed, network)
    if profile == "smoke":
        epochs = SMOKE_FULL_EPOCHS if full_data else SMOKE_EPOCHS
        return Task(
            cell, config, STAND_IN, f"{PROTOCOL}@{epochs}ep", num_eval=1, seed=params.seed, network=network, tested=10
        )
    epochs, networks = (SMALL_FULL_EPOCHS, 1) if full_data else SMALL_EPOCHS[cell.network]
    dataset = f"{cell.dataset}@{SIDE['small']}px"
    return Task(
        cell, config, dataset, f"{PROTOCOL}@{epochs}ep", networks, seed=params.seed, network=network, tested=TESTED
    )


# --- Table 1 -----------------------------------------------------------------------------------------------------------
class Table1Parameters(Parameters):
    methods: names_of("method", lambda: ROWS) = ROWS  # columns in the paper, rows here
    networks: names_of("network", lambda: NETWORKS) = NETWORKS
    ipcs: Numbers = IPCS  # images per class


def table1_cells(params: Table1Parameters) -> list[Cell]:
    """By network, then method, then images per class; the paper prints the full data's accuracy once for each
    network."""
    return [
        Cell(TABLE1, method, "ImageWoof", ipc, network, PROTOCOL)
        for network in params.networks
        for method in params.methods
        for ipc in ([None] if method == "Full data" else params.ipcs)
    ]


def table1_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile != "full" and cell.ipc not in (SMALL_IPC, None):
        return Skip(f"{params.profile} computes IPC {SMALL_IPC}")
    if params.profile == "smoke" and cell.network != "ResNetAP-10" and cell.method != "DGS":
        return Skip("smoke trains one network, on DGS three")
    if params.profile == "small" and cell.network != "ConvNet-6":
        return Skip("small trains ConvNet-6 here: a CPU can give it all the epochs of the paper")
    return task_of(cell, config_of(cell.method, cell.dataset, cell.ipc, params.profile), params)


# --- Table 2 -----------------------------------------------------------------------------------------------------------
class Table2Parameters(Parameters):
    methods: names_of("method", lambda: ROWS2) = ROWS2  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # column groups
    ipcs: Numbers = IPCS  # images per class


def table2_cells(params: Table2Parameters) -> list[Cell]:
    return [
        Cell(TABLE2, m, d, ipc, "ResNetAP-10", PROTOCOL)
        for m in params.methods
        for d in params.datasets
        for ipc in params.ipcs
    ]


def table2_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile != "full":
        if cell.dataset not in SMALL_DATASETS:
            return Skip(f"{params.profile} computes ImageNette")
        if cell.ipc != SMALL_IPC:
            return Skip(f"{params.profile} computes IPC {SMALL_IPC}")
    return task_of(cell, config_of(cell.method, cell.dataset, cell.ipc, params.profile), params)


# --- Tables 3 and 4: DGS's own settings
# ----------------------------------------------------------------------------------
TOO_CLOSE = "small leaves this table to full: on 500 test images one standard error is two points, about what its rows differ by in print"


class Table3Parameters(Parameters):
    distributions: names_of("distribution", lambda: DISTRIBUTIONS) = DISTRIBUTIONS  # rows
    ipcs: Numbers = IPCS  # columns


def table3_cells(params: Table3Parameters) -> list[Cell]:
    names = params.distributions
    return [
        Cell(TABLE3, "DGS", "ImageWoof", ipc, "ResNetAP-10", PROTOCOL, f"distribution={n}")
        for n in names
        for ipc in params.ipcs
    ]


def table3_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile == "small":
        return Skip(TOO_CLOSE)
    if params.profile == "smoke" and cell.ipc != SMALL_IPC:
        return Skip(f"smoke computes IPC {SMALL_IPC}")
    config = config_of("DGS", cell.dataset, cell.ipc, params.profile)
    target = cell.variant.partition("=")[2].lower()
    return task_of(cell, replace(config, sampler=replace(config.sampler, target=target)), params)


class Table4Parameters(Parameters):
    pools: Numbers = POOLS  # rows: images drawn for each one kept
    ipcs: Numbers = IPCS  # columns


def table4_cells(params: Table4Parameters) -> list[Cell]:
    return [
        Cell(TABLE4, "DGS", "ImageWoof", ipc, "ResNetAP-10", PROTOCOL, f"pool={n}xIPC")
        for n in params.pools
        for ipc in params.ipcs
    ]


def table4_task(cell: Cell, params: Parameters) -> Task | Skip:
    """The pools of all sizes begin alike, so a cell that needs a larger one draws what is missing."""
    if params.profile == "small":
        return Skip(TOO_CLOSE)
    if params.profile == "smoke" and cell.ipc != SMALL_IPC:
        return Skip(f"smoke computes IPC {SMALL_IPC}")
    times = int(cell.variant.partition("=")[2].removesuffix("xIPC"))
    return task_of(cell, replace(config_of("DGS", cell.dataset, cell.ipc, params.profile), pool=times), params)


# --- Figures 2 and 3: scores and images of two classes
# -------------------------------------------------------------------
class Figure2Parameters(Parameters):
    ipc: Count = 10  # images per class; the pool holds five times as many


class Figure3Parameters(Parameters):
    ipc: Count = 10  # images per class of the distilled set


def _drawing(cell: Cell, params: Parameters) -> Skip:
    return Skip("no cell is measured for this page")


EXPERIMENTS = [
    Experiment(TABLE1, "DGS, Table 1: ImageWoof", Table1Parameters, table1_cells, table1_task),
    Experiment(TABLE2, "DGS, Table 2: other subsets", Table2Parameters, table2_cells, table2_task),
    Experiment(TABLE3, "DGS, Table 3: target distributions", Table3Parameters, table3_cells, table3_task),
    Experiment(TABLE4, "DGS, Table 4: size of the pool", Table4Parameters, table4_cells, table4_task),
    Experiment(FIGURE1, "DGS, Figure 1: workflow", Parameters, lambda params: [], _drawing),
    Experiment(FIGURE2, "DGS, Figure 2: difficulty", Figure2Parameters, lambda params: [], _drawing),
    Experiment(FIGURE3, "DGS, Figure 3: examples", Figure3Parameters, lambda params: [], _drawing),
    Experiment(FIGURE4, "DGS, Figure 4: pre-defined targets", Parameters, lambda params: [], _drawing),
]
