"""SLFD: dataset distillation with probabilistic latent features (Li et al. 2025), and GLaD, on which it builds."""

from __future__ import annotations

from typing import Any

from ...core.settings import replace
from ...data import augment
from ...generators.prior import Prior
from ...methods import METHODS
from ...methods.common.latents import SMALL
from ...records import Cell
from ..definition import COLOUR, Experiment, Parameters, Skip, Task, at_budget, changed, cross, names_of, page

TABLE1, TABLE2, TABLE3 = "slfd/table1_imagenet_subsets", "slfd/table2_highres", "slfd/table3_merged"
TABLE4, TABLE5, TABLE6 = "slfd/table4_cifar10", "slfd/table5_pathmnist", "slfd/table6_uvit"
TABLE7, ABLATIONS = "slfd/table7_covariance_rank", "slfd/ablations"
FIGURE1, FIGURE2, FIGURE3 = "slfd/figure1_correlation", "slfd/figure2_overview", "slfd/figure3_refined"
FIGURE4, FIGURE5, FIGURE6 = "slfd/figure4_images", "slfd/figure5_pathmnist", "slfd/figure6_uvit"
FIGURE7 = "slfd/figure7_rank"

LETTERS = [f"ImNet-{letter}" for letter in "ABCDE"]
SUBSETS = [*LETTERS, "ImageNette", "ImageWoof", "ImNet-Birds", "ImNet-Fruits", "ImNet-Cats"]
MEAN = "cross-architecture mean"  # of four networks that the distillation has not seen

# --- what the smaller profiles compute; the pages name it beside every number ---------------------
SMOKE_EPOCHS, SMOKE_TESTED = 3, 6  # test images per class
SMALL_SIDE = 64  # pixels of the ImageNet subsets and of the blood cells, the stand-in for PathMNIST
SMALL_SETS = {
    "ImageNette": "ImageNette@64px",
    "ImageWoof": "ImageWoof@64px",
    "ImNet-A": "ImageNette@64px",
    "CIFAR10": "CIFAR10",
}
SMALL_TESTED = {"CIFAR10": 100, "PathMNIST": 125}  # test images per class, else 50, which is what ILSVRC has
SMALL_PROTOCOL = "vico_dsa@200ep"  # of one network: DSA's step size suits so few epochs; GLaD's is a tenth of it
# Of the mean, from 64 pixels on and below: until the loss is flat.
SMALL_UNSEEN = {True: "glad_short@100ep", False: "vico_dsa@200ep"}
SMALL_NETWORK = "ConvNetW32"  # that sets are distilled with, and the one of the -Conv rows


def unseen(side: int, profile: str = "full") -> tuple[str, ...]:
    """The four networks that GLaD's code trains on images of this size; the small budget has a narrower ResNet-18."""
    if side >= 64:
        return ("IDC-LargeThinResNet18" if profile == "small" else "ResNet18", "GLaD-VGG11", "ViT", "AlexNet")
    return ("IDC-ThinResNet18" if profile == "small" else "ResNet18", "VGG11", "ViTCIFAR", "AlexNet")


def row_name(cell: Cell) -> str:
    """What a row is called on our pages."""
    match = cell.axes.get("match", "DC")
    extra = [f"{k} {v}" for k, v in cell.axes.items() if k in ("generator", "rank") and v != "none"]
    if cell.experiment == TABLE7:
        extra.insert(0, f"{cell.axes['resolution']} px")
    name = f"{match}, pixels" if cell.axes.get("space") == "pixel" else f"{cell.method} with {match}"
    return ", ".join([name, *extra, *(["ConvNet"] if cell.network == "ConvNet" else [])])


def column_name(cell: Cell) -> str:
    """What a column is called on our pages: the data set, and in Table 5 the resolution."""
    return f"{cell.dataset} at {cell.axes['resolution']} px" if cell.experiment == TABLE5 else cell.dataset


