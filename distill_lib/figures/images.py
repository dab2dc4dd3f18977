"""Images: grids, film strips, nearest neighbours, examples by difficulty."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..data import ImageSet
from .look import style


def image_grid(
    images: ImageSet, per_class: int | None = None, class_names: bool = True, scale: float = 0.42, title: str = ""
) -> Figure:
    """Images of a set, one row per class, pixels crisp.

    Args:
        per_class: how many of each class, the first ones; all by default.
        title:     says which data are drawn: take it from the set's facts.
    """
    style(raster=True)
    rows = [members[:per_class].tolist() for members in images.class_index]
    columns, left = max(map(len, rows)), 1.2 if class_names else 0.05
    width = scale * columns + left
    figure = plt.figure(figsize=(width, scale * len(rows)))
    axis = figure.add_axes((left / width, 0, scale * columns / width, 1))
    centres = _sheet(axis, pixels(images), rows)
    axis.set_title(title, fontsize=10)
    if class_names:
        _label(axis, dict(zip(centres, images.facts.class_names)), size=8)
    return figure


def film_strip(frames: dict[str, ImageSet], per_class: int = 1, stretch: bool = False, title: str = "") -> Figure:
    """A set at several moments of its distillation: a row per moment, a column per class.

    Args:
        frames:  label of the moment ("step 100") -> the set then.
        stretch: show each image from its own darkest to its own brightest value, see `stretched`, instead of clipping
                 to valid pixels.
        title:   says which data are drawn: take it from the sets' facts.
    """
    style(raster=True)
    columns = per_class * next(iter(frames.values())).num_classes
    figure, axes = plt.subplots(len(frames), 1, figsize=(0.62 * columns + 1.0, 0.68 * len(frames)), squeeze=False)
    for (label, frame), axis in zip(frames.items(), axes[:, 0]):
        shown = _last(stretched(frame)) if stretch else pixels(frame)
        row = [i for members in frame.class_index for i in members[:per_class].tolist()]
        _label(axis, {_sheet(axis, shown, [row])[0]: label})
    axes[0, 0].set_title(title, fontsize=10)
    figure.subplots_adjust(wspace=0.05, hspace=0.05, left=0.13, right=0.995, top=0.99, bottom=0.01)
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
    style(raster=True)
    each = max(map(len, made.class_index))
    columns = each if each > 1 else min(10, len(made))
    rows = [list(range(start, min(start + columns, len(made)))) for start in range(0, len(made), columns)]
    sheets = {left: made} if nearest is None else {left: made, "nearest training image": nearest}
    size = (0.66 * len(sheets) * columns + (1.4 if each > 1 else 0.2), 0.76 * len(rows) + 0.5)
    figure, axes = plt.subplots(1, len(sheets), figsize=size, squeeze=False, layout="constrained")
    side, gap = made.shape[1], max(3, made.shape[1] // 3)
    for axis, (heading, images) in zip(axes[0], sheets.items()):
        centres = _sheet(axis, pixels(images), rows, gap)
        axis.set_ylim(len(rows) * (side + gap), 0)  # room for the numbers below the last row
        axis.set_title(heading, fontsize=10)
    for i, distance in enumerate(distances):
        x, y = (i % columns) * (side + gap) + side / 2, centres[i // columns] + (side + gap) / 2
        axis.text(x, y, f"{distance:.2f}", ha="center", va="center", fontsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    if each > 1:
        _label(axes[0, 0], dict(zip(centres, made.facts.class_names)), size=8)
    return figure


def examples_by_difficulty(shown: dict[str, tuple[ImageSet, list[float]]]) -> Figure:
    """DGS's Figure 3: a row per class and set, images in order of difficulty with their scores above them.

    One image does not stand for two difficulties: where the next one is the same again, the place is empty.
    """
    style(raster=True)
    columns = max(len(scores) for _, scores in shown.values())
    figure, axes = plt.subplots(len(shown), 1, figsize=(0.82 * columns + 1.5, 1.05 * len(shown)), squeeze=False)
    for (name, (images, scores)), axis in zip(shown.items(), axes[:, 0]):
        height, width = images.shape[1:]
        x = images.images
        places = [-1 if i and torch.equal(x[i], x[i - 1]) else i for i in range(len(scores))]
        (centre,) = _sheet(axis, pixels(images), [places])
        for i, place in enumerate(places):
            at, text = (-0.06 * height, f"{scores[i]:.2f}") if place >= 0 else (centre, "none")
            axis.text(i * (width + _gap(width)) + (width - 1) / 2, at, text, ha="center", va="bottom", fontsize=9)
        _label(axis, {centre: name.replace(", ", ",\n")}, size=9)
    figure.subplots_adjust(hspace=0.3, left=0.16, right=0.99, top=0.95, bottom=0.01)
    return figure


def stretched(images: ImageSet) -> Tensor:
    """(N, C, H, W) in [0, 1]: each image over its own range, within 2.5 standard deviations about its mean.

    Distilled images leave the range of valid pixels, and clipping would hide what they hold. A whitening is undone.
    """
    whitened = images.whitening is not None and images.images.is_floating_point()
    x = images.whitening.undo(images.images) if whitened else images.all()[0]
    mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    x = x.clamp(mean - 2.5 * std, mean + 2.5 * std)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)


def pixels(images: ImageSet) -> np.ndarray:
    """(N, H, W, C) in [0, 1]."""
    return _last(images.pixels())


def _last(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).cpu().numpy()


def sheet(shown: np.ndarray, rows: list[list[int]], gap: int | None = None) -> np.ndarray:
    """Images (N, H, W, C) as one picture (H', W', 4) that is transparent between them, and where an index is -1.

    Args:
        rows: the indices of the images of each row.
        gap:  pixels between images.
    """
    height, width = shown.shape[1:3]
    gap = _gap(width) if gap is None else gap
    made = np.zeros((len(rows) * (height + gap) - gap, max(map(len, rows)) * (width + gap) - gap, 4))
    for k, row in enumerate(rows):
        for column, i in enumerate(row):
            if i >= 0:
                y, x = k * (height + gap), column * (width + gap)
                made[y : y + height, x : x + width, :3] = shown[i].clip(0, 1)
                made[y : y + height, x : x + width, 3] = 1
    return made


def _sheet(axis: Any, shown: np.ndarray, rows: list[list[int]], gap: int | None = None) -> list[float]:
    """Draw images as one picture, which is a tenth of the work of an axis for each; where the rows' centres are."""
    axis.set_axis_off()
    axis.imshow(sheet(shown, rows, gap), interpolation="nearest")
    height = shown.shape[1]
    step = height + (_gap(shown.shape[2]) if gap is None else gap)
    return [k * step + (height - 1) / 2 for k in range(len(rows))]


def _label(axis: Any, names: dict[float, str], size: float = 9) -> None:
    """Names to the left of a sheet, by the height of their row."""
    for y, name in names.items():
        axis.text(-0.01, y, name, ha="right", va="center", fontsize=size, transform=axis.get_yaxis_transform())


def _gap(width: int) -> int:
    """Pixels between the images of a sheet."""
    return max(1, round(0.06 * width))
