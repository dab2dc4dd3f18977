"""DGS: enhancing generative dataset distillation with difficulty-guided sampling (Li et al., ICCV 2025 workshop)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import paths
from ..experiment import Experiment, Numbers, Outcome, Parameters, Skip, Task, distilled, names_of
from ..methods import METHODS
from ..records import Cell
from ..settings import Count, replace

if TYPE_CHECKING:
    from ..data import ImageSet

TABLE1, TABLE2, TABLE3, TABLE4 = "dgs/table1_imagewoof", "dgs/table2_subsets", "dgs/table3_distributions", "dgs/table4_pool_size"
FIGURE1, FIGURE2, FIGURE3, FIGURE4 = "dgs/figure1_workflow", "dgs/figure2_difficulty", "dgs/figure3_examples", "dgs/figure4_targets"
PROTOCOL = "minimax_imagenet"
ROWS = ["Random", "K-Center", "Herding", "DiT", "DM", "IDC-1", "Minimax", "DGS", "Full data"]
ROWS2 = ["Random", "DiT", "Minimax", "DGS"]
IPCS = [10, 20, 50]
NETWORKS = ["ConvNet-6", "ResNetAP-10", "ResNet-18"]
DATASETS = ["ImageNette", "ImageIDC"]
DISTRIBUTIONS = ["Hill", "Ground", "Slope", "Cliff", "Scale"]
POOLS = [2, 3, 4, 5, 6]

# What each profile loads and trains. Minimax evaluates at 224 pixels. At 64, IDC's ResNets keep every pixel in their first layers,
# which makes them as slow as at 224; the small budget gives ResNetAP-10 the ImageNet stem instead and half the channels, and smoke mostly ConvNets.
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


# --- how a cell is measured ----------------------------------------------------------------------------------------------
def _config(method: str, dataset: str, ipc: int | None, profile: str) -> Any:
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


def _task(cell: Cell, config: Any, params: Parameters) -> Task:
    profile, full_data = params.profile, cell.ipc is None
    network = TRAINED[profile][cell.network]
    if profile == "full":
        fixed = cell.method in ("Full data", "K-Center", "Herding")  # their set is always the same: three networks on one
        sets, networks = (1, 3) if fixed else (3, 1)
        return Task(cell, config, f"{cell.dataset}@{SIDE['full']}px", PROTOCOL, networks, sets, params.seed, network)
    if profile == "smoke":
        epochs = SMOKE_FULL_EPOCHS if full_data else SMOKE_EPOCHS
        return Task(cell, config, STAND_IN, f"{PROTOCOL}@{epochs}ep", num_eval=1, seed=params.seed, network=network, tested=10)
    epochs, networks = (SMALL_FULL_EPOCHS, 1) if full_data else SMALL_EPOCHS[cell.network]
    dataset = f"{cell.dataset}@{SIDE['small']}px"
    return Task(cell, config, dataset, f"{PROTOCOL}@{epochs}ep", networks, seed=params.seed, network=network, tested=TESTED)


# --- Table 1 -----------------------------------------------------------------------------------------------------------
class Table1Parameters(Parameters):
    methods: names_of("method", lambda: ROWS) = ROWS  # columns in the paper, rows here
    networks: names_of("network", lambda: NETWORKS) = NETWORKS
    ipcs: Numbers = IPCS  # images per class


def table1_cells(params: Table1Parameters) -> list[Cell]:
    """By network, then method, then images per class; the paper prints the full data's accuracy once for each network."""
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
    return _task(cell, _config(cell.method, cell.dataset, cell.ipc, params.profile), params)


def of_network(outcome: Outcome, network: str) -> Outcome:
    """The part of Table 1 whose cells train one network."""
    return Outcome(outcome.params, [s for s in outcome if s.cell.network == network], outcome.printed, outcome.seconds)


# --- Table 2 -----------------------------------------------------------------------------------------------------------
class Table2Parameters(Parameters):
    methods: names_of("method", lambda: ROWS2) = ROWS2  # rows
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # column groups
    ipcs: Numbers = IPCS  # images per class


def table2_cells(params: Table2Parameters) -> list[Cell]:
    return [Cell(TABLE2, m, d, ipc, "ResNetAP-10", PROTOCOL) for m in params.methods for d in params.datasets for ipc in params.ipcs]


def table2_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile != "full":
        if cell.dataset not in SMALL_DATASETS:
            return Skip(f"{params.profile} computes ImageNette")
        if cell.ipc != SMALL_IPC:
            return Skip(f"{params.profile} computes IPC {SMALL_IPC}")
    return _task(cell, _config(cell.method, cell.dataset, cell.ipc, params.profile), params)


