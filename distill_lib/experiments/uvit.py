"""U-ViT: how good its samples are (Table 2, Figures 3, 5 to 7), and what networks trained on them reach (Figure 4, budgets)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import paths, records
from ..experiment import Experiment, Numbers, Outcome, Parameters, Skip, Task, distilled, names_of
from ..methods import METHODS
from ..metrics.generative import Scores
from ..records import Cell, Record
from ..settings import Count, as_dict, replace, settings
from .skd import STAND_INS

if TYPE_CHECKING:
    import pandas as pd

    from ..data import ImageSet
    from ..loop import Loop

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
JUDGES = {"TinyImageNet": "ConvNetD3"}  # the challenge's script has depth 3 at 64 pixels too, where ConvNet has 4; else the cell's network
SMALL = "small computes FashionMNIST and CIFAR10"


def _config(dataset: str, ipc: int | None, profile: str) -> Any:
    return METHODS[METHOD].of_profile(dataset, profile, ipc)


def _protocol(profile: str, ipc: int | None) -> tuple[str, int]:
    """The protocol with its budget, and the networks trained."""
    if profile == "full":
        return STEPS, 3
    return f"{STEPS}@{EPOCHS[profile]}ep", 2 if profile == "small" and (ipc or 500) <= 10 else 1


def _loaded(dataset: str, profile: str) -> str:
    return STAND_INS.get(dataset, dataset) if profile == "smoke" else dataset


class _Rows(Parameters):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # rows


# --- Table 2 and Figure 3 ----------------------------------------------------------------------------------------------
@settings
class Quality:
    """What is measured of the samples, and of those at every moment of training whose weights were kept."""

    scores: Scores
    looks: Count = 10_000  # samples a moment
    version: int = 1


class Table2Parameters(_Rows):
    extractor: str = "auto"  # features that FID is measured in: Inception, ResNet-56, a network's name; auto: the best at hand


def table2_cells(params: Table2Parameters) -> list[Cell]:
    return [Cell(TABLE2, METHOD, d, None, "ConvNet", STEPS) for d in params.datasets]


def table2_task(cell: Cell, params: Table2Parameters) -> Task | Skip:
    """50,000 samples at full, as the paper; 2,000 at small; 100 at smoke: their scores, and the accuracy of a network trained on them."""
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
    dataset, judge = _loaded(cell.dataset, profile), JUDGES.get(cell.dataset)
    return Task(cell, config, dataset, protocol, networks, seed=params.seed, network=judge, scores=quality)


def measure(task: Task, synthetic: ImageSet, real: ImageSet, test: ImageSet, loop: Loop) -> dict[str, list[Any]]:
    """Scores of the set, by name, and `curve`: those of samples at every kept moment of training, from the same noise.

    Interrupted, it goes on with the moment it was at.
    """
    from ..data import ImageSet
    from ..generators import uvit
    from ..loop import TimeUp, atomically
    from ..metrics.generative import Judge

    of, config = task.scores, task.config
    judge = Judge(real, test, of.scores, task.seed, loop)
    out: dict[str, list[Any]] = {"features": [judge.about()], **{name: [value] for name, value in judge(synthetic).items()}}
    trained = METHODS[METHOD].prepare(real, task.config, task.seed, loop)
    file = loop.folder / "curve.json" if loop.folder else None
    curve = json.loads(file.read_text()) if file and file.exists() else []
    few = Judge(real, None, replace(of.scores, samples=of.looks), task.seed, loop)
    steps, labels = trained.steps, torch.arange(of.looks) % real.num_classes
    for step in steps[len(curve) :]:
        if loop.deadline is not None and time.monotonic() > loop.deadline:
            raise TimeUp(f"scores: stopped at {len(curve)} of {len(steps)} moments of training, which are kept")
        model = trained.model(step).to(real.device)
        images = uvit.generate(model, labels, task.seed, 0, config.steps, config.sampler, config.batch, config.precision, guidance=config.guidance)
        curve.append({"step": step, **few.distances(ImageSet(images, labels.to(real.device), real.facts))})
        if file:
            atomically(file, lambda part: part.write_text(json.dumps(curve)))
        if loop.tell:
            loop.tell("curve", len(curve), len(steps), {"step": step})
    return out | {"curve": [curve]}


def scores_of(record: Record) -> dict[str, float]:
    """The scores a record holds, by name: FID, KID, precision, ..."""
    names = ("FID-", "KID-", "precision", "recall", "density", "coverage", "recognised_pct", "nearest_")
    return {k: v[0] for k, v in record.metrics.items() if k.startswith(names)}


def fid_table(outcome: Outcome) -> pd.DataFrame:
    """A row per data set and profile: the paper's FID, ours by its own name, the other scores, and how many samples and steps."""
    import pandas as pd

    from .. import reported
    from ..tables import NOT_RUN, measured, spread

    out = []
    for status in outcome:
        cell = status.cell
        printed = reported.lookup(TABLE2, METHOD, cell.dataset, quantity="fid")
        line = {"data": cell.dataset, "paper": printed["text"] if printed else ""}
        found = measured(cell, outcome)
        for profile, record in found.items():
            scores = scores_of(record)
            short = {k.split("-")[0]: f"{v:.4g}" for k, v in scores.items()}
            name = next(k for k in scores if k.startswith("FID-"))
            out.append(line | {
                "data": record.key["dataset"], "profile": profile, "ours": short["FID"], "ours is called": name, "KID": short["KID"],
                "precision": short.get("precision", ""), "recall": short.get("recall", ""), "density": short.get("density", ""),
                "coverage": short.get("coverage", ""), "recognised (%)": f"{scores['recognised_pct']:.1f}",
                "training steps": record.key["config"]["training"]["steps"], "ConvNet's accuracy (%)": spread(record.test_accuracy_pct),
            })  # fmt: skip
        if not found:
            out.append(line | {"ours": NOT_RUN})
    return pd.DataFrame(out, dtype=object).fillna("")


