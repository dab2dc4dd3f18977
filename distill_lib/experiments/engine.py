"""Compute what is missing, one cell after the other, and say what was done."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from filelock import FileLock, Timeout

from .. import records
from ..core import paths
from ..core.device import pick
from ..core.errors import TimeUp, UserError
from ..core.files import DiskFull, full, sweep, unwritable
from ..core.progress import Activity
from ..records import Cell
from . import compute as _compute
from .definition import Parameters
from .registry import experiment
from .state import Outcome, Status, _recorded, status


def run(
    name: str,
    params: Parameters,
    cells: list[Cell] | None = None,
    time_limit: float | None = None,
    say: Callable[[str], None] | None = None,
    device: str | None = None,
    strict: bool = True,
    sets: int | None = None,
    wait: bool = True,
) -> Outcome:
    """Compute the cells that are missing or stale in the profile of `params`, and the sets that partial ones lack;
    reuse the others.

    A cell's record is written after each of its distilled sets, so it grows set by set. In the `recorded` profile
    nothing is computed.

    Args:
        cells:      a selection; by default every cell the parameters select.
        time_limit: seconds after which to save and stop; the next run goes on from there.
        say:        where a line per cell goes before it is computed, and the summary; by default only the summary is
        printed. strict:     raise where cells failed; without, the outcome's statuses say so.
        sets:       compute the first so many distilled sets of each cell; by default all that the profile has.
        wait:       for cells that another process computes; without, the outcome leaves them out.
    Raises: UserError: cells failed (after all others have run).  DiskFull: at once.  TimeUp: the limit was reached.
    """
    start = time.monotonic()
    this = experiment(name)
    cells = this.cells(params) if cells is None else cells
    if params.profile == "recorded":
        return Outcome(params, [_recorded(cell) for cell in cells], printed=this.printed)
    tell, say = say or (lambda line: None), say or print
    pick(device)  # an unknown device stops here, not in every cell
    records.code_state()  # remembered: the checkout may change while cells are computed
    outcome, deadline = Outcome(params, printed=this.printed), None if time_limit is None else start + time_limit
    waiting, first_round = list(cells), len(cells)
    activity = Activity(params.profile, len(cells))
    for folder in {records.path(c, params.profile).parent for c in cells} | {paths.runs() / params.profile / "sets"}:
        sweep(folder)
    while waiting:
        cell = waiting.pop(0)
        first_round -= 1
        lock = paths.runs() / "locks" / params.profile / cell.experiment / f"{cell.stem}.lock"
        try:  # a cell another process is computing goes to the end of the queue
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=0 if first_round >= 0 else 5):
                result = _one(cell, params, deadline, tell, device, activity, len(outcome.statuses) + 1, sets)
        except Timeout:
            if not wait:
                continue
            waiting.append(cell)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeUp("the time limit was reached while another run computed the rest") from None
            continue
        except OSError as err:
            raise unwritable(lock, err) from None
        outcome.statuses.append(result)
        _note(result)
    outcome.seconds = time.monotonic() - start
    return ended(outcome, name, params, cells, strict, say)


def ended(
    outcome: Outcome, name: str, params: Parameters, cells: list[Cell], strict: bool, say: Callable[[str], Any]
) -> Outcome:
    """A run's outcome in the order of its cells, said in one line. Raises: UserError: with `strict`, if cells failed;
    names each."""
    order = {cell: i for i, cell in enumerate(cells)}
    outcome.statuses.sort(key=lambda s: order[s.cell])
    say(f"{name} [{params.profile}]: {outcome.summary}")
    if strict and (failed := outcome.of("failed")):
        raise UserError(
            f"{len(failed)} of {len(cells)} cells failed: " + "; ".join(f"{s.cell}: {s.why}" for s in failed)
        )
    return outcome


def _one(
    cell: Cell,
    params: Parameters,
    deadline: float | None,
    say: Callable[[str], None],
    device: str | None,
    activity: Activity,
    number: int,
    sets: int | None = None,
) -> Status:
    now = status(cell, params, sets)
    if now.state == "skipped":
        return now
    if now.state == "damaged":  # never overwritten: whoever damaged it decides
        return Status(cell, "failed", now.why, now.task)
    try:
        if now.state in ("recorded", "partial"):
            if changed := _data_change(now):
                now = Status(cell, "stale", changed, now.task, now.record)
            elif now.state == "recorded":
                return Status(cell, "reused", now.why, now.task, now.record)
        why = "" if now.state == "missing" else f"{now.state}: {now.why}"
        say(f"[{number}/{activity.cells}] computing {cell}" + (why and f", {why}"))
        with activity.cell(cell, number, why):
            known = now.record if now.state == "partial" else None
            record = _compute.compute(
                now.task,
                params.profile,
                deadline,
                device,
                activity,
                known,
                sets,
                keep=lambda grown: grown.save(params.profile),
            )
            activity.note(
                f"recorded: {', '.join(f'{v:.1f}' for v in record.test_accuracy_pct)} % in {records.cost(record)}"
            )
    except (TimeUp, DiskFull, KeyboardInterrupt):
        raise
    except Exception as err:  # the other cells go on; the failure is reported at the end
        if full(err, paths.runs()):
            raise DiskFull(f"{cell}: {err}") from None
        if not isinstance(err, (UserError, OSError)):
            traceback.print_exc()
        say(f"{cell}: failed: {err}")
        return Status(cell, "failed", f"{type(err).__name__}: {err}", now.task)
    return Status(cell, "computed", "", now.task, record)


def _data_change(now: Status) -> str:
    """Whether the data set at hand is another one than the record's; '' where it is the same or not at hand."""
    stored = now.record.key.get("data_sha256")
    try:
        real, test = _compute._load(now.task.dataset, "cpu")
    except UserError:
        return ""
    current = {"train": real.sha256(), "test": test.sha256()}
    return "" if stored == current else "the data set's pixels or labels differ from the recorded ones"


def _note(result: Status) -> None:
    """Tell the process that runs the notebooks what happened to a cell (a JSON line in the file `DISTILL_SUMMARY`)."""
    if file := os.environ.get("DISTILL_SUMMARY"):
        seconds = sum(result.record.seconds.values()) if result.state == "computed" else 0.0
        line = {
            "experiment": result.cell.experiment,
            "cell": result.cell.stem,
            "state": result.state,
            "seconds": seconds,
        }
        with open(file, "a") as f:
            f.write(json.dumps(line) + "\n")
