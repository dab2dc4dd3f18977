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


def heat_map(differences: pd.DataFrame, title: str = "") -> Figure:
    """Ours minus the paper's in the layout of a table: blue above the paper, red below, hatched where one of the two is missing.

    Args:
        differences: percentage points, NaN where there is none.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    style()
    rows, columns = differences.shape
    names = [tuple(map(str, c)) if isinstance(c, tuple) else (str(c),) for c in differences.columns]
    shown = differences.set_axis(["\n".join(part for part in name if part) for name in names], axis=1)
    shown.index = [", ".join(str(part) for part in i if str(part)) if isinstance(i, tuple) else str(i) for i in shown.index]
    figure, axis = plt.subplots(figsize=(2.6 + 0.75 * columns, 1.0 + 0.3 * rows), layout="constrained")
    axis.set_facecolor("#f0f0f0")
    axis.patch.set(hatch="///", edgecolor="#c8c8c8")
    sns.heatmap(
        shown, ax=axis, cmap="RdBu", center=0, vmin=-20, vmax=20, annot=True, fmt="+.1f", annot_kws={"fontsize": 8},
        linewidths=0.5, linecolor="white", cbar_kws={"label": "ours − paper (points)"}, mask=shown.isna(),
    )  # fmt: skip
    axis.set(title=title, xlabel="", ylabel="")
    axis.tick_params(axis="both", labelsize=8, rotation=0)
    return figure


def gan_health(looks: dict[str, pd.DataFrame]) -> Figure:
    """How conditional GANs trained: a column per data set; losses, then what a classifier of real images says about samples.

    Args:
        looks: data set -> columns step, loss_generator, loss_discriminator, class_accuracy_pct, frechet_distance.
    """
    import matplotlib.pyplot as plt

    style()
    lines = {
        "loss": {"loss_generator": "generator", "loss_discriminator": "discriminator"},
        "samples in their class (%)": {"class_accuracy_pct": None},
        "Fréchet distance": {"frechet_distance": None},
    }
    figure, axes = plt.subplots(3, len(looks), figsize=(3.6 * len(looks) + 0.6, 6.0), sharex="col", squeeze=False, layout="constrained")
    for column, (dataset, table) in enumerate(looks.items()):
        for axis, (label, names) in zip(axes[:, column], lines.items()):
            for i, (name, legend) in enumerate(names.items()):
                axis.plot(table["step"], table[name], marker="os"[i], label=legend)
            axis.set(ylabel=label if column == 0 else "")
        axes[0, column].set(title=dataset)
        axes[0, column].legend(frameon=False)
        axes[-1, column].set(xlabel="steps")
    return figure


def skd_pipeline() -> Figure:
    """SKD's Figure 1: from noise and label to matched distributions."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    style()
    figure, axis = plt.subplots(figsize=(9.6, 3.9), layout="constrained")
    axis.set(xlim=(0, 9.6), ylim=(0, 3.9), aspect="equal")
    axis.set_axis_off()
    real, generated, shared = "#dbe9f6", "#fde3cf", "#e9e9e9"
    boxes = {  # name: centre, text, fill
        "noise": ((0.75, 1.0), "noise $n$\nlabel $y$", generated),
        "generator": ((2.25, 1.0), "generator\n$G(n \\oplus y)$", generated),
        "synthetic": ((3.75, 1.0), "synthetic\nimages $S$", generated),
        "real": ((3.75, 2.9), "real\nimages $O$", real),
        "network": ((5.4, 1.95), "network from the pool:\nConvNet3, ResNet10,\nResNet18", shared),
        "target": ((7.2, 2.9), "standardised\n$d(x_O)$", real),
        "student": ((7.2, 1.0), "standardised\n$d(x_S)$", generated),
        "loss": ((8.8, 1.95), "$L_{SKD}$\nKL", shared),
        "discriminator": ((2.25, 2.9), "discriminator\n$L_{CGAN}$", shared),
    }
    half = {name: (0.82 if name == "network" else 0.62, 0.42) for name in boxes}
    for name, ((x, y), text, fill) in boxes.items():
        w, h = half[name]
        axis.add_patch(FancyBboxPatch((x - w, y - h), 2 * w, 2 * h, boxstyle="round,pad=0.02,rounding_size=0.08", fc=fill, ec="#555555", lw=1))
        axis.text(x, y, text, ha="center", va="center", fontsize=8.5)
    arrows = [("noise", "generator"), ("generator", "synthetic"), ("synthetic", "network"), ("real", "network"), ("network", "target"),
              ("network", "student"), ("target", "loss"), ("student", "loss"), ("real", "discriminator"), ("synthetic", "discriminator")]  # fmt: skip
    for start, end in arrows:
        (x0, y0), (x1, y1) = boxes[start][0], boxes[end][0]
        (w0, h0), (w1, h1) = half[start], half[end]
        side, up = (1 if x1 > x0 else -1), (1 if y1 > y0 else -1)
        steep = abs(x1 - x0) < 1.6 and y1 != y0  # one above the other: from top to bottom instead of from side to side
        a = (x0 + side * 0.3, y0 + up * h0) if steep else (x0 + side * w0, y0)
        b = (x1 - side * 0.3, y1 - up * h1) if steep else (x1 - side * w1, y1)
        axis.add_patch(FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=11, color="#333333", lw=1.1, shrinkA=3, shrinkB=3))
    brown = "#b3541e"
    axis.plot([8.8, 8.8, 2.25], [1.5, 0.3, 0.3], color=brown, lw=1.1, ls="--")
    axis.add_patch(FancyArrowPatch((2.25, 0.3), (2.25, 0.6), arrowstyle="-|>", mutation_scale=11, color=brown, lw=1.1, shrinkA=0, shrinkB=3))
    axis.text(5.5, 0.06, "gradient to the generator alone, weight $\\lambda\\tau^2$", ha="center", fontsize=8.5, color=brown)
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