# --- settings of a row ----------------------------------------------------------------------------
def method_and_config(cell: Cell, profile: str) -> tuple[str, Any]:
    """The method that makes a row's set, and its settings in a profile."""
    match, axes = cell.axes.get("match", "DC"), cell.axes
    if axes.get("space") == "pixel":
        return _in_pixels(cell, match, profile)
    config = METHODS[cell.method].paper_config(cell.dataset, cell.ipc, match)
    prior = config.space.prior
    if axes.get("generator") == "random":
        config = changed(config, "space.prior", replace(prior, weights="random", width=512))
    if axes.get("generator") == "UViT":
        prior = replace(prior, family="U-ViT", weights="imagenet")
        config = replace(config, space=replace(config.space, prior=prior, layer=4))
    if cell.method == "SLFD" and "rank" in axes:
        config = changed(config, "module.rank", None if axes["rank"] == "full" else int(axes["rank"]))
    config = at_budget(config, profile)
    if profile == "small":
        config = replace(config, network=SMALL_NETWORK)
    if profile == "smoke" and axes.get("generator") == "UViT":
        prior = Prior("U-ViT", "random", width=32)
        config = replace(config, space=replace(config.space, prior=prior, layer=1))
    return cell.method, config


def _in_pixels(cell: Cell, match: str, profile: str) -> tuple[str, Any]:
    """GLaD's baselines: its step sizes and number of steps, augmentation, real images at the start."""
    method = {"DC": "DSA", "DM": "DM", "MTT": "MTT"}[match]
    config = METHODS[method].paper_config(cell.dataset, cell.ipc)
    if match == "MTT":
        return method, at_budget(config, profile)
    step, augmentation = {"DC": 1.0, "DM": 10.0}[match], augment.strategy_for(cell.dataset)
    config = replace(config, iterations=1_001, lr_img=step, dsa=augmentation)
    if profile == "small":
        iterations, batch = SMALL[match]
        return method, replace(config, iterations=iterations, batch_real=batch, network=SMALL_NETWORK)
    return method, at_budget(config, profile)


def task_for(cell: Cell, params: Parameters, dataset: str, side: int) -> Task:
    """The task of a cell in the profile's budget, on a data set whose images are `side` pixels wide."""
    method, config = method_and_config(cell, params.profile)
    networks = unseen(side, params.profile) if cell.network == MEAN else ()
    both = {"seed": params.seed, "networks": networks, "method": None if method == cell.method else method}
    if params.profile == "full":
        return Task(cell, config, dataset, "glad", num_eval=5, **both)
    if params.profile == "smoke":
        return Task(cell, config, COLOUR, f"vico_dsa@{SMOKE_EPOCHS}ep", num_eval=1, tested=SMOKE_TESTED, **both)
    protocol, network = (SMALL_UNSEEN[side >= 64], None) if networks else (SMALL_PROTOCOL, SMALL_NETWORK)
    tested = SMALL_TESTED.get(cell.dataset, 50)
    return Task(cell, config, dataset, protocol, num_eval=3, network=network, tested=tested, **both)


def _side(params: Parameters, full: int = 128) -> int:
    """Pixels of the images in a profile."""
    return {"smoke": 32, "small": SMALL_SIDE}.get(params.profile, full)


# --- Table 1 --------------------------------------------------------------------------------------
ROWS1 = {  # name: method, what is matched, space
    "MTT": ("MTT", "MTT", "pixel"),
    "GLaD-MTT": ("GLaD", "MTT", "latent"),
    "DC": ("DC", "DC", "pixel"),
    "GLaD-DC": ("GLaD", "DC", "latent"),
    "SLFD-DC": ("SLFD", "DC", "latent"),
    "DM": ("DM", "DM", "pixel"),
    "GLaD-DM": ("GLaD", "DM", "latent"),
    "SLFD-DM": ("SLFD", "DM", "latent"),
}


class Table1Parameters(Parameters):
    rows: names_of("row", lambda: list(ROWS1)) = list(ROWS1)
    datasets: names_of("dataset", lambda: SUBSETS) = SUBSETS  # columns


def table1_cells(params: Table1Parameters) -> list[Cell]:
    """Mean of the unseen networks for every row, and the distillation network for those of DC and DM."""
    cells = []
    for method, match, space in map(ROWS1.get, params.rows):
        axes = {"network": [MEAN] if match == "MTT" else [MEAN, "ConvNet"], "dataset": params.datasets}
        cells += cross(TABLE1, **axes, method=method, ipc=1, protocol="glad", variant=f"match={match}, space={space}")
    return cells


