"""A DataFrame as an HTML table that scrolls, sorts and can be downloaded."""

from __future__ import annotations

import base64
import html
import re

import pandas as pd

from ..records import reported
from .numbers import NOT_PRINTED, NOT_RUN, UNDERFIT


class Shown:
    """A table as HTML: scrolls inside its own box on a narrow screen, sorts, is offered as CSV; printed as text
    elsewhere."""

    def __init__(self, frame: pd.DataFrame, caption: str = "", filters: list[str] = ()):
        self.frame, self.caption, self.filters = frame, caption, list(filters)

    def __repr__(self) -> str:
        return (self.caption + "\n" if self.caption else "") + self.frame.to_string()

    def _repr_html_(self) -> str:
        plain = all(name is None for name in self.frame.index.names)
        levels = " levels" if self.frame.index.nlevels > 1 else ""
        filters = f' data-filters="{html.escape("|".join(self.filters))}"' if self.filters else ""
        style = self.frame.style.set_table_attributes(f'class="distill-table{levels}"{filters}').format(
            lambda v: html.escape(str(v))
        )
        if plain:
            style = style.hide(axis="index")
        paper = [c for c in self.frame.columns if (c[-1] if isinstance(c, tuple) else c) == "paper"]
        ours = [c for c in self.frame.columns if str(c[-1] if isinstance(c, tuple) else c).startswith("ours")]
        classes = self.frame.map(lambda v: "not-run" if v in (NOT_RUN, NOT_PRINTED, UNDERFIT, reported.LOST) else "")
        wordy = list(
            self.frame.columns[self.frame.map(lambda v: len(str(v)) > 40).any().to_numpy()]
        )  # columns that wrap
        classes[wordy] = classes[wordy].map(lambda v: f"{v} text".strip())
        classes[paper] = classes[paper].map(lambda v: f"{v} paper".strip())
        classes[ours] = classes[ours].map(lambda v: f"{v} ours".strip())
        if self.frame.index.is_unique and self.frame.columns.is_unique:
            style = style.set_td_classes(classes)
        if self.caption:
            style = style.set_caption(html.escape(self.caption))
        name = self.caption.rstrip(".") or "table"
        text = (
            "|".join(str(self.frame.columns.get_loc(column)) for column in wordy if self.frame.columns.is_unique)
            or "none"
        )
        body = re.sub(
            rf'class="(col_heading level\d+ col(?:{text}))"', r'class="\1 text"', style.to_html()
        )  # headings stand as their columns do
        table = f'<div class="distill-scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">{body}</div>'
        return f'<div class="distill-shown">{table}<p class="distill-tools">{self._csv_link(name, plain)}</p></div>'

    def _csv_link(self, name: str, plain: bool) -> str:
        """The table inside a link: a page needs no second file for it, on a server or on a disk."""
        flat = self.frame.copy()
        if flat.columns.nlevels > 1:
            flat.columns = [
                ", ".join(dict.fromkeys(str(part) for part in column if str(part))) for column in flat.columns
            ]
        text = flat.to_csv(index=not plain)
        address = "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()
        file = "-".join(re.findall(r"[a-z0-9]+", name.lower())[:8]) or "table"
        return f'<a download="{file}.csv" href="{address}" aria-label="Download as CSV: {html.escape(name)}">CSV</a>'


def show(frame: pd.DataFrame, caption: str = "", filters: list[str] = ()) -> Shown:
    """A table for a notebook's last line.

    Args:
        filters: columns that the page offers a choice of values for, beside a box to search in all of them.
    """
    return Shown(frame, caption, filters)
