"""What a reader looks at and turns: bars of the ledger, the gallery, time-lapses, the explorer. HTML, with text behind.

All data lie in the HTML itself; `book/_static/book.js` moves them. Without the script pictures and tables still stand.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from .. import experiments, records
from ..core import paths
from ..data import DATASETS, ImageSet, sized
from ..evaluation import statistics
from ..experiments.papers import slfd
from ..figures.images import pixels, sheet
from ..records import Cell, reported
from . import findings, ledger
from .claims import TITLES
from .compare import quoted
from .gallery import Shelf
from .html import BOOK

PARTS = {  # what the bars of the front page tell apart -> the ledger's statuses
    "matched": ("matched",),
    "differs": ("differs",),
    "undecided": ("undecided", "measured"),
    "small": (ledger.OWN,),
    "stand-in": (ledger.STAND_IN,),
    "counted": (ledger.COUNTED,),
    "not run": (ledger.UNDERFIT, "not run", "not public"),
    "source lost": ("source lost",),
}


class Html:
    """HTML for a page, and what stands in its place elsewhere."""

    def __init__(self, markup: str, text: str):
        self.markup, self.text = markup, text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.markup


def _picture(images: np.ndarray) -> str:
    """Pixels (H, W, 3 or 4) in [0, 1] as the address of a PNG that stands in the page."""
    file, shown = io.BytesIO(), (images * 255).round().astype(np.uint8)
    if (shown[..., :1] == shown[..., 1:3]).all():  # grey, in half of the bytes
        shown = shown[..., [0, 3]] if shown.shape[-1] == 4 else shown[..., 0]
    Image.fromarray(shown).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- the front page ---------------------------------------------------------------------------------------------------
def headline() -> str:
    """How many numbers the papers print and what became of each, in a few sentences: the parts add up."""
    found = sum(ledger.counts().values(), Counter())
    full = {status: found[status] for status in ledger.FULL if found[status]}
    verdicts = f" ({', '.join(f'{n} {status}' for status, n in full.items())})" if full else ""
    fewer = f", {n} of these with fewer sets than the protocol asks for," if (n := ledger.incomplete()) else ""
    small = found[ledger.OWN] + found[ledger.STAND_IN]
    none = {status: found[status] for status in PARTS["not run"] if found[status]}
    return (
        f"The four papers print {ledger.total(found)} numbers that could be measured. We have measured "
        f"{sum(full.values()) or 'none'} of them under the papers' own protocols{verdicts}{fewer} and {small} more at "
        f"a small budget, {found[ledger.STAND_IN]} of these on stand-ins. {found[ledger.COUNTED]} more, such as layer "
        f"counts, we checked by counting; {found['source lost']} are lost in the source; {sum(none.values())} have no "
        f"result yet ({', '.join(f'{n} {status}' for status, n in none.items()) or 'none'})."
    )


def bars() -> Html:
    """A bar per paper: how many of its numbers have which status; below it the paper's first finding."""
    found = {paper: sum(ledger.counts(paper).values(), Counter()) for paper in reported.PAPERS}
    rows, texts = [], []
    for paper, counts in found.items():
        parts = {part: sum(counts[s] for s in statuses) for part, statuses in PARTS.items()}
        said = ", ".join(f"{n} {part}" for part, n in parts.items() if n)
        boxes = "".join(
            f'<span class="{part.replace(" ", "-")}" style="flex-grow:{n}" title="{n} {part}">{n}</span>'
            for part, n in parts.items()
            if n
        )
        link = f'<a href="{BOOK}book/{paper}.html">{TITLES[paper]}</a>'
        first = re.sub(r"\*(.+?)\*", r"<em>\1</em>", html.escape(findings.headline(paper)[0]))
        rows.append(
            f'<div class="paper"><p class="name">{link} <small>{said}</small></p>'
            f'<div class="bar" role="img" aria-label="{TITLES[paper]}: {said}">{boxes}</div><p>{first}</p></div>'
        )
        texts.append(f"{TITLES[paper]}: {said}\n  {findings.headline(paper)[0]}")
    used = [p for p, of in PARTS.items() if any(counts[s] for counts in found.values() for s in of)]
    legend = "".join(f'<span><i class="{part.replace(" ", "-")}"></i>{part}</span>' for part in used)
    markup = f'<div class="distill-bars">{"".join(rows)}<p class="legend" aria-hidden="true">{legend}</p></div>'
    return Html(markup, "\n".join(texts))


