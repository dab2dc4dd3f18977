"""The book's look, and one function per kind of figure. Figures are drawn from the tables or sets they are handed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from .data import ImageSet

# A method keeps its colour and marker on every page; colour is never the only cue.
ORDER = [
    "Random", "Herding", "K-Center", "Forgetting", "DC", "DSA", "DM", "CAFE", "KIP", "MTT", "FRePo", "IDC-1",
    "CGAN", "DiM", "SKD (no standardisation)", "SKD", "GLaD", "SLFD", "DiT", "Minimax", "DGS", "U-ViT", "Full data", "IDC",
]  # fmt: skip
SHAPES = "osD^vP*Xph<>8d"


def colour(method: str) -> Any:
    """The method's colour, from a palette safe for colour-blind readers."""
    import seaborn as sns

    palette = sns.color_palette("colorblind", 10)
    return palette[ORDER.index(method) % 10] if method in ORDER else (0.3, 0.3, 0.3)


def marker(method: str) -> str:
    """The method's marker."""
    return SHAPES[ORDER.index(method) % len(SHAPES)] if method in ORDER else "o"


def style() -> None:
    """House style: white background, light grid, SVG text as text."""
    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update({"figure.facecolor": "white", "savefig.facecolor": "white", "svg.fonttype": "none", "figure.dpi": 110})


def paper_and_ours(points: pd.DataFrame, xlabel: str = "test accuracy (%)") -> Figure:
    """Published and measured values of every method, a panel per column of the table.

    Args:
        points: columns panel, method, who ("paper" or "ours, ..."), value, std (0 where there is none).
    Returns: hollow marks for the paper, filled for ours, bars one standard deviation.
    """
    import matplotlib.pyplot as plt

    style()
    panels = list(dict.fromkeys(points["panel"]))
    methods = list(dict.fromkeys(points["method"]))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (3.6 * columns + 1.6, 0.26 * len(methods) * rows + 0.9 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, panels):
        for _, p in points[points["panel"] == panel].iterrows():
            ours = p["who"] != "paper"
            y = methods.index(p["method"]) + (0.18 if ours else -0.18)
            axis.errorbar(
                p["value"], y, xerr=p["std"] or None, fmt=marker(p["method"]), color=colour(p["method"]), markersize=6,
                markerfacecolor=colour(p["method"]) if ours else "white", elinewidth=1, capsize=2,
            )  # fmt: skip
        axis.set(title=panel, xlabel=xlabel, yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def image_grid(images: ImageSet, per_class: int | None = None, class_names: bool = True, scale: float = 0.42) -> Figure:
    """Images of a set, one row per class, pixels crisp.

    Args:
        per_class: how many of each class, the first ones; all by default.
    """
    import matplotlib.pyplot as plt

    style()
    pixels = images.pixels().permute(0, 2, 3, 1).cpu().numpy()
    rows = [members[:per_class].tolist() for members in images.class_index]
    columns = max(map(len, rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=(scale * columns + 1.2, scale * len(rows)), squeeze=False)
    for k, (members, line) in enumerate(zip(rows, axes)):
        for axis in line:
            axis.set_axis_off()
        for i, axis in zip(members, line):
            _draw(axis, pixels[i])
        if class_names:
            line[0].text(-0.25, 0.5, images.facts.class_names[k], transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(wspace=0.06, hspace=0.06, left=0.22 if class_names else 0.02, right=0.99, top=0.99, bottom=0.01)
    return figure


def film_strip(frames: dict[str, ImageSet], per_class: int = 1, stretch: bool = False) -> Figure:
    """A set at several moments of its distillation: a row per moment, a column per class.

    Args:
        frames:  label of the moment ("step 100") -> the set then.
        stretch: show each image from its own darkest to its own brightest value, within 2.5 standard deviations, instead
                 of clipping to valid pixels: distilled images leave that range, and clipping hides what they hold.
    """
    import matplotlib.pyplot as plt

    style()
    first = next(iter(frames.values()))
    columns = per_class * first.num_classes
    figure, axes = plt.subplots(len(frames), columns, figsize=(0.62 * columns + 1.0, 0.68 * len(frames)), squeeze=False)
    for (label, frame), line in zip(frames.items(), axes):
        pixels = (_stretched(frame) if stretch else frame.pixels()).permute(0, 2, 3, 1).cpu().numpy()
        shown = [i for members in frame.class_index for i in members[:per_class].tolist()]
        for i, axis in zip(shown, line):
            axis.set_axis_off()
            _draw(axis, pixels[i])
        line[0].text(-0.2, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(wspace=0.05, hspace=0.05, left=0.13, right=0.995, top=0.99, bottom=0.01)
    return figure


def accuracy_over_seconds(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Accuracy of a set against the time spent on distilling it: a line per method.

    Args:
        curves: method -> (seconds, test accuracy in percent) at several moments, in order.
    """
    import matplotlib.pyplot as plt

    style()
    figure, axis = plt.subplots(figsize=(5.6, 3.0), layout="constrained")
    for method, points in curves.items():
        axis.plot(*zip(*points), color=colour(method), marker=marker(method), label=method)
    axis.set(xlabel="seconds of distilling", ylabel="test accuracy (%)")
    axis.legend(frameon=False)
    return figure


def _stretched(images: ImageSet) -> Tensor:
    """(N, C, H, W) in [0, 1]: each image limited to 2.5 standard deviations about its mean, then spread over the range."""
    x = images.all()[0]
    mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    x = x.clamp(mean - 2.5 * std, mean + 2.5 * std)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)


def _draw(axis: Any, pixels: np.ndarray) -> None:
    grey = pixels.shape[-1] == 1
    axis.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")
