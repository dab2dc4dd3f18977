"""The book's look, and one function per kind of figure. Figures are drawn from the tables or sets they are handed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError

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


def style(raster: bool = False, fitted: bool = False) -> None:
    """House style: white background, light grid. A notebook shows lines as SVG, whose glyphs are drawn, and pixels as PNG.

    Args:
        raster: the figure shows images.
        fitted: its layout fills the figure: a notebook does not draw it a second time to see where to cut.
    """
    import sys

    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    look = {"figure.facecolor": "white", "savefig.facecolor": "white", "svg.fonttype": "path", "svg.hashsalt": "distill_lib", "figure.dpi": 110}
    mpl.rcParams.update(look)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png" if raster else "svg", **({"bbox_inches": None} if fitted else {}))


def paper_and_ours(points: pd.DataFrame, xlabel: str = "test accuracy (%)") -> Figure:
    """Published and measured values of every method, a panel per name in the column `panel`.

    Args:
        points: columns panel, method, who ("paper" or "ours, ..."), data, value, std (0 where there is none).
    Returns: hollow marks for the paper, filled for ours, bars one standard deviation.
    Raises:  UserError: a panel would hold two data sets, or two budgets of ours.
    """
    import matplotlib.pyplot as plt

    for panel, part in points.groupby("panel", sort=False):
        for what, found in (("data sets", part["data"]), ("budgets", part.loc[part["who"] != "paper", "who"])):
            if len(names := found.unique()) > 1:
                shown = " and ".join(names)
                raise UserError(f"panel {panel!r} would show {what} on one axis that do not compare: {shown}; give each its own")
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
                p["value"], y, xerr=p["std"] or None, fmt=marker(p["method"]), color=colour(p["method"]), markersize=6,
                markerfacecolor=colour(p["method"]) if ours else "white", elinewidth=1, capsize=2,
            )  # fmt: skip
        axis.set(xlabel=xlabel, yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
        axis.set_title(panel, fontsize=10)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def ranking(table: pd.DataFrame, reference: str = "Random") -> Figure:
    """Ranked accuracies with intervals, a panel per profile, data set, IPC and budget, and a line at the reference's mean.

    Args:
        table: as `tables.ranking` returns it; lines without a number are left out.
    Returns: bars the intervals; hollow marks where labels are not hard.
    """
    import matplotlib.pyplot as plt

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
                row["mean"], y, xerr=bar, fmt=marker(row["method"]), color=colour(row["method"]), markersize=6,
                markerfacecolor=colour(row["method"]) if hard else "white", elinewidth=1, capsize=2,
            )  # fmt: skip
        for value in part.loc[part["method"] == reference, "mean"]:
            axis.axvline(value, color="0.4", ls="--", lw=1)
        axis.set(title=f"{data}, IPC {ipc}\n{profile}, {budget}", xlabel="test accuracy (%)", ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), names, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def image_grid(
    images: ImageSet, per_class: int | None = None, class_names: bool = True, scale: float = 0.42, title: str = ""
) -> Figure:
    """Images of a set, one row per class, pixels crisp.

    Args:
        per_class: how many of each class, the first ones; all by default.
        title:     says which data are drawn: take it from the set's facts.
    """
    import matplotlib.pyplot as plt

    style(raster=True)
    pixels = images.pixels().permute(0, 2, 3, 1).cpu().numpy()
    rows = [members[:per_class].tolist() for members in images.class_index]
    columns, left = max(map(len, rows)), 1.2 if class_names else 0.05
    width = scale * columns + left
    figure = plt.figure(figsize=(width, scale * len(rows)))
    axis = figure.add_axes((left / width, 0, scale * columns / width, 1))
    centres = _sheet(axis, pixels, rows)
    axis.set_title(title, fontsize=10)
    if class_names:
        for name, y in zip(images.facts.class_names, centres):
            axis.text(-0.25 * pixels.shape[2], y, name, ha="right", va="center", fontsize=8)
    return figure


def film_strip(frames: dict[str, ImageSet], per_class: int = 1, stretch: bool = False, title: str = "") -> Figure:
    """A set at several moments of its distillation: a row per moment, a column per class.

    Args:
        frames:  label of the moment ("step 100") -> the set then.
        stretch: show each image from its own darkest to its own brightest value, within 2.5 standard deviations, instead
                 of clipping to valid pixels: distilled images leave that range, and clipping hides what they hold.
        title:   says which data are drawn: take it from the sets' facts.
    """
    import matplotlib.pyplot as plt

    style(raster=True)
    first = next(iter(frames.values()))
    columns = per_class * first.num_classes
    figure, axes = plt.subplots(len(frames), 1, figsize=(0.62 * columns + 1.0, 0.68 * len(frames)), squeeze=False)
    for (label, frame), axis in zip(frames.items(), axes[:, 0]):
        pixels = (_stretched(frame) if stretch else frame.pixels()).permute(0, 2, 3, 1).cpu().numpy()
        centre = _sheet(axis, pixels, [[i for members in frame.class_index for i in members[:per_class].tolist()]])[0]
        axis.text(-0.2 * pixels.shape[2], centre, label, ha="right", va="center", fontsize=9)
    axes[0, 0].set_title(title, fontsize=10)
    figure.subplots_adjust(wspace=0.05, hspace=0.05, left=0.13, right=0.995, top=0.99, bottom=0.01)
    return figure


def accuracy_over_seconds(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Accuracy of a set against the time spent on distilling it: a line per method.

    Args:
        curves: method -> (seconds, test accuracy in percent) at several moments, in order.
    """
    import matplotlib.pyplot as plt

    style(fitted=True)
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

    style(fitted=True)
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

    style(fitted=True)
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


