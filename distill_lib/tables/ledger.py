"""The ledger: every cell of every table and figure with numbers: as printed, as measured here, and why they differ.

ledger.rows("skd")                 # a DataFrame, a row per printed cell
ledger.summary()                   # per table: how many cells of each status
ledger.progress()                  # the same in words
ledger.differences("skd/table1_accuracy", "small")   # for figures.heat_map
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from typing import Any

import pandas as pd

from .. import experiments, records
from ..core import paths
from ..core.settings import as_dict
from ..data import DATASETS
from ..evaluation import statistics
from ..experiments import Outcome, Skip
from ..records import Cell, Record, reported
from . import numbers

OWN, STAND_IN, UNDERFIT, COUNTED = "small, own data", "small, stand-in", numbers.UNDERFIT, "counted from code"
# status -> what it says; the first that holds
STATUSES = {
    "matched": "measured under the paper's protocol, equal within twice the published deviation",
    "differs": "measured under the paper's protocol, further off than twice the published deviation",
    "undecided": "measured under the paper's protocol, with too few sets or networks to tell",
    "measured": "measured under the paper's protocol; the source lost the number to compare with",
    UNDERFIT: "run at a small budget that left the networks near where training starts: no result",
    STAND_IN: "measured at a small budget, on another data set, at another resolution, or with another generator",
    OWN: "measured at a small budget on the paper's data; not comparable",
    COUNTED: "not a measurement: a size or setting, counted from the code",
    reported.OTHERS: "of another team, or an average of two cells: nothing to measure, so not in the total",
    "source lost": "not measured, and the number is missing in the source",
    "not public": "not measured: the data set, or weights, cannot be downloaded without registration",
    "not run": "not measured yet",
}
FULL = ("matched", "differs", "undecided", "measured")
BESIDE = "measured beside it: "
FREE = ("ImageNette", "ImageWoof")  # cuts of ImageNet that are published for download


def rows(paper: str | None = None) -> pd.DataFrame:
    """One row per cell that a paper prints, in the papers' order.

    Args:
        paper: skd, uvit, dgs or slfd; None for all.
    Returns: columns experiment, method, data set, IPC, network, variant, published; full and small: mean and spread as
        measured there ("underfit" where the networks are not trained); counted: our value where it is counted from the
        code; difference (percentage points, of full where there is one), status (one of `STATUSES`), reason, compared
        (the equality test's sentence), seconds and memory MB of the measurement, quantity, source; address, cite and
        record, see `html.Shown`.
    Raises: UserError: unknown paper; a damaged file of reported numbers or record.
    """
    names = reported.experiment_names(paper)
    return pd.DataFrame([line for name in names for line in _lines(name)])


def _kept(cell: Cell) -> dict[str, Record]:
    """The cell's records by profile."""
    return {p: r for p in paths.RESULT_PROFILES if (r := records.load(cell, p))}


def _lines(name: str) -> list[dict[str, Any]]:
    cells = _cells(name)
    found = ((row, cells.get(tuple(row[k] for k in reported.KEY))) for row in reported.cells_of(name))
    return [_row(row, cell, _kept(cell) if cell else {}) for row, cell in found]


def _cells(name: str) -> dict[tuple, Cell]:
    """The experiment's cell behind every printed row, by the row's key; a cell may fill several."""
    found: dict[tuple, Cell] = {}
    if name not in experiments.experiments():
        return found
    definition = experiments.experiment(name)
    for cell in definition.cells(experiments.check_parameters(name, {})):
        if definition.printed(cell):
            for row in reported.rows_of(name, cell.method, cell.dataset, cell.ipc, cell.network, cell.variant):
                found.setdefault(tuple(row[k] for k in reported.KEY), cell)
    return found


def _row(row: dict[str, Any], cell: Cell | None, found: dict[str, Record]) -> dict[str, Any]:
    row = reported.in_percent(row)
    status, reason, compared = _status(row, cell, found)
    if status in FULL:
        reason = "; ".join(filter(None, [reason, _beside(cell)]))
    counted = _counted(row)
    shown = found.get("full") or found.get("small")
    line = {
        "experiment": row["experiment"],
        "method": row["method"],
        "data set": row["dataset"],
        "IPC": row["ipc"] or "",
        "network": row["network"] if cell is None else cell.network,
        "variant": row["variant"],
        "published": row["text"],
        **{p: numbers.number(found[p], p) if p in found else "" for p in paths.RESULT_PROFILES},
        "counted": "" if counted is None else f"{counted:g}",
        "difference": "",
        "status": status,
        "reason": reason,
        "compared": compared,
        "seconds": round(sum(shown.seconds.values())) if shown else "",
        "memory MB": round(shown.memory_mb) if shown else "",
        "quantity": row["quantity"],
        "source": row["source"],
        "address": _address(row),
        "cite": f"{row['text']} ({row['quantity']}), {row['experiment']}, {row['source']}; here: {status}",
        "record": f"{next(iter(found))}/{cell.experiment}/{cell.stem}" if shown else "",
    }
    if status in (*FULL, OWN) and row["value"] is not None and row["quantity"].startswith("test_accuracy"):
        line["difference"] = f"{statistics.mean(shown.test_accuracy_pct) - row['value']:+z.1f}"
    return line


def _address(row: dict[str, Any]) -> str:
    """The id of a printed cell's row on a page: 'skd-table1_accuracy-dm-fashionmnist-10-convnet'."""
    parts = [*(str(row[k]) for k in reported.KEY if row[k]), row["quantity"].removeprefix("test_accuracy_pct")]
    return re.sub(r"[^a-z0-9_.]+", "-", "-".join(parts).lower()).strip("-")


def _beside(cell: Cell) -> str:
    """What the cell gives at full budget under protocols and readings that are not printed: measured reasons."""
    definition = experiments.experiment(cell.experiment)
    same = {"protocol": "", "variant": ""}
    said = [
        f"{numbers.number(record, 'full')} {f'with {other.variant}' if other.variant else f'under {other.protocol}'}"
        for other in definition.cells(experiments.check_parameters(cell.experiment, {}))
        if not definition.printed(other) and dataclasses.replace(other, **same) == dataclasses.replace(cell, **same)
        if (record := records.load(other, "full"))
    ]
    return f"{BESIDE}{', '.join(said)}" if said else ""


def _counted(row: dict[str, Any]) -> float | None:
    """Our value of a printed row, if it follows from the code without a measurement."""
    known = experiments.experiments().get(row["experiment"])
    return known.counted(row) if known else None


def _status(row: dict[str, Any], cell: Cell | None, found: dict[str, Record]) -> tuple[str, str, str]:
    """Status, reason in words, and the equality test's sentence."""
    if found:
        profile = next(iter(found))  # full comes first
        return judge(found[profile], profile, row)
    if (counted := _counted(row)) is not None:
        same = round(counted, len(str(row["text"]).split()[0].partition(".")[2])) == row["value"]
        return COUNTED, "; ".join(filter(None, ["equal as printed" if same else "not equal", row["note"]])), ""
    if row["status"] == reported.OTHERS:
        return reported.OTHERS, row["note"] or "an entry of another team", ""
    if row["status"] == reported.LOST:
        return "source lost", row["note"] or "the text of the paper that is at hand lacks it", ""
    if not _free(row["dataset"]):
        return "not public", DATASETS[row["dataset"]].licence, ""
    if cell is None:
        known = row["experiment"] in experiments.experiments()
        return "not run", "no record at full budget" if known else "no experiment of this project measures it", ""
    task = _full_task(cell)
    return "not run", task.reason if isinstance(task, Skip) else "needs the full budget; see `distill plan`", ""


def judge(record: Record, profile: str, row: dict[str, Any] | None) -> tuple[str, str, str]:
    """What a record says of a printed number.

    Args:
        profile: the record's: full, small or smoke.
        row:     the number as `reported.lookup` gives it; None where the paper prints none.
    Returns: status (of `STATUSES`; "smoke"; or "not printed" for a full record without a row), reason in words, and the
        sentence of a full record's equality test.
    """
    untrained = records.underfit(record)
    parts = [record.key["protocol"]["name"], records.sets_and_networks(record), _stale(record, profile)]
    if profile == "full":
        of_data = [note for note in record.made_by.get("data_notes", []) if not note.startswith("not read from ")]
        parts += [*of_data, untrained and f"the networks hardly train: {untrained}"]
        reason = "; ".join(filter(None, [*parts, row and row["note"]]))
        if row is None or row["value"] is None:
            return "not printed" if row is None else "measured", reason, ""
        values = record.test_accuracy_pct
        several = max(len(record.done), record.key.get("num_sets", 1)) > 1
        sets = record.sets if several else None  # one set is all there is: networks vary
        test = statistics.equal_to_published(values, row["value"], row["std"], row["trials"], sets=sets)
        return test.verdict, reason, test.reason
    other = stand_in(record)
    reason = ", ".join(filter(None, [*parts, other, untrained]))
    return "smoke" if profile == "smoke" else UNDERFIT if untrained else STAND_IN if other else OWN, reason, ""


def _stale(record: Record, profile: str) -> str:
    """How a record's settings differ from those of today, in words; "" if they are the same or it has none."""
    definition = experiments.experiment(record.cell.experiment)
    task = definition.task(record.cell, experiments.check_parameters(record.cell.experiment, {"profile": profile}))
    changed = [] if isinstance(task, Skip) or "code" not in record.key else records.differences(record.key, task.key)
    more = f" and {len(changed) - 1} more" * (len(changed) > 1)
    return f"stale ({changed[0]}{more})" if changed else ""


def stand_in(record: Record) -> str:
    """What was measured on or with in place of what the full profile takes, in words; "" where both are the same.

    Another data set, another resolution of it, and a generator of another family or with other weights are stand-ins.
    Fewer steps, epochs or images and narrower networks are not: they are the budget.
    """
    task = _full_task(record.cell)
    wanted = record.cell.dataset if isinstance(task, Skip) else task.dataset
    said = [] if record.key["dataset"] == wanted else [f"on {record.key['dataset']} in place of {wanted}"]
    if not isinstance(task, Skip) and "config" in record.key:
        other = records.differences(record.key["config"], as_dict(task.config))
        changed = (line.replace("'", "").replace("None", "none").split(": ", 1) for line in other)
        said += [
            f"the generator's {field.rpartition('.')[2]} {values.replace(' -> ', ' in place of ')}"
            for field, values in changed
            if field.endswith((".family", ".weights"))
        ]
    return ", ".join(said)


@functools.lru_cache(maxsize=4096)
def _full_task(cell: Cell) -> experiments.Task | Skip:
    definition = experiments.experiment(cell.experiment)
    return definition.task(cell, experiments.check_parameters(cell.experiment, {"profile": "full"}))


def _free(dataset: str) -> bool:
    known = DATASETS.get(dataset)
    return known is None or known.family != "imagenet" or dataset in FREE


# --- counting ---------------------------------------------------------------------------------------------------------
def counts(paper: str | None = None) -> dict[str, Counter[str]]:
    """`counts_of` every table and figure, in the papers' order."""
    return {name: counts_of(name) for name in reported.experiment_names(paper)}


def counts_of(name: str) -> Counter[str]:
    """How many cells that a table or figure prints have which status; none for one without numbers."""
    known = name in reported.experiment_names(name.split("/")[0])
    return Counter(line["status"] for line in _lines(name)) if known else Counter()


def total(found: Counter[str]) -> int:
    """Cells that could be measured: all but others' entries."""
    return found.total() - found[reported.OTHERS]


def sentence(found: Counter[str]) -> str:
    """Statuses in words, a line each: "0 of 535 cells measured at the paper's protocol.", ..."""

    def listed(head: str, words: dict[str, str]) -> str:
        said = [f"{found[status]} {about}".strip() for status, about in words.items() if found[status]]
        return f"{head}: {', '.join(said)}." if said else ""

    verdicts = ", ".join(f"{found[status]} {status}" for status in FULL if found[status])
    full = f"{sum(found[status] for status in FULL)} of {total(found)} cells measured at the paper's protocol"
    small = {OWN: "on the paper's data", STAND_IN: "on stand-ins", UNDERFIT: "underfit, which are no results"}
    missing = {"source lost": "lost in the source", "not public": "not public", "not run": "not run"}
    lines = [
        f"{full} ({verdicts})." if verdicts else f"{full}.",
        listed("At a small budget", small),
        listed("Counted from the code", {COUNTED: ""}),
        listed("Not measured", missing),
        listed("Others' entries, not among these cells", {reported.OTHERS: ""}),
    ]
    return "\n".join(filter(None, lines))


def progress(paper: str | None = None) -> str:
    """What became of the cells of a paper, or of all, in words."""
    return sentence(sum(counts(paper).values(), Counter()))


def incomplete() -> int:
    """How many printed numbers have a record at full budget with fewer sets than its protocol asks for."""
    found = 0
    for name in reported.experiment_names():
        cells = _cells(name)
        of_rows = (cells.get(tuple(row[k] for k in reported.KEY)) for row in reported.cells_of(name))
        kept = [records.load(cell, "full") for cell in of_rows if cell]
        found += sum(len(record.done) < record.key.get("num_sets", 1) for record in kept if record)
    return found


def gaps(paper: str | None = None) -> numbers.Findings:
    """The cells of a paper, or of all, that differ from print at full budget, and what else was measured of each: why
    they may differ."""
    out = []
    for line in (line for name in reported.experiment_names(paper) for line in _lines(name)):
        if line["status"] == "differs":
            cell = ", ".join(filter(None, [line["method"], line["data set"], line["IPC"] and f"IPC {line['IPC']}"]))
            _, found, beside = line["reason"].partition(BESIDE)
            beside = f"{BESIDE}{beside}" if found else "nothing else was measured of it so far"
            out.append(f"{cell}: printed {line['published']}, here {line['full']}; {beside}.")
    return numbers.Findings(out or ["No cell differs so far."])


def of_outcome(outcome: Outcome) -> str:
    """`progress` for the printed cells of a run's outcome, by the records that the outcome shows."""
    cells = dict.fromkeys(s.cell for s in outcome)
    found: Counter[str] = Counter()
    done = 0
    for name in dict.fromkeys(c.experiment for c in cells):
        of = _cells(name)
        whole = set(of.values()) <= cells.keys()  # a selection is not about rows without a cell
        for row in reported.cells_of(name):
            cell = of.get(tuple(row[k] for k in reported.KEY))
            if cell in cells or (cell is None and whole):
                shown = numbers.records_of(cell, outcome) if cell else {}
                done += bool(shown)
                found[_status(reported.in_percent(row), cell, shown)[0]] += 1
    smoke = outcome.params.profile == "smoke"
    said = [f"{done} of {total(found)} cells run at smoke, which gives no results." if smoke else sentence(found)]
    if not found:
        said = ["The paper prints none of the cells asked for."]
    left = dict.fromkeys(s.why for s in outcome.of("skipped") if s.why)
    return "\n".join([*said, *([f"Left out: {'; '.join(left)}."] if left else [])])


def summary(paper: str | None = None) -> pd.DataFrame:
    """Per table or figure: cells of each status that occurs, and all cells but others' entries."""
    found = counts(paper)
    used = [s for s in STATUSES if any(c[s] for c in found.values())]
    titles = {name: e.title for name, e in experiments.experiments().items()}
    lines = [
        {"table or figure": titles.get(name, name), "cells": total(c), **{s: c[s] for s in used}, "page": name}
        for name, c in found.items()
    ]
    return pd.DataFrame(lines)


# --- differences ------------------------------------------------------------------------------------------------------
def differences(name: str, profile: str) -> pd.DataFrame:
    """Ours minus the paper's in the paper's layout, in percentage points; NaN where one of the two is missing.

    Args:
        profile: full or small. Of a stand-in, and of networks that are not trained, no difference is given.
    """
    cells = _cells(name)

    def difference(row: dict[str, Any]) -> float | None:
        cell, row = cells.get(tuple(row[k] for k in reported.KEY)), reported.in_percent(row)
        record = records.load(cell, profile) if cell and row["value"] is not None else None
        if record is None or judge(record, profile, row)[0] not in (*FULL, OWN):
            return None
        return statistics.mean(record.test_accuracy_pct) - row["value"]

    found = reported.matrix(name, show=difference).map(lambda v: v if isinstance(v, float) else None)
    return found.astype(pd.Float64Dtype()).astype(float)


def maps(profile: str) -> dict[str, pd.DataFrame]:
    """`differences` of every table that has at least one pair, in the order of the papers."""
    out = {}
    for name in reported.experiment_names():
        cells = _cells(name).values()
        if any(records.path(cell, profile).exists() for cell in cells) and (
            found := differences(name, profile)
        ).notna().any(axis=None):
            out[name] = found
    return out
