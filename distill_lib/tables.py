"""Tables: the paper's number beside ours, with spread, cost, protocol and status. Plain DataFrames in, HTML out."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import records, reported
from .data.catalogue import sized
from .experiment import check_parameters, experiment
from .records import Cell, Record

if TYPE_CHECKING:
    import pandas as pd

    from .experiment import Outcome

NOT_RUN, NOT_PRINTED, UNDERFIT = "not run", "not in the paper", "underfit"


def published(cell: Cell, outcome: Outcome) -> dict[str, Any] | None:
    """The row of the reported numbers for a cell, or None where the paper prints no such cell."""
    if not outcome.printed(cell):
        return None
    return reported.lookup(cell.experiment, cell.method, cell.dataset, cell.ipc, cell.network, cell.variant)


def spread(values: list[float], digits: int = 1) -> str:
    """'48.9 ± 0.6': mean and population standard deviation over networks; the mean alone for a single network."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def number(record: Record, profile: str) -> str:
    """A record as a result: mean, spread, and "(2 of 5 sets)" where sets are missing; "underfit" where small trained too little."""
    if profile == "small" and records.underfit(record):
        return UNDERFIT
    done, planned = len(record.done), record.key.get("num_sets", 1)
    return spread(record.test_accuracy_pct) + f" ({done} of {planned} sets)" * (done < planned)


def measured(cell: Cell, outcome: Outcome) -> dict[str, Record]:
    """Records of a cell by profile: full and small in the recorded view, else the run's own profile."""
    if outcome.params.profile == "recorded":
        found = {p: records.load(cell, p) for p in ("full", "small")}
        return {p: r for p, r in found.items() if r}
    return {outcome.params.profile: s.record for s in outcome if s.cell == cell and s.record}


def heading(profile: str, record: Record, cell: Cell) -> str:
    """Column heading of our numbers; a stand-in data set is named."""
    data = record.key["dataset"]
    return f"ours, {profile}" + ("" if data == cell.dataset else f", on {data}")


def grid(outcome: Outcome) -> pd.DataFrame:
    """The table in the paper's layout, our numbers in columns of their own, one per profile.

    A cell measured under a second protocol has a row of its own and no printed number. A full-data value stands in every
    column of its data set.
    Returns: rows methods; columns (data set, images per class, who); 'not run' where nothing was measured, 'underfit' where
        the small budget left the networks untrained.
    """
    import pandas as pd

    cells = [s.cell for s in outcome]
    rows = list(dict.fromkeys(_row(c, outcome) for c in cells))
    columns: dict[tuple[str, str], dict[str, dict[str, str]]] = {}  # (data set, size) -> who -> row -> text
    for dataset in dict.fromkeys(c.dataset for c in cells):
        for ipc in sorted({c.ipc for c in cells if c.dataset == dataset and c.ipc}) or [None]:
            columns[dataset, "all images" if ipc is None else f"IPC {ipc}"] = {"paper": {}}
    for cell in sorted(cells, key=lambda c: c.ipc is None):  # full data last: it opens no column others have
        groups = [g for g in columns if g[0] == cell.dataset and (cell.ipc is None or g[1] == f"IPC {cell.ipc}")]
        row, found = published(cell, outcome), measured(cell, outcome)
        for group in groups:
            columns[group]["paper"][_row(cell, outcome)] = row["text"] if row else ""
            for profile, record in found.items():
                who = heading(profile, record, cell)
                if cell.ipc is not None or who in columns[group] or group == groups[0]:
                    columns[group].setdefault(who, {})[_row(cell, outcome)] = number(record, profile)
    flat = {(*group, who): text for group, parts in columns.items() for who, text in sorted(parts.items(), key=lambda p: (p[0] != "paper", p[0]))}
    frame = pd.DataFrame(flat, index=pd.Index(rows, name="method")).fillna(NOT_RUN)
    frame.columns = pd.MultiIndex.from_tuples(flat, names=["data set", "images per class", ""])
    return frame


def _row(cell: Cell, outcome: Outcome) -> str:
    return cell.method if outcome.printed(cell) else f"{cell.method} ({cell.variant or cell.protocol})"


