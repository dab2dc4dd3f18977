"""A DataFrame as an HTML table that scrolls, sorts and can be downloaded."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pandas as pd

from ..records import reported
from .numbers import NOT_PRINTED, NOT_RUN, UNDERFIT

NO_NUMBER = (NOT_RUN, NOT_PRINTED, UNDERFIT, reported.LOST)
HIDDEN = ("address", "cite", "record", "page")
BOOK = "distill-book:"  # the book puts the way to its first folder here
WORDY = 40  # characters from which on a column is text, which wraps


class Shown:
    """A table as HTML: it scrolls inside its own box, sorts, and is offered as CSV; printed as text elsewhere.

    Column groups with the paper's numbers alone are folded below those that have ours. Columns called `HIDDEN` are not
    shown: a row's address on the page, what a click on it copies, the path of its record, which the book has as a page,
    and the notebook that its first cell leads to. `frame.attrs["more"]` names columns that a click shows, and
    `frame.attrs["folded"]` says how many of the last rows stand folded below the others, and what they are.
    """

    def __init__(self, frame: pd.DataFrame, caption: str = "", filters: list[str] = ()):
        self.frame, self.caption, self.filters = frame, caption, list(filters)

    def __repr__(self) -> str:
        return (self.caption + "\n" if self.caption else "") + self.frame.to_string()

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return f"<p>{html.escape(self.caption or NOT_RUN)}</p>"
        name = self.caption.rstrip(".") or "table"
        more = [name for name in self.frame.attrs.get("more", []) if name in self.frame]
        main, rest = self._with_and_without_ours()
        below, what_below = self.frame.attrs.get("folded", (0, ""))
        above = len(self.frame) - below
        shown = self._box(main, name, slice(above)) if above else f"<p>{html.escape(self.caption)}</p>"
        tools = [self._csv_link(name)]
        if more:
            tools.insert(0, f'<button type="button" class="distill-more">{len(more)} more columns</button>')
        folded = ""
        if below:
            folded += _details(what_below, self._box(main, what_below, slice(above, None), first=False))
        if len(rest):
            what = "Columns of the paper in which nothing was measured here"
            folded += _details(what, self._box(rest, f"{name}: not measured"))
        return f'<div class="distill-shown">{shown}{folded}<p class="distill-tools">{" ".join(tools)}</p></div>'

    def _with_and_without_ours(self) -> tuple[list[int], list[int]]:
        """Places of the columns to show, and of those to fold."""
        columns = self.frame.columns
        every = [i for i, name in enumerate(columns) if name not in HIDDEN]
        if columns.nlevels < 2:
            return every, []
        measured = {c[:-1] for c in columns if _ours(c) and not self.frame[c].isin([NOT_RUN, "", UNDERFIT]).all()}
        main = [i for i in every if columns[i][:-1] in measured]
        return (main, [i for i in every if i not in main]) if measured else (every, [])

    def _box(self, places: list[int], name: str, rows: slice = slice(None), first: bool = True) -> str:
        body = "".join(self._table(rows, places, first))
        label = html.escape(name, quote=True)
        return f'<div class="distill-scroll" tabindex="0" role="region" aria-label="{label}">{body}</div>'

    def _table(self, rows: slice, places: list[int], first: bool) -> Iterator[str]:
        frame = self.frame.iloc[rows, places]
        index = [] if all(n is None for n in frame.index.names) else list(frame.index.names)
        more, classes = self.frame.attrs.get("more", []), []
        for at, column in enumerate(frame.columns):
            wordy = (frame.iloc[:, at].map(lambda v: len(str(v))) > WORDY).any()
            kinds = {"paper": _last(column) == "paper", "ours": _ours(column), "text": wordy, "more": column in more}
            classes.append([kind for kind, so in kinds.items() if so])
        filters = f' data-filters="{html.escape("|".join(self.filters))}"' if self.filters and first else ""
        yield f'<table class="distill-table{" levels" if len(index) > 1 else ""}"{filters}>'
        yield f"<caption>{html.escape(self.caption)}</caption>" if self.caption and first else ""
        yield "<thead>" + "".join(self._headings(frame, index, classes)) + "</thead><tbody>"
        none = [""] * len(frame)
        about = zip(*(self.frame[k].iloc[rows] if k in self.frame else none for k in HIDDEN))
        every = zip(frame.index, frame.itertuples(index=False, name=None), about)
        for label, values, (address, cite, record, page) in every:
            cells = [_cell("th", part, [], 'scope="row"') for part in _parts(label)] if index else []
            cells += [_cell("td", v, [*of, *(["not-run"] if _empty(v) else [])]) for v, of in zip(values, classes)]
            if page:
                text = html.escape(str(label if index else values[0]))
                cells[0] = cells[0].replace(f">{text}<", f'><a href="{BOOK}notebooks/{page}.html">{text}</a><')
            if address:  # before </th> or </td>
                cells[0] = f"{cells[0][:-5]}{_address(cite, record)}{cells[0][-5:]}"
            yield f'<tr id="{address}">' if address else "<tr>"
            yield "".join(cells) + "</tr>"
        yield "</tbody></table>"

    def _headings(self, frame: pd.DataFrame, index: list[str], classes: list[list[str]]) -> Iterator[str]:
        levels = frame.columns.nlevels
        for level in range(levels):
            corner = [str(n or "") if level == levels - 1 else "" for n in index]
            cells = [_cell("th", n, ["corner"], 'scope="col"') if n else "<td></td>" for n in corner]
            at = 0
            for _, group in groupby(frame.columns, key=lambda c, n=level: _parts(c)[: n + 1]):
                members = list(group)
                span = f' colspan="{len(members)}"' if len(members) > 1 else ""
                text = _parts(members[0])[level]
                cells.append(_cell("th", text, classes[at] if len(members) == 1 else [], f'scope="col"{span}'))
                at += len(members)
            yield "<tr>" + "".join(cells) + "</tr>"

    def _csv_link(self, name: str) -> str:
        """The table inside a link: a page needs no second file for it, on a server or on a disk."""
        flat = self.frame.drop(columns=["cite", "page"], errors="ignore")
        if flat.columns.nlevels > 1:
            flat.columns = [", ".join(dict.fromkeys(filter(None, map(str, column)))) for column in flat.columns]
        text = flat.to_csv(index=any(n is not None for n in self.frame.index.names))
        address = "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()
        file = "-".join(re.findall(r"[a-z0-9]+", name.lower())[:8]) or "table"
        return f'<a download="{file}.csv" href="{address}" aria-label="Download as CSV: {html.escape(name)}">CSV</a>'


def _details(what: str, body: str) -> str:
    return f"<details><summary>{html.escape(what)}</summary>{body}</details>"


def _address(cite: str, record: str) -> str:
    """A button that copies what a row says, with its address; and a link to its record."""
    label, copied = "Copy this number and its address", html.escape(cite, quote=True)
    what = f'data-copy="{copied}" aria-label="{label}" title="{label}"'
    text = f' <button type="button" class="distill-copy" {what}>⧉</button>'
    return text + f' <a class="distill-record" href="{BOOK}records/{record}.html">record</a>' * bool(record)


def _parts(label: Any) -> tuple:
    return label if isinstance(label, tuple) else (label,)


def _empty(value: Any) -> bool:
    return isinstance(value, str) and value in NO_NUMBER


def _last(column: Any) -> str:
    return str(_parts(column)[-1])


def _ours(column: Any) -> bool:
    return _last(column).startswith("ours")


def _cell(tag: str, value: Any, classes: list[str], more: str = "") -> str:
    if "text" in classes and len(str(value)) > 50:  # of a width in which it takes a few lines
        classes = [*classes, "long"]
    kinds = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{kinds}{f' {more}' if more else ''}>{html.escape(str(value))}</{tag}>"


def show(frame: pd.DataFrame | pd.Series, caption: str = "", filters: list[str] = ()) -> Shown:
    """A table for a notebook's last line.

    Args:
        filters: columns that the page offers a choice of values for, beside a box to search in all of them.
    """
    return Shown(frame.to_frame() if isinstance(frame, pd.Series) else frame, caption, filters)