# --- gallery and time-lapse -------------------------------------------------------------------------------------------
def gallery(
    shelves: dict[tuple[str, int], Shelf], missing: dict[tuple[str, int], dict[str, list[str]]] | None = None
) -> Html:
    """Sets side by side: a method per row, a class per column, the best on top; a click shows the whole set.

    The setting with the most methods comes first.

    Args:
        shelves: of `gallery.shelves`.
        missing: of `gallery.missing`: stands below the rows.
    """
    parts, texts = [], []
    for (dataset, ipc), shelf in sorted(shelves.items(), key=lambda item: -len(item[1])):
        order = sorted(shelf, key=lambda name: -_leading(shelf[name][1]))
        names = next(iter(shelf.values()))[0].facts.class_names
        heads = "".join(f"<span>{html.escape(name)}</span>" for name in names)
        rows = [_row(method, dataset, *shelf[method]) for method in order]
        what = f"{dataset}, {ipc} image{'s' * (ipc > 1)} per class"
        left = [f"{', '.join(of)}: {reason}." for reason, of in (missing or {}).get((dataset, ipc), {}).items()]
        said = f'<p class="missing">Not shown. {html.escape(" ".join(left))}</p>' if left else ""
        parts.append(
            f'<section class="distill-gallery" aria-label="{what}"><h3>{what}</h3>'
            f'<div class="heads" aria-hidden="true"><span></span><div>{heads}</div><span>accuracy</span></div>'
            f"{''.join(rows)}{said}</section>"
        )
        texts.append(
            f"{what}: " + ", ".join(f"{method} {shelf[method][1]}" for method in order) + f"; {' '.join(left)}"
        )
    return Html("".join(parts), "\n".join(texts) or "not run")


def _leading(text: str) -> float:
    """The number a text starts with; below all others where there is none."""
    try:
        return float(text.split()[0])
    except ValueError:
        return -1.0


def _row(method: str, dataset: str, made: ImageSet, accuracy: str) -> str:
    shown, first = pixels(made), [[members[0].item() for members in made.class_index]]
    every = [members.tolist() for members in made.class_index] if len(made) > made.num_classes else first
    alt = f"{dataset}, one image of every class by {method}"
    whole = f'<img class="whole" alt="{dataset}: the whole set of {method}" src="{_picture(sheet(shown, every, 1))}">'
    strip = f'<img alt="{alt}" src="{_picture(sheet(shown, first, 1))}">' if every != first else whole
    strip = strip.replace(' class="whole"', "")
    said = f"{accuracy} %" if accuracy[:1].isdigit() else accuracy
    name = f"<span>{html.escape(method)}</span>"
    return f"<details><summary>{name}{strip}<span>{said}</span></summary>{whole}</details>"


def film(shown: dict[tuple[str, str], ImageSet]) -> Html:
    """Sets at moments of their distillation, under one slider, with the accuracy at each moment.

    Args:
        shown: of `gallery.films`.
    """
    parts = []
    for (dataset, method), made in shown.items():
        steps, accuracy = (made.facts.extra[k] for k in ("steps", "accuracy_pct"))
        each = made.num_classes
        rows = [list(range(each * i, each * (i + 1))) for i in range(len(steps))]
        moments = html.escape(json.dumps([[s, a] for s, a in zip(steps, accuracy)]), quote=True)
        height, width = sheet(pixels(made), rows[:1], 0).shape[:2]
        look = f"aspect-ratio:{width}/{height};background-size:100% {len(steps)}00%;background-image:url({{}})"
        label = f"{method} on {dataset}: one image of every class"
        parts.append(
            f'<div class="reel" data-moments="{moments}">'
            f"<p><b>{html.escape(method)}</b>, {dataset} <output></output></p>"
            f'<div class="frame" role="img" aria-label="{label}" '
            f'style="{look.format(_picture(sheet(pixels(made), rows, 0)))}"></div></div>'
        )
    last = max((len(made.facts.extra["steps"]) for made in shown.values()), default=1) - 1
    slider = f'<label>Moment <input type="range" min="0" max="{last}" value="{last}"></label>'
    markup = f'<div class="distill-film">{slider}{"".join(parts)}</div>' if shown else "<p>not run</p>"
    return Html(markup, "\n".join(" ".join(key) for key in shown) or "not run")