def details(outcome: Outcome) -> pd.DataFrame:
    """Every measured cell: the paper's number, ours, their difference and verdict, the protocol, and what it cost.

    Where a method predicts by kernel regression, that column has its accuracy, and "ours" of networks trained on the set.
    The verdict is the ledger's (`ledger.STATUSES`): "underfit" is no result, whatever its number.
    """
    import pandas as pd

    from . import ledger

    out = []
    for s in outcome:
        row = published(s.cell, outcome)
        for profile, record in measured(s.cell, outcome).items():
            values = record.test_accuracy_pct
            verdict, _, _ = ledger.judge(record, profile, row)
            compared = row and row["value"] is not None and verdict in (*ledger.FULL, ledger.OWN)
            line = {
                "method": s.cell.method,
                "variant": s.cell.variant,
                "data": record.key["dataset"],
                "IPC": s.cell.ipc or ("all" if s.cell.method == "Full data" else ""),
                "profile": profile,
                "protocol": record.key["protocol"]["name"],
                "paper": row["text"] if row else "",
                "ours": spread(values),
                "difference": f"{sum(values) / len(values) - row['value']:+.1f}" if compared else "",
                "verdict": verdict,
                "kernel regression": spread(record.metrics["kernel_accuracy_pct"]) if "kernel_accuracy_pct" in record.metrics else "",
                "network": record.key.get("network", s.cell.network),
                "networks": records.sets_and_networks(record),
                "seconds": round(sum(record.seconds.values())),
                "processor seconds": round(sum(record.cpu_seconds.values())) if record.cpu_seconds else "",
                "memory MB": round(record.memory_mb),
                "device": record.made_by.get("device", ""),
                "commit": record.made_by.get("commit", ""),
            }
            out.append(line)
    unused = [name for name in ("variant", "kernel regression", "processor seconds") if not any(line[name] for line in out)]
    return pd.DataFrame([{k: v for k, v in line.items() if k not in unused} for line in out])


def points(outcome: Outcome) -> pd.DataFrame:
    """`marks` of a table of data sets and images per class: rows of the paper's protocols, without full data."""
    return marks(outcome, lambda c: f"{c.dataset}, IPC {c.ipc}" if c.ipc is not None and outcome.printed(c) else None)


Axis = str | Callable[[Cell], str | None]  # a field of `Cell`, or what to call a cell


def _along(cell: Cell, axis: Axis) -> str | None:
    return axis(cell) if callable(axis) else getattr(cell, axis)


def across(outcome: Outcome, columns: Axis, rows: Axis = "method") -> pd.DataFrame:
    """A table along one axis of the cells, the paper's numbers beside ours where it prints any.

    Args:
        columns, rows: fields of `Cell`, such as "network" or "variant", or functions of a cell.
    Returns: columns (value, who); 'not run' where nothing was measured, 'not in the paper' where it prints no such cell.
    """
    import pandas as pd

    parts: dict[tuple[str, str], dict[str, str]] = {}
    names = list(dict.fromkeys(_along(s.cell, rows) for s in outcome))
    for value in dict.fromkeys(_along(s.cell, columns) for s in outcome):
        parts[value, "paper"] = {}
        for s in (s for s in outcome if _along(s.cell, columns) == value):
            if row := published(s.cell, outcome):
                parts[value, "paper"][_along(s.cell, rows)] = row["text"]
            for profile, record in measured(s.cell, outcome).items():
                parts.setdefault((value, heading(profile, record, s.cell)), {})[_along(s.cell, rows)] = spread(record.test_accuracy_pct)
        if not any(parts[value, "paper"].values()):
            del parts[value, "paper"]
        if not any(key[0] == value for key in parts):
            parts[value, "ours"] = {}
    frame = pd.DataFrame(parts, index=pd.Index(names, name="row" if callable(rows) else rows))
    frame = frame.fillna({part: NOT_PRINTED if part[1] == "paper" else NOT_RUN for part in parts})
    frame.columns = pd.MultiIndex.from_tuples(parts, names=["" if callable(columns) else columns, ""])
    return frame


def marks(outcome: Outcome, panel: Axis, rows: Axis = "method") -> pd.DataFrame:
    """Published and measured means for `figures.paper_and_ours`: panels by `panel`, a line per value of `rows`.

    A panel holds numbers of one data set and, of ours, of one budget; the second line of its name says which. The paper's
    numbers stand beside ours on the same data. Where ours are on a stand-in, the paper's have a panel of their own.
    Values of `panel` without a number of ours are left out, unless there is none at all.

    Args:
        panel: as the columns of `across`; cells for which a function returns None are left out.
    Returns: columns panel, method, who ("paper" or "ours, small"), data, value, std (0 where there is none).
    """
    import pandas as pd

    out: list[dict[str, Any]] = []
    for cell in (s.cell for s in outcome):
        line = {"panel": _along(cell, panel), "method": _along(cell, rows), "asked": paper_data(cell)}
        row = published(cell, outcome)
        if row and row["value"] is not None:
            out.append({**line, "who": "paper", "data": line["asked"], "value": row["value"], "std": row["std"] or 0.0})
        for profile, record in measured(cell, outcome).items():
            values = pd.Series(record.test_accuracy_pct)
            own = {"value": values.mean(), "std": values.std(ddof=0)}
            out.append({**line, "who": f"ours, {profile}", "data": record.key["dataset"], **own})
    frame = pd.DataFrame(out, columns=["panel", "method", "who", "data", "value", "std", "asked"]).dropna(subset="panel")
    with_ours = frame.groupby("panel")["who"].transform(lambda who: (who != "paper").any())
    parts = []
    for name, part in frame[with_ours if with_ours.any() else slice(None)].groupby("panel", sort=False):
        for data, same in part.groupby("data", sort=False):
            paper, ours = same[same["who"] == "paper"], same[same["who"] != "paper"]
            on = f", {data_name(data)}" if ours.empty or part["asked"].nunique() > 1 else ""
            if ours.empty:
                parts.append(paper.assign(panel=f"{name}\npaper{on}"))
            for (who, stand_in), group in ours.groupby(["who", ours["asked"] != data]):
                beside = len(paper) and not stand_in
                said = f"{who}; stand-in {data_name(data)}" if stand_in else f"{'paper and ' * bool(beside)}{who}{on}"
                parts.append(pd.concat([paper, group] if beside else [group]).assign(panel=f"{name}\n{said}"))
    return pd.concat(parts or [frame]).drop(columns="asked").reset_index(drop=True)