def nearest_table(outcome: Outcome) -> pd.DataFrame:
    """How near samples come to training images, a row per data set; the yardstick are test images. Root mean squares of pixels."""
    import pandas as pd

    from ..tables import measured

    out = []
    for status in outcome:
        for profile, record in measured(status.cell, outcome).items():
            s = scores_of(record)
            out.append({
                "data": record.key["dataset"], "profile": profile, "median distance of samples": f"{s['nearest_median']:.3f}",
                "of test images": f"{s['nearest_median_test']:.3f}", "smallest of samples": f"{s['nearest_minimum']:.3f}",
                "samples nearer than 99 % of test images (%)": f"{s['nearest_below_test_pct']:.1f}",
            })  # fmt: skip
    return pd.DataFrame(out)


def curves(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Figure 3: by data set and profile, a row per moment: step, FID, KID, recognised_pct; the attribute `fid` names the number."""
    import pandas as pd

    from ..tables import measured

    out = {}
    for status in outcome:
        for profile, record in measured(status.cell, outcome).items():
            table = pd.DataFrame(record.metrics["curve"][0])
            table.attrs["fid"] = next(c for c in table.columns if c.startswith("FID-"))
            out[f"{record.key['dataset']}, {profile}"] = table.rename(columns=lambda c: c.split("-")[0] if c[:4] in ("FID-", "KID-") else c)
    return out


# --- accuracy against images and seconds -------------------------------------------------------------------------------
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
    cells = [Cell(BUDGET, m, d, ipc, "ConvNet", STEPS) for d in params.datasets for m in params.methods for ipc in params.ipcs]
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
    dataset = _loaded(cell.dataset, profile)
    (protocol, networks), judge = _protocol(profile, cell.ipc), JUDGES.get(cell.dataset)
    if cell.method != METHOD:
        config = METHODS[cell.method].paper_config(cell.dataset, cell.ipc)
        config = config.small() if profile == "small" else config
        return Task(cell, config, dataset, protocol, networks, seed=params.seed, network=judge)
    config = _config(cell.dataset, cell.ipc, profile)
    if seconds is not None:
        config = replace(config, seconds=float(seconds), ipc=None)
    return Task(cell, config, dataset, protocol, networks, seed=params.seed, network=judge)


def budget_points(outcome: Outcome) -> pd.DataFrame:
    """A row per measured cell: panel, method, axis ("images per class" or "seconds of generation"), x, accuracy and its spread, images."""
    import pandas as pd

    from ..tables import measured

    out = []
    for status in outcome:
        cell = status.cell
        for profile, record in measured(cell, outcome).items():
            values = pd.Series(record.test_accuracy_pct)
            images = record.metrics.get("images", [None])[0]
            timed = cell.ipc is None
            out.append({
                "panel": f"{record.key['dataset']}, {profile}", "method": cell.method,
                "axis": "seconds of generation" if timed else "images per class",
                "x": float(cell.variant.split()[0]) if timed else cell.ipc,
                "value": values.mean(), "std": values.std(ddof=0), "networks": len(values), "protocol": record.key["protocol"]["name"],
                "images": images, "images per second": record.metrics["images_per_second"][0] if timed else None,
            })  # fmt: skip
    columns = ["panel", "method", "axis", "x", "value", "std", "networks", "protocol", "images", "images per second"]
    return pd.DataFrame(out, columns=columns)


def budget_table(points: pd.DataFrame) -> pd.DataFrame:
    """`budget_points` as text."""
    import pandas as pd

    texts = points.apply(lambda p: f"{p['value']:.1f}" + (f" ± {p['std']:.1f}" if p["networks"] > 1 else ""), axis=1)
    whole = lambda v: "" if pd.isna(v) else f"{v:,.0f}"  # noqa: E731
    return pd.DataFrame({
        "data": points["panel"], "method": points["method"], "budget": [f"{x:g} {axis}" for x, axis in zip(points["x"], points["axis"])],
        "images": points["images"].map(whole), "images/s": points["images per second"].map(lambda v: "" if pd.isna(v) else f"{v:.1f}"),
        "accuracy (%)": texts, "protocol": points["protocol"], "networks": points["networks"],
    })  # fmt: skip


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


def leaderboard(outcome: Outcome) -> pd.DataFrame:
    """Both tracks as printed, accuracies in percent, and ours where it was measured in full: track, team, dataset, value, who."""
    import pandas as pd

    from .. import reported
    from ..tables import measured

    out = []
    for row in reported.cells_of(FIGURE4):
        if row["dataset"] in PAPERS:
            team = row["axes"]["team"] + " (this paper)" * (row["method"] == METHOD)
            track, value = int(row["axes"]["track"]), 100 * row["value"]
            out.append({"track": track, "team": team, "dataset": row["dataset"], "value": value, "who": "printed"})
    for status in outcome:
        if record := measured(status.cell, outcome).get("full"):
            mean = sum(record.test_accuracy_pct) / len(record.test_accuracy_pct)
            device = record.made_by.get("device", "an unnamed device")
            out.append({"track": 2, "team": f"ours, {LIMIT} s on {device}", "dataset": status.cell.dataset, "value": mean, "who": "ours"})
    return pd.DataFrame(out)


def beside_leaderboard(profile: str) -> pd.DataFrame:
    """What is not comparable with the leaderboard: our largest recorded time budget per data set, with budget and machine named."""
    import pandas as pd

    out = []
    for dataset in DATASETS[2:]:
        for kind in ("full", "small") if profile == "recorded" else (profile,):
            found = [(s, r) for s in SECONDS if (r := records.load(Cell(BUDGET, METHOD, dataset, None, "ConvNet", STEPS, f"{s} s"), kind))]
            if found:
                seconds, record = found[-1]
                out.append({
                    "data set": record.key["dataset"], "profile": kind, "seconds of generation": seconds,
                    "images": record.metrics["images"][0],
                    "test accuracy (%)": round(sum(record.test_accuracy_pct) / len(record.test_accuracy_pct), 1),
                    "protocol": record.key["protocol"]["name"], "training steps": record.key["config"]["training"]["steps"],
                    "device": record.made_by.get("device", ""),
                })  # fmt: skip
    return pd.DataFrame(out)


# --- Figures 5 to 7 ----------------------------------------------------------------------------------------------------
class SamplesParameters(_Rows):
    datasets: names_of("dataset", lambda: DATASETS) = DATASETS  # grids
    per_class: int = 4  # images of every class; one where there are a hundred classes or more, as in the paper


FREE = ("MIT", "CC")  # licences, by their first letters, under which training images may lie beside the results


def _artefact(profile: str, dataset: str, name: str) -> Path:
    return paths.results(profile) / SAMPLES / f"{dataset.lower()}_{name}.safetensors"


def samples(params: SamplesParameters) -> dict[str, tuple[ImageSet, ImageSet | None]]:
    """By data set and profile: samples, and the training image nearest to each, in pixels; None where it may not be copied.

    Made with the generator of Table 2, which is trained where `runs/` does not have it, and kept beside the records; in the profile
    `recorded` only what is kept is shown. The facts of the samples hold what was measured of them (`facts.extra`).
    """
    from .. import data
    from ..data import ImageSet

    shown: dict[str, tuple[ImageSet, ImageSet | None]] = {}
    for dataset in params.datasets:
        for profile in ("full", "small") if params.profile == "recorded" else (params.profile,):
            if params.profile != "recorded" and not _draw(dataset, params):
                continue
            file, beside = (_artefact(profile, dataset, name) for name in ("samples", "nearest"))
            if not file.exists():
                continue
            made = ImageSet.load(file)
            near = ImageSet.load(beside) if beside.exists() else None
            if near is None and params.profile != "recorded":  # the data are at hand
                real, _ = data.load(_loaded(dataset, profile))
                near = real.subset(torch.tensor(made.facts.extra["nearest training images"]))
            shown[f"{made.facts.name}, {profile}"] = (made, near)
    return shown


def _draw(dataset: str, params: SamplesParameters) -> bool:
    """Write samples of one data set, and their neighbours where its licence allows copies; whether the profile has the data set."""
    from .. import data
    from ..data import ImageSet
    from ..device import pick
    from ..metrics import features
    from ..metrics.generative import neighbours_of

    each = 1 if CLASSES.get(dataset, 10) >= 100 else params.per_class
    task = table2_task(Cell(TABLE2, METHOD, dataset, None, "ConvNet", STEPS), Table2Parameters(profile=params.profile, seed=params.seed))
    if isinstance(task, Skip):
        return False
    task = Task(task.cell, replace(task.config, ipc=each), task.dataset, task.protocol, seed=params.seed)
    real, test = (part.to(pick()) for part in data.load(task.dataset))
    made, _ = distilled(task, 0, params.profile, real)
    made = made.subset(made.hard_labels.argsort(stable=True))  # class by class
    scores = Scores() if params.profile == "full" else getattr(Scores(), params.profile)()
    by = features.recogniser(real, scores.trained)
    near, alike = neighbours_of(made, real, test), neighbours_of(made, real, test, by)
    extra = {
        "method": METHOD, "config": as_dict(task.config), "seed": params.seed, "recognised by": by.about,
        "recognised_pct": by.class_accuracy_pct(by.features(made), made.labels), "made_by": records.provenance(real.device),
        "nearest training images": near.index.tolist(),
        "distances": {
            n.space: {"of each sample": [round(v, 4) for v in n.distances.tolist()], "median of test images": n.test} for n in (near, alike)
        },
    }  # fmt: skip
    facts = real.synthetic_facts(**extra)
    ImageSet(made.images.cpu(), made.labels.cpu(), facts).save(_artefact(params.profile, dataset, "samples"))
    beside = _artefact(params.profile, dataset, "nearest")
    beside.unlink(missing_ok=True)
    if real.facts.licence.startswith(FREE):
        ImageSet(near.images.cpu(), real.hard_labels[near.index].cpu(), real.facts).save(beside)
    return True


def samples_table(shown: dict[str, tuple[ImageSet, ImageSet | None]]) -> pd.DataFrame:
    """A row per grid: how many a classifier of real images recognises, and median distances to the nearest training image."""
    import pandas as pd

    out = []
    for name, (made, _) in shown.items():
        extra = made.facts.extra
        line = {"data": name, "images": len(made), "recognised (%)": f"{extra['recognised_pct']:.0f}"}
        line["training steps"] = extra["config"]["training"]["steps"]
        for space, found in extra["distances"].items():
            median = pd.Series(found["of each sample"]).median()
            kind = "pixels" if space == "pixels" else "features"
            line[f"nearest, {kind}"] = f"{median:.3g}; test images {found['median of test images']:.3g}"
        out.append(line)
    return pd.DataFrame(out)


# --- Table 1 -----------------------------------------------------------------------------------------------------------
def counted(row: dict[str, Any]) -> float | None:
    """What a printed row of Tables 1 and 2 says of the sizes and settings, as they are here; None for what has to be measured."""
    from ..generators.uvit import ARCHITECTURES, parameters

    model = row["axes"].get("model", "").removeprefix("UViT-")
    if model not in ARCHITECTURES:
        return METHODS["U-ViT"].paper_config(row["dataset"]).steps if row["quantity"] == "sampling_steps" else None
    of = replace(ARCHITECTURES[model], num_classes={"Small": 100, "Mid": 200}[model])  # CIFAR-100, TinyImageNet
    sizes = {"layers": of.depth + 1, "hidden_size": of.width, "mlp_size": of.mlp_ratio * of.width, "heads": of.heads, "parameters": parameters(of) / 1e6}
    return sizes[row["quantity"]]


def configurations() -> pd.DataFrame:
    """Table 1 beside the models as built here: parameters are those of the module, counted."""
    import pandas as pd

    from .. import reported
    from ..generators.uvit import ARCHITECTURES, UViT

    said = {}
    for row in reported.cells_of(TABLE1):
        said.setdefault(row["axes"]["model"], {})[row["quantity"]] = row["text"]
    variants = [  # name, the paper's row, sizes
        ("Small, unconditional", "UViT-Small", replace(ARCHITECTURES["Small"], num_classes=0)),
        ("Small, 100 classes", "UViT-Small", replace(ARCHITECTURES["Small"], num_classes=100)),
        ("Mid, 1000 classes", "UViT-Mid", ARCHITECTURES["Mid"]),
        ("Mid, 200 classes", "UViT-Mid", replace(ARCHITECTURES["Mid"], num_classes=200)),
        ("Large, 1000 classes", "", ARCHITECTURES["Large"]),
        ("ours for CPUs, 10 classes", "", ARCHITECTURES["Tiny"]),
    ]
    out = []
    for name, row, of in variants:
        model = UViT(of)
        out.append({
            "model": name, "blocks": of.depth + 1, "width": of.width, "MLP": of.mlp_ratio * of.width, "heads": of.heads,
            "tokens": of.tokens,
            "parameters": f"{sum(p.numel() for p in model.parameters()):,}", "tensors": len(model.state_dict()),
            "paper: layers, hidden, MLP, heads, parameters": ", ".join(said[row].values()) if row else "",
        })  # fmt: skip
    return pd.DataFrame(out)


def _drawing(name: str, title: str, reason: str, parameters: type[Parameters] = Parameters, **more: Any) -> Experiment:
    return Experiment(name, title, parameters, lambda params: [], lambda cell, params: Skip(reason), **more)


EXPERIMENTS = [
    _drawing(FIGURE1, "U-ViT, Figure 1: overview", "a drawing"),
    _drawing(FIGURE2, "U-ViT, Figure 2: architecture", "a drawing"),
    _drawing(TABLE1, "U-ViT, Table 1: configurations", "counted from models that are built", counted=counted),
    Experiment(TABLE2, "U-ViT, Table 2 and Figure 3: FID", Table2Parameters, table2_cells, table2_task, lambda cell: False, measure, counted),
    Experiment(FIGURE4, "U-ViT, Figure 4: leaderboard", Figure4Parameters, figure4_cells, figure4_task),
    _drawing(SAMPLES, "U-ViT, Figures 5 to 7: samples", "drawn from Table 2's generators", SamplesParameters),
    Experiment(BUDGET, "U-ViT: accuracy by images and seconds", BudgetParameters, budget_cells, budget_task, lambda cell: False),
]