def timelapse_accuracies(
    shown: dict[tuple[str, str], ImageSet], shares: tuple[int, ...] = (0, 5, 10, 25, 50, 100)
) -> pd.DataFrame:
    """The accuracies of a time-lapse: a row per data set and method, a column per share of its steps (in percent), each
    that of the moment nearest to it."""
    rows = []
    for (dataset, method), made in shown.items():
        steps, accuracy = (made.facts.extra[k] for k in ("steps", "accuracy_pct"))
        near = [min(range(len(steps)), key=lambda i: abs(100 * steps[i] / steps[-1] - share)) for share in shares]
        parts = {f"{share} % of steps": f"{accuracy[i]:.1f}" for share, i in zip(shares, near)}
        rows.append({"method": method, "data": dataset, "steps": steps[-1], **parts})
    return pd.DataFrame(rows)


# --- explorer ---------------------------------------------------------------------------------------------------------
def entries() -> list[dict[str, Any]]:
    """Every record as a line for the explorer: what was measured, how, and what the paper prints of the cell.

    What the small budget left untrained is left out.
    """
    out = []
    for profile in paths.RESULT_PROFILES:
        for file in records.files(profile):
            record = records.read(file)
            cell, key = record.cell, record.key
            if profile == "small" and records.underfit(record):
                continue
            known = experiments.experiments().get(cell.experiment)
            row = None
            if known and known.printed(cell):
                axes = (cell.method, cell.dataset, cell.ipc, cell.network, cell.variant)
                row = reported.lookup(cell.experiment, *axes)
            of = DATASETS.get(sized(key["dataset"])[0])
            values = record.test_accuracy_pct
            compared = row and row["value"] is not None and row["quantity"].startswith("test_accuracy")
            stand_in = ledger.stand_in(record)
            out.append(
                {
                    "table": known.title if known else cell.experiment,
                    "data": key["dataset"],
                    "images per class": "all" if cell.ipc is None else str(cell.ipc),
                    "profile": profile,
                    "protocol": key["protocol"]["name"],
                    "network": key.get("network", cell.network),
                    "method": _row_name(cell),
                    "mean": round(statistics.mean(values), 2),
                    "std": round(statistics.std(values), 2) if len(values) > 1 else None,
                    "n": records.sets_and_networks(record),
                    "paper": reported.in_percent(row)["value"] if compared and not stand_in else None,
                    "chance": round(100 / of.num_classes, 2) if of else None,
                    "cite": quoted(record, profile),
                    "record": f"{BOOK}records/{profile}/{cell.experiment}/{cell.stem}.html",
                }
            )
    return out


def _row_name(cell: Cell) -> str:
    """What the explorer calls a row: an arm of a claim and a row of SLFD's tables as on their pages."""
    known = experiments.experiments().get(cell.experiment)
    for claim in known.claims if known else ():
        for arm, _ in claim.arms:
            if arm.cell(cell.experiment, claim.scale) == cell:
                return str(arm)
    if cell.experiment.startswith("slfd/") and cell.axes:
        return slfd.row_name(cell).removesuffix(", ConvNet")  # the network stands in a column of its own
    if cell.variant.startswith(cell.method):
        return cell.variant
    return f"{cell.method}, {cell.variant}" if cell.variant else cell.method


def explorer() -> Html:
    """All records, to choose from: the script draws what is chosen, as a chart and as a table."""
    found = entries()
    text = json.dumps(found).replace("</", "<\\/")
    said = f"{len(found)} records; the book draws what you choose"
    without = (
        f'<noscript><p>This needs JavaScript. The numbers stand in <a href="{BOOK}index.csv">index.csv</a>, and beside '
        f'those of the papers in <a href="{BOOK}book/ledger.html">the ledger</a>.</p></noscript>'
    )
    script = f'<script type="application/json">{text}</script>'
    return Html(f'<div class="distill-explorer"><p>{said}.</p>{without}{script}</div>', said)
