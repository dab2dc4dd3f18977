"""Where the cells of an experiment stand: recorded, partial, missing, stale, damaged or skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .. import records
from ..core import paths
from ..core.errors import UserError
from ..records import Cell, Record
from ..records.summaries import RecordSummary, fingerprint, name_of, summaries
from .definition import Parameters, Skip, Task
from .registry import experiment

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
        sets: distilled sets that a record should hold, fewer or more than the profile plans; None for the profile's.
    """
    task = experiment(cell.experiment).task(cell, params)
    return Status(cell, "skipped", task.reason) if isinstance(task, Skip) else _compared(task, params.profile, sets)


def _compared(task: Task, profile: str, sets: int | None) -> Status:
    """Where a task's cell stands, from its record."""
    cell = task.cell
    try:
        record = records.load(cell, profile)
    except UserError as err:
        return Status(cell, "damaged", str(err), task)
    if record is None:
        return Status(cell, "missing", "never computed", task)
    if changed := records.differences(record.key, task.key):
        return Status(cell, "stale", "; ".join(changed), task, record)
    if left := missing_sets(task, record, sets):
        done = len(record.done)
        return Status(cell, "partial", f"{done} of {done + len(left)} sets recorded", task, record)
    return Status(cell, "recorded", f"measured {record.made_by.get('at', 'at an unknown time')}", task, record)


def missing_sets(task: Task, record: Record | None, sets: int | None = None) -> list[int]:
    """Numbers of the task's sets, or of its first `sets`, that the record does not hold yet."""
    return [i for i in range(task.wanted(sets)) if record is None or i not in record.done]


def plan(name: str, params: Parameters, cells: list[Cell] | None = None, sets: int | None = None) -> list[Status]:
    """The status of every cell the parameters select, or of some of them; `sets` as in `status`.

    Stale and partial cells carry their record; for recorded ones a cached summary is enough.
    """
    known, damaged = summaries(params.profile)
    definition, found = experiment(name), []
    for cell in definition.cells(params) if cells is None else cells:
        task, file = definition.task(cell, params), f"{cell.experiment}/{cell.stem}"
        summary = known.get(file)
        if isinstance(task, Skip):
            found.append(Status(cell, "skipped", task.reason))
        elif summary is None and file not in damaged:
            found.append(Status(cell, "missing", "never computed", task))
        elif summary and _holds(summary, task, sets):
            found.append(Status(cell, "recorded", f"measured {summary.at or 'at an unknown time'}", task))
        else:
            found.append(_compared(task, params.profile, sets))
    return found


def _holds(summary: RecordSummary, task: Task, sets: int | None) -> bool:
    """Whether a record is known to hold all of a task's sets, and as many as are asked for, under its settings."""
    same = (summary.cell, summary.settings) == (name_of(task.cell), fingerprint(task.key))
    return same and summary.sets >= max(task.num_sets, task.wanted(sets))


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
        states = ("computed", "reused", "failed", "skipped", "recorded", "partial", "missing", "stale")
        counts = {state: len(self.of(state)) for state in states}
        return ", ".join(f"{n} {state}" for state, n in counts.items() if n) + f" in {self.seconds:.0f} s"


def recorded(cell: Cell) -> Status:
    """Where a cell stands in the profile `recorded`, which shows the best record there is and computes nothing."""
    for profile in paths.RESULT_PROFILES:
        if record := records.load(cell, profile):
            return Status(cell, "recorded", profile, record=record)
    return Status(cell, "missing", "not run")
