"""Accuracies: paper beside ours, over budgets, over seconds, as maps."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..core.errors import UserError
from .look import colour, marker, style


def paper_and_ours(points: pd.DataFrame, xlabel: str = "test accuracy (%)") -> Figure:
    """Published and measured values of every method, a panel per name in the column `panel`.

    Args:
        points: columns panel, method, who ("paper" or "ours, ..."), data, value, std (0 where there is none).
    Returns: hollow marks for the paper, filled for ours, bars one standard deviation.
    Raises:  UserError: a panel would hold two data sets, or two budgets of ours.
    """
    for panel, part in points.groupby("panel", sort=False):
        for what, found in (("data sets", part["data"]), ("budgets", part.loc[part["who"] != "paper", "who"])):
            if len(names := found.unique()) > 1:
                shown = " and ".join(names)
                raise UserError(
                    f"panel {panel!r} would show {what} on one axis that do not compare: {shown}; give each its own"
                )
    style(fitted=True)
    panels = list(dict.fromkeys(points["panel"]))
    methods = list(dict.fromkeys(points["method"]))
    columns = 2 if len(panels) in (2, 4, 6, 8) else min(3, len(panels))  # pairs: the paper's, and beside it a stand-in
    rows = -(-len(panels) // columns)
    size = (3.6 * columns + 1.6, 0.26 * len(methods) * rows + 1.1 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, panels):
        for _, p in points[points["panel"] == panel].iterrows():
            ours = p["who"] != "paper"
            y = methods.index(p["method"]) + (0.18 if ours else -0.18)
            axis.errorbar(
                p["value"],
                y,
                xerr=p["std"] or None,
                fmt=marker(p["method"]),
                color=colour(p["method"]),
                markersize=6,
                markerfacecolor=colour(p["method"]) if ours else "white",
                elinewidth=1,
                capsize=2,
            )
        axis.set(xlabel=xlabel, yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
        axis.set_title(panel, fontsize=10)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def accuracy_over_seconds(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Accuracy of a set against the time spent on distilling it: a line per method.

    Args:
        curves: method -> (seconds, test accuracy in percent) at several moments, in order.
    """
    style(fitted=True)
    figure, axis = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
    for method, points in curves.items():
        axis.plot(*zip(*points), color=colour(method), marker=marker(method), label=method)
    axis.set(xlabel="seconds of distilling", ylabel="test accuracy (%)")
    axis.legend(frameon=False)
    return figure


def heat_map(differences: pd.DataFrame, title: str = "") -> Figure:
    """Ours minus the paper's in the layout of a table: blue above the paper, red below, hatched where one of the two is
    missing.

    Args:
        differences: percentage points, NaN where there is none.
    """
    style(fitted=True)
    rows, columns = differences.shape
    names = [tuple(map(str, c)) if isinstance(c, tuple) else (str(c),) for c in differences.columns]
    shown = differences.set_axis(["\n".join(part for part in name if part) for name in names], axis=1)
    shown.index = [
        ", ".join(str(part) for part in i if str(part)) if isinstance(i, tuple) else str(i) for i in shown.index
    ]
    figure, axis = plt.subplots(figsize=(2.6 + 0.75 * columns, 1.0 + 0.3 * rows), layout="constrained")
    axis.set_facecolor("#f0f0f0")
    axis.patch.set(hatch="///", edgecolor="#c8c8c8")
    sns.heatmap(
        shown,
        ax=axis,
        cmap="RdBu",
        center=0,
        vmin=-20,
        vmax=20,
        annot=True,
        fmt="+.1f",
        annot_kws={"fontsize": 8},
        linewidths=0.5,
        linecolor="white",
        cbar_kws={"label": "ours − paper (points)"},
        mask=shown.isna(),
    )
    axis.set(title=title, xlabel="", ylabel="")
    axis.tick_params(axis="both", labelsize=8, rotation=0)
    return figure


def leaderboard(entries: pd.DataFrame, chance: dict[str, float]) -> Figure:
    """Accuracies of a challenge's teams, a panel per track: bars by data set, dotted lines at chance; ours hatched.

    Args:
        entries: columns track, team, dataset, value (percent), who ("printed" or "ours").
        chance:  data set -> percent.
    """
    style()
    tracks, datasets = sorted(set(entries["track"])), list(chance)
    teams = {t: list(dict.fromkeys(entries.loc[entries["track"] == t, "team"])) for t in tracks}
    figure, axes = plt.subplots(
        len(tracks),
        1,
        figsize=(7.0, 0.42 * sum(map(len, teams.values())) + 1.6),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=[len(t) for t in teams.values()],
    )
    shades = sns.color_palette("colorblind", 10)
    for axis, track in zip(axes[:, 0], tracks):
        for i, dataset in enumerate(datasets):
            here = entries[(entries["track"] == track) & (entries["dataset"] == dataset)]
            for _, row in here.iterrows():
                y = teams[track].index(row["team"]) + (i - (len(datasets) - 1) / 2) * 0.38
                first = row["team"] == here["team"].iloc[0]
                axis.barh(
                    y,
                    row["value"],
                    0.36,
                    color=shades[2 * i],
                    hatch="//" if row["who"] == "ours" else None,
                    label=dataset if first else None,
                )
                axis.text(row["value"] + 0.4, y, f"{row['value']:.1f}", va="center", fontsize=8)
            axis.axvline(chance[dataset], color=shades[2 * i], ls=":", lw=1.2)
        axis.set(
            title=f"track {track}",
            yticks=range(len(teams[track])),
            yticklabels=teams[track],
            ylim=(len(teams[track]) - 0.5, -0.5),
        )
        axis.grid(axis="y", visible=False)
    axes[0, 0].legend(frameon=False, loc="lower right")
    axes[-1, 0].set(xlabel="test accuracy (%)", xlim=(0, 1.08 * entries["value"].max()))
    return figure


def accuracy_over_budget(points: pd.DataFrame) -> Figure:
    """Accuracy of networks against the size of a set: a row per panel of the table, a column per axis, a line per
    method.

    Args:
        points: columns panel, method, axis, x (shown on a logarithmic scale), value, std.
    """
    style(fitted=True)
    panels, axes_of = list(dict.fromkeys(points["panel"])), list(dict.fromkeys(points["axis"]))
    size = (3.9 * len(axes_of) + 0.6, 2.9 * len(panels))
    figure, axes = plt.subplots(
        len(panels), len(axes_of), figsize=size, squeeze=False, sharey="row", sharex="col", layout="constrained"
    )
    for line, panel in zip(axes, panels):
        for axis, name in zip(line, axes_of):
            here = points[(points["panel"] == panel) & (points["axis"] == name)]
            for method, part in here.sort_values("x").groupby("method", sort=False):
                axis.errorbar(
                    part["x"],
                    part["value"],
                    part["std"],
                    color=colour(method),
                    marker=marker(method),
                    capsize=2,
                    label=method,
                )
            axis.set(xscale="log", xlabel=name, title=panel)
            axis.set_xticks(ticks := sorted(set(points.loc[points["axis"] == name, "x"])), [f"{t:g}" for t in ticks])
            axis.minorticks_off()
            if len(here):
                axis.legend(frameon=False, fontsize=8)
        line[0].set(ylabel="test accuracy (%)")
    return figure
