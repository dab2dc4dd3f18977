"""Schematic drawings of the papers' methods. Blue: real images and what comes of them; orange: what is made."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .look import style

REAL, MADE, SHARED, EDGE, BACK = "#dbe9f6", "#fde3cf", "#e9e9e9", "#555555", "#b3541e"
TEXT = 10.0  # points

Point = tuple[float, float]


class Canvas:
    """A drawing of boxes and arrows, in inches."""

    def __init__(self, width: float, height: float, bottom: float = 0.0):
        style()
        self.figure, self.axis = plt.subplots(figsize=(width, height - bottom), layout="constrained")
        self.axis: Axes
        self.axis.set(xlim=(0, width), ylim=(bottom, height), aspect="equal")
        self.axis.set_axis_off()
        self.boxes: dict[str, tuple[float, float, float, float]] = {}  # name -> centre and half sizes

    def box(
        self, name: str, x: float, y: float, text: str, fill: str, width: float = 1.45, height: float = 0.8
    ) -> None:
        self.boxes[name] = x, y, width / 2, height / 2
        self.patch(x, y, width, height, fc=fill, ec=EDGE)
        self.text(x, y, text, va="center")

    def patch(self, x: float, y: float, width: float, height: float, **look: Any) -> None:
        corner = (x - width / 2, y - height / 2)
        self.axis.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.02,rounding_size=0.07", **look))

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        self.axis.text(x, y, text, **{"ha": "center", "fontsize": TEXT, **look})

    def join(self, *pairs: str) -> None:
        """Arrows between boxes, each pair as "from > to": side to side, or up and down where they are stacked."""
        for pair in pairs:
            (x0, y0, w0, h0), (x1, y1, w1, h1) = (self.boxes[name] for name in pair.split(" > "))
            right, up = (1 if x1 > x0 else -1), (1 if y1 > y0 else -1)
            stacked = abs(x1 - x0) < w0 + w1 and y1 != y0
            start = (x0, y0 + up * h0) if stacked else (x0 + right * w0, y0)
            self.arrow(start, (x1, y1 - up * h1) if stacked else (x1 - right * w1, y1))

    def arrow(self, *points: Point, colour: str = "#333333", **look: Any) -> None:
        """A line through the points with a head at its end."""
        if len(points) > 2:
            self.axis.plot(*zip(*points[:-1]), color=colour, lw=1.1, **look)
        head = {"arrowstyle": "-|>", "mutation_scale": 11, "lw": 1.1, "shrinkA": 2, "shrinkB": 2}
        self.axis.add_patch(FancyArrowPatch(points[-2], points[-1], color=colour, **head))


def uvit_overview() -> Figure:
    """U-ViT's Figure 1: matching methods above, a generator that is trained once below."""
    c = Canvas(10.6, 4.5)
    left = {"ha": "left", "weight": "bold"}
    c.text(0.1, 4.25, "matching methods: images are the parameters", **left)
    c.box("real", 0.9, 3.6, "real set", REAL)
    c.box("few", 0.9, 2.6, "few synthetic\nimages", MADE)
    c.box("network", 3.6, 3.1, "network", SHARED)
    c.box("matched", 6.4, 3.1, "gradients, features or\ntrajectories matched", SHARED, width=2.2)
    c.join("real > network", "few > network", "network > matched")
    c.arrow((6.4, 2.7), (6.4, 2.02), (0.9, 2.02), (0.9, 2.2), colour=BACK, ls="--")
    c.text(3.7, 2.1, "update of the pixels, again for every size of the set", color=BACK)
    c.axis.plot([0.1, 10.5], [1.85, 1.85], color="#bbbbbb", lw=0.8)
    c.text(0.1, 1.6, "this paper: a generator, trained once", **left)
    c.box("set", 0.9, 0.9, "real set,\nlabels", REAL)
    c.box("model", 3.3, 0.9, "class-conditional\ndiffusion model\n(U-ViT)", MADE, width=1.75, height=0.9)
    c.box("images", 5.8, 0.9, "as many images\nas ten minutes\nallow", MADE, width=1.65, height=0.9)
    c.box("classifier", 8.0, 0.9, "classifier", SHARED, width=1.2)
    c.box("test", 9.85, 0.9, "real test set", REAL, width=1.3)
    c.join("set > model", "model > images", "images > classifier", "classifier > test")
    for x, word in ((2.02, "train"), (4.57, "sample"), (7.0, "train"), (8.9, "test")):
        c.text(x, 1.05, word, fontsize=9)
    c.text(3.3, 0.05, "noise and label")
    c.arrow((3.3, 0.2), (3.3, 0.46))
    return c.figure


