"""One cell's numbers: as printed, as measured, and how they are said."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from .. import records
from ..core import paths
from ..data import sized
from ..evaluation import statistics
from ..experiments import Outcome
from ..experiments.registry import paper_data
from ..records import Cell, Record, reported

NOT_RUN, NOT_PRINTED, UNDERFIT = "not run", "not in the paper", "underfit"


class Findings(list[str]):
    """Sentences: a bullet list on a page, a paragraph where there is one alone, lines of text elsewhere."""

    def _repr_markdown_(self) -> str:
        if len(self) == 1:
            return self[0]
        return "\n".join(f"- {sentence}" for sentence in self)

    def __repr__(self) -> str:
        return "\n".join(self)


def published(cell: Cell, outcome: Outcome) -> dict[str, Any] | None:
    """The row of the reported numbers for a cell, or None where the paper prints no such cell."""
    if not outcome.printed(cell):
        return None
    return reported.lookup(cell.experiment, cell.method, cell.dataset, cell.ipc, cell.network, cell.variant)


def spread(values: list[float], digits: int = 1) -> str:
    """'48.9 ± 0.6': mean and population standard deviation over networks; the mean alone for a single network."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.std(values):.{digits}f}"


def number(record: Record, profile: str) -> str:
    """A record as a result: mean, spread, and "(2 of 5 sets)" where sets are missing; "underfit" where small trained
    too little."""
    if profile == "small" and records.underfit(record):
        return UNDERFIT
    done, planned = len(record.done), record.key.get("num_sets", 1)
    return spread(record.test_accuracy_pct) + f" ({done} of {planned} sets)" * (done < planned)


def on_common_sets(found: list[Record]) -> list[Record]:
    """Each record's accuracies on the sets that all of them hold, without further measurements; [] where they share no
    set."""
    shared = set.intersection(*(set(r.sets) for r in found))
    out = []
    for r in found if shared else ():
        values, sets = zip(*((v, i) for v, i in zip(r.test_accuracy_pct, r.sets, strict=True) if i in shared))
        out.append(dataclasses.replace(r, test_accuracy_pct=list(values), sets=list(sets), metrics={}))
    return out


def records_of(cell: Cell, outcome: Outcome) -> dict[str, Record]:
    """Records of a cell by profile: full and small in the recorded view, else the run's own profile."""
    if outcome.params.profile == "recorded":
        return {p: r for p in paths.RESULT_PROFILES if (r := records.load(cell, p))}
    record = next((s.record for s in outcome if s.cell == cell and s.record), None)
    return {outcome.params.profile: record} if record else {}


def device(record: Record, unnamed: str = "") -> str:
    """The device that made a record, in words; records say "1 threads"."""
    return re.sub(r"\b1 threads$", "1 thread", record.made_by.get("device", unnamed))


def each(outcome: Outcome) -> Iterator[tuple[Cell, str, Record]]:
    """Every measured cell of an outcome: cell, profile, record."""
    for status in outcome:
        for profile, record in records_of(status.cell, outcome).items():
            yield status.cell, profile, record


def heading(profile: str, record: Record, cell: Cell) -> str:
    """Column heading of our numbers; a stand-in data set is named."""
    data = record.key["dataset"]
    return f"ours, {profile}" + ("" if data in (cell.dataset, paper_data(cell)) else f", on {data}")


def data_name(dataset: str) -> str:
    """'ImageWoof at 64 px' for ImageWoof@64px."""
    name, side, _ = sized(dataset)
    return name if side is None else f"{name} at {side} px"
