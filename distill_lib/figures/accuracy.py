"""Accuracies: paper beside ours, ranked, over budgets, over seconds, as maps."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.errors import UserError
from ..data import DATASETS, sized
from .look import GREY, OURS, PAPER, colour, marker, style

UNIT = "test accuracy (%)"


def paper_and_ours(points: pd.DataFrame, xlabel: str = UNIT, reference: str = "Random") -> Figure:
    """Published and measured values of every method, a panel per name in the column `panel`, joined by a line.

    Each panel is sorted by ours, or by the paper's where ours are missing. A dashed line stands at ours of the
    reference, a dotted one at chance.

    Args:
        points: columns panel, method, who ("paper" or "ours, ..."), data, value, std (0 where there is none).
    Returns: hollow marks for the paper, filled for ours, bars one standard deviation.
    Raises:  UserError: a panel would hold two data sets, or two budgets of ours.
    """
    if points.empty:
        figure, (axis,) = _grid(1, 0.6)
        axis.set_axis_off()
        axis.text(0.5, 0.5, "nothing printed or measured of the cells asked for", ha="center", transform=axis.transAxes)
        return figure
    panels = list(points.groupby("panel", sort=False))
    for panel, part in panels:
        for what, found in (("data sets", part["data"]), ("budgets", part.loc[part["who"] != "paper", "who"])):
            if len(names := found.unique()) > 1:
                shown = " and ".join(names)
                raise UserError(
                    f"panel {panel!r} would show {what} on one axis that do not compare: {shown}; give each its own"
                )
    tallest = max((part["method"].nunique() for _, part in panels), default=1)
    figure, axes = _grid(len(panels), 0.25 * tallest + 1.1)
    for axis, (panel, part) in zip(axes, panels):
        ours, paper = (part[(part["who"] != "paper") == so].set_index("method") for so in (True, False))
        order = pd.concat([ours, paper])["value"].groupby(level=0, sort=False).first().sort_values(ascending=False)
        for y, method in enumerate(order.index):
            both = [of.loc[[method], "value"].iloc[0] for of in (paper, ours) if method in of.index]
            axis.plot(both, [y] * len(both), color=GREY, lw=1, zorder=1)
            for of, shade, filled in ((paper, PAPER, "none"), (ours, OURS, OURS)):
                for _, p in of[of.index == method].iterrows():
                    _mark(axis, p["value"], y, p["std"] or None, shade, filled, "D" if shade == PAPER else "o")
        if reference in ours.index:
            axis.axvline(ours.loc[[reference], "value"].iloc[0], color=GREY, ls="--", lw=1, zorder=0)
        same = points[points["data"].isin(part["data"])]
        low = min((same["value"] - same["std"]).min(), _chance(axis, part["data"].iloc[0]))
        axis.set(title=panel, xlabel=xlabel, xlim=(low - 2, (same["value"] + same["std"]).max() + 2))
        _names(axis, list(order.index))
    return figure


def _mark(axis: Axes, x: float, y: float, bar: Any, shade: Any, filled: Any, shape: str, line: str = "-") -> None:
    look = {"color": shade, "markerfacecolor": filled, "markersize": 6, "elinewidth": 1, "capsize": 2, "zorder": 2}
    for bars in axis.errorbar(x, y, xerr=bar, fmt=shape, **look)[2]:
        bars.set_linestyle(line)


def _chance(axis: Axes, dataset: str) -> float:
    """A dotted line at the accuracy of guessing, in percent; infinity where the number of classes is not known."""
    known = DATASETS.get(sized(dataset)[0]) if dataset else None
    if known is None:
        return float("inf")
    axis.axvline(100 / known.num_classes, color=GREY, ls=":", lw=1.2, zorder=0)
    return 100 / known.num_classes


def _names(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.title.set_fontsize(10.5)


def _grid(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of at most two panels in a row, and its axes."""
    style(fitted=True)
    columns = min(2, max(1, panels))
    rows = max(1, -(-panels // columns))
    size = (4.6 * columns if columns > 1 else 6.0, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[panels:]:
        axis.set_axis_off()
    return figure, list(axes.flat)


def ranking(table: pd.DataFrame, reference: str = "Random") -> Figure:
    """Ranked accuracies with intervals, a panel per profile, data set, IPC and budget; lines at reference and chance.

    Args:
        table: as `tables.ranking` returns it; lines without a number are left out, as are panels of one line beside
               others.
    Returns: bars the intervals, dotted where they are of the networks of one set; hollow marks where labels are not
        hard.
    """
    panels = list(table.dropna(subset="mean").groupby(["profile", "data", "IPC", "budget"], sort=False))
    panels = [panel for panel in panels if len(panel[1]) > 1] or panels
    tallest = max((len(part) for _, part in panels), default=1)
    figure, axes = _grid(len(panels), 0.25 * tallest + 1.1)
    for axis, ((profile, dataset, ipc, budget), part) in zip(axes, panels):
        names = []
        for y, (_, row) in enumerate(part.iterrows()):
            hard = row["labels"] == "hard"
            names.append(row["method"] if hard else f"{row['method']}, {row['labels']}")
            bar = None if pd.isna(row["low"]) else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            _mark(axis, row["mean"], y, bar, OURS, OURS if hard else "none", "o", "-" if row["of"] == "sets" else ":")
        for value in part.loc[part["method"] == reference, "mean"]:
            axis.axvline(value, color=GREY, ls="--", lw=1, zorder=0)
        _chance(axis, dataset)
        axis.set(title=f"{dataset}, IPC {ipc}\n{profile}, {budget}", xlabel=UNIT)
        _names(axis, names)
    return figure


def accuracy_over_seconds(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Accuracy of a set against the time spent on distilling it: a line per method.

    Args:
        curves: method -> (seconds, test accuracy in percent) at several moments, in order.
    """
    style(fitted=True)
    figure, axis = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
    for method, moments in curves.items():
        axis.plot(*zip(*moments), color=colour(method), marker=marker(method), label=method)
    axis.set(xlabel="seconds of distilling", ylabel=UNIT)
    axis.legend(frameon=False)
    return figure


def heat_map(differences: pd.DataFrame, title: str = "") -> Figure:
    """Ours minus the paper's in the layout of a table: blue above the paper, red below; hatched where one is missing.

    Rows and columns without a pair are left out, unless there is none at all.

    Args:
        differences: percentage points, NaN where there is none.
    """
    style(fitted=True)
    known = differences.notna()
    if known.any(axis=None):
        differences = differences.loc[known.any(axis=1), known.any()]
    rows, columns = differences.shape
    names = [tuple(map(str, c)) if isinstance(c, tuple) else (str(c),) for c in differences.columns]
    shown = differences.set_axis(["\n".join(filter(None, name)) for name in names], axis=1)
    parts = [i if isinstance(i, tuple) else (i,) for i in shown.index]
    shown.index = [", ".join(str(part) for part in i if str(part)) for i in parts]
    figure, axis = plt.subplots(figsize=(3.4 + 0.85 * columns, max(3.0, 1.4 + 0.32 * rows)), layout="constrained")
    axis.patch.set(hatch="///", edgecolor="#c8c8c8")
    look = {"cmap": "RdBu", "center": 0, "vmin": -20, "vmax": 20, "linewidths": 0.5, "linecolor": "white"}
    numbers = {"annot": True, "fmt": "+.1f", "annot_kws": {"fontsize": 9}}
    sns.heatmap(shown, ax=axis, mask=shown.isna(), cbar_kws={"label": "ours − paper (points)"}, **look, **numbers)
    axis.set(title=title, xlabel="", ylabel="")
    axis.tick_params(axis="both", labelsize=9)
    axis.tick_params(axis="x", rotation=45)
    return figure


def leaderboard(entries: pd.DataFrame, chance: dict[str, float]) -> Figure:
    """Accuracies of a challenge's teams, a panel per track: bars by data set, dotted lines at chance; ours hatched.

    Args:
        entries: columns track, team, dataset, value (percent), who ("printed" or "ours").
        chance:  data set -> percent.
    """
    style(fitted=True)
    datasets = list(chance)
    tracks = {track: list(part["team"].unique()) for track, part in entries.groupby("track")}
    size = (7.0, 0.42 * sum(map(len, tracks.values())) + 1.6)
    heights = [len(teams) for teams in tracks.values()]
    options = {"sharex": True, "squeeze": False, "layout": "constrained", "height_ratios": heights}
    figure, axes = plt.subplots(len(tracks), 1, figsize=size, **options)
    shades = sns.color_palette("colorblind", 10)
    for axis, (track, teams) in zip(axes[:, 0], tracks.items()):
        for i, dataset in enumerate(datasets):
            here = entries[(entries["track"] == track) & (entries["dataset"] == dataset)]
            at = [teams.index(team) + (i - (len(datasets) - 1) / 2) * 0.38 for team in here["team"]]
            bars = axis.barh(at, here["value"], 0.36, color=shades[2 * i], label=dataset)
            for bar, who in zip(bars, here["who"]):
                bar.set_hatch("//" if who == "ours" else None)
            axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
            axis.axvline(chance[dataset], color=shades[2 * i], ls=":", lw=1.2)
        axis.set(title=f"track {track}")
        _names(axis, teams)
        axis.grid(axis="y", visible=False)
    axes[0, 0].legend(frameon=False, loc="lower right")
    axes[-1, 0].set(xlabel=UNIT, xlim=(0, 1.08 * entries["value"].max()))
    return figure


def _apart(values: pd.Series) -> list[float]:
    """Those of the values, from the smallest on, whose labels do not meet on a logarithmic axis."""
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value / kept[-1] >= (values.max() / values.min()) ** 0.12:
            kept.append(value)
    return kept


def accuracy_over_budget(points: pd.DataFrame) -> Figure:
    """Accuracy of networks against the size of a set: a row per panel of the table, a column per axis, a line per
    method.

    Args:
        points: columns panel, method, axis, x (shown on a logarithmic scale), value, std, networks; a single network
                has no bar.
    """
    style(fitted=True)
    panels, names = list(points["panel"].unique()), list(points["axis"].unique())
    size = (3.9 * len(names) + 0.6, 2.9 * len(panels))
    options = {"squeeze": False, "sharey": "row", "sharex": "col", "layout": "constrained"}
    figure, axes = plt.subplots(len(panels), len(names), figsize=size, **options)
    for line, panel in zip(axes, panels):
        for axis, name in zip(line, names):
            here = points[(points["panel"] == panel) & (points["axis"] == name)]
            for method, part in here.sort_values("x").groupby("method", sort=False):
                look = {"color": colour(method), "marker": marker(method), "capsize": 2, "label": method}
                axis.errorbar(part["x"], part["value"], part["std"].where(part["networks"] > 1), **look)
            axis.set(xscale="log", xlabel=name, title=panel)
            axis.set_xticks(ticks := _apart(points.loc[points["axis"] == name, "x"]), [f"{t:g}" for t in ticks])
            axis.minorticks_off()
            if len(here):
                axis.legend(frameon=False, fontsize=9)
        line[0].set(ylabel=UNIT)
    return figure
