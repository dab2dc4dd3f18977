"""A forest plot: effects with intervals, and a verdict by shape and word."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .look import style

SHAPES = {"holds": ">", "reversed": "<", "no effect larger than δ": "s", "undecided": "o", "not run": "x"}


def forest(points: pd.DataFrame) -> Figure:
    """Differences with their intervals, a row per claim, a panel per scale; the verdict stands beside each.

    Args:
        points: columns panel, name, mean, low, high (NaN without an interval), delta, word, provisional, repeats, unit.
    Returns: hollow marks while a verdict is provisional; the grey band reaches from -delta to +delta. The axis is
             linear from -1 to 1 and logarithmic beyond.
    """
    style(fitted=True)
    palette = sns.color_palette("colorblind", 10)
    colours = dict(zip(SHAPES, (palette[2], palette[3], palette[0], "0.35", "0.6")))
    panels = list(points.groupby("panel", sort=False))
    heights = [len(part) + 2.2 for _, part in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8.4, 0.4 * sum(heights)), squeeze=False, layout="constrained", height_ratios=heights
    )
    for axis, (panel, part) in zip(axes[:, 0], panels):
        for y, row in enumerate(part.itertuples()):
            shade, word = colours[row.word], row.word if row.word == "not run" else f"{row.word}, {row.repeats}"
            axis.barh(y, 2 * row.delta, 0.8, -row.delta, color="0.92", zorder=0)
            if row.word != "not run":
                bar = None if pd.isna(row.low) else [[row.mean - row.low], [row.high - row.mean]]
                fill = "white" if row.provisional else shade
                axis.errorbar(
                    row.mean, y, xerr=bar, fmt=SHAPES[row.word], color=shade, markerfacecolor=fill, capsize=2, ms=7
                )
            text = textwrap.fill(f"provisional: {word}" if row.provisional and row.word != "not run" else word, 26)
            axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=shade)
        axis.axvline(0, color="0.3", lw=1)
        far = part[["mean", "low", "high"]].abs().max().max()
        edge = max(1.0, part["delta"].max(), 0.0 if pd.isna(far) else far) * 1.3
        ticks = [t for t in (0.5, 1, 3, 10, 30) if t <= edge]
        axis.set_xscale("symlog", linthresh=1, linscale=1)
        axis.set_xticks(every := [*(-t for t in reversed(ticks)), 0, *ticks], [f"{t:+g}" if t else "0" for t in every])
        axis.minorticks_off()
        axis.set(xlim=(-edge, edge), ylim=(len(part) - 0.5, -0.5))
        axis.set_xlabel(part["unit"].iloc[0], fontsize=9.5)
        axis.set_yticks(range(len(part)), [textwrap.fill(name, 44) for name in part["name"]], fontsize=9)
        axis.set_title(textwrap.fill(panel, 72), fontsize=10.5, loc="left")
        axis.tick_params(axis="x", labelsize=9)
        axis.grid(axis="y", visible=False)
    return figure
