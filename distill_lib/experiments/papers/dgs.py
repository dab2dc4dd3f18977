"""DGS: Task-Specific Generative Dataset Distillation with Difficulty-Guided Sampling (Li et al., ICCV 2025
workshop)."""

from __future__ import annotations

from typing import Any

from ...core.settings import Count, replace
from ...methods import METHODS
from ...records import Cell
from ..definition import COLOUR, Experiment, Numbers, Parameters, Skip, Task, at_budget, changed, cross, names_of, page

TABLE1, TABLE2 = "dgs/table1_imagewoof", "dgs/table2_subsets"
TABLE3, TABLE4 = "dgs/table3_distributions", "dgs/table4_pool_size"
FIGURE1, FIGURE2 = "dgs/figure1_workflow", "dgs/figure2_difficulty"
FIGURE3, FIGURE4 = "dgs/figure3_examples", "dgs/figure4_targets"
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
# half the channels, and smoke mostly ConvNets. Smoke's data are in colour, as the protocol's augmentation needs.
SIDE = {"full": 224, "small": 64}
TRAINED_NETWORKS = {
    "full": {"ConvNet-6": "ConvNetD6", "ResNetAP-10": "IDC-ResNetAP10", "ResNet-18": "IDC-ResNet18"},
    "small": {"ConvNet-6": "ConvNetD6W32", "ResNetAP-10": "IDC-LargeThinResNetAP10"},
    "smoke": {"ConvNet-6": "ConvNetD2W32", "ResNetAP-10": "ConvNetW32", "ResNet-18": "IDC-ThinResNet10"},
}
MATCHED = "ConvNetW32"  # network of DM and IDC-1 in the smaller profiles
SMALL_IPC, SMALL_FULL_EPOCHS = 10, 300
# What small trains: epochs, until the loss falls no more (2000 are the published ones), and networks on each set.
SMALL_EPOCHS = {"ConvNet-6": (2000, 3), "ResNetAP-10": (600, 2)}
SMALL_DATASETS = ["ImageWoof", "ImageNette"]  # fastai's copies
TESTED = 50  # test images of every class at small: as many as ILSVRC-2012 has
SMOKE_EPOCHS, SMOKE_FULL_EPOCHS = 4, 1
CLASSES = ["Shih-Tzu", "English foxhound"]  # of Figures 2 and 3


# --- how a cell is measured -----------------------------------------------------------------------
def config_of(method: str, dataset: str, ipc: int | None, profile: str) -> Any:
    """A method's settings in a profile. Selection and matching work on narrower networks where a budget is small."""
    config = at_budget(METHODS[method].paper_config(COLOUR if profile == "smoke" else dataset, ipc), profile)
    if profile == "full":
        return config
    if method in ("DM", "IDC-1"):
        return replace(config, network=MATCHED)
    if method in ("Herding", "K-Center"):
        return changed(config, "training.network", TRAINED_NETWORKS[profile]["ResNetAP-10"])
    return config


def task_of(cell: Cell, config: Any, params: Parameters) -> Task:
    """A cell's task with these settings, in the profile's budget."""
    profile, full_data = params.profile, cell.ipc is None
    both = {"seed": params.seed, "network": TRAINED_NETWORKS[profile][cell.network]}
    if profile == "smoke":
        epochs = SMOKE_FULL_EPOCHS if full_data else SMOKE_EPOCHS
        return Task(cell, config, COLOUR, f"{PROTOCOL}@{epochs}ep", num_eval=1, tested=10, **both)
    dataset = f"{cell.dataset}@{SIDE[profile]}px"
    if profile == "small":
        epochs, networks = (SMALL_FULL_EPOCHS, 1) if full_data else SMALL_EPOCHS[cell.network]
        return Task(cell, config, dataset, f"{PROTOCOL}@{epochs}ep", num_eval=networks, tested=TESTED, **both)
    if full_data:  # the set is always the same: three networks on it
        return Task(cell, config, dataset, PROTOCOL, num_eval=3, num_sets=1, **both)
    return Task(cell, config, dataset, PROTOCOL, num_eval=1, num_sets=3, **both)


def _other_ipc(cell: Cell, params: Parameters) -> Skip | None:
    if params.profile != "full" and cell.ipc not in (SMALL_IPC, None):
        return Skip(f"{params.profile} computes IPC {SMALL_IPC}")
    return None