# --- Tables 3 and 4: DGS's own settings ----------------------------------------------------------------------------------
TOO_CLOSE = "small leaves this table to full: on 500 test images one standard error is two points, about what its rows differ by in print"


class Table3Parameters(Parameters):
    distributions: names_of("distribution", lambda: DISTRIBUTIONS) = DISTRIBUTIONS  # rows
    ipcs: Numbers = IPCS  # columns


def table3_cells(params: Table3Parameters) -> list[Cell]:
    names = params.distributions
    return [Cell(TABLE3, "DGS", "ImageWoof", ipc, "ResNetAP-10", PROTOCOL, f"distribution={n}") for n in names for ipc in params.ipcs]


def table3_task(cell: Cell, params: Parameters) -> Task | Skip:
    if params.profile == "small":
        return Skip(TOO_CLOSE)
    if params.profile == "smoke" and cell.ipc != SMALL_IPC:
        return Skip(f"smoke computes IPC {SMALL_IPC}")
    config = _config("DGS", cell.dataset, cell.ipc, params.profile)
    target = cell.variant.partition("=")[2].lower()
    return _task(cell, replace(config, sampler=replace(config.sampler, target=target)), params)


class Table4Parameters(Parameters):
    pools: Numbers = POOLS  # rows: images drawn for each one kept
    ipcs: Numbers = IPCS  # columns


def table4_cells(params: Table4Parameters) -> list[Cell]:
    return [Cell(TABLE4, "DGS", "ImageWoof", ipc, "ResNetAP-10", PROTOCOL, f"pool={n}xIPC") for n in params.pools for ipc in params.ipcs]


def table4_task(cell: Cell, params: Parameters) -> Task | Skip:
    """The pools of all sizes begin alike, so a cell that needs a larger one draws what is missing."""
    if params.profile == "small":
        return Skip(TOO_CLOSE)
    if params.profile == "smoke" and cell.ipc != SMALL_IPC:
        return Skip(f"smoke computes IPC {SMALL_IPC}")
    times = int(cell.variant.partition("=")[2].removesuffix("xIPC"))
    return _task(cell, replace(_config("DGS", cell.dataset, cell.ipc, params.profile), pool=times), params)


# --- Figures 2 and 3: scores and images of two classes -------------------------------------------------------------------
class Figure2Parameters(Parameters):
    ipc: Count = 10  # images per class; the pool holds five times as many


class Figure3Parameters(Parameters):
    ipc: Count = 10  # images per class of the distilled set


def _artefact(experiment: str, profile: str, ipc: int, ending: str) -> Path:
    return paths.results(profile) / experiment / f"imagewoof_ipc{ipc}.{ending}"


def _kept(experiment: str, params: Any, ending: str) -> Path | None:
    profiles = ("full", "small") if params.profile == "recorded" else (params.profile,)
    return next((f for p in profiles if (f := _artefact(experiment, p, params.ipc, ending)).exists()), None)


def _dgs(params: Any) -> tuple[Task, ImageSet, ImageSet, Any]:
    """Table 1's set of DGS at this IPC, the real set and the scores of its images, made where they are not there."""
    from .. import data
    from ..device import pick
    from ..methods import dgs

    cell = Cell(TABLE1, "DGS", "ImageWoof", params.ipc, "ResNetAP-10", PROTOCOL)
    task = _task(cell, _config("DGS", "ImageWoof", params.ipc, params.profile), params)
    real = data.load(task.dataset)[0].to(pick())
    made, _ = distilled(task, 0, params.profile, real)
    return task, real, made, dgs.scored(real, task.config.scoring).real


def _two(real: ImageSet) -> list[int]:
    """The paper's two classes; the first two of a stand-in."""
    names = list(real.facts.class_names)
    return [names.index(c) for c in CLASSES] if set(CLASSES) <= set(names) else [0, 1]


