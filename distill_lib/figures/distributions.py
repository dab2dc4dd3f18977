"""Distributions: difficulties, targets, objectives, correlations."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .look import GREY, OURS, PAPER, colour, inches, style


def difficulty_histograms(rows: list[dict[str, Any]]) -> Figure:
    """DGS's Figure 2: for each class a pair of rows, without and with the logarithm; columns: real images, pool, chosen
    images.

    Args:
        rows: as `tables.dgs.histograms` returns them: `class`, `scale`, and for every part its counts, images and mean
            score.
    Returns: bars that sum to the number of images; the dashed line and its number are the mean of the scores as they
        are, without the logarithm, and stand in the rows on that scale.
    """
    style(fitted=True)
    figure, axes = plt.subplots(len(rows), 3, figsize=(9.0, 1.55 * len(rows)), squeeze=False, sharex=True)
    inches(figure, left=1.5, right=0.15, top=0.35, bottom=0.45, across=0.45, down=0.25)
    shades = {"original": GREY, "pool": PAPER, "sampled": OURS}
    names = {"original": "real images", "pool": "pool", "sampled": "chosen"}
    for row, line in zip(rows, axes):
        for axis, (part, found) in zip(line, row["parts"].items()):
            counts = np.array(found["counts"]) / max(1, found["images"])
            at = (np.arange(len(counts)) + 0.5) / len(counts)
            axis.bar(at, 100 * counts, width=0.9 / len(counts), color=shades[part])
            axis.set(xlim=(0, 1), ylim=(0, 105), yticks=(0, 50, 100))
            axis.tick_params(labelsize=9)
            said = f"n = {found['images']}"
            if row["scale"] == "raw":
                axis.axvline(found["mean"], color="black", ls="--", lw=1)
                said += f", mean {found['mean']:.2f}"
            axis.text(0.5, 90, said, ha="center", va="center", fontsize=9)
        line[0].set_ylabel(f"{row['class']},\n{row['scale']}\n(% of images)", fontsize=9)
    for axis, part in zip(axes[0], rows[0]["parts"]):
        axis.set_title(names[part], fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("difficulty", fontsize=9)
    return figure


def target_counts(targets: dict[str, dict[int, tuple[int, ...]]]) -> Figure:
    """DGS's Figure 4: pre-defined targets, a row per ipc, a column per name; bars sum to ipc."""
    style(fitted=True)
    sizes = sorted({ipc for rows in targets.values() for ipc in rows})
    size = (2.3 * len(targets), 1.6 * len(sizes))
    figure, axes = plt.subplots(len(sizes), len(targets), figsize=size, squeeze=False, sharey="row")
    inches(figure, left=0.65, right=0.15, top=0.3, bottom=0.55, across=0.25, down=0.6)
    for line, ipc in zip(axes, sizes):
        for axis, (name, rows) in zip(line, targets.items()):
            bins = len(rows[ipc])
            axis.bar((np.arange(bins) + 0.5) / bins, rows[ipc], width=0.9 / bins, color=colour("DGS"))
            axis.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"), title=f"{name}, IPC {ipc}")
            axis.title.set_fontsize(9)
        line[0].set_ylabel("images")
    for axis in axes[-1]:
        axis.set_xlabel("difficulty")
    return figure


def objective_map(values: np.ndarray) -> Figure:
    """DGS's equation 9 over its thresholds: crosses where it is infinite or undefined, a ring at the least value."""
    style(raster=True)
    values = np.asarray(values, dtype=float)
    figure, axis = plt.subplots(figsize=(4.4, 3.4), layout="constrained")
    shown = np.where(np.isfinite(values), values, np.nan)
    image = axis.imshow(shown, origin="lower", cmap="viridis", interpolation="nearest")
    for b, t in zip(*np.nonzero(~np.isfinite(values))):
        axis.text(t, b, "×", ha="center", va="center", color="#888888", fontsize=9)
    if np.isfinite(shown).any():
        figure.colorbar(image, ax=axis, label="bits")
        b, t = np.unravel_index(np.nanargmin(shown), shown.shape)
        axis.plot(t, b, marker="o", markersize=11, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2)
    axis.grid(False)
    axis.set(xlabel="t, images cut at the top", ylabel="b, images cut at the bottom")
    return figure


def two_pixels(independent: np.ndarray, joint: np.ndarray) -> Figure:
    """SLFD's Figure 1, computed: samples (N, 2) of two outputs with independent noise, and of a joint normal
    distribution."""
    style()
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharex=True, sharey=True, layout="constrained")
    titles = ("$N(\\mu,\\ \\mathrm{diag}\\,d)$", "$N(\\mu,\\ PP^T+\\mathrm{diag}\\,d)$")
    for axis, points, title in zip(axes, (independent, joint), titles):
        axis.plot(*points.T, ".", ms=3, alpha=0.4, color=colour("SLFD"))
        axis.set(title=f"{title}, correlation {np.corrcoef(points.T)[0, 1]:+.2f}", xlabel="output 1", aspect="equal")
    axes[0].set(ylabel="output 2")
    return figure


def correlations(matrices: dict[str, np.ndarray], names: list[str]) -> Figure:
    """Correlation matrices (K, K) of class logits side by side; blue positive, red negative."""
    style(raster=True)
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(3.4 * len(matrices) + 1.4, 3.7), squeeze=False, layout="constrained"
    )
    for axis, (title, matrix) in zip(axes[0], matrices.items()):
        shown = axis.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
        axis.set(title=title, xticks=range(len(names)), yticks=range(len(names)))
        axis.set_xticklabels(names, rotation=90, fontsize=7)
        axis.set_yticklabels(names, fontsize=7)
        axis.grid(False)
    figure.colorbar(shown, ax=axes[0].tolist(), label="correlation", shrink=0.8)
    return figure


def refined_bars(probabilities: pd.DataFrame) -> Figure:
    """SLFD's Figure 3: probabilities of the classes for one image.

    Args:
        probabilities: columns class, alone, refined (mean over samples), low, high.
    """
    style()
    p, at = probabilities, np.arange(len(probabilities))
    figure, axis = plt.subplots(figsize=(0.62 * len(p) + 2.4, 3.3), layout="constrained")
    axis.bar(at - 0.2, p["alone"], 0.38, color="#bbbbbb", label="network alone")
    bars = np.clip([p["refined"] - p["low"], p["high"] - p["refined"]], 0, None)
    axis.bar(
        at + 0.2,
        p["refined"],
        0.38,
        yerr=bars,
        capsize=2,
        color=colour("SLFD"),
        label="refined: mean and 5 to 95 % of samples",
    )
    axis.set(ylabel="probability", xticks=at)
    axis.set_xticklabels(p["class"], rotation=45, ha="right", fontsize=8)
    axis.legend(frameon=False, fontsize=8)
    return figure
