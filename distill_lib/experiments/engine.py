"""Compute what is missing, one cell after the other, and say what was done."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import records
from ..core import paths
from ..core.device import pick
from ..core.errors import TimeUp, UserError
from ..core.files import DiskFull, check_writable, full, sweep, unwritable
from ..core.progress import Activity
from ..records import Cell
from . import compute
from .compute import Run
from .definition import Parameters
from .registry import experiment
from .state import Outcome, Status, recorded, status


def lock_file(cell: Cell, profile: str) -> Path:
    """Whoever computes a cell holds this lock."""
    return paths.runs() / "locks" / profile / cell.experiment / f"{cell.stem}.lock"


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
        say:        is given a line before each cell is computed, and the summary; by default only the summary is
                    printed.
        strict:     raise if cells failed; otherwise the outcome's statuses say so.
        sets:       distilled sets to compute of each cell, from the first on; by default all that the profile has.
        wait:       for cells that another process computes; otherwise the outcome leaves them out.
    Raises: UserError: cells failed (after all others have run).  DiskFull: at once.  TimeUp: the limit was reached.
    """
    start = time.monotonic()
    this = experiment(name)
    cells = this.cells(params) if cells is None else cells
    if params.profile == "recorded":
        return Outcome(params, [recorded(cell) for cell in cells], printed=this.printed)
    tell, say = say or (lambda line: None), say or print
    pick(device)  # an unknown device stops here, not in every cell
    records.code_state()  # remembered: the checkout may change while cells are computed
    outcome, waiting, first_round = Outcome(params, printed=this.printed), list(cells), len(cells)
    deadline = None if time_limit is None else start + time_limit
    how = Run(params.profile, deadline, device, Activity(len(cells)))
    for folder in {records.path(c, params.profile).parent for c in cells} | {paths.runs() / params.profile / "sets"}:
        sweep(folder)
    while waiting:
        cell = waiting.pop(0)
        first_round -= 1
        lock = lock_file(cell, params.profile)
        try:  # a cell another process is computing goes to the end of the queue
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=0 if first_round >= 0 else 5):
                result = _one(cell, params, how, tell, len(outcome.statuses) + 1, sets)
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
    """A run's outcome in the order of its cells, said in one line. Raises: UserError: with `strict`, naming each cell
    that failed."""
    order = {cell: i for i, cell in enumerate(cells)}
    outcome.statuses.sort(key=lambda s: order[s.cell])
    say(f"{name} [{params.profile}]: {outcome.summary}")
    if strict and (failed := outcome.of("failed")):
        each = "; ".join(f"{s.cell}: {s.why}" for s in failed)
        raise UserError(f"{len(failed)} of {len(cells)} cells failed: {each}")
    return outcome


def _one(cell: Cell, params: Parameters, how: Run, say: Callable[[str], None], number: int, sets: int | None) -> Status:
    """Compute a cell, the `number`th of the run, unless its record can be reused."""
    now = status(cell, params, sets)
    if now.state == "skipped":
        return now
    if now.state == "damaged":  # never overwritten: whoever damaged it decides
        return Status(cell, "failed", now.why, now.task)
    try:
        if now.state in ("recorded", "partial"):
            if changed := data_change(now):
                now = Status(cell, "stale", changed, now.task, now.record)
            elif now.state == "recorded":
                return Status(cell, "reused", now.why, now.task, now.record)
        check_writable(paths.results(how.profile))
        why = "" if now.state == "missing" else f"{now.state}: {now.why}"
        say(f"[{number}/{how.listener.cells}] computing {cell}" + (why and f", {why}"))
        with how.listener.cell(cell, how.profile, number, why):
            known = now.record if now.state == "partial" else None
            record = compute.compute(now.task, how, known, sets, keep=lambda grown: grown.save(how.profile))
            accuracies = ", ".join(f"{v:.1f}" for v in record.test_accuracy_pct)
            how.listener.note(f"recorded: {accuracies} % in {records.cost(record)}")
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


def data_change(now: Status) -> str:
    """How the data set at hand differs from the record's; "" if it is the same or not at hand."""
    stored = now.record.key.get("data_sha256")
    try:
        real, test = compute.load_on(now.task.dataset, "cpu")
    except UserError:
        return ""
    current = {"train": real.sha256(), "test": test.sha256()}
    return "" if stored == current else "the data set's pixels or labels differ from the recorded ones"


def _note(result: Status) -> None:
    """Tell the process that runs the notebooks what happened to a cell (a JSON line in the file `DISTILL_SUMMARY`)."""
    if file := os.environ.get("DISTILL_SUMMARY"):
        cell, state = result.cell, result.state
        seconds = sum(result.record.seconds.values()) if state == "computed" else 0.0
        line = {"experiment": cell.experiment, "cell": cell.stem, "state": state, "seconds": seconds}
        with open(file, "a") as f:
            f.write(json.dumps(line) + "\n")
