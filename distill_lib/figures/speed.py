"""Speed: roofline and growth."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from .look import SHAPES, colour, style


def roofline(machines: dict[str, tuple[pd.DataFrame, float, float]]) -> Figure:
    """Operations a second against operations per byte, below each machine's limits: hollow marks plain, filled marks
    ours.

    Args:
        machines: name -> (points, operations a second, bytes a second); points have the columns name, who ("plain" or
        "ours"),
                  intensity (operations per byte) and rate (operations a second).
    """
    style()
    palette = sns.color_palette("colorblind", 10)
    figure, axes = plt.subplots(
        len(machines), 1, figsize=(7.2, 4.4 * len(machines)), squeeze=False, layout="constrained"
    )
    for axis, (machine, (points, peak_flops, peak_bytes)) in zip(axes[:, 0], machines.items()):
        edge = peak_flops / peak_bytes
        low, high = min(points["intensity"].min(), edge) / 2, max(points["intensity"].max(), 2 * edge) * 2
        limit = [low * peak_bytes / 1e9, peak_flops / 1e9, peak_flops / 1e9]
        axis.plot([low, edge, high], limit, color="0.2", lw=1.5, label="limits measured")
        for i, (name, pair) in enumerate(points.groupby("name", sort=False)):
            shade, shape, sides = palette[i % 10], SHAPES[i % len(SHAPES)], pair.set_index("who")
            axis.plot(sides["intensity"], sides["rate"] / 1e9, color=shade, lw=0.8)
            for who, side in sides.iterrows():
                filled = who == "ours"
                look = {
                    "color": shade,
                    "markerfacecolor": shade if filled else "white",
                    "label": name if filled else None,
                }
                axis.plot(side["intensity"], side["rate"] / 1e9, shape, **look)
        axis.set(xscale="log", yscale="log", xlabel="operations per byte, plain form", ylabel="GFLOP/s", title=machine)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(subs=(1, 3)))
            side.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def seconds_over_size(points: pd.DataFrame) -> Figure:
    """Seconds of a benchmark against one of its sizes: a row per benchmark, a column per axis; hollow plain, filled
    ours.

    Args:
        points: columns base, axis, at, ours, plain (seconds).
    """
    style()
    bases = list(dict.fromkeys(points["base"]))
    panels = {base: list(dict.fromkeys(points.loc[points["base"] == base, "axis"])) for base in bases}
    columns = max(map(len, panels.values()))
    figure, axes = plt.subplots(
        len(bases), columns, figsize=(2.9 * columns + 0.4, 2.4 * len(bases)), squeeze=False, layout="constrained"
    )
    for line, base in zip(axes, bases):
        for axis, name in zip(line, panels[base]):
            here = points[(points["base"] == base) & (points["axis"] == name)].sort_values("at")
            axis.plot(here["at"], here["plain"], "s--", color="0.45", markerfacecolor="white", label="plain")
            axis.plot(here["at"], here["ours"], "o-", color=colour("DM"), label="ours")
            axis.set(xscale="log", yscale="log", xlabel=name, title=base)
            axis.set_xticks(ticks := sorted(set(here["at"])), [f"{t:g}" for t in ticks])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.minorticks_off()
        for axis in line[len(panels[base]) :]:
            axis.set_axis_off()
        line[0].set(ylabel="seconds")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure
