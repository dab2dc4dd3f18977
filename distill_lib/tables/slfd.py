"""What the SLFD notebooks show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import data, networks
from ..core import paths
from ..core.device import pick
from ..core.rng import stream
from ..data import DATASETS, ImageSet, sized
from ..experiments import Parameters, Task, paper_data
from ..experiments.compute import Run, distilled
from ..experiments.papers.slfd import (
    ABLATIONS,
    FIGURE1,
    FIGURE3,
    FIGURE4,
    FIGURE5,
    FIGURE6,
    LETTERS,
    MEAN,
    SUBSETS,
    TABLE1,
    TABLE5,
    TABLE6,
    TABLE7,
    column_name,
    row_name,
    table1_task,
    table5_task,
    table6_task,
    table7_task,
)
from ..methods import slfd
from ..records import Cell
from .numbers import each, heading, spread


def shown_tasks(figure: str, params: Parameters) -> dict[str, Task]:
    """The sets of a figure by their names, as its table makes them in the profile; those the profile skips are left
    out."""

    def of(task: Any, *cells: Cell) -> dict[str, Task]:
        found = {f"{column_name(c)}, {row_name(c).removesuffix(', ConvNet')}": task(c, params) for c in cells}
        return {name: t for name, t in found.items() if isinstance(t, Task)}

    if figure in (FIGURE1, FIGURE3):
        return of(table1_task, Cell(TABLE1, "SLFD", "ImageNette", 1, "ConvNet", "glad", "match=DC, space=latent"))
    if figure == FIGURE4:
        return of(
            table1_task, *(Cell(TABLE1, "SLFD", d, 1, "ConvNet", "glad", "match=DC, space=latent") for d in SUBSETS)
        )
    if figure == FIGURE5:
        match = ", match=DM" if params.profile == "smoke" else ""
        sides = (f"resolution={side}{match}" for side in ("64", "128", "256"))
        return of(table5_task, *(Cell(TABLE5, "SLFD", "PathMNIST", 1, MEAN, "glad", side) for side in sides))
    if figure == FIGURE6:
        return of(
            table6_task,
            *(Cell(TABLE6, "SLFD", d, 1, MEAN, "glad", f"generator={g}") for g in ("UViT", "GAN") for d in LETTERS),
        )
    every = (
        (d, f"resolution={side}, rank={rank}") for side in ("128", "256") for d in LETTERS for rank in ("10", "full")
    )
    return of(table7_task, *(Cell(TABLE7, "SLFD", d, 1, MEAN, "glad", variant) for d, variant in every))


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
    row = [part for part in row_name(cell).split(", ") if part not in ("ConvNet", f"{cell.axes.get('resolution')} px")]
    return f"{own}{'' if own == asked else f', stand-in for {asked}'}\n{profile}: {', '.join(row)}"


def refined(shown: ImageSet, image: int = 0, seed: int = 0) -> pd.DataFrame:
    """Figure 3 for one distilled image: probabilities of the classes under a fresh ConvNet alone, of every sample, and
    their mean.

    Args:
        shown: a set of SLFD, which carries the normal distribution of every image's logits at the end of the
        distillation.
    Returns: columns class, alone, refined, low, high (5th and 95th percentile of the samples), probabilities.
    """
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
        name = cell.variant if cell.experiment == ABLATIONS else row_name(cell)
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
            about = {"row": row_name(cell), "on": heading(profile, record, cell)}
            rows.append({**about, "average": spread(record.test_accuracy_pct), **parts})
    return pd.DataFrame(rows)