def uvit_architecture(blocks: int = 6) -> Figure:
    """U-ViT's Figure 2 as the code has it: all blocks at full resolution, long skips from the first half to the second.

    Args:
        blocks: of either half; Small has 6, Mid 8.
    """
    c = Canvas(10.6, 4.9)
    shown, first, step, top, low = min(blocks, 3), 2.75, 0.92, 3.5, 1.1
    for name, y, text, fill in (
        ("image", 3.25, "noisy image\n→ patches", REAL),
        ("time", 2.3, "time\n(sinusoids)", SHARED),
        ("label", 1.35, "label\n(embedding)", MADE),
    ):
        c.box(name, 0.85, y, text, fill)
        c.arrow((1.6, y), (first - 0.3, y))
    c.text(1.15, 3.85, "tokens: [label, time, patches]\n+ learned positions", fontsize=9)
    xs = [first + i * step for i in range(2 * shown + 1)]
    middle = xs[shown]
    for x in xs:
        fill, joined = REAL if x < middle else MADE if x > middle else SHARED, "join, " * (x > middle)
        c.patch(x, (top + low) / 2, 0.56, top - low, fc=fill, ec=EDGE)
        c.text(x, (top + low) / 2, f"{joined}attention, MLP", rotation=90, va="center")
    for a, b in zip(xs, xs[1:]):
        c.arrow((a + 0.3, 2.3), (b - 0.3, 2.3))
    for i, x in enumerate(xs[:shown]):  # mirror images
        mirror, height = xs[-1 - i], 4.45 - 0.26 * i
        c.arrow((x, top + 0.05), (x, height), (mirror, height), (mirror, top + 0.02), colour=BACK)
    c.text(middle, 4.6, "long skips: concatenated, then a linear layer 2D → D", color=BACK)
    for x, text in (
        (xs[shown // 2], f"{blocks} blocks"),
        (middle, "1 block"),
        (xs[-1 - shown // 2], f"{blocks} blocks"),
    ):
        c.text(x, low - 0.28, text)
    c.text(5.3, 0.35, "every block sees all tokens at width D: no down- or upsampling, unlike equations 6 and 7")
    c.box("out", 9.85, 2.3, "patch tokens\n→ pixels,\n3×3 convolution:\npredicted noise", MADE, width=1.4, height=1.3)
    c.arrow((xs[-1] + 0.3, 2.3), (9.15, 2.3))
    return c.figure


def dgs_workflow() -> Figure:
    """DGS's Figure 1: a pool from Minimax, then sampling by difficulty; which term of the bottleneck each serves."""
    c = Canvas(11.2, 4.4)
    for x, width, fill, title in (
        (2.8, 5.4, "#eef5fb", "pool: similar to the real images, I(X; T)"),
        (8.4, 5.5, "#fdf3ea", "sampling: useful for the task, I(T; Y)"),
    ):
        c.patch(x, 2.22, width, 3.75, fc=fill, ec="none")
        c.text(x, 3.84, title, weight="bold")
    for name, x, y, text, fill, width in (
        ("real", 0.9, 3.1, "real set $X$", REAL, 1.3),
        ("model", 2.85, 3.1, "autoencoder,\nDiT with DiffFit", SHARED, 1.7),
        ("pool", 4.72, 3.1, "5 × IPC images\nper class", MADE, 1.45),
        ("latents", 2.85, 1.95, "memory of real latents:\nleast similar pulled", REAL, 2.2),
        ("predictions", 2.85, 0.95, "memory of predictions:\nmost similar pushed", MADE, 2.2),
        ("scores", 6.65, 3.1, "ResNet-50:\n$1 - p(y\\,|\\,x)$", SHARED, 1.4),
        ("logarithm", 8.55, 3.1, "clipped logarithm\nwith $b$, $t$", SHARED, 1.7),
        ("bins", 8.55, 1.75, "ten bins of the real\nset, scaled to IPC", REAL, 1.9),
        ("chosen", 10.4, 3.1, "images\nof every bin", MADE, 1.2),
        ("set", 10.4, 0.95, "distilled\nset $T$", MADE, 1.2),
    ):
        c.box(name, x, y, text, fill, width=width)
    c.join("real > model", "model > pool", "latents > model", "pool > scores", "scores > logarithm")
    c.join("logarithm > chosen", "logarithm > bins", "chosen > set")
    c.arrow((9.5, 1.9), (10.2, 2.7))
    c.arrow((1.74, 0.95), (1.5, 0.95), (1.5, 2.55), (2.0, 2.85))
    c.arrow((0.9, 2.7), (0.9, 0.2), (6.65, 0.2), (6.65, 2.7), colour=EDGE, ls=":")
    c.text(4.0, 0.27, "scores of the real images", color=EDGE, fontsize=9)
    return c.figure


def skd_pipeline() -> Figure:
    """SKD's Figure 1: from noise and label to matched distributions."""
    c = Canvas(10.6, 4.1)
    c.box("noise", 0.75, 1.1, "noise $n$\nlabel $y$", MADE, width=1.2)
    c.box("generator", 2.45, 1.1, "generator\n$G(n \\oplus y)$", MADE, width=1.35)
    c.box("synthetic", 4.15, 1.1, "synthetic\nimages $S$", MADE, width=1.3)
    c.box("real", 4.15, 3.2, "real\nimages $O$", REAL, width=1.3)
    c.box("network", 6.1, 2.15, "network from the pool:\nConvNet3, ResNet10,\nResNet18", SHARED, 2.05, 0.95)
    c.box("target", 8.1, 3.2, "standardised\n$d(x_O)$", REAL, width=1.4)
    c.box("student", 8.1, 1.1, "standardised\n$d(x_S)$", MADE, width=1.4)
    c.box("loss", 9.85, 2.15, "$L_{SKD}$\nKL", SHARED, width=1.0)
    c.box("discriminator", 2.2, 3.2, "discriminator\n$L_{CGAN}$", SHARED)
    c.join("noise > generator", "generator > synthetic", "synthetic > network", "real > network", "network > target")
    c.join("network > student", "target > loss", "student > loss", "real > discriminator")
    c.arrow((4.0, 1.5), (2.6, 2.8))
    c.arrow((9.85, 1.75), (9.85, 0.32), (2.45, 0.32), (2.45, 0.7), colour=BACK, ls="--")
    c.text(6.0, 0.08, "gradient to the generator alone, weight $\\lambda\\tau^2$", color=BACK)
    return c.figure


def slfd_overview() -> Figure:
    """SLFD's Figure 2: the stochastic module beside GLaD's matching of a real and a rendered image."""
    c = Canvas(10.8, 4.2, bottom=-0.1)
    c.box("codes", 0.95, 2.3, "codes $w$\n(K, L, D)", MADE)
    c.box("features", 0.95, 0.85, "features $f$\nafter layer $n$", MADE)
    c.box("module", 3.3, 3.55, "three linear layers:\n$\\mu$, $\\log d$, $P$", MADE, width=1.85)
    c.box("samples", 5.75, 3.55, "M samples $\\eta_m$\n(M, K, K)", SHARED, width=1.6)
    c.box("generator", 3.3, 1.55, "generator after\nlayer $n$, fixed", SHARED, width=1.6)
    c.box("network", 5.75, 1.55, "fresh network\n$p=\\phi_\\theta(x)$", SHARED, width=1.6)
    c.box("stochastic", 8.0, 2.55, "$L_{sto}$: log of the\nmean likelihood", SHARED, width=1.7)
    c.box("real", 5.75, 0.5, "real images: CE", REAL, width=1.6, height=0.6)
    c.box("distance", 9.9, 1.55, "distance of\ngradients", SHARED, width=1.3)
    c.join("codes > module", "module > samples", "codes > generator", "features > generator", "generator > network")
    c.join("network > stochastic", "samples > stochastic", "stochastic > distance", "real > distance")
    c.arrow((9.9, 1.15), (9.9, 0.02), (0.95, 0.02), (0.95, 0.45), colour=BACK, ls="--")
    c.text(3.2, 0.1, "gradient to codes, features and module", color=BACK)
    return c.figure