def fid_curves(curves: dict[str, pd.DataFrame]) -> Figure:
    """Distance of samples to real images, and how many are recognised, over training: a column per curve.

    Args:
        curves: title -> columns step, FID, recognised_pct; the attribute `fid` is the distance's full name.
    """
    import matplotlib.pyplot as plt

    style(fitted=True)
    figure, axes = plt.subplots(2, len(curves), figsize=(3.8 * len(curves) + 0.6, 4.6), sharex="col", squeeze=False, layout="constrained")
    for (top, bottom), (title, table) in zip(axes.T, curves.items()):
        top.plot(table["step"], table["FID"], color=colour("U-ViT"), marker=marker("U-ViT"))
        top.set(title=title, ylabel=table.attrs["fid"], ylim=(0, None))
        bottom.plot(table["step"], table["recognised_pct"], color=colour("U-ViT"), marker=marker("U-ViT"))
        bottom.set(xlabel="training steps", ylabel="samples recognised (%)", ylim=(0, 100))
    return figure


def leaderboard(entries: pd.DataFrame, chance: dict[str, float]) -> Figure:
    """Accuracies of a challenge's teams, a panel per track: bars by data set, dotted lines at chance; ours hatched.

    Args:
        entries: columns track, team, dataset, value (percent), who ("printed" or "ours").
        chance:  data set -> percent.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    style()
    tracks, datasets = sorted(set(entries["track"])), list(chance)
    teams = {t: list(dict.fromkeys(entries.loc[entries["track"] == t, "team"])) for t in tracks}
    figure, axes = plt.subplots(
        len(tracks), 1, figsize=(7.0, 0.42 * sum(map(len, teams.values())) + 1.6), sharex=True, squeeze=False, layout="constrained",
        height_ratios=[len(t) for t in teams.values()],
    )  # fmt: skip
    shades = sns.color_palette("colorblind", 10)
    for axis, track in zip(axes[:, 0], tracks):
        for i, dataset in enumerate(datasets):
            here = entries[(entries["track"] == track) & (entries["dataset"] == dataset)]
            for _, row in here.iterrows():
                y = teams[track].index(row["team"]) + (i - (len(datasets) - 1) / 2) * 0.38
                first = row["team"] == here["team"].iloc[0]
                axis.barh(y, row["value"], 0.36, color=shades[2 * i], hatch="//" if row["who"] == "ours" else None, label=dataset if first else None)
                axis.text(row["value"] + 0.4, y, f"{row['value']:.1f}", va="center", fontsize=8)
            axis.axvline(chance[dataset], color=shades[2 * i], ls=":", lw=1.2)
        axis.set(title=f"track {track}", yticks=range(len(teams[track])), yticklabels=teams[track], ylim=(len(teams[track]) - 0.5, -0.5))
        axis.grid(axis="y", visible=False)
    axes[0, 0].legend(frameon=False, loc="lower right")
    axes[-1, 0].set(xlabel="test accuracy (%)", xlim=(0, 1.08 * entries["value"].max()))
    return figure


def accuracy_over_budget(points: pd.DataFrame) -> Figure:
    """Accuracy of networks against the size of a set: a row per panel of the table, a column per axis, a line per method.

    Args:
        points: columns panel, method, axis, x (shown on a logarithmic scale), value, std.
    """
    import matplotlib.pyplot as plt

    style(fitted=True)
    panels, axes_of = list(dict.fromkeys(points["panel"])), list(dict.fromkeys(points["axis"]))
    size = (3.9 * len(axes_of) + 0.6, 2.9 * len(panels))
    figure, axes = plt.subplots(len(panels), len(axes_of), figsize=size, squeeze=False, sharey="row", sharex="col", layout="constrained")
    for line, panel in zip(axes, panels):
        for axis, name in zip(line, axes_of):
            here = points[(points["panel"] == panel) & (points["axis"] == name)]
            for method, part in here.sort_values("x").groupby("method", sort=False):
                axis.errorbar(part["x"], part["value"], part["std"], color=colour(method), marker=marker(method), capsize=2, label=method)
            axis.set(xscale="log", xlabel=name, title=panel)
            axis.set_xticks(ticks := sorted(set(points.loc[points["axis"] == name, "x"])), [f"{t:g}" for t in ticks])
            axis.minorticks_off()
            if len(here):
                axis.legend(frameon=False, fontsize=8)
        line[0].set(ylabel="test accuracy (%)")
    return figure


def samples_and_nearest(
    made: ImageSet, nearest: ImageSet | None, distances: list[float], title: str = "", left: str = "generated"
) -> Figure:
    """Samples to the left; to the right, in the same places, the training image nearest to each, with its distance.

    Args:
        made:    class by class; a row per class, or ten classes a row where each has one image.
        nearest: as many images; None shows the distances below the samples.
        title:   says which data are drawn: take it from the sets' facts.
        left:    what the images to the left are.
    """
    import matplotlib.pyplot as plt

    style(raster=True)
    each = max(map(len, made.class_index))
    columns = each if each > 1 else min(10, len(made))
    rows = -(-len(made) // columns)
    sheets = {left: made} if nearest is None else {left: made, "nearest training image": nearest}
    size = (0.58 * len(sheets) * columns + (1.4 if each > 1 else 0.2), 0.66 * rows + 0.5)
    figure, axes = plt.subplots(1, len(sheets), figsize=size, squeeze=False, layout="constrained")
    side, gap = made.shape[1], max(3, made.shape[1] // 4)
    for axis, (heading, images) in zip(axes[0], sheets.items()):
        pixels = images.pixels().permute(0, 2, 3, 1).cpu().numpy()
        sheet = np.ones((rows * (side + gap), columns * (side + gap), pixels.shape[-1]), np.float32)
        for i, image in enumerate(pixels):
            y, x = (i // columns) * (side + gap), (i % columns) * (side + gap)
            sheet[y : y + side, x : x + side] = image
            if axis is axes[0, -1]:
                axis.text(x + side / 2, y + side + gap / 2, f"{distances[i]:.2f}", ha="center", va="center", fontsize=5.5)
        _draw(axis, sheet)
        axis.set_axis_off()
        axis.set_title(heading, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=10)
    if each > 1:
        for k, name in enumerate(made.facts.class_names):
            axes[0, 0].text(-gap, k * (side + gap) + side / 2, name, ha="right", va="center", fontsize=8)
    return figure


def difficulty_histograms(rows: list[dict[str, Any]]) -> Figure:
    """DGS's Figure 2: for each class a pair of rows, without and with the logarithm; columns: real images, pool, chosen images.

    Args:
        rows: as `experiments.dgs.histograms` returns them: `class`, `scale`, and for every part its counts, images and mean score.
    Returns: bars that sum to the number of images; the title has the mean of the scores as they are, without the logarithm.
    """
    import matplotlib.pyplot as plt

    style(fitted=True)
    figure, axes = plt.subplots(len(rows), 3, figsize=(9.0, 1.75 * len(rows)), squeeze=False)
    _inches(figure, left=0.6, right=0.15, top=0.4, bottom=0.45, across=0.45, down=0.85)
    colours = {"original": colour("Full data"), "pool": colour("Minimax"), "sampled": colour("DGS")}
    for row, line in zip(rows, axes):
        for axis, (part, found) in zip(line, row["parts"].items()):
            bins = len(found["counts"])
            axis.bar((np.arange(bins) + 0.5) / bins, found["counts"], width=0.9 / bins, color=colours[part])
            axis.set(xlim=(0, 1), title=f"{row['class']}, {part}:\n{found['images']} images, mean {found['mean']:.3f}")
            axis.title.set_fontsize(8.5)
            axis.set_xlabel(f"{row['scale']} difficulty", fontsize=8.5)
            axis.tick_params(labelsize=8)
        line[0].set_ylabel("images", fontsize=8.5)
    return figure


def examples_by_difficulty(shown: dict[str, tuple[ImageSet, list[float]]]) -> Figure:
    """DGS's Figure 3: a row per class and set, images in order of difficulty with their scores above them."""
    import matplotlib.pyplot as plt

    style(raster=True)
    columns = max(len(scores) for _, scores in shown.values())
    figure, axes = plt.subplots(len(shown), 1, figsize=(0.82 * columns + 1.5, 1.0 * len(shown)), squeeze=False)
    for (name, (images, scores)), axis in zip(shown.items(), axes[:, 0]):
        pixels = images.pixels().permute(0, 2, 3, 1).cpu().numpy()
        height, width = pixels.shape[1:3]
        _sheet(axis, pixels, [list(range(len(scores)))])
        for i, score in enumerate(scores):
            axis.text(i * (width + _gap(width)) + (width - 1) / 2, -0.06 * height, f"{score:.2f}", ha="center", va="bottom", fontsize=7.5)
        axis.text(-0.12 * width, (height - 1) / 2, name.replace(", ", ",\n"), ha="right", va="center", fontsize=8)
    figure.subplots_adjust(hspace=0.3, left=0.16, right=0.99, top=0.95, bottom=0.01)
    return figure


