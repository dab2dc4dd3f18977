"""Colours, markers and sizes that all figures share."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

# A method keeps its colour and marker on every page; colour is never the only cue.
ORDER = (
    "Random, Herding, K-Center, Forgetting, DC, DSA, DM, CAFE, KIP, MTT, FRePo, IDC-1, CGAN, DiM, "
    "SKD (no standardisation), SKD, GLaD, SLFD, DiT, Minimax, DGS, U-ViT, Full data, IDC"
).split(", ")
SHAPES = "osD^vP*Xph<>8d"
PAPER, OURS, GREY = "#8a5a00", "#00609c", "#767676"  # the paper's numbers, ours, and lines to compare with


def colour(method: str) -> Any:
    """The method's colour, from a palette safe for colour-blind readers."""
    palette = sns.color_palette("colorblind", 10)
    return palette[ORDER.index(method) % 10] if method in ORDER else (0.3, 0.3, 0.3)


def marker(method: str) -> str:
    """The method's marker."""
    return SHAPES[ORDER.index(method) % len(SHAPES)] if method in ORDER else "o"


def style(raster: bool = False, fitted: bool = False) -> None:
    """House style: no background, light grid. A notebook shows lines as SVG, whose glyphs are drawn, and pixels as PNG.

    The book turns the colours of an SVG round on a dark page. A PNG has images, which must not be turned round: its
    text is of a grey that can be read on both.

    Args:
        raster: the figure shows images.
        fitted: its layout fills the figure: a notebook does not draw it a second time to see where to cut.
    """
    ink = {"text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY} if raster else {}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=ink)
    look = {"svg.fonttype": "path", "svg.hashsalt": "distill_lib", "figure.dpi": 110}
    mpl.rcParams.update(look | dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"))
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        options = {"bbox_inches": None} if fitted else {}
        set_matplotlib_formats("png" if raster else "svg", **options)


def inches(figure: Figure, left: float, right: float, top: float, bottom: float, across: float, down: float) -> None:
    """Margins and gaps of a grid of axes in inches: quicker than to find them by the size of every text."""
    width, height = figure.get_size_inches()
    rows, columns = figure.axes[0].get_subplotspec().get_gridspec().get_geometry()
    wide = (width - left - right - (columns - 1) * across) / columns
    high = (height - top - bottom - (rows - 1) * down) / rows
    edges = (left / width, bottom / height, 1 - right / width, 1 - top / height)
    figure.subplots_adjust(*edges, across / wide, down / high)
