"""Schematic drawings of the papers' methods."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .look import style

REAL, MADE, SHARED, EDGE = "#dbe9f6", "#fde3cf", "#e9e9e9", "#555555"
BROWN = "#b3541e"


def _canvas(width: float, height: float) -> tuple[Figure, Any]:
    style()
    figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.set_axis_off()
    return figure, axis


def _box(
    axis: Any, x: float, y: float, text: str, fill: str, width: float = 1.3, height: float = 0.72, size: float = 8.5
) -> None:
    style_ = "round,pad=0.02,rounding_size=0.07"
    axis.add_patch(
        FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style_, fc=fill, ec=EDGE, lw=1)
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=size)


def _arrow(
    axis: Any, start: tuple[float, float], end: tuple[float, float], colour: str = "#333333", **options: Any
) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=colour, lw=1.1, shrinkA=2, shrinkB=2, **options
        )
    )


def uvit_overview() -> Figure:
    """U-ViT's Figure 1: matching methods above, a generator that is trained once below."""
    figure, axis = _canvas(9.6, 4.3)
    axis.text(0.1, 4.1, "matching methods: images are the parameters", fontsize=9.5, weight="bold", va="center")
    _box(axis, 0.9, 3.5, "real set", REAL)
    _box(axis, 0.9, 2.55, "few synthetic\nimages", MADE)
    _box(axis, 3.2, 3.0, "network", SHARED)
    _box(axis, 5.5, 3.0, "gradients, features or\ntrajectories matched", SHARED, width=2.0)
    _arrow(axis, (1.6, 3.5), (2.5, 3.1))
    _arrow(axis, (1.6, 2.6), (2.5, 2.9))
    _arrow(axis, (3.9, 3.0), (4.45, 3.0))
    axis.plot([5.5, 5.5, 0.9], [2.6, 2.05, 2.05], color=BROWN, lw=1.1, ls="--")
    _arrow(axis, (0.9, 2.05), (0.9, 2.16), BROWN)
    axis.text(3.2, 2.16, "update of the pixels, again for every size of the set", fontsize=8, color=BROWN, ha="center")
    axis.plot([0.1, 9.5], [1.85, 1.85], color="#bbbbbb", lw=0.8)
    axis.text(0.1, 1.65, "this paper: a generator, trained once", fontsize=9.5, weight="bold", va="center")
    _box(axis, 0.9, 0.9, "real set,\nlabels", REAL)
    _box(axis, 3.0, 0.9, "class-conditional\ndiffusion model\n(U-ViT)", MADE, width=1.6, height=0.85)
    _box(axis, 5.2, 0.9, "as many images\nas ten minutes\nallow", MADE, width=1.5, height=0.85)
    _box(axis, 7.2, 0.9, "classifier", SHARED)
    _box(axis, 8.9, 0.9, "real test set", REAL, width=1.15)
    for x0, x1, text in ((1.6, 2.15, "train"), (3.85, 4.4, "sample"), (6.0, 6.5, "train"), (7.9, 8.27, "test")):
        _arrow(axis, (x0, 0.9), (x1, 0.9))
        axis.text((x0 + x1) / 2, 1.08, text, fontsize=7.5, ha="center")
    axis.text(3.2, 0.25, "noise and label", fontsize=8, ha="center")
    _arrow(axis, (3.0, 0.32), (3.0, 0.46))
    return figure