def paper_data(cell: Cell) -> str:
    """The data set that the paper's number is on, as `full` loads it: ImageWoof@224px."""
    params = check_parameters(cell.experiment, {"profile": "full"})
    return getattr(experiment(cell.experiment).task(cell, params), "dataset", cell.dataset)


def data_name(dataset: str) -> str:
    """'ImageWoof at 64 px' for ImageWoof@64px."""
    name, side, _ = sized(dataset)
    return name if side is None else f"{name} at {side} px"


def mean_interval(values: list[float], sets: list[int], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval of percentages: of the sets' means where there are several, else of the one set's networks.

    Args:
        values: one per network.
        sets:   for each network, which set it was trained on.
    Returns: mean, low, high, both within 0 and 100; NaN for a single network, which has no interval.
    """
    import numpy as np
    from scipy.special import stdtrit

    by_set = [[v for v, s in zip(values, sets, strict=True) if s == which] for which in dict.fromkeys(sets)]
    units = np.array([np.mean(v) for v in by_set] if len(by_set) > 1 else values)
    mean, n = float(units.mean()), len(units)
    if n == 1:
        return mean, math.nan, math.nan
    half = float(stdtrit(n - 1, (1 + level) / 2) * units.std(ddof=1) / math.sqrt(n))
    return mean, max(mean - half, 0.0), min(mean + half, 100.0)


def rank_ranges(low: list[float], high: list[float]) -> list[tuple[int, int]]:
    """First and last rank, 1 the best, of each interval: behind all that lie wholly above it, ahead of all wholly below.

    An interval of NaN overlaps all.
    """
    return [(1 + sum(other > h for other in low), len(low) - sum(other < a for other in high)) for a, h in zip(low, high, strict=True)]


RANKING = ["profile", "data", "IPC", "budget", "method", "labels", "mean", "low", "high", "of", "sets", "networks", "first", "last"]


def ranking(outcome: Outcome, labels: Axis) -> pd.DataFrame:
    """Sets ranked by mean accuracy among those of their profile, data set, IPC and budget.

    Args:
        outcome: of cells with one protocol and network, but for the loss that their labels need.
        labels:  what to call a cell's labels.
    Returns: columns `RANKING`: `of` says whether low and high are of sets or of networks, first and last are the rank.
        Cells without a record come last in their group, with NaN; a setting of which a profile has no record is one line.
    """
    import pandas as pd

    out: list[dict[str, Any]] = []
    found = {(p, s.cell): r for s in outcome for p, r in measured(s.cell, outcome).items()}
    for profile in dict.fromkeys(p for p, _ in found):
        settings: dict[tuple[str, int | None], list[Cell]] = {}
        for s in outcome:
            settings.setdefault((s.cell.dataset, s.cell.ipc), []).append(s.cell)
        for (dataset, ipc), cells in settings.items():
            measures = {c: _measure(found[profile, c]) for c in cells if (profile, c) in found}
            if not measures:
                out.append({"profile": profile, "data": dataset, "IPC": ipc, "method": "every row"})
            for data, budget in dict.fromkeys((m["data"], m["budget"]) for m in measures.values()):
                here = {c: m for c, m in measures.items() if (m["data"], m["budget"]) == (data, budget)}
                order = sorted(here, key=lambda c: -here[c]["mean"])
                ranks = rank_ranges([here[c]["low"] for c in order], [here[c]["high"] for c in order])
                for c, (first, last) in zip(order, ranks, strict=True):
                    here[c] |= {"first": first, "last": last}
                for c in [*order, *(c for c in cells if c not in here)]:
                    line = {"profile": profile, "data": data, "IPC": ipc, "budget": budget}
                    out.append({**line, "method": c.method, "labels": _along(c, labels), **here.get(c, {})})
    return pd.DataFrame(out, columns=RANKING)


def _measure(record: Record) -> dict[str, Any]:
    """What `ranking` takes from a record."""
    mean, low, high = mean_interval(record.test_accuracy_pct, record.sets)
    sets, networks = len(set(record.sets)), len(record.sets)
    rules = record.key["protocol"]
    return {
        "data": record.key["dataset"], "budget": f"{rules['budget'] or rules['epochs']} epochs",
        "mean": mean, "low": low, "high": high, "of": "sets" if sets > 1 else "networks",
        "sets": sets, "networks": networks // sets,
    }  # fmt: skip


def ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """`ranking` for reading: rank 2–4 where intervals overlap, 'not run' in its place, and on how many sets it stands."""
    import pandas as pd

    def line(row: pd.Series) -> dict[str, Any]:
        shown = {"data": row["data"], "IPC": row["IPC"], "rank": NOT_RUN, "method": row["method"], "labels": row["labels"]}
        if pd.isna(row["mean"]):
            return shown
        first, last, sets, networks = (int(row[k]) for k in ("first", "last", "sets", "networks"))
        return shown | {
            "rank": str(first) if first == last else f"{first}–{last}",
            "ours": f"{row['mean']:.1f}",
            "95 % interval": "none" if math.isnan(row["low"]) else f"{row['low']:.1f} to {row['high']:.1f}",
            "interval of": row["of"] if sets > 1 else f"{row['of']} only",
            "measured on": f"{sets} set{'s' * (sets > 1)} × {networks} network{'s' * (networks > 1)}",
            "budget": row["budget"],
        }

    return pd.DataFrame([line(row) for _, row in frame.iterrows()]).fillna("")


def counts(outcome: Outcome) -> str:
    """How many of the paper's cells were measured, and how: `ledger.progress`, of the cells the outcome is about."""
    from . import ledger

    return ledger.of_outcome(outcome)


def as_published(experiment: str) -> pd.DataFrame:
    """A table as the paper prints it, 'not in the source' where the number is lost."""
    return reported.matrix(experiment)


class Shown:
    """A table as HTML: scrolls inside its own box on a narrow screen, sorts, is offered as CSV; printed as text elsewhere."""

    def __init__(self, frame: pd.DataFrame, caption: str = "", filters: list[str] = ()):
        self.frame, self.caption, self.filters = frame, caption, list(filters)

    def __repr__(self) -> str:
        return (self.caption + "\n" if self.caption else "") + self.frame.to_string()

    def _repr_html_(self) -> str:
        plain = all(name is None for name in self.frame.index.names)
        levels = " levels" if self.frame.index.nlevels > 1 else ""
        filters = f' data-filters="{html.escape("|".join(self.filters))}"' if self.filters else ""
        style = self.frame.style.set_table_attributes(f'class="distill-table{levels}"{filters}').format(lambda v: html.escape(str(v)))
        if plain:
            style = style.hide(axis="index")
        paper = [c for c in self.frame.columns if (c[-1] if isinstance(c, tuple) else c) == "paper"]
        ours = [c for c in self.frame.columns if str(c[-1] if isinstance(c, tuple) else c).startswith("ours")]
        classes = self.frame.map(lambda v: "not-run" if v in (NOT_RUN, NOT_PRINTED, UNDERFIT, reported.LOST) else "")
        wordy = list(self.frame.columns[self.frame.map(lambda v: len(str(v)) > 40).any().to_numpy()])  # columns that wrap
        classes[wordy] = classes[wordy].map(lambda v: f"{v} text".strip())
        classes[paper] = classes[paper].map(lambda v: f"{v} paper".strip())
        classes[ours] = classes[ours].map(lambda v: f"{v} ours".strip())
        if self.frame.index.is_unique and self.frame.columns.is_unique:
            style = style.set_td_classes(classes)
        if self.caption:
            style = style.set_caption(html.escape(self.caption))
        name = self.caption.rstrip(".") or "table"
        text = "|".join(str(self.frame.columns.get_loc(column)) for column in wordy if self.frame.columns.is_unique) or "none"
        body = re.sub(rf'class="(col_heading level\d+ col(?:{text}))"', r'class="\1 text"', style.to_html())  # headings stand as their columns do
        table = f'<div class="distill-scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">{body}</div>'
        return f'<div class="distill-shown">{table}<p class="distill-tools">{self._csv_link(name, plain)}</p></div>'

    def _csv_link(self, name: str, plain: bool) -> str:
        """The table inside a link: a page needs no second file for it, on a server or on a disk."""
        flat = self.frame.copy()
        if flat.columns.nlevels > 1:
            flat.columns = [", ".join(dict.fromkeys(str(part) for part in column if str(part))) for column in flat.columns]
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