def difficulty_of(params: Figure2Parameters) -> dict[str, Any]:
    """What Figure 2 shows, kept beside the records; {} where it was not run.

    Returns: `about` (data, scorer, ipc) and `classes`: name -> `real` and `pool` (scores), `places` (of the images chosen from the
    pool), `plain` (those that would be chosen without the logarithm), `bottom`, `top`, `wanted`, `achieved`, `total_variation`.
    """
    file = _kept(FIGURE2, params, "jsonl")  # `.json` here are records
    if params.profile == "recorded":
        if not file:
            return {}
        about, *classes = map(json.loads, file.read_text().splitlines())
        return {"about": about, "classes": {line.pop("class"): line for line in classes}}
    import torch

    from ..loop import atomically
    from ..methods import dgs
    from ..rng import generator

    task, real, made, scores = _dgs(params)
    classes = {}
    for k in _two(real):
        line, own = made.facts.extra["dgs"][k], scores[real.class_index[k]]
        pool = torch.tensor(line["pool_scores"], dtype=torch.float64)
        without = replace(task.config.sampler, transform="none")
        plain = dgs.choose(pool, own, params.ipc, without, generator(params.seed, "DGS", k, params.ipc))
        kept = {f: line[f] for f in ("places", "bottom", "top", "wanted", "achieved", "total_variation")}
        classes[real.facts.class_names[k]] = {"real": own.tolist(), "pool": line["pool_scores"], "plain": plain.places.tolist(), **kept}
    about = {"data": task.dataset, "scorer": made.facts.extra["scorer"], "ipc": params.ipc, "profile": params.profile}
    lines = zip(real.facts.class_names, made.facts.extra["dgs"], strict=True)
    about["total variation by class"] = {name: line["total_variation"] for name, line in lines}
    rows = [about, *({"class": name, **line} for name, line in classes.items())]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    atomically(_artefact(FIGURE2, params.profile, params.ipc, "jsonl"), lambda part: part.write_text(text))
    return {"about": about, "classes": classes}


def histograms(classes: dict[str, Any], bins: int = 10) -> list[dict[str, Any]]:
    """Counts for `figures.difficulty_histograms`: two rows per class, by raw and by transformed difficulty.

    Args:
        classes: of `difficulty_of`.
    """
    import torch

    from ..methods import dgs

    rows = []
    for name, c in classes.items():
        real, pool = (torch.tensor(c[k], dtype=torch.float64) for k in ("real", "pool"))
        for scale, places in (("raw", c["plain"]), ("transformed", c["places"])):
            seen = [dgs.transformed(x, c["bottom"], c["top"]) if scale == "transformed" else x for x in (real, pool)]
            shown = {"original": (seen[0], real), "pool": (seen[1], pool), "sampled": (seen[1][places], pool[places])}
            parts = {
                part: {"counts": dgs.histogram(scores, bins).tolist(), "images": len(raw), "mean": float(raw.mean())}
                for part, (scores, raw) in shown.items()
            }
            rows.append({"class": name, "scale": scale, "parts": parts})
    return rows


def examples(params: Figure3Parameters) -> dict[str, tuple[ImageSet, list[float]]]:
    """Figure 3: for each class and set ("Shih-Tzu, original") the ten images nearest to difficulty 0, 0.1, ..., 0.9, and their scores."""
    import torch

    from ..data import ImageSet

    file = _kept(FIGURE3, params, "safetensors")
    if params.profile == "recorded":
        return _unpacked(ImageSet.load(file)) if file else {}
    task, real, made, scores = _dgs(params)
    images, labels, shown = [], [], []
    for k in _two(real):
        line = made.facts.extra["dgs"][k]
        chosen = torch.tensor(line["pool_scores"], dtype=torch.float64)[line["places"]]
        members = made.class_index[k]
        for source, own, index in (("original", scores[real.class_index[k]], real.class_index[k]), ("distilled", chosen, members)):
            nearest = [int((own - level / 10).abs().argmin()) for level in range(10)]
            part = (real if source == "original" else made).subset(index[nearest])
            images.append((part.pixels() * 255).round().byte().cpu())
            labels += [k] * 10
            shown.append({"name": f"{real.facts.class_names[k]}, {source}", "scores": own[nearest].tolist()})
    facts = made.synthetic_facts(shown=shown, data=task.dataset, scorer=made.facts.extra["scorer"])
    kept = ImageSet(torch.cat(images), torch.tensor(labels), facts)
    kept.save(_artefact(FIGURE3, params.profile, params.ipc, "safetensors"))
    return _unpacked(kept)


def _unpacked(kept: ImageSet) -> dict[str, tuple[ImageSet, list[float]]]:
    import torch

    rows = kept.facts.extra["shown"]
    return {row["name"]: (kept.subset(torch.arange(10 * i, 10 * i + 10)), row["scores"]) for i, row in enumerate(rows)}


def variation(found: dict[str, Any]) -> Any:
    """Achieved against wanted counts of every class shown, as a table: thresholds, counts by bin, total variation."""
    import pandas as pd

    return pd.DataFrame([
        {
            "class": name, "b": c["bottom"], "t": c["top"], "wanted": " ".join(map(str, c["wanted"])),
            "achieved": " ".join(map(str, c["achieved"])), "total variation": f"{c['total_variation']:.2f}",
        }
        for name, c in found["classes"].items()
    ])  # fmt: skip


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