def table1_task(cell: Cell, params: Parameters) -> Task | Skip:
    match = cell.axes["match"]
    if params.profile == "small" and (cell.dataset not in ("ImageNette", "ImageWoof") or match == "MTT"):
        return Skip("small computes DC and DM on ImageNette and ImageWoof")
    if params.profile == "small" and cell.network == MEAN and cell.dataset != "ImageNette":
        return Skip("small trains the unseen networks on ImageNette: they take most of its time")
    if params.profile == "smoke":
        if cell.dataset != "ImageNette" or (cell.network == MEAN) != (cell.method == "GLaD" and match in ("DM", "MTT")):
            return Skip("smoke computes one column, DC with ConvNet, and GLaD with DM and MTT on the unseen networks")
        if match == "DM" and cell.network != MEAN:
            return Skip("smoke computes DC with ConvNet")
    dataset = SMALL_SETS[cell.dataset] if params.profile == "small" else cell.dataset
    return task_for(cell, params, dataset, _side(params))


# --- Tables 2 and 3 -------------------------------------------------------------------------------
class LetterParameters(Parameters):
    datasets: names_of("dataset", lambda: LETTERS) = LETTERS  # columns


def table2_cells(params: LetterParameters) -> list[Cell]:
    axes = {"method": ["GLaD", "SLFD"], "dataset": params.datasets}
    return cross(TABLE2, **axes, ipc=1, network=MEAN, protocol="glad", variant="resolution=256")


def table2_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile == "small":
        return Skip("256 pixels are beyond the small budget")
    if params.profile == "smoke" and (cell.dataset != "ImNet-A" or cell.method != "SLFD"):
        return Skip("smoke computes SLFD in one column")
    return task_for(cell, params, f"{cell.dataset}@256px", _side(params, 256))


# The last is ours: no class twice.
MERGED = {"SLFD-50": "classes=50", "SLFD-100": "classes=100", "SLFD-94": "classes=94"}


class Table3Parameters(Parameters):
    datasets: names_of("dataset", lambda: list(MERGED)) = list(MERGED)  # rows


def table3_cells(params: Table3Parameters) -> list[Cell]:
    return [Cell(TABLE3, "SLFD", d, 1, MEAN, "glad", MERGED[d]) for d in params.datasets]


def table3_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile == "small":
        return Skip("the merged sets need all of ImageNet")
    if params.profile == "smoke" and cell.dataset != "SLFD-50":
        return Skip("smoke computes one row")
    return task_for(cell, params, cell.dataset, _side(params))


# --- Tables 4 and 5 -------------------------------------------------------------------------------
class MatchParameters(Parameters):
    # the paper does not say which; DC is assumed
    matches: names_of("matching", lambda: ["DC", "DM"]) = ["DC", "DM"]


ONE_MATCHING = (
    "small matches gradients here, as the printed rows are assumed to do; Table 1 and the ablations match by DM too"
)


def _with_match(base: str, match: str) -> str:
    """A variant under a matching method; the printed rows are assumed to be DC's, so DC's have the paper's variant."""
    return base if match == "DC" else f"{base}, match={match}"


def table4_cells(params: MatchParameters) -> list[Cell]:
    cells = []
    for match in params.matches:
        cells.append(Cell(TABLE4, match, "CIFAR10", 1, MEAN, "glad", f"match={match}, space=pixel"))
        for start in ("random", "ImageNet"):
            variant = _with_match(f"generator={start}", match)
            cells += [Cell(TABLE4, method, "CIFAR10", 1, MEAN, "glad", variant) for method in ("GLaD", "SLFD")]
    return cells


def table4_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile == "small" and cell.axes.get("match") == "DM":
        return Skip(ONE_MATCHING)
    if params.profile == "smoke" and (cell.method, cell.variant) != ("SLFD", "generator=random"):
        return Skip("smoke computes one row")
    return task_for(cell, params, "CIFAR10", 32)


class Table5Parameters(MatchParameters):
    resolutions: names_of("resolution", lambda: ["64", "128", "256"]) = ["64", "128", "256"]  # columns, pixels


def table5_cells(params: Table5Parameters) -> list[Cell]:
    cells = []
    for match in params.matches:
        for side in params.resolutions:
            pixels, latents = f"resolution={side}, match={match}, space=pixel", _with_match(f"resolution={side}", match)
            cells.append(Cell(TABLE5, match, "PathMNIST", 1, MEAN, "glad", pixels))
            cells += [Cell(TABLE5, method, "PathMNIST", 1, MEAN, "glad", latents) for method in ("GLaD", "SLFD")]
    return cells


