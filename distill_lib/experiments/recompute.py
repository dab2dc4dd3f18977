"""Recorded cells computed anew on this machine, with nothing reused, beside their records. Book page:
book/scale_out.md"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from .. import records
from ..core import paths, store
from ..core.device import describe, pick, processor
from ..core.errors import UserError
from ..core.files import write_json
from ..core.progress import Activity
from ..evaluation import statistics
from ..records import Cell, Record
from . import compute, engine, state
from .compute import Run
from .definition import Parameters
from .registry import experiment

FOLDER = "recomputed"  # below the results: recomputed/<machine>/<profile>/<paper>/<table>/<cell>.json


@dataclass(frozen=True)
class Recomputed:
    """A cell's record and the same sets and networks computed once more."""

    record: Record
    again: Record

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """Accuracy recorded and computed again, in percent, of every network of the sets that both hold."""
        recorded, again = (r.by_set() for r in (self.record, self.again))
        return [pair for i in recorded.keys() & again.keys() for pair in zip(recorded[i], again[i], strict=True)]

    @property
    def mean_difference(self) -> float:
        """Of the mean accuracy, in points."""
        return sum(b - a for a, b in self.pairs) / len(self.pairs)

    @property
    def largest_difference(self) -> float:
        """Of a network's accuracy, in points, without its sign."""
        return max(abs(b - a) for a, b in self.pairs)

    @property
    def spread(self) -> float | None:
        """Standard deviation between the means of sets from several seeds, in points; None with a single set."""
        each = (self.again if len(self.again.done) > 1 else self.record).by_set()
        return statistics.std([statistics.mean(v) for v in each.values()], ddof=1) if len(each) > 1 else None

    def __str__(self) -> str:
        if self.largest_difference == 0:
            return f"{len(self.pairs)} networks with the same accuracy"
        means = " against ".join(f"{statistics.mean(values):.2f}" for values in zip(*self.pairs, strict=True))
        spread = "" if self.spread is None else f"; the standard deviation between sets is {self.spread:.2f}"
        return (
            f"{means} % computed again: {self.mean_difference:+z.2f} points, at most {self.largest_difference:.2f} in "
            f"a network{spread}"
        )


def recompute(
    name: str,
    params: Parameters,
    cells: list[Cell] | None = None,
    sets: int | None = None,
    keep: bool = False,
    say: Callable[[str], None] = print,
    device: str | None = None,
    time_limit: float | None = None,
) -> list[Recomputed]:
    """Compute recorded cells anew: generators, feature networks, distilled sets, evaluation.

    Everything is made in a folder of its own inside `runs/`, which is emptied at the end; a run that was stopped goes
    on from there. Records are not changed.

    Args:
        cells: a selection; by default every cell of the profile, of which those without a valid record are left out.
        sets:  how many, from the first on; by default those of the record. Further ones are not compared: they tell how
               far the number moves with the seed.
        keep:  write what was computed to `results/recomputed`, which the book shows.
    Raises: UserError: no record to compare with; other data than the record's.  TimeUp: the limit was reached.
    """
    if keep and params.profile == "smoke":
        raise UserError("only numbers of small and full are kept; leave --keep out at smoke")
    deadline, place = None if time_limit is None else time.monotonic() + time_limit, pick(device)
    known = [state.status(cell, params) for cell in cells or experiment(name).cells(params)]
    leading = {s.cell: _leading(s.record) for s in known if s.state in ("recorded", "partial")}
    valid = [s for s in known if leading.get(s.cell)]
    if not valid:
        raise UserError(
            f"{name}: no recorded cell to compare with; see `distill plan {name} --profile {params.profile}`"
        )
    if without := len(known) - len(valid):
        say(f"left out, without a valid record: {without} cells")
    for s in valid:
        if changed := engine.data_change(s):
            raise UserError(f"{s.cell}: {changed}, so its number cannot be the same")
    by = records.code_state()  # remembered: the checkout may change while cells are computed
    code = by.get("commit", "")[:9]
    if by.get("changed_since_commit"):  # what another state of the code has begun is not gone on with
        files = sorted((paths.ROOT / "distill_lib").rglob("*.py"))
        code += f"-changed-{store.digest([f.read_text() for f in files])[:9]}"
    found, listener = [], Activity(len(valid))  # of this `runs` folder, where `distill watch` looks
    with _runs_of_its_own(f"{name.replace('/', '-')}-{params.profile}-{_machine(place)}-{code or 'unknown-code'}"):
        how = Run(params.profile, deadline, device, listener)
        for number, s in enumerate(valid, 1):
            wanted = sets or leading[s.cell]
            task = dataclasses.replace(s.task, num_sets=max(s.task.num_sets, wanted))
            with how.listener.cell(s.cell, params.profile, number, ""):
                file = paths.runs() / "again" / s.cell.experiment / f"{s.cell.stem}.json"
                so_far = records.read(file) if file.exists() else None  # of a run that was stopped
                so_far = so_far if so_far and not s.record.differs(so_far, num_sets=False) else None
                if so_far and "num_sets" in so_far.key:
                    so_far = dataclasses.replace(so_far, key={**so_far.key, "num_sets": task.num_sets})
                save = functools.partial(_save, file)
                again = compute.compute(task, how, so_far, wanted, save)
            found.append(Recomputed(s.record, again))
            say(f"[{number}/{len(valid)}] {s.cell}: {found[-1]}")
            if keep:
                _keep(again, f"{FOLDER}/{_machine(place)}/{params.profile}", say)
    return found


def _save(file: Path, record: Record) -> None:
    write_json(file, record.to_json())


def _keep(again: Record, folder: str, say: Callable[[str], None]) -> None:
    """Write a cell to the book's comparison, unless the record that is there holds more sets of the same settings."""
    before = records.load(again.cell, folder)
    if before and not before.differs(again, num_sets=False) and set(before.done) > set(again.done):
        say(f"  not kept: {len(before.done)} sets computed again on such a machine are there already")
    else:
        again.save(folder)


def comparisons() -> list[Recomputed]:
    """What `keep` wrote, beside the records it was compared with; without those whose record has changed since."""
    found = []
    for file in sorted(paths.results(FOLDER).glob("*/*/*/*/*.json")):
        again = records.read(file)
        record = records.load(again.cell, file.parts[-4])
        if record and not record.differs(again, num_sets=False):
            found.append(Recomputed(record, again))
    return found


def _leading(record: Record) -> int:
    """How many sets a record holds from the first on."""
    return next((i for i, number in enumerate(record.done) if i != number), len(record.done))


def _machine(place: torch.device) -> str:
    """The device as the name of a folder: amd-epyc-1-threads-avx2."""
    words = [describe(place), *(processor() if place.type == "cpu" else [])]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


@contextmanager
def _runs_of_its_own(of: str) -> Iterator[None]:
    """A folder inside `runs/` in its place, so that nothing made before is found; removed where the block ends well.

    Args:
        of: experiment, profile, machine and commit: what goes on from another's state would be another measurement.
    Raises: UserError: another process is in it.
    """
    before, folder = os.environ.get("DISTILL_RUNS"), paths.runs() / FOLDER / of
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            os.environ["DISTILL_RUNS"] = str(folder)
            yield
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise UserError(f"another process recomputes in {folder}: wait for it") from None
    finally:
        os.environ.pop("DISTILL_RUNS", None)
        if before is not None:
            os.environ["DISTILL_RUNS"] = before
