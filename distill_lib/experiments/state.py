"""Where the cells of an experiment stand: recorded, partial, missing, stale, damaged or skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import records
from ..core.errors import UserError
from ..records import Cell, Record
from ..records import summaries as records_summaries
from ..records.summaries import Summary, fingerprint, name
from .definition import Parameters, Skip, Task
from .registry import _definition, experiment

# --- state -------------------------------------------------------------------------------------------------------------
TO_COMPUTE = ("missing", "partial", "stale")  # states of cells that a run computes


@dataclass(frozen=True)
class Status:
    """Where a cell stands: `state` is recorded, partial (sets are missing), missing, stale, damaged or skipped; `why`
    says so in words."""

    cell: Cell
    state: str
    why: str = ""
    task: Task | None = None
    record: Record | None = None


def status(cell: Cell, params: Parameters, sets: int | None = None) -> Status:
    """Where a cell stands in the profile of `params`, without loading data.

    Args:
        sets: distilled sets that are enough, where the profile's number is larger; None for the profile's.
    """
    task = _definition(cell).task(cell, params)
    if isinstance(task, Skip):
        return Status(cell, "skipped", task.reason)
    try:
        record = records.load(cell, params.profile)
    except UserError as err:
        return Status(cell, "damaged", str(err), task)
    if record is None:
        return Status(cell, "missing", "never computed", task)
    changed = differences(record.key, task.key)
    if changed:
        return Status(cell, "stale", "; ".join(changed), task, record)
    if left := missing_sets(task, record, sets):
        return Status(
            cell, "partial", f"{len(record.done)} of {len(record.done) + len(left)} sets recorded", task, record
        )
    return Status(cell, "recorded", f"measured {record.made_by.get('at', 'at an unknown time')}", task, record)


def missing_sets(task: Task, record: Record | None, sets: int | None = None) -> list[int]:
    """Numbers of the task's sets, or of its first `sets`, that the record does not hold yet."""
    wanted = task.num_sets if sets is None else min(sets, task.num_sets)
    return [i for i in range(wanted) if record is None or i not in record.done]


def plan(name: str, params: Parameters, cells: list[Cell] | None = None, sets: int | None = None) -> list[Status]:
    """The status of every cell the parameters select, or of some of them; `sets` as in `status`.

    The record itself is with those that are stale or partial; what is recorded was read and checked now or, if its file
    was not touched since, before.
    """
    summaries, damaged = records_summaries.summaries(params.profile)
    cells = experiment(name).cells(params) if cells is None else cells
    return [_planned(cell, params, summaries, damaged, sets) for cell in cells]


def _planned(
    cell: Cell, params: Parameters, summaries: dict[str, Summary], damaged: dict[str, str], sets: int | None
) -> Status:
    """As `status`, without reading a record that is known to be good and of these settings."""
    task = _definition(cell).task(cell, params)
    if isinstance(task, Skip):
        return Status(cell, "skipped", task.reason)
    file = f"{cell.experiment}/{cell.stem}"
    summary = summaries.get(file)
    if summary is None:
        return (
            Status(cell, "damaged", damaged[file], task)
            if file in damaged
            else Status(cell, "missing", "never computed", task)
        )
    if summary.cell == name(cell) and summary.settings == fingerprint(task.key) and summary.sets >= task.num_sets:
        return Status(cell, "recorded", f"measured {summary.at or 'at an unknown time'}", task)
    return status(cell, params, sets)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What changed between two nested settings, one line each: 'config.iterations: 500 -> 20001'.

    The data hash is compared when the data is loaded, not here: `new` need not hold it.
    """
    out = []
    for k in sorted(old.keys() | new.keys()):
        a, b = old.get(k), new.get(k)
        if k == "data_sha256" or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{prefix}{k}.")
        else:
            out.append(f"{prefix}{k}: {a!r} -> {b!r}")
    return out


# --- running -----------------------------------------------------------------------------------------------------------
@dataclass
class Outcome:
    """What a run did: a status per cell (state computed, reused, skipped or failed) and the records it can show.

    `printed` says which cells the paper prints.
    """

    params: Parameters
    statuses: list[Status] = field(default_factory=list)
    printed: Callable[[Cell], bool] = lambda cell: True
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Status]:
        return iter(self.statuses)

    def of(self, state: str) -> list[Status]:
        return [s for s in self.statuses if s.state == state]

    @property
    def summary(self) -> str:
        """One line: cells computed, reused, skipped, failed."""
        counts = {
            s: len(self.of(s))
            for s in ("computed", "reused", "failed", "skipped", "recorded", "partial", "missing", "stale")
        }
        return ", ".join(f"{n} {s}" for s, n in counts.items() if n) + f" in {self.seconds:.0f} s"


def _recorded(cell: Cell) -> Status:
    for profile in ("full", "small"):
        if record := records.load(cell, profile):
            return Status(cell, "recorded", profile, record=record)
    return Status(cell, "missing", "not run")