# --- Table 1 --------------------------------------------------------------------------------------
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
    if skip := _other_ipc(cell, params):
        return skip
    if params.profile == "smoke" and cell.network != "ResNetAP-10" and cell.method != "DGS":
        return Skip("smoke trains one network, on DGS three")
    if params.profile == "small" and cell.network != "ConvNet-6":
        return Skip("small trains ConvNet-6 here: a CPU can give it all the epochs of the paper")
    return task_of(cell, config_of(cell.method, cell.dataset, cell.ipc, params.profile), params)


# --- Table 2 --------------------------------------------------------------------------------------
class Table2Parameters(Parameters):
    methods: names_of("method", lambda: ROWS2) = ROWS2  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # column groups
    ipcs: Numbers = IPCS  # images per class


def table2_cells(params: Table2Parameters) -> list[Cell]:
    axes = {"method": params.methods, "dataset": params.datasets, "ipc": params.ipcs}
    return cross(TABLE2, **axes, network="ResNetAP-10", protocol=PROTOCOL)


def table2_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile != "full" and cell.dataset not in SMALL_DATASETS:
        return Skip(f"{params.profile} computes ImageNette")
    if skip := _other_ipc(cell, params):
        return skip
    return task_of(cell, config_of(cell.method, cell.dataset, cell.ipc, params.profile), params)


# --- Tables 3 and 4: DGS's own settings -----------------------------------------------------------
TOO_CLOSE = (
    "small leaves this table to full: on 500 test images one standard error is two points, about what its rows differ "
    "by in print"
)


def _varied(table: str, variants: list[str], ipcs: list[int]) -> list[Cell]:
    axes = {"variant": variants, "ipc": ipcs, "method": "DGS", "dataset": "ImageWoof"}
    return cross(table, **axes, network="ResNetAP-10", protocol=PROTOCOL)


def _own_setting(cell: Cell, params: Parameters, field: str, value: Any) -> Task | Skip:
    """The task of a cell that changes one of DGS's settings."""
    if params.profile == "small":
        return Skip(TOO_CLOSE)
    if skip := _other_ipc(cell, params):
        return skip
    return task_of(cell, changed(config_of("DGS", cell.dataset, cell.ipc, params.profile), field, value), params)


class Table3Parameters(Parameters):
    distributions: names_of("distribution", lambda: DISTRIBUTIONS) = DISTRIBUTIONS  # rows
    ipcs: Numbers = IPCS  # columns


def table3_cells(params: Table3Parameters) -> list[Cell]:
    return _varied(TABLE3, [f"distribution={name}" for name in params.distributions], params.ipcs)


def table3_task(cell: Cell, params: Parameters) -> Task | Skip:
    return _own_setting(cell, params, "sampler.target", cell.axes["distribution"].lower())


class Table4Parameters(Parameters):
    pools: Numbers = POOLS  # rows: images drawn for each one kept
    ipcs: Numbers = IPCS  # columns


def table4_cells(params: Table4Parameters) -> list[Cell]:
    return _varied(TABLE4, [f"pool={times}xIPC" for times in params.pools], params.ipcs)


def table4_task(cell: Cell, params: Parameters) -> Task | Skip:
    """The pools of all sizes begin alike, so a cell that needs a larger one draws what is missing."""
    return _own_setting(cell, params, "pool", int(cell.axes["pool"].removesuffix("xIPC")))


# --- Figures 2 and 3: scores and images of two classes --------------------------------------------
class FigureParameters(Parameters):
    ipc: Count = 10  # images per class of the distilled set; the pool holds five times as many


NO_CELL = "no cell is measured for this page"
EXPERIMENTS = [
    Experiment(TABLE1, "DGS, Table 1: ImageWoof", Table1Parameters, table1_cells, table1_task),
    Experiment(TABLE2, "DGS, Table 2: other subsets", Table2Parameters, table2_cells, table2_task),
    Experiment(TABLE3, "DGS, Table 3: target distributions", Table3Parameters, table3_cells, table3_task),
    Experiment(TABLE4, "DGS, Table 4: size of the pool", Table4Parameters, table4_cells, table4_task),
    page(FIGURE1, "DGS, Figure 1: workflow", NO_CELL),
    page(FIGURE2, "DGS, Figure 2: difficulty", NO_CELL, FigureParameters),
    page(FIGURE3, "DGS, Figure 3: examples", NO_CELL, FigureParameters),
    page(FIGURE4, "DGS, Figure 4: pre-defined targets", NO_CELL),
]