def uvit_architecture(blocks: int = 6) -> Figure:
    """U-ViT's Figure 2 as the code has it: all blocks at full resolution, long skips from the first half to the second.

    Args:
        blocks: of either half; Small has 6, Mid 8.
    """
    figure, axis = _canvas(10.2, 4.9)
    shown = min(blocks, 3)
    x0, step, top, low = 2.55, 0.92, 3.5, 1.1
    _box(axis, 0.8, 3.2, "noisy image\n→ patches", REAL, width=1.25)
    _box(axis, 0.8, 2.3, "time\n(sinusoids)", SHARED, width=1.25)
    _box(axis, 0.8, 1.4, "label\n(embedding)", MADE, width=1.25)
    axis.text(0.95, 3.85, "tokens: [label, time, patches]\n+ learned positions", ha="center", fontsize=8)
    xs = [x0 + i * step for i in range(shown)]
    middle = x0 + shown * step
    out = [middle + (i + 1) * step for i in range(shown)]
    for x in [*xs, middle, *out]:
        _box(
            axis,
            x,
            (top + low) / 2,
            "",
            REAL if x < middle else MADE if x > middle else SHARED,
            width=0.56,
            height=top - low,
        )
        text = "attention, MLP" if x <= middle else "join, attention, MLP"
        axis.text(x, (top + low) / 2, text, rotation=90, ha="center", va="center", fontsize=8)
    for a in (3.2, 2.3, 1.4):
        _arrow(axis, (1.46, a), (x0 - 0.3, a))
    line = [*xs, middle, *out]
    for a, b in zip(line, line[1:]):
        _arrow(axis, (a + 0.3, 2.3), (b - 0.3, 2.3))
    for i, x in enumerate(xs):  # mirror images
        mirror = out[shown - 1 - i]
        height = 4.45 - 0.26 * i
        axis.plot([x, x, mirror, mirror], [top + 0.05, height, height, top + 0.2], color=BROWN, lw=1.2)
        _arrow(axis, (mirror, top + 0.25), (mirror, top + 0.02), BROWN)
    axis.text(
        middle, 4.6, "long skips: concatenated, then a linear layer 2D → D", ha="center", fontsize=8.5, color=BROWN
    )
    names = ((xs, f"{blocks} blocks"), ([middle], "1 block"), (out, f"{blocks} blocks"))
    for group, text in names:
        axis.text(sum(group) / len(group), low - 0.22, text, ha="center", fontsize=8.5)
    note = "every block sees all tokens at width D: no down- or upsampling, unlike equations 6 and 7"
    axis.text(middle, 0.4, note, ha="center", fontsize=8.5, style="italic")
    end = out[-1] + 0.3
    _box(
        axis,
        end + 0.93,
        2.3,
        "patch tokens\n→ pixels,\n3×3 convolution:\npredicted noise",
        MADE,
        width=1.25,
        height=1.2,
        size=8,
    )
    _arrow(axis, (end, 2.3), (end + 0.29, 2.3))
    return figure


def dgs_workflow() -> Figure:
    """DGS's Figure 1: a pool from Minimax, then sampling by difficulty; below, which term of the bottleneck each
    serves."""
    figure, axis = _canvas(10.2, 4.4)
    halves = (
        (2.55, 4.9, "#eef5fb", "pool: similar to the real images, I(X; T)"),
        (7.65, 5.0, "#fdf3ea", "sampling: useful for the task, I(T; Y)"),
    )
    for x, width, fill, title in halves:
        axis.add_patch(
            FancyBboxPatch(
                (x - width / 2, 0.35), width, 3.75, boxstyle="round,pad=0.02,rounding_size=0.1", fc=fill, ec="none"
            )
        )
        axis.text(x, 3.88, title, ha="center", va="center", fontsize=9, weight="bold")
    _box(axis, 0.85, 3.1, "real set $X$", REAL, width=1.25)
    _box(axis, 2.6, 3.1, "autoencoder,\nDiT with DiffFit", SHARED, width=1.6)
    _box(axis, 4.25, 3.1, "5 × IPC images\nper class", MADE, width=1.3)
    _box(axis, 2.6, 1.9, "memory of real latents:\nleast similar pulled", REAL, width=1.9)
    _box(axis, 2.6, 0.9, "memory of predictions:\nmost similar pushed", MADE, width=1.9)
    _box(axis, 6.15, 3.1, "ResNet-50:\n$1 - p(y\\,|\\,x)$", SHARED, width=1.3)
    _box(axis, 7.95, 3.1, "clipped logarithm\nwith $b$, $t$", SHARED, width=1.55)
    _box(axis, 7.95, 1.75, "ten bins of the real set,\nscaled to IPC", REAL, width=1.85)
    _box(axis, 9.45, 3.1, "images\nof every bin", MADE, width=1.1)
    _box(axis, 9.45, 0.85, "distilled\nset $T$", MADE, width=1.1)
    for start, end in (
        ((1.5, 3.1), (1.78, 3.1)),
        ((3.42, 3.1), (3.58, 3.1)),
        ((2.45, 2.28), (2.45, 2.72)),
        ((4.92, 3.1), (5.48, 3.1)),
        ((6.82, 3.1), (7.15, 3.1)),
        ((8.75, 3.1), (8.88, 3.1)),
        ((8.9, 1.95), (9.3, 2.72)),
        ((7.95, 2.72), (7.95, 2.14)),
    ):
        _arrow(axis, start, end)
    axis.plot([1.63, 1.4, 1.4], [0.9, 0.9, 2.55], color="#333333", lw=1.1)
    _arrow(axis, (1.4, 2.55), (1.78, 2.87))
    axis.plot([0.85, 0.85, 6.15, 6.15], [2.72, 0.18, 0.18, 2.55], color=EDGE, lw=1.0, ls=":")
    _arrow(axis, (6.15, 2.5), (6.15, 2.72), EDGE)
    axis.text(3.6, 0.26, "scores of the real images", fontsize=7.5, ha="center", color=EDGE)
    _arrow(axis, (9.45, 2.72), (9.45, 1.23))
    return figure


