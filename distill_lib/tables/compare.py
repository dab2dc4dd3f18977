"""Tables: the paper's number beside ours, with spread, cost, protocol and status. Plain DataFrames in, HTML out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from .. import records
from ..experiments import Outcome
from ..experiments.registry import paper_data
from ..records import Cell, Record
from . import ledger
from .numbers import (
    NOT_PRINTED,
    NOT_RUN,
    UNDERFIT,
    data_name,
    device,
    heading,
    number,
    on_common_sets,
    published,
    records_of,
    spread,
)

Axis = str | Callable[[Cell], str | None]  # a field of `Cell`, or what to call a cell
MORE = ["variant", "kernel regression", "network", "seconds", "shared", "processor seconds", "memory MB", "device"]
MORE += ["commit"]


def grid(outcome: Outcome) -> pd.DataFrame:
    """The table in the paper's layout, our numbers in columns of their own, one per profile; measured columns first.

    A cell measured under a second protocol has a row of its own and no printed number. A full-data value stands in
    every column of its data set.
    Returns: rows methods; columns (data set, images per class, who); 'not run' where nothing was measured, 'underfit'
        where the small budget left the networks untrained.
    """
    cells = [s.cell for s in outcome]
    rows = list(dict.fromkeys(_row(c, outcome) for c in cells))
    columns: dict[tuple[str, str], dict[str, dict[str, str]]] = {}  # (data set, size) -> who -> row -> text
    for dataset in dict.fromkeys(c.dataset for c in cells):
        for ipc in sorted({c.ipc for c in cells if c.dataset == dataset and c.ipc}) or [None]:
            columns[dataset, "all images" if ipc is None else f"IPC {ipc}"] = {"paper": {}}
    for cell in sorted(cells, key=lambda c: c.ipc is None):  # full data last: it opens no column others have
        groups = [g for g in columns if g[0] == cell.dataset and (cell.ipc is None or g[1] == f"IPC {cell.ipc}")]
        row, found = published(cell, outcome), records_of(cell, outcome)
        for group in groups:
            columns[group]["paper"][_row(cell, outcome)] = row["text"] if row else ""
        for profile, record in found.items():
            who = heading(profile, record, cell)
            with_ours = [g for g in groups if cell.ipc is not None or who in columns[g]]
            for group in with_ours or groups[:1]:
                columns[group].setdefault(who, {})[_row(cell, outcome)] = number(record, profile)
    flat = {
        (*group, who): text
        for group, parts in sorted(columns.items(), key=lambda item: len(item[1]) == 1)
        for who, text in sorted(parts.items(), key=lambda p: (p[0] != "paper", p[0]))
    }
    frame = pd.DataFrame(flat, index=pd.Index(rows, name="method")).fillna(NOT_RUN)
    frame.columns = pd.MultiIndex.from_tuples(flat, names=["data set", "images per class", ""])
    return frame


def _row(cell: Cell, outcome: Outcome) -> str:
    return cell.method if outcome.printed(cell) else f"{cell.method} ({cell.variant or cell.protocol})"


def details(outcome: Outcome) -> pd.DataFrame:
    """Every measured cell: the paper's number, ours, their difference and verdict, the protocol, and what it cost.

    Where a method predicts by kernel regression, that column has its accuracy, and "ours" that of networks trained on
    the set. "shared" is what was made once for several cells, which "seconds" leave out. The verdict is the ledger's
    (`ledger.STATUSES`): "underfit" is no result, whatever its number.
    """
    lines = []
    for s in outcome:
        row = published(s.cell, outcome)
        for profile, record in records_of(s.cell, outcome).items():
            lines.append(_detail(s.cell, row, profile, record))
    empty = ("variant", "kernel regression", "shared", "processor seconds")
    unused = [name for name in empty if not any(line[name] for line in lines)]
    frame = pd.DataFrame([{k: v for k, v in line.items() if k not in unused} for line in lines])
    frame.attrs["more"] = MORE
    return frame


def _detail(cell: Cell, row: dict[str, Any] | None, profile: str, record: Record) -> dict[str, Any]:
    values, verdict = record.test_accuracy_pct, ledger.judge(record, profile, row)[0]
    compared = row and row["value"] is not None and verdict in (*ledger.FULL, ledger.OWN)
    kernel = record.metrics.get("kernel_accuracy_pct")
    return {
        "method": cell.method,
        "variant": cell.variant,
        "data": record.key["dataset"],
        "IPC": cell.ipc or ("all" if cell.method == "Full data" else ""),
        "profile": profile,
        "protocol": record.key["protocol"]["name"],
        "paper": row["text"] if row else "",
        "ours": spread(values),
        "difference": f"{sum(values) / len(values) - row['value']:+z.1f}" if compared else "",
        "verdict": verdict,
        "networks": records.sets_and_networks(record),
        "kernel regression": spread(kernel) if kernel else "",
        "network": record.key.get("network", cell.network),
        "seconds": round(sum(record.seconds.values())),
        "shared": "; ".join(f"{name}: {cost.get('seconds', 0):,.0f} s" for name, cost in record.shared.items()),
        "processor seconds": round(sum(record.cpu_seconds.values())) if record.cpu_seconds else "",
        "memory MB": round(record.memory_mb),
        "device": device(record),
        "commit": record.made_by.get("commit", ""),
        "address": f"{cell.stem}-{profile}",
        "cite": quoted(record, profile),
        "record": "" if profile == "smoke" else f"{profile}/{cell.experiment}/{cell.stem}",
    }


def quoted(record: Record, profile: str) -> str:
    """A number as one cites it: value, spread, what it was measured on and how."""
    cell, values = record.cell, record.test_accuracy_pct
    what = ", ".join(filter(None, [cell.method, cell.variant, record.key["dataset"], cell.ipc and f"IPC {cell.ipc}"]))
    parts = [f"{spread(values, 2)} % test accuracy", what, f"budget {profile}", record.key["protocol"]["name"]]
    commit = record.made_by.get("commit", "") + " with changes" * bool(record.made_by.get("changed_since_commit"))
    return "; ".join([*parts, records.sets_and_networks(record), *([f"commit {commit}"] if commit else [])])


def points(outcome: Outcome) -> pd.DataFrame:
    """`marks` of a table of data sets and images per class: rows of the paper's protocols, without full data."""
    return marks(outcome, lambda c: f"{c.dataset}, IPC {c.ipc}" if c.ipc is not None and outcome.printed(c) else None)


