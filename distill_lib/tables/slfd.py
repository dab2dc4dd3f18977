"""What the SLFD notebooks show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import data, networks
from ..core import paths
from ..core.device import pick
from ..core.errors import UserError
from ..core.rng import stream
from ..data import DATASETS, ImageSet, sized
from ..experiments import Parameters, Task, experiment, paper_data
from ..experiments.compute import Run, distilled
from ..experiments.papers import slfd as paper
from ..methods import slfd
from ..records import Cell
from .numbers import each, heading, spread


def shown_tasks(figure: str, params: Parameters) -> dict[str, Task]:
    """The sets of a figure by their names, as its table makes them in the profile; those the profile skips are left
    out."""
    latent, match = "match=DC, space=latent", ", match=DM" if params.profile == "smoke" else ""
    sides, letters = ("64", "128", "256"), paper.LETTERS
    one = [("ImageNette", latent)]
    sets = {  # data set and variant
        paper.FIGURE1: one,
        paper.FIGURE3: one,
        paper.FIGURE4: [(d, latent) for d in paper.SUBSETS],
        paper.FIGURE5: [("PathMNIST", f"resolution={side}{match}") for side in sides],
        paper.FIGURE6: [(d, f"generator={g}") for g in ("UViT", "GAN") for d in letters],
        paper.FIGURE7: [(d, f"resolution={s}, rank={r}") for s in sides[1:] for d in letters for r in ("10", "full")],
    }
    tables = {paper.FIGURE5: paper.TABLE5, paper.FIGURE6: paper.TABLE6, paper.FIGURE7: paper.TABLE7}
    name, found = tables.get(figure, paper.TABLE1), {}
    for dataset, variant in sets[figure]:
        cell = Cell(name, "SLFD", dataset, 1, "ConvNet" if name == paper.TABLE1 else paper.MEAN, "glad", variant)
        if isinstance(task := experiment(name).task(cell, params), Task):
            found[f"{paper.column_name(cell)}, {paper.row_name(cell).removesuffix(', ConvNet')}"] = task
    return found


def _artefact(profile: str, figure: str, name: str, ending: str = "safetensors") -> Path:
    return paths.results(profile) / figure / f"{Cell('', name, '', None, '', '').stem.removesuffix('_all')}.{ending}"


def images(figure: str, params: Parameters) -> dict[str, ImageSet]:
    """The distilled sets a figure shows, by their titles; made unless `runs/` already has them, and kept beside the
    records.

    In the profile `recorded` only what is kept is shown.
    """
    for profile in paths.shown(params.profile):
        shown = {}
        for name, task in shown_tasks(figure, params.model_copy(update={"profile": profile})).items():
            file = _artefact(profile, figure, name)
            if params.profile == "recorded":
                if not file.exists():
                    continue
                made = ImageSet.load(file)
            else:
                made, _ = distilled(task, 0, Run(profile), data.load(task.dataset)[0].to(pick()))
                made.to("cpu").save(file)
            shown[title(made, task.cell, profile)] = made
        if shown:
            return shown
    return {}


def title(made: ImageSet, cell: Cell, profile: str) -> str:
    """What a picture of a set is titled: the data set in its own facts, what that stands in for, the budget, and the
    row."""
    own = f"{made.facts.name} at {made.shape[-1]} px"
    asked, side, _ = sized(paper_data(cell))
    asked = f"{asked} at {side or DATASETS[asked].resolution} px"
    row = [
        part
        for part in paper.row_name(cell).split(", ")
        if part not in ("ConvNet", f"{cell.axes.get('resolution')} px")
    ]
    return f"{own}{'' if own == asked else f', stand-in for {asked}'}\n{profile}: {', '.join(row)}"


def refined(shown: ImageSet, image: int = 0, seed: int = 0) -> pd.DataFrame:
    """Figure 3 for one distilled image: probabilities of the classes under a fresh ConvNet alone, of every sample, and
    their mean.

    Args:
        shown: a set of SLFD, which carries the normal distribution of every image's logits at the end of the
        distillation.
    Returns: columns class, alone, refined, low, high (5th and 95th percentile of the samples), probabilities.
    """
    if not 0 <= image < len(shown):
        raise UserError(f"image {image}: the set has {len(shown)} images, numbered from 0")
    normal = slfd.final(shown)
    rng = stream(seed, "figure 3")
    network = networks.fresh("ConvNet", shown, rng)
    with torch.no_grad():
        logits = network(shown.all()[0][image : image + 1])
        samples = normal.sample(slfd.StochasticModule(samples=1_000), rng)[:, image]  # (M, K)
        each = (logits + samples).softmax(1)
    low, high = each.quantile(torch.tensor([0.05, 0.95]), 0)
    columns = {"alone": logits[0].softmax(0), "refined": each.mean(0), "low": low, "high": high}
    return pd.DataFrame({"class": shown.facts.class_names, **{k: v.tolist() for k, v in columns.items()}})


def history(outcome: Any) -> pd.DataFrame:
    """How the module changed while sets were distilled: columns row, step, mean_norm, covariance_trace."""
    rows, kinds = [], ("step", "mean_norm", "covariance_trace")
    for cell, _, record in each(outcome):
        name = cell.variant if cell.experiment == paper.ABLATIONS else paper.row_name(cell)
        looks = zip(*(record.metrics.get(f"module, {kind}", []) for kind in kinds), strict=True)
        rows += [dict(zip(kinds, look), row=name) for look in looks]
    return pd.DataFrame(rows, columns=["row", "step", "mean_norm", "covariance_trace"])


def by_network(outcome: Any) -> pd.DataFrame:
    """The networks behind the means of `outcome`, a row per row of the table."""
    rows = []
    for cell, profile, record in each(outcome):
        start = "accuracy_pct, "
        parts = {k.removeprefix(start): spread(v) for k, v in record.metrics.items() if k.startswith(start)}
        if parts:
            about = {"row": paper.row_name(cell), "on": heading(profile, record, cell)}
            rows.append({**about, "average": spread(record.test_accuracy_pct), **parts})
    return pd.DataFrame(rows)
