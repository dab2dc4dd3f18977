"""What the U-ViT notebooks show."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch

from .. import data, records
from ..core import paths
from ..core.device import pick
from ..core.settings import as_dict, replace
from ..data import ImageSet
from ..evaluation.metrics import features
from ..evaluation.metrics.generative import Scores, neighbours_of
from ..evaluation.statistics import mean
from ..experiments import Outcome, Skip, Task
from ..experiments.claims import Finding
from ..experiments.compute import Run, distilled
from ..experiments.papers import uvit as paper
from ..generators.uvit import ARCHITECTURES, UViT, parameter_count
from ..records import Cell, Record, reported
from .findings import classes, images_per_class
from .numbers import NOT_RUN, device, each, spread


def scores_of(record: Record) -> dict[str, float]:
    """The scores a record holds, by name: FID, KID, precision, ..."""
    names = ("FID-", "KID-", "precision", "recall", "density", "coverage", "recognised_pct", "nearest_")
    return {k: v[0] for k, v in record.metrics.items() if k.startswith(names)}


def fid_table(outcome: Outcome) -> pd.DataFrame:
    """A row per data set and profile: the paper's FID, ours by its own name, the other scores, samples and steps."""
    found: dict[str, list[dict[str, Any]]] = {status.cell.dataset: [] for status in outcome}
    for cell, profile, record in each(outcome):
        scores = scores_of(record)
        short = {k.split("-")[0]: f"{v:.4g}" for k, v in scores.items()}
        others = {name: short.get(name, "") for name in ("precision", "recall", "density", "coverage")}
        line = {"data": record.key["dataset"], "profile": profile, "ours": short["FID"]}
        line |= {"ours is called": next(k for k in scores if k.startswith("FID-")), "KID": short["KID"], **others}
        line |= {"recognised (%)": f"{scores['recognised_pct']:.1f}"}
        line |= {"training steps": record.key["config"]["training"]["steps"]}
        found[cell.dataset].append(line | {"ConvNet's accuracy (%)": spread(record.test_accuracy_pct)})
    out = []
    for dataset, lines in found.items():
        printed = reported.lookup(paper.TABLE2, paper.METHOD, dataset, quantity="fid")
        text = printed["text"] if printed else ""
        out += [{"data": dataset, "paper": text, **line} for line in lines or [{"ours": NOT_RUN}]]
    return pd.DataFrame(out, dtype=object).fillna("")


def nearest_table(outcome: Outcome) -> pd.DataFrame:
    """How near samples come to training images, a row per data set, as root mean squares of pixels; the yardstick are
    test images."""
    out = []
    for _, profile, record in each(outcome):
        s = scores_of(record)
        line = {"data": record.key["dataset"], "profile": profile}
        line |= {"median distance of samples": f"{s['nearest_median']:.3f}"}
        line |= {"of test images": f"{s['nearest_median_test']:.3f}"}
        line |= {"smallest of samples": f"{s['nearest_minimum']:.3f}"}
        out.append(line | {"samples nearer than 99 % of test images (%)": f"{s['nearest_below_test_pct']:.1f}"})
    return pd.DataFrame(out)