def target_counts(targets: dict[str, dict[int, tuple[int, ...]]]) -> Figure:
    """DGS's Figure 4: pre-defined targets, a row per ipc, a column per name; bars sum to ipc."""
    import matplotlib.pyplot as plt

    style(fitted=True)
    sizes = sorted({ipc for rows in targets.values() for ipc in rows})
    size = (2.3 * len(targets), 1.6 * len(sizes))
    figure, axes = plt.subplots(len(sizes), len(targets), figsize=size, squeeze=False, sharey="row")
    _inches(figure, left=0.65, right=0.15, top=0.3, bottom=0.55, across=0.25, down=0.6)
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
    """DGS's equation 9 over its thresholds: crosses where it is infinite or there is no scale, a ring at the least value."""
    import matplotlib.pyplot as plt

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


def two_pixels(independent: np.ndarray, joint: np.ndarray) -> Figure:
    """SLFD's Figure 1, computed: samples (N, 2) of two outputs with independent noise, and of a joint normal distribution."""
    import matplotlib.pyplot as plt

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
    import matplotlib.pyplot as plt

    style(raster=True)
    figure, axes = plt.subplots(1, len(matrices), figsize=(3.4 * len(matrices) + 1.4, 3.7), squeeze=False, layout="constrained")
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
    import matplotlib.pyplot as plt

    style()
    p, at = probabilities, np.arange(len(probabilities))
    figure, axis = plt.subplots(figsize=(0.62 * len(p) + 2.4, 3.3), layout="constrained")
    axis.bar(at - 0.2, p["alone"], 0.38, color="#bbbbbb", label="network alone")
    bars = np.clip([p["refined"] - p["low"], p["high"] - p["refined"]], 0, None)
    axis.bar(at + 0.2, p["refined"], 0.38, yerr=bars, capsize=2, color=colour("SLFD"), label="refined: mean and 5 to 95 % of samples")
    axis.set(ylabel="probability", xticks=at)
    axis.set_xticklabels(p["class"], rotation=45, ha="right", fontsize=8)
    axis.legend(frameon=False, fontsize=8)
    return figure


