"""Colours, markers and sizes that all figures share."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# A method keeps its colour and marker on every page; colour is never the only cue.
ORDER = [
    "Random",
    "Herding",
    "K-Center",
    "Forgetting",
    "DC",
    "DSA",
    "DM",
    "CAFE",
    "KIP",
    "MTT",
    "FRePo",
    "IDC-1",
    "CGAN",
    "DiM",
    "SKD (no standardisation)",
    "SKD",
    "GLaD",
    "SLFD",
    "DiT",
    "Minimax",
    "DGS",
    "U-ViT",
    "Full data",
    "IDC",
]
SHAPES = "osD^vP*Xph<>8d"


def colour(method: str) -> Any:
    """The method's colour, from a palette safe for colour-blind readers."""
    palette = sns.color_palette("colorblind", 10)
    return palette[ORDER.index(method) % 10] if method in ORDER else (0.3, 0.3, 0.3)


def marker(method: str) -> str:
    """The method's marker."""
    return SHAPES[ORDER.index(method) % len(SHAPES)] if method in ORDER else "o"


def style(raster: bool = False, fitted: bool = False) -> None:
    """House style: white background, light grid. A notebook shows lines as SVG, whose glyphs are drawn, and pixels as
    PNG.

    Args:
        raster: the figure shows images.
        fitted: its layout fills the figure: a notebook does not draw it a second time to see where to cut.
    """
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    look = {
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.fonttype": "path",
        "svg.hashsalt": "distill_lib",
        "figure.dpi": 110,
    }
    mpl.rcParams.update(look)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats  # here: it imports IPython

        set_matplotlib_formats("png" if raster else "svg", **({"bbox_inches": None} if fitted else {}))


def ranking(table: pd.DataFrame, reference: str = "Random") -> Figure:
    """Ranked accuracies with intervals, a panel per profile, data set, IPC and budget, and a line at the reference's
    mean.

    Args:
        table: as `tables.ranking` returns it; lines without a number are left out.
    Returns: bars the intervals; hollow marks where labels are not hard.
    """
    style(fitted=True)
    panels = list(table.dropna(subset="mean").groupby(["profile", "data", "IPC", "budget"], sort=False))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(len(part) for _, part in panels)
    size = (4.6 * columns, (0.24 * tallest + 0.9) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, ((profile, data, ipc, budget), part) in zip(axes.flat, panels):
        names = []
        for y, (_, row) in enumerate(part.iterrows()):
            hard = row["labels"] == "hard"
            names.append(row["method"] if hard else f"{row['method']}, {row['labels']}")
            bar = None if np.isnan(row["low"]) else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            axis.errorbar(
                row["mean"],
                y,
                xerr=bar,
                fmt=marker(row["method"]),
                color=colour(row["method"]),
                markersize=6,
                markerfacecolor=colour(row["method"]) if hard else "white",
                elinewidth=1,
                capsize=2,
            )
        for value in part.loc[part["method"] == reference, "mean"]:
            axis.axvline(value, color="0.4", ls="--", lw=1)
        axis.set(
            title=f"{data}, IPC {ipc}\n{profile}, {budget}", xlabel="test accuracy (%)", ylim=(len(names) - 0.5, -0.5)
        )
        axis.set_yticks(range(len(names)), names, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def _inches(figure: Figure, left: float, right: float, top: float, bottom: float, across: float, down: float) -> None:
    """Margins and gaps of a grid of axes in inches: what finding them by the size of every text would take longer than
    drawing."""
    width, height = figure.get_size_inches()
    rows, columns = figure.axes[0].get_subplotspec().get_gridspec().get_geometry()
    each = (
        (width - left - right - (columns - 1) * across) / columns,
        (height - top - bottom - (rows - 1) * down) / rows,
    )
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, across / each[0], down / each[1]
    )