def along(cell: Cell, axis: Axis) -> str | None:
    """What an axis calls a cell."""
    return axis(cell) if callable(axis) else getattr(cell, axis)


def across(outcome: Outcome, columns: Axis, rows: Axis = "method") -> pd.DataFrame:
    """A table along one axis of the cells, the paper's numbers beside ours where it prints any; measured values first.

    Args:
        columns, rows: fields of `Cell`, such as "network" or "variant", or functions of a cell.
    Returns: columns (value, who); 'not run' where nothing was measured, 'not in the paper' where it prints no such
        cell, 'underfit' where the small budget left the networks untrained.
    """
    names = list(dict.fromkeys(along(s.cell, rows) for s in outcome))
    groups: dict[str, dict[str, dict[str, str]]] = {}  # value -> who -> row -> text
    for s in outcome:
        group, row = groups.setdefault(along(s.cell, columns), {"paper": {}}), along(s.cell, rows)
        if printed := published(s.cell, outcome):
            group["paper"][row] = printed["text"]
        for profile, record in records_of(s.cell, outcome).items():
            group.setdefault(heading(profile, record, s.cell), {})[row] = number(record, profile)
    parts = {}
    for value, group in sorted(groups.items(), key=lambda item: len(item[1]) == 1):
        shown = {who: texts for who, texts in group.items() if who != "paper" or any(texts.values())}
        parts |= {(value, who): texts for who, texts in (shown or {"ours": {}}).items()}
    frame = pd.DataFrame(parts, index=pd.Index(names, name="row" if callable(rows) else rows))
    frame = frame.fillna({part: NOT_PRINTED if part[1] == "paper" else NOT_RUN for part in parts})
    frame.columns = pd.MultiIndex.from_tuples(parts, names=["" if callable(columns) else columns, ""])
    return frame


def marks(outcome: Outcome, panel: Axis, rows: Axis = "method") -> pd.DataFrame:
    """Published and measured means for `figures.paper_and_ours`: panels by `panel`, a line per value of `rows`.

    A panel holds numbers of one data set and, of ours, of one budget; the second line of its name says which. The
    paper's numbers stand beside ours on the same data. Where ours are on a stand-in, the paper's have a panel of their
    own. Values of `panel` without a number of ours are left out, unless there is none at all. What the small budget
    left untrained is no number.

    Args:
        panel: as the columns of `across`; cells for which a function returns None are left out.
    Returns: columns panel, method, who ("paper" or "ours, small"), data, value, std (0 where there is none).
    """
    out: list[dict[str, Any]] = []
    for cell in (s.cell for s in outcome):
        line = {"panel": along(cell, panel), "method": along(cell, rows), "asked": paper_data(cell)}
        row = published(cell, outcome)
        if row and row["value"] is not None:
            out.append({**line, "who": "paper", "data": line["asked"], "value": row["value"], "std": row["std"] or 0.0})
        for profile, record in records_of(cell, outcome).items():
            values = pd.Series(record.test_accuracy_pct)
            own = {"value": values.mean(), "std": values.std(ddof=0)}
            if number(record, profile) != UNDERFIT:
                out.append({**line, "who": f"ours, {profile}", "data": record.key["dataset"], **own})
    columns = ["panel", "method", "who", "data", "value", "std", "asked"]
    frame = pd.DataFrame(out, columns=columns).dropna(subset="panel")
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


def under_protocols(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """Sets that were measured under several protocols, on those that all of these have.

    Returns: by budget, such as "small, 300 epochs", a row per method, data set and IPC, and a column per protocol:
        "55.1 ± 5.2 (5 x 5)", mean and deviation over all networks, sets x networks; "underfit" where small trained too
        little.
    """
    rows: dict[tuple[str, str, str, int | None], dict[str, Record]] = {}
    for cell in (s.cell for s in outcome if not s.cell.variant):
        for profile, record in records_of(cell, outcome).items():
            epochs = record.key["protocol"]["budget"]
            budget = f"{profile}, {epochs} epochs" if epochs else profile
            row = rows.setdefault((budget, cell.method, record.key["dataset"], cell.ipc), {})
            row[record.key["protocol"]["name"]] = record
    tables: dict[str, list[dict[str, Any]]] = {}
    for (budget, method, dataset, ipc), row in rows.items():
        if len(row) < 2 or not (parts := on_common_sets(list(row.values()))):
            continue
        line = {"method": method, "data set": dataset, "IPC": ipc}
        for (protocol, record), part in zip(row.items(), parts, strict=True):
            sets, networks = len(set(part.sets)), len(part.sets)
            poor = budget.startswith("small") and records.underfit(record)
            text = f"{spread(part.test_accuracy_pct)} ({sets} x {networks // sets})"
            line[protocol] = UNDERFIT if poor else text
        tables.setdefault(budget, []).append(line)
    return {budget: pd.DataFrame(lines).fillna("") for budget, lines in tables.items()}
