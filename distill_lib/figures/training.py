"""How trainings went: GAN health, FID curves, SLFD's modules."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .look import SHAPES, colour, marker, style


def gan_health(looks: dict[str, pd.DataFrame]) -> Figure:
    """How conditional GANs trained: a column per data set; losses, then what a classifier of real images says about
    samples.

    Args:
        looks: data set -> columns step, loss_generator, loss_discriminator, class_accuracy_pct, frechet_distance.
    """
    style(fitted=True)
    lines = {
        "loss": {"loss_generator": "generator", "loss_discriminator": "discriminator"},
        "recognised (%)": {"class_accuracy_pct": None},
        "Fréchet distance": {"frechet_distance": None},
    }
    figure, axes = plt.subplots(
        3, len(looks), figsize=(3.6 * len(looks) + 0.6, 6.0), sharex="col", squeeze=False, layout="constrained"
    )
    for column, (dataset, table) in enumerate(looks.items()):
        for axis, (label, names) in zip(axes[:, column], lines.items()):
            for i, (name, direct) in enumerate(names.items()):
                (line,) = axis.plot(table["step"], table[name], marker="os"[i])
                if direct:
                    end = (table["step"].iloc[-1], table[name].iloc[-1])
                    axis.annotate(direct, end, (0, 6), "data", "offset points", ha="right", color=line.get_color())
            axis.set(ylabel=label if column == 0 else "")
        axes[0, column].set(title=dataset)
        axes[-1, column].set(xlabel="steps")
    return figure


def fid_curves(curves: dict[str, pd.DataFrame]) -> Figure:
    """Distance of samples to real images, and how many are recognised, over training: a column per curve.

    Args:
        curves: title -> columns step, FID, recognised_pct; the attribute `fid` is the distance's full name.
    """
    style(fitted=True)
    figure, axes = plt.subplots(
        2, len(curves), figsize=(3.8 * len(curves) + 0.6, 4.6), sharex="col", squeeze=False, layout="constrained"
    )
    for (top, bottom), (title, table) in zip(axes.T, curves.items()):
        top.plot(table["step"], table["FID"], color=colour("U-ViT"), marker=marker("U-ViT"))
        top.set(title=title, ylabel=table.attrs["fid"], ylim=(0, None))
        bottom.plot(table["step"], table["recognised_pct"], color=colour("U-ViT"), marker=marker("U-ViT"))
        bottom.set(xlabel="training steps", ylabel="samples recognised (%)", ylim=(0, 100))
    return figure


def module_history(history: pd.DataFrame) -> Figure:
    """How SLFD's module changed while sets were distilled: a line per row.

    Args:
        history: columns row, step, mean_norm, covariance_trace.
    """
    style()
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    labels = {"mean_norm": "norm of the mean", "covariance_trace": "trace of the covariance"}
    for axis, (name, label) in zip(axes, labels.items()):
        for i, (row, part) in enumerate(history.groupby("row", sort=False)):
            axis.plot(part["step"], part[name], marker=SHAPES[i % len(SHAPES)], ms=4, lw=1.2, label=row)
        axis.set(xlabel="step", ylabel=label, yscale="log")
    axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
