"""Images: grids, film strips, nearest neighbours, examples by difficulty."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
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
        stretch: show each image from its own darkest to its own brightest value, within 2.5 standard deviations,
        instead
                 of clipping to valid pixels: distilled images leave that range, and clipping hides what they hold.
        title:   says which data are drawn: take it from the sets' facts.
    """
    style(raster=True)
    first = next(iter(frames.values()))
    columns = per_class * first.num_classes
    figure, axes = plt.subplots(len(frames), 1, figsize=(0.62 * columns + 1.0, 0.68 * len(frames)), squeeze=False)
    for (label, frame), axis in zip(frames.items(), axes[:, 0]):
        pixels = (stretched(frame) if stretch else frame.pixels()).permute(0, 2, 3, 1).cpu().numpy()
        centre = _sheet(axis, pixels, [[i for members in frame.class_index for i in members[:per_class].tolist()]])[0]
        axis.text(-0.2 * pixels.shape[2], centre, label, ha="right", va="center", fontsize=9)
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
                axis.text(
                    x + side / 2, y + side + gap / 2, f"{distances[i]:.2f}", ha="center", va="center", fontsize=5.5
                )
        _draw(axis, sheet)
        axis.set_axis_off()
        axis.set_title(heading, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=10)
    if each > 1:
        for k, name in enumerate(made.facts.class_names):
            axes[0, 0].text(-gap, k * (side + gap) + side / 2, name, ha="right", va="center", fontsize=8)
    return figure


def examples_by_difficulty(shown: dict[str, tuple[ImageSet, list[float]]]) -> Figure:
    """DGS's Figure 3: a row per class and set, images in order of difficulty with their scores above them."""
    style(raster=True)
    columns = max(len(scores) for _, scores in shown.values())
    figure, axes = plt.subplots(len(shown), 1, figsize=(0.82 * columns + 1.5, 1.0 * len(shown)), squeeze=False)
    for (name, (images, scores)), axis in zip(shown.items(), axes[:, 0]):
        pixels = images.pixels().permute(0, 2, 3, 1).cpu().numpy()
        height, width = pixels.shape[1:3]
        _sheet(axis, pixels, [list(range(len(scores)))])
        for i, score in enumerate(scores):
            axis.text(
                i * (width + _gap(width)) + (width - 1) / 2,
                -0.06 * height,
                f"{score:.2f}",
                ha="center",
                va="bottom",
                fontsize=7.5,
            )
        axis.text(-0.12 * width, (height - 1) / 2, name.replace(", ", ",\n"), ha="right", va="center", fontsize=8)
    figure.subplots_adjust(hspace=0.3, left=0.16, right=0.99, top=0.95, bottom=0.01)
    return figure


def stretched(images: ImageSet) -> Tensor:
    """(N, C, H, W) in [0, 1]: each image limited to 2.5 standard deviations about its mean, then spread over the
    range."""
    x = images.all()[0]
    mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    x = x.clamp(mean - 2.5 * std, mean + 2.5 * std)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)


def _sheet(axis: Any, pixels: np.ndarray, rows: list[list[int]]) -> list[float]:
    """Draw images (N, H, W, C) of [0, 1] as one picture, which is a tenth of the work of an axis for each; where the
    rows' centres are.

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


def _draw(axis: Any, pixels: np.ndarray) -> None:
    grey = pixels.shape[-1] == 1
    axis.imshow(
        pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest"
    )
