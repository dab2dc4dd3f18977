"""What the DGS notebooks show."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import torch

from .. import data
from ..core import paths
from ..core.device import pick
from ..core.files import atomically
from ..core.rng import stream
from ..core.settings import replace
from ..data import ImageSet
from ..experiments import Outcome, Task
from ..experiments.compute import Run, distilled
from ..experiments.papers import dgs as paper
from ..methods import dgs
from ..records import Cell


def of_network(outcome: Outcome, network: str) -> Outcome:
    """The part of Table 1 whose cells train one network."""
    return Outcome(outcome.params, [s for s in outcome if s.cell.network == network], outcome.printed, outcome.seconds)


def _dgs(params: Any) -> tuple[Task, ImageSet, ImageSet, Any]:
    """Table 1's set of DGS at this IPC, the real set and the scores of its images, made where they are not there."""
    cell = Cell(paper.TABLE1, "DGS", "ImageWoof", params.ipc, "ResNetAP-10", paper.PROTOCOL)
    task = paper.task_of(cell, paper.config_of("DGS", "ImageWoof", params.ipc, params.profile), params)
    real = data.load(task.dataset)[0].to(pick())
    made, _ = distilled(task, 0, Run(params.profile), real)
    return task, real, made, dgs.scored(real, task.config.scoring).real


def _two(real: ImageSet) -> list[int]:
    """The paper's two classes; the first two of a stand-in."""
    names = list(real.facts.class_names)
    return [names.index(c) for c in paper.CLASSES] if set(paper.CLASSES) <= set(names) else [0, 1]


def difficulty_of(params: paper.FigureParameters) -> dict[str, Any]:
    """What Figure 2 shows, kept beside the records; {} where it was not run.

    Returns: `about` (data, scorer, ipc) and `classes`: name -> `real` and `pool` (scores), `places` (of the images
    chosen from the pool), `plain` (those that would be chosen without the logarithm), `bottom`, `top`, `wanted`,
    `achieved`, `total_variation`.
    """
    name = f"{paper.FIGURE2}/imagewoof_ipc{params.ipc}.jsonl"  # `.json` here are records
    if params.profile == "recorded":
        if not (file := paths.kept("recorded", name)):
            return {}
        about, *classes = map(json.loads, file.read_text().splitlines())
        return {"about": about, "classes": {line.pop("class"): line for line in classes}}

    task, real, made, scores = _dgs(params)
    classes = {}
    for k in _two(real):
        line, own = made.facts.extra["dgs"][k], scores[real.class_index[k]]
        pool = torch.tensor(line["pool_scores"], dtype=torch.float64)
        without = replace(task.config.sampler, transform="none")
        plain = dgs.choose(pool, own, params.ipc, without, stream(params.seed, "DGS", k, params.ipc))
        kept = {f: line[f] for f in ("places", "bottom", "top", "wanted", "achieved", "total_variation")}
        classes[real.facts.class_names[k]] = {
            "real": own.tolist(),
            "pool": line["pool_scores"],
            "plain": plain.places.tolist(),
            **kept,
        }
    about = {"data": task.dataset, "scorer": made.facts.extra["scorer"], "ipc": params.ipc, "profile": params.profile}
    lines = zip(real.facts.class_names, made.facts.extra["dgs"], strict=True)
    about["total variation by class"] = {name: line["total_variation"] for name, line in lines}
    rows = [about, *({"class": name, **line} for name, line in classes.items())]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    atomically(paths.results(params.profile) / name, lambda part: part.write_text(text))
    return {"about": about, "classes": classes}


def histograms(classes: dict[str, Any], bins: int = 10) -> list[dict[str, Any]]:
    """Counts for `figures.difficulty_histograms`: two rows per class, by raw and by transformed difficulty.

    Args:
        classes: of `difficulty_of`.
    """
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


def examples(params: paper.FigureParameters) -> dict[str, tuple[ImageSet, list[float]]]:
    """Figure 3: for each class and set ("Shih-Tzu, original") the ten images nearest to difficulty 0, 0.1, ..., 0.9,
    and their scores."""
    name = f"{paper.FIGURE3}/imagewoof_ipc{params.ipc}.safetensors"
    if params.profile == "recorded":
        return _unpacked(ImageSet.load(file)) if (file := paths.kept("recorded", name)) else {}
    task, real, made, scores = _dgs(params)
    images, labels, shown = [], [], []
    for k in _two(real):
        line = made.facts.extra["dgs"][k]
        chosen = torch.tensor(line["pool_scores"], dtype=torch.float64)[line["places"]]
        members = made.class_index[k]
        for source, own, index in (
            ("original", scores[real.class_index[k]], real.class_index[k]),
            ("distilled", chosen, members),
        ):
            nearest = [int((own - level / 10).abs().argmin()) for level in range(10)]
            part = (real if source == "original" else made).subset(index[nearest])
            images.append((part.pixels() * 255).round().byte().cpu())
            labels += [k] * 10
            shown.append({"name": f"{real.facts.class_names[k]}, {source}", "scores": own[nearest].tolist()})
    facts = made.synthetic_facts(shown=shown, data=task.dataset, scorer=made.facts.extra["scorer"])
    kept = ImageSet(torch.cat(images), torch.tensor(labels), facts)
    kept.save(paths.results(params.profile) / name)
    return _unpacked(kept)


def _unpacked(kept: ImageSet) -> dict[str, tuple[ImageSet, list[float]]]:
    rows = kept.facts.extra["shown"]
    return {row["name"]: (kept.subset(torch.arange(10 * i, 10 * i + 10)), row["scores"]) for i, row in enumerate(rows)}


def variation(found: dict[str, Any]) -> Any:
    """Achieved against wanted counts of every class shown, as a table: thresholds, counts by bin, total variation."""
    return pd.DataFrame(
        [
            {
                "class": name,
                "b": c["bottom"],
                "t": c["top"],
                "wanted": " ".join(map(str, c["wanted"])),
                "achieved": " ".join(map(str, c["achieved"])),
                "total variation": f"{c['total_variation']:.2f}",
            }
            for name, c in found["classes"].items()
        ]
    )