def skd_pipeline() -> Figure:
    """SKD's Figure 1: from noise and label to matched distributions."""
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
        axis.add_patch(
            FancyBboxPatch(
                (x - w, y - h), 2 * w, 2 * h, boxstyle="round,pad=0.02,rounding_size=0.08", fc=fill, ec="#555555", lw=1
            )
        )
        axis.text(x, y, text, ha="center", va="center", fontsize=8.5)
    arrows = [
        ("noise", "generator"),
        ("generator", "synthetic"),
        ("synthetic", "network"),
        ("real", "network"),
        ("network", "target"),
        ("network", "student"),
        ("target", "loss"),
        ("student", "loss"),
        ("real", "discriminator"),
        ("synthetic", "discriminator"),
    ]
    for start, end in arrows:
        (x0, y0), (x1, y1) = boxes[start][0], boxes[end][0]
        (w0, h0), (w1, h1) = half[start], half[end]
        side, up = (1 if x1 > x0 else -1), (1 if y1 > y0 else -1)
        steep = abs(x1 - x0) < 1.6 and y1 != y0  # one above the other: from top to bottom instead of from side to side
        a = (x0 + side * 0.3, y0 + up * h0) if steep else (x0 + side * w0, y0)
        b = (x1 - side * 0.3, y1 - up * h1) if steep else (x1 - side * w1, y1)
        axis.add_patch(
            FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=11, color="#333333", lw=1.1, shrinkA=3, shrinkB=3)
        )
    brown = "#b3541e"
    axis.plot([8.8, 8.8, 2.25], [1.5, 0.3, 0.3], color=brown, lw=1.1, ls="--")
    axis.add_patch(
        FancyArrowPatch(
            (2.25, 0.3), (2.25, 0.6), arrowstyle="-|>", mutation_scale=11, color=brown, lw=1.1, shrinkA=0, shrinkB=3
        )
    )
    axis.text(
        5.5, 0.06, "gradient to the generator alone, weight $\\lambda\\tau^2$", ha="center", fontsize=8.5, color=brown
    )
    return figure


def slfd_overview() -> Figure:
    """SLFD's Figure 2: the stochastic module beside GLaD's matching of a real and a rendered image."""
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
        axis.add_patch(
            FancyBboxPatch(
                (x - w, y - h), 2 * w, 2 * h, boxstyle="round,pad=0.02,rounding_size=0.08", fc=fill, ec="#555555", lw=1
            )
        )
        axis.text(x, y, text, ha="center", va="center", fontsize=8)
    for start, end in [
        ("codes", "module"),
        ("module", "samples"),
        ("codes", "generator"),
        ("features", "generator"),
        ("generator", "network"),
        ("network", "stochastic"),
        ("samples", "stochastic"),
        ("stochastic", "distance"),
        ("real", "distance"),
    ]:
        (x0, y0), (x1, y1) = boxes[start][0], boxes[end][0]
        axis.add_patch(
            FancyArrowPatch(
                (x0 + w, y0),
                (x1 - w, y1),
                arrowstyle="-|>",
                mutation_scale=11,
                color="#333333",
                lw=1.1,
                shrinkA=2,
                shrinkB=2,
            )
        )
    brown = "#b3541e"
    axis.plot([8.9, 8.9, 0.9], [1.05, 0.0, 0.0], color=brown, lw=1.1, ls="--", clip_on=False)
    axis.add_patch(
        FancyArrowPatch(
            (0.9, 0.0), (0.9, 0.42), arrowstyle="-|>", mutation_scale=11, color=brown, lw=1.1, shrinkA=0, shrinkB=2
        )
    )
    axis.text(3.0, 0.06, "gradient to codes, features and module", ha="center", fontsize=8, color=brown)
    return figure