def table5_task(cell: Cell, params: Parameters) -> Task | Skip:
    resolution, match = cell.axes["resolution"], cell.axes.get("match")
    if params.profile == "small":
        if resolution != "64":
            return Skip("small computes 64 pixels, on blood cells")
        if match == "DM":
            return Skip(ONE_MATCHING)
        return task_for(cell, params, "BloodCells@64px", SMALL_SIDE)
    if params.profile == "smoke" and (resolution, cell.method, match) != ("64", "SLFD", "DM"):
        return Skip("smoke computes one cell")
    return task_for(cell, params, f"PathMNIST@{resolution}px-bicubic", _side(params, int(resolution)))


# --- Tables 6 and 7 -------------------------------------------------------------------------------
def table6_cells(params: LetterParameters) -> list[Cell]:
    axes = {"variant": ["generator=GAN", "generator=UViT"], "method": ["GLaD", "SLFD"], "dataset": params.datasets}
    return cross(TABLE6, **axes, ipc=1, network=MEAN, protocol="glad")


def table6_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile == "small":
        return Skip("small has no U-ViT of ImageNet classes")
    if params.profile == "smoke" and (cell.dataset != "ImNet-A" or cell.method != "SLFD"):
        return Skip("smoke computes SLFD in one column")
    side = 64 if cell.axes["generator"] == "UViT" else 128
    return task_for(cell, params, f"{cell.dataset}@{side}px", _side(params, side))


RANKS = {"none": "GLaD", "10": "SLFD", "full": "SLFD"}


class Table7Parameters(LetterParameters):
    resolutions: names_of("resolution", lambda: ["128", "256"]) = ["128", "256"]  # row groups, pixels


def table7_cells(params: Table7Parameters) -> list[Cell]:
    return [
        Cell(TABLE7, method, d, 1, MEAN, "glad", f"resolution={side}, rank={rank}")
        for side in params.resolutions
        for rank, method in RANKS.items()
        for d in params.datasets
    ]


def table7_task(cell: Cell, params: Parameters) -> Task | Skip:
    resolution = cell.axes["resolution"]
    if params.profile != "full" and (cell.dataset != "ImNet-A" or resolution != "128"):
        return Skip("one column, of the first row group")
    if params.profile == "smoke" and cell.axes["rank"] != "full":
        return Skip("smoke computes the full covariance")
    dataset = SMALL_SETS["ImNet-A"] if params.profile == "small" else f"{cell.dataset}@{resolution}px"
    return task_for(cell, params, dataset, _side(params, int(resolution)))


# --- ablations, ours ------------------------------------------------------------------------------
VARIANTS: dict[str, tuple[str, Any]] = {  # name: field of `slfd.Config` or of its parts, value
    "SLFD": ("module.rank", 10),
    "rank 1": ("module.rank", 1),
    "rank 2": ("module.rank", 2),
    "rank 5": ("module.rank", 5),
    "full covariance": ("module.rank", None),
    "2 samples": ("module.samples", 2),
    "6 samples": ("module.samples", 6),
    "100 samples": ("module.samples", 100),
    "independent samples": ("module.antithetic", False),
    "joint event": ("module.event", "joint"),
    "event per code": ("module.event", "codes"),
    "probabilities": ("module.refine", "probabilities"),
    "mean cross-entropy": ("module.average", "loss"),
    "penalised mean": ("module.mean_weight", 1.0),
    "codes do not learn from the module": ("module.reaches_codes", False),
    "DM, logits": ("match", "DM"),
    "DM, embedding": ("reading", "embedding"),
    "DM, loss": ("reading", "loss"),
}
CONTROLS = {"GLaD": "DC", "GLaD, DM": "DM"}  # the same steps without the module
SMOKE_VARIANTS = ["GLaD", "SLFD", "full covariance", "joint event", "DM, embedding"]
FULL_ONLY = [
    "independent samples",
    "event per code",
    "probabilities",
    "penalised mean",
    "codes do not learn from the module",
]
SMALL_VARIANTS = [name for name in [*CONTROLS, *VARIANTS] if name not in FULL_ONLY]