def module_history(history: pd.DataFrame) -> Figure:
    """How SLFD's module changed while sets were distilled: a line per row.

    Args:
        history: columns row, step, mean_norm, covariance_trace.
    """
    import matplotlib.pyplot as plt

    style()
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    labels = {"mean_norm": "norm of the mean", "covariance_trace": "trace of the covariance"}
    for axis, (name, label) in zip(axes, labels.items()):
        for i, (row, part) in enumerate(history.groupby("row", sort=False)):
            axis.plot(part["step"], part[name], marker=SHAPES[i % len(SHAPES)], ms=4, lw=1.2, label=row)
        axis.set(xlabel="step", ylabel=label, yscale="log")
    axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def slfd_overview() -> Figure:
    """SLFD's Figure 2: the stochastic module beside GLaD's matching of a real and a rendered image."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    style()
    figure, axis = plt.subplots(figsize=(9.6, 4.2), layout="constrained")
    axis.set(xlim=(0, 9.75), ylim=(-0.1, 4.0), aspect="equal")
    axis.set_axis_off()
    learned, fixed, real = "#fde3cf", "#e9e9e9", "#dbe9f6"
    boxes = {  # name: centre, text, fill
        "codes": ((0.9, 2.1), "codes $w$\n(K, L, D)", learned),
        "features": ((0.9, 0.8), "features $f$\nafter layer $n$", learned),
        "module": ((3.0, 3.4), "three linear layers:\n$\\mu$, $\\log d$, $P$", learned),
        "samples": ((5.2, 3.4), "M samples $\\eta_m$\n(M, K, K)", fixed),
        "generator": ((3.0, 1.45), "generator after\nlayer $n$, fixed", fixed),
        "network": ((5.2, 1.45), "fresh network\n$p=\\phi_\\theta(x)$", fixed),
        "stochastic": ((7.2, 2.4), "$L_{sto}$: log of the\nmean likelihood", fixed),
        "real": ((5.2, 0.4), "real images: CE", real),
        "distance": ((8.9, 1.45), "distance of\ngradients", fixed),
    }
    w, h = 0.72, 0.36
    for (x, y), text, fill in boxes.values():
        axis.add_patch(FancyBboxPatch((x - w, y - h), 2 * w, 2 * h, boxstyle="round,pad=0.02,rounding_size=0.08", fc=fill, ec="#555555", lw=1))
        axis.text(x, y, text, ha="center", va="center", fontsize=8)
    for start, end in [("codes", "module"), ("module", "samples"), ("codes", "generator"), ("features", "generator"), ("generator", "network"),
                       ("network", "stochastic"), ("samples", "stochastic"), ("stochastic", "distance"), ("real", "distance")]:  # fmt: skip
        (x0, y0), (x1, y1) = boxes[start][0], boxes[end][0]
        axis.add_patch(FancyArrowPatch((x0 + w, y0), (x1 - w, y1), arrowstyle="-|>", mutation_scale=11, color="#333333", lw=1.1, shrinkA=2, shrinkB=2))
    brown = "#b3541e"
    axis.plot([8.9, 8.9, 0.9], [1.05, 0.0, 0.0], color=brown, lw=1.1, ls="--", clip_on=False)
    axis.add_patch(FancyArrowPatch((0.9, 0.0), (0.9, 0.42), arrowstyle="-|>", mutation_scale=11, color=brown, lw=1.1, shrinkA=0, shrinkB=2))
    axis.text(3.0, 0.06, "gradient to codes, features and module", ha="center", fontsize=8, color=brown)
    return figure


def _stretched(images: ImageSet) -> Tensor:
    """(N, C, H, W) in [0, 1]: each image limited to 2.5 standard deviations about its mean, then spread over the range."""
    x = images.all()[0]
    mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    x = x.clamp(mean - 2.5 * std, mean + 2.5 * std)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)


def _sheet(axis: Any, pixels: np.ndarray, rows: list[list[int]]) -> list[float]:
    """Draw images (N, H, W, C) of [0, 1] as one picture, which is a tenth of the work of an axis for each; where the rows' centres are.

    Args:
        rows: the indices of the images of each row.
    """
    height, width = pixels.shape[1:3]
    gap = _gap(width)
    sheet = np.ones((len(rows) * (height + gap) - gap, max(map(len, rows)) * (width + gap) - gap, 3))
    for k, row in enumerate(rows):
        for column, i in enumerate(row):
            y, x = k * (height + gap), column * (width + gap)
            sheet[y : y + height, x : x + width] = pixels[i].clip(0, 1)
    axis.set_axis_off()
    axis.imshow(sheet, interpolation="nearest")
    return [k * (height + gap) + (height - 1) / 2 for k in range(len(rows))]


def _gap(width: int) -> int:
    """Pixels between the images of a sheet."""
    return max(1, round(0.06 * width))


def _inches(figure: Figure, left: float, right: float, top: float, bottom: float, across: float, down: float) -> None:
    """Margins and gaps of a grid of axes in inches: what finding them by the size of every text would take longer than drawing."""
    width, height = figure.get_size_inches()
    rows, columns = figure.axes[0].get_subplotspec().get_gridspec().get_geometry()
    each = ((width - left - right - (columns - 1) * across) / columns, (height - top - bottom - (rows - 1) * down) / rows)
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, across / each[0], down / each[1])


def _draw(axis: Any, pixels: np.ndarray) -> None:
    grey = pixels.shape[-1] == 1
    axis.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")


def roofline(machines: dict[str, tuple[pd.DataFrame, float, float]]) -> Figure:
    """Operations a second against operations per byte, below each machine's limits: hollow marks plain, filled marks ours.

    Args:
        machines: name -> (points, operations a second, bytes a second); points have the columns name, who ("plain" or "ours"),
                  intensity (operations per byte) and rate (operations a second).
    """
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    style()
    palette = sns.color_palette("colorblind", 10)
    figure, axes = plt.subplots(len(machines), 1, figsize=(7.2, 4.4 * len(machines)), squeeze=False, layout="constrained")
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
                look = {"color": shade, "markerfacecolor": shade if filled else "white", "label": name if filled else None}
                axis.plot(side["intensity"], side["rate"] / 1e9, shape, **look)
        axis.set(xscale="log", yscale="log", xlabel="operations per byte, plain form", ylabel="GFLOP/s", title=machine)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(LogLocator(subs=(1, 3)))
            side.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def seconds_over_size(points: pd.DataFrame) -> Figure:
    """Seconds of a benchmark against one of its sizes: a row per benchmark, a column per axis; hollow plain, filled ours.

    Args:
        points: columns base, axis, at, ours, plain (seconds).
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    style()
    bases = list(dict.fromkeys(points["base"]))
    panels = {base: list(dict.fromkeys(points.loc[points["base"] == base, "axis"])) for base in bases}
    columns = max(map(len, panels.values()))
    figure, axes = plt.subplots(len(bases), columns, figsize=(2.9 * columns + 0.4, 2.4 * len(bases)), squeeze=False, layout="constrained")
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
