"""Points in the plane: a real set, and the few points that stand for it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..data import ImageSet
from .look import GREY, OURS, PAPER, style


def moons(shown: dict[str, tuple[ImageSet, ImageSet]]) -> Figure:
    """Real points small, synthetic ones large, a panel per name; tinted by the class of the nearest synthetic point.

    The number says how many of the real points that rule gets right, in percent.
    """
    style(fitted=True)
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.3 * rows), squeeze=False, layout="constrained")
    shades = np.array([PAPER, OURS])
    plane = np.stack(np.meshgrid(np.linspace(-1.6, 2.6, 120), np.linspace(-1.2, 1.7, 100)), -1)
    for axis, (name, (real, made)) in zip(axes.flat, shown.items()):
        x, few = (part.all()[0].flatten(1).numpy() for part in (real, made))
        y, kind = real.hard_labels.numpy(), made.hard_labels.numpy()
        right = 100 * (_nearest(x, few, kind) == y).mean()
        area = _nearest(plane.reshape(-1, 2), few, kind).reshape(plane.shape[:2])
        axis.contourf(plane[..., 0], plane[..., 1], area, levels=[-0.5, 0.5, 1.5], colors=list(shades), alpha=0.12)
        axis.scatter(*x.T, s=2, c=shades[y], alpha=0.5, rasterized=True)  # hundreds of points a panel
        for k, shape in enumerate("os"):
            axis.scatter(*few[kind == k].T, s=70, marker=shape, color=shades[k], edgecolor="white", linewidth=1.2)
        axis.set(xlim=(-1.6, 2.6), ylim=(-1.2, 1.7), xticks=[], yticks=[])
        axis.set_title(f"{name}: {right:.0f} %", fontsize=10.5)
        for side in axis.spines.values():
            side.set_color(GREY)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    return figure


def _nearest(places: np.ndarray, few: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The class of the nearest of a few points, for each of many places."""
    return kind[((places[:, None] - few[None]) ** 2).sum(-1).argmin(1)]
