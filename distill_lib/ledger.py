"""The ledger: every cell of every table and figure with numbers, as printed, beside what this project measured, and why they differ.

    ledger.rows("skd")                 # a DataFrame, a row per printed cell
    ledger.summary()                   # per table: how many cells of each status
    ledger.differences("skd/table1_accuracy", "small")   # for figures.heat_map
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from . import experiment, records, reported, statistics
from .data.catalogue import DATASETS
from .experiment import Skip
from .records import Cell, Record

if TYPE_CHECKING:
    import pandas as pd

# status -> what it says; the first that holds
STATUSES = {
    "matched": "measured under the paper's protocol, equal within the published spread; or counted from the code, equal as printed",
    "differs": "measured under the paper's protocol, not equal within the published spread; or counted from the code, not equal",
    "undecided": "measured under the paper's protocol, with too few networks to tell",
    "measured": "measured under the paper's protocol; the source lost the number to compare with",
    "budget": "measured at a reduced budget only, which is not comparable",
    "stand-in": "measured at a reduced budget, on a stand-in for the paper's data set",
    "source lost": "not measured, and the number is missing in the source",
    "data not free": "not measured: the data set cannot be downloaded without registration",
    "not run": "not measured yet",
}
FREE = ("ImageNette", "ImageWoof")  # cuts of ImageNet that are published for download


def rows(paper: str | None = None) -> pd.DataFrame:
    """One row per cell that a paper prints, in the papers' order.

    Args:
        paper: slfd, uvit, skd or dgs; None for all.
    Returns: columns experiment, method, data set, IPC, network, variant, published; full and small: mean and spread as measured
        there; difference (percentage points, of full where there is one), status (one of `STATUSES`), reason, compared (the
        equality test's sentence), seconds and memory MB of the measurement, quantity, source.
    Raises: UserError: unknown paper; a damaged file of reported numbers or record.
    """
    import pandas as pd

    out = []
    for name in reported.experiments(paper):
        cells = _cells(name)
        out += [_row(row, cells.get(tuple(row[k] for k in reported.KEY))) for row in reported.cells_of(name)]
    return pd.DataFrame(out)


def _cells(name: str) -> dict[tuple, Cell]:
    """The experiment's cell behind every printed row, by the row's key."""
    found: dict[tuple, Cell] = {}
    if name not in experiment.experiments():
        return found
    definition = experiment.experiment(name)
    for cell in definition.cells(experiment.check_parameters(name, {})):
        row = definition.printed(cell) and reported.lookup(name, cell.method, cell.dataset, cell.ipc, cell.network, cell.variant)
        if row:
            found.setdefault(tuple(row[k] for k in reported.KEY), cell)
    return found


def _row(row: dict[str, Any], cell: Cell | None) -> dict[str, Any]:
    counted = experiment.experiments()[name].counted(row) if (name := row["experiment"]) in experiment.experiments() else None
    found = {p: r for p in ("full", "small") if cell and (r := records.load(cell, p))}
    shown = found.get("full") or found.get("small")
    status, reason, compared = _status(row, cell, found)
    accuracy = row["quantity"].startswith("test_accuracy")
    published = None if row["value"] is None else row["value"] * (100 if row["unit"] == "fraction" else 1)
    if counted is not None:
        decimals = len(str(row["text"]).split()[0].partition(".")[2])
        status = "matched" if round(counted, decimals) == row["value"] else "differs"
        reason = row["note"] or "counted from the code, not measured"
    line = {
        "experiment": row["experiment"],
        "method": row["method"],
        "data set": row["dataset"],
        "IPC": row["ipc"] or "",
        "network": row["network"] if cell is None else cell.network,
        "variant": row["variant"],
        "published": row["text"],
        **{p: _spread(found[p]) if p in found else "" for p in ("full", "small")},
        **({} if counted is None else {"full": f"{counted:g}"}),
        "difference": "",
        "status": status,
        "reason": reason,
        "compared": compared,
        "seconds": round(sum(shown.seconds.values())) if shown else "",
        "memory MB": round(shown.memory_mb) if shown else "",
        "quantity": row["quantity"],
        "source": row["source"],
    }
    if shown and accuracy and published is not None and status != "stand-in":
        line["difference"] = f"{statistics.mean(shown.test_accuracy_pct) - published:+.1f}"
    return line


def _spread(record: Record) -> str:
    from .tables import spread

    return spread(record.test_accuracy_pct)


def _status(row: dict[str, Any], cell: Cell | None, found: dict[str, Record]) -> tuple[str, str, str]:
    """Status, reason in words, and the equality test's sentence."""
    if full := found.get("full"):
        if row["value"] is None:
            return "measured", STATUSES["measured"], ""
        scale = 100 if row["unit"] == "fraction" else 1
        std = None if row["std"] is None else row["std"] * scale
        test = statistics.equal_to_published(full.test_accuracy_pct, row["value"] * scale, std, row["trials"])
        return test.verdict, row["note"] or STATUSES[test.verdict], test.reason
    if small := found.get("small"):
        budget = small.key["protocol"]["name"]
        if small.key["dataset"] != row["dataset"]:
            return "stand-in", f"{budget} on {small.key['dataset']} in place of {row['dataset']}", ""
        return "budget", f"{budget}, {len(small.test_accuracy_pct)} networks on {len(set(small.sets))} set{'s' * (len(set(small.sets)) > 1)}", ""
    if row["status"] == reported.LOST:
        return "source lost", row["note"] or "the text of the paper that is at hand lacks it", ""
    if not _free(row["dataset"]):
        return "data not free", DATASETS[row["dataset"]].licence, ""
    if cell is None:
        known = row["experiment"] in experiment.experiments()
        return "not run", "no record at full budget" if known else "no experiment of this project measures it", ""
    task = experiment.experiment(cell.experiment).task(cell, experiment.check_parameters(cell.experiment, {"profile": "full"}))
    return "not run", task.reason if isinstance(task, Skip) else "needs the full budget; see `distill plan`", ""


def _free(dataset: str) -> bool:
    known = DATASETS.get(dataset)
    return known is None or known.family != "imagenet" or dataset in FREE


def summary(paper: str | None = None) -> pd.DataFrame:
    """Per table or figure: cells of each status that occurs, and all cells."""
    import pandas as pd

    table = rows(paper)
    counts = {name: Counter(part["status"]) for name, part in table.groupby("experiment", sort=False)}
    used = [s for s in STATUSES if any(c[s] for c in counts.values())]
    lines = [{"table or figure": name, **{s: c[s] for s in used}, "cells": c.total()} for name, c in counts.items()]
    return pd.DataFrame(lines)


def progress(paper: str | None = None) -> str:
    """'0 of 575 cells reproduced at full, 41 more measured at small'."""
    found = Counter(rows(paper)["status"])
    full = sum(found[s] for s in ("matched", "differs", "undecided", "measured"))
    return f"{full} of {found.total()} cells measured at full, {found['budget'] + found['stand-in']} more at small"


def differences(name: str, profile: str) -> pd.DataFrame:
    """Ours minus the paper's in the paper's layout, in percentage points; NaN where one of the two is missing.

    Args:
        profile: full or small. Of a stand-in data set no difference is given.
    """
    import pandas as pd

    cells = _cells(name)

    def text(row: dict[str, Any]) -> float | None:
        cell = cells.get(tuple(row[k] for k in reported.KEY))
        record = records.load(cell, profile) if cell else None
        if record is None or row["value"] is None or record.key["dataset"] != row["dataset"]:
            return None
        return statistics.mean(record.test_accuracy_pct) - row["value"] * (100 if row["unit"] == "fraction" else 1)

    return reported.matrix(name, show=text).map(lambda v: v if isinstance(v, float) else None).astype(pd.Float64Dtype()).astype(float)


def maps(profile: str) -> dict[str, pd.DataFrame]:
    """`differences` of every table that has at least one pair, in the order of the papers."""
    out = {}
    for name in reported.experiments():
        cells = _cells(name).values()
        if any(records.path(cell, profile).exists() for cell in cells) and (found := differences(name, profile)).notna().any(axis=None):
            out[name] = found
    return out