class AblationParameters(Parameters):
    variants: names_of("variant", lambda: [*CONTROLS, *VARIANTS]) = [*CONTROLS, *VARIANTS]  # rows
    dataset: str = "ImageNette"  # distilled and tested on


def ablation_cells(params: AblationParameters) -> list[Cell]:
    return [
        Cell(ABLATIONS, "GLaD" if variant in CONTROLS else "SLFD", params.dataset, 1, "ConvNet", "glad", variant)
        for variant in params.variants
    ]


def varied(dataset: str, name: str) -> Any:
    """The settings of a variant."""
    if name in CONTROLS:
        return METHODS["GLaD"].paper_config(dataset, 1, CONTROLS[name])
    config = METHODS["SLFD"].paper_config(dataset, 1, "DM" if name.startswith("DM") else "DC")
    return changed(config, *VARIANTS[name])


def ablation_task(cell: Cell, params: Parameters) -> Task | Skip:
    config, seed = at_budget(varied(cell.dataset, cell.variant), params.profile), params.seed
    if params.profile == "full":
        return Task(cell, config, cell.dataset, "glad", num_eval=5, num_sets=3, seed=seed)
    if params.profile == "smoke":
        if cell.variant not in SMOKE_VARIANTS:
            return Skip(f"smoke computes {', '.join(SMOKE_VARIANTS)}")
        protocol = f"vico_dsa@{SMOKE_EPOCHS}ep"
        return Task(cell, config, COLOUR, protocol, num_eval=1, seed=seed, tested=SMOKE_TESTED)
    if cell.variant not in SMALL_VARIANTS or cell.dataset not in SMALL_SETS:
        return Skip(f"small computes {', '.join(SMALL_VARIANTS)} on {', '.join(SMALL_SETS)}")
    config, tested = replace(config, network=SMALL_NETWORK), SMALL_TESTED.get(cell.dataset, 50)
    dataset, network = SMALL_SETS[cell.dataset], SMALL_NETWORK
    return Task(cell, config, dataset, SMALL_PROTOCOL, num_eval=3, seed=seed, network=network, tested=tested)


# --- pages ----------------------------------------------------------------------------------------
class Figure3Parameters(Parameters):
    image: int = 0  # which of the set's images, one of each class


def _is_printed(cell: Cell) -> bool:
    if cell.experiment == TABLE1:
        return cell.network == MEAN or cell.axes["space"] == "latent"
    return cell.dataset != "SLFD-94" and cell.axes.get("space") != "pixel" and "match" not in cell.axes


FROM_TABLE = "drawn from the sets of a table"
EXPERIMENTS = [
    Experiment(TABLE1, "SLFD, Table 1: ImageNet subsets", Table1Parameters, table1_cells, table1_task, _is_printed),
    Experiment(TABLE2, "SLFD, Table 2: 256 pixels", LetterParameters, table2_cells, table2_task),
    Experiment(TABLE3, "SLFD, Table 3: merged subsets", Table3Parameters, table3_cells, table3_task, _is_printed),
    Experiment(TABLE4, "SLFD, Table 4: CIFAR-10", MatchParameters, table4_cells, table4_task, _is_printed),
    Experiment(TABLE5, "SLFD, Table 5: PathMNIST", Table5Parameters, table5_cells, table5_task, _is_printed),
    Experiment(TABLE6, "SLFD, Table 6: U-ViT as generator", LetterParameters, table6_cells, table6_task),
    Experiment(TABLE7, "SLFD, Table 7: rank of the covariance", Table7Parameters, table7_cells, table7_task),
    page(FIGURE1, "SLFD, Figure 1: correlation", FROM_TABLE),
    page(FIGURE2, "SLFD, Figure 2: overview", FROM_TABLE),
    page(FIGURE3, "SLFD, Figure 3: refined probabilities", FROM_TABLE, Figure3Parameters),
    page(FIGURE4, "SLFD, Figure 4: images", FROM_TABLE),
    page(FIGURE5, "SLFD, Figure 5: images of PathMNIST", FROM_TABLE),
    page(FIGURE6, "SLFD, Figure 6: images of U-ViT", FROM_TABLE),
    page(FIGURE7, "SLFD, Figure 7: images by rank", FROM_TABLE),
    Experiment(ABLATIONS, "SLFD, ablations", AblationParameters, ablation_cells, ablation_task, lambda cell: False),
]