def curves(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Figure 3: by data set and profile, a row per moment: step, FID, KID, recognised_pct; the attribute `fid` names
    the number."""
    out = {}
    for _, profile, record in each(outcome):
        table = pd.DataFrame(record.metrics["curve"][0])
        table.attrs["fid"] = next(c for c in table.columns if c.startswith("FID-"))
        short = {c: c.split("-")[0] for c in table.columns if c[:4] in ("FID-", "KID-")}
        out[f"{record.key['dataset']}, {profile}"] = table.rename(columns=short)
    return out


POINTS = "panel,method,axis,x,value,std,networks,protocol,images,images per second".split(",")


def budget_points(outcome: Outcome) -> pd.DataFrame:
    """A row per measured cell, columns `POINTS`: axis is "images per class" or "seconds of generation", x its value."""
    out = []
    for cell, profile, record in each(outcome):
        values, timed = pd.Series(record.test_accuracy_pct), cell.ipc is None
        at = ("seconds of generation", float(cell.variant.split()[0])) if timed else ("images per class", cell.ipc)
        images = record.metrics.get("images", [None if timed else cell.ipc * classes(record)])[0]  # real ones: as asked
        rate = record.metrics["images_per_second"][0] if timed else None
        measured_as = [values.mean(), values.std(ddof=0), len(values), record.key["protocol"]["name"]]
        out.append([f"{record.key['dataset']}, {profile}", cell.method, *at, *measured_as, images, rate])
    return pd.DataFrame(out, columns=POINTS)


def claimed_points(found: list[Finding]) -> pd.DataFrame:
    """What `figures.accuracy_over_budget` draws of the claims about accuracy: a row per arm that has a record and axis,
    "images per class" or "processor seconds of distilling" (real images take none); value and std of its sets."""
    arms = {r.cell: r for f in found if f.claim.quantity == "accuracy" for r in f.arms.values()}
    out = []
    for cell, record in arms.items():
        sets = pd.Series([fmean(values) for values in record.by_set(record.test_accuracy_pct).values()])
        at = {"images per class": float(cell.ipc)}
        if cell.method != "Random" and (seconds := record.metrics.get("distill_cpu_seconds")):
            at["processor seconds of distilling"] = round(fmean(seconds), 1)
        measured = [sets.mean(), sets.std(ddof=0), len(sets)]
        out += [[record.key["dataset"], cell.method, *axis, *measured] for axis in at.items()]
    return pd.DataFrame(out, columns=POINTS[:7])


def budget_table(points: pd.DataFrame) -> pd.DataFrame:
    """The rows of `budget_points` as a table to read: numbers rounded and joined with their units."""

    def budget(x: float, axis: str) -> str:
        return images_per_class(int(x)) if axis == "images per class" else f"{x:g} {axis}"

    def line(p: pd.Series) -> dict[str, Any]:
        rate, images = p["images per second"], p["images"]
        accuracy = f"{p['value']:.1f}" + f" ± {p['std']:.1f}" * (p["networks"] > 1)
        shown = {"data": p["panel"], "method": p["method"], "budget": budget(p["x"], p["axis"])}
        shown |= {"images": "" if pd.isna(images) else f"{images:,.0f}"}
        shown |= {"images/s": "" if pd.isna(rate) else f"{rate:.1f}", "accuracy (%)": accuracy}
        return shown | {"protocol": p["protocol"], "networks": p["networks"]}

    return pd.DataFrame([line(p) for _, p in points.iterrows()])


def leaderboard(outcome: Outcome) -> pd.DataFrame:
    """Both tracks as printed, accuracies in percent, and ours where it was measured in full: track, team, dataset,
    value, who."""
    out = []
    for row in reported.cells_of(paper.FIGURE4):
        if row["dataset"] in paper.IN_PAPER:
            team = row["axes"]["team"] + " (this paper)" * (row["method"] == paper.METHOD)
            track, value = int(row["axes"]["track"]), 100 * row["value"]
            out.append({"track": track, "team": team, "dataset": row["dataset"], "value": value, "who": "printed"})
    for cell, profile, record in each(outcome):
        if profile == "full":
            team = f"ours, {paper.LIMIT} s on {device(record, 'an unnamed device')}"
            value = mean(record.test_accuracy_pct)
            out.append({"track": 2, "team": team, "dataset": cell.dataset, "value": value, "who": "ours"})
    return pd.DataFrame(out)


def beside_leaderboard(profile: str) -> pd.DataFrame:
    """What is not comparable with the leaderboard: our largest recorded time budget per data set, with its machine."""
    out = []
    for dataset in paper.DATASETS[2:]:
        for kind in paths.shown(profile):
            cells = {
                s: Cell(paper.BUDGET, paper.METHOD, dataset, None, "ConvNet", paper.STEPS, f"{s} s")
                for s in paper.SECONDS
            }
            found = [(s, r) for s, cell in cells.items() if (r := records.load(cell, kind))]
            if found:
                seconds, record = found[-1]
                line = {"data set": record.key["dataset"], "profile": kind, "seconds of generation": seconds}
                line |= {"images": record.metrics["images"][0]}
                line |= {"test accuracy (%)": round(mean(record.test_accuracy_pct), 1)}
                line |= {"networks": len(record.test_accuracy_pct)}
                line |= {"protocol": record.key["protocol"]["name"]}
                line |= {"training steps": record.key["config"]["training"]["steps"]}
                out.append(line | {"device": device(record)})
    return pd.DataFrame(out)


COPYABLE = ("MIT", "CC")  # licences, by their first letters, under which training images may lie beside the results


def _artefact(profile: str, dataset: str, name: str) -> Path:
    return paths.results(profile) / paper.SAMPLES / f"{dataset.lower()}_{name}.safetensors"


def samples(params: paper.SamplesParameters) -> dict[str, tuple[ImageSet, ImageSet | None]]:
    """By data set and profile: samples, and the training image nearest to each, in pixels; None where it may not be
    copied.

    Made with the generator of Table 2, which is trained where `runs/` does not have it, and kept beside the records; in
    the profile `recorded` only what is kept is shown. The facts of the samples hold what was measured of them
    (`facts.extra`).
    """
    shown: dict[str, tuple[ImageSet, ImageSet | None]] = {}
    for dataset in params.datasets:
        for profile in paths.shown(params.profile):
            if params.profile != "recorded" and not _draw(dataset, params):
                continue
            file, beside = (_artefact(profile, dataset, name) for name in ("samples", "nearest"))
            if not file.exists():
                continue
            made = ImageSet.load(file)
            near = ImageSet.load(beside) if beside.exists() else None
            if near is None and params.profile != "recorded":  # the data are at hand
                real, _ = data.load(paper.loaded(dataset, profile))
                near = real.subset(torch.tensor(made.facts.extra["nearest training images"]))
            shown[f"{made.facts.name}, {profile}"] = (made, near)
    return shown


def _draw(dataset: str, params: paper.SamplesParameters) -> bool:
    """Write samples of one data set, and their neighbours where its licence allows copies; whether the profile has the
    data set."""
    each = 1 if paper.CLASSES.get(dataset, 10) >= 100 else params.per_class
    task = paper.table2_task(
        Cell(paper.TABLE2, paper.METHOD, dataset, None, "ConvNet", paper.STEPS),
        paper.Table2Parameters(profile=params.profile, seed=params.seed),
    )
    if isinstance(task, Skip):
        return False
    task = Task(task.cell, replace(task.config, ipc=each), task.dataset, task.protocol, seed=params.seed)
    real, test = (part.to(pick()) for part in data.load(task.dataset))
    made, _ = distilled(task, 0, Run(params.profile), real)
    made = made.subset(made.hard_labels.argsort(stable=True))  # class by class
    scores = Scores() if params.profile == "full" else getattr(Scores(), params.profile)()
    by = features.recogniser(real, scores.trained)
    near, alike = neighbours_of(made, real, test), neighbours_of(made, real, test, by)
    extra = {
        "method": paper.METHOD,
        "config": as_dict(task.config),
        "seed": params.seed,
        "recognised by": by.about,
        "recognised_pct": by.class_accuracy_pct(by.features(made), made.labels),
        "made_by": records.provenance(real.device),
        "nearest training images": near.index.tolist(),
        "distances": {
            n.space: {"of each sample": [round(v, 4) for v in n.distances.tolist()], "median of test images": n.test}
            for n in (near, alike)
        },
    }
    facts = real.synthetic_facts(**extra)
    ImageSet(made.images.cpu(), made.labels.cpu(), facts).save(_artefact(params.profile, dataset, "samples"))
    beside = _artefact(params.profile, dataset, "nearest")
    beside.unlink(missing_ok=True)
    if real.facts.licence.startswith(COPYABLE):
        ImageSet(near.images.cpu(), real.hard_labels[near.index].cpu(), real.facts).save(beside)
    return True


def samples_table(shown: dict[str, tuple[ImageSet, ImageSet | None]]) -> pd.DataFrame:
    """A row per grid: how many a classifier of real images recognises, and median distances to the nearest training
    image."""
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


def configurations() -> pd.DataFrame:
    """Table 1 beside the models as built here: parameters are those of the module, counted."""
    said = {}
    for row in reported.cells_of(paper.TABLE1):
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
        model = UViT(of, device="meta")
        line = {"model": name, "blocks": of.depth + 1, "width": of.width, "MLP": of.mlp_ratio * of.width}
        line |= {"heads": of.heads, "tokens": of.tokens}
        line |= {"parameters": f"{parameter_count(of):,}", "tensors": len(model.state_dict())}
        printed = ", ".join(said[row].values()) if row else ""
        out.append(line | {"paper: layers, hidden, MLP, heads, parameters": printed})
    return pd.DataFrame(out)
