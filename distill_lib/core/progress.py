"""What a running computation leaves behind while it runs: seconds spent, a log per cell, a note of what it is doing.

Nothing here decides anything: a run without these files computes the same numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from . import paths
from .errors import TimeUp, UserError
from .files import atomically
from .measure import Cost, measure


class Spent:
    """Wall seconds, processor seconds and joules by phase, and peak memory: kept in a file and added up over
    interruptions.

    A phase inside another one, of this object or of another, is not counted in the outer one: what a shared stage has
    cost stays apart from the cost of the set that happened to need it first.
    A process that is killed loses at most the last half minute of them (the joules since the phase began).
    """

    def __init__(self, file: Path):
        self.file, self.memory_mb = file, 0.0
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.joules: dict[str, float] = {}  # of phases on a device that reports them
        self.shared: dict[str, dict[str, float]] = {}  # what was made once and used here, with its `totals`
        if file.exists():
            try:
                for name, value in json.loads(file.read_text()).items():
                    setattr(self, name, type(getattr(self, name))(value))
            except (OSError, ValueError, TypeError, AttributeError):
                raise UserError(
                    f"{file}: damaged; delete it to go on, with the time spent so far not counted"
                ) from None

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def include(self, name: str, other: Spent) -> None:
        """Take over the cost of another object as phase `name`; a second call replaces it."""
        self.seconds[name] = other.total
        for own, others in ((self.cpu_seconds, other.cpu_seconds), (self.joules, other.joules)):
            if others:
                own[name] = sum(others.values())
        self.memory_mb = max(self.memory_mb, other.memory_mb)

    @property
    def totals(self) -> dict[str, float]:
        """All phases together: seconds, cpu_seconds, joules where the device reports them, memory_mb."""
        sums = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "joules": self.joules}
        return {**{k: round(sum(v.values()), 2) for k, v in sums.items() if v}, "memory_mb": round(self.memory_mb)}

    @contextlib.contextmanager
    def phase(self, name: str, place: Any) -> Iterator[None]:
        """Measure a block; call `tick` in it now and then."""
        now = _Phase(self, name)
        _running.append(now)
        try:
            with measure(place) as cost:
                yield
        finally:
            _running.pop()
            inside = now.inside
            own = Cost(cost.seconds - inside.seconds, cost.cpu_seconds - inside.cpu_seconds, None, cost.memory_mb)
            self.seconds[name] = self.seconds.get(name, 0.0) + own.seconds
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + own.cpu_seconds
            if cost.joules is not None:
                self.joules[name] = self.joules.get(name, 0.0) + cost.joules - (inside.joules or 0.0)
            self.memory_mb = max(self.memory_mb, cost.memory_mb)
            self.save()
            if _running:
                outer = _running[-1].inside
                outer.seconds, outer.cpu_seconds = outer.seconds + cost.seconds, outer.cpu_seconds + cost.cpu_seconds
                outer.joules = (outer.joules or 0.0) + (cost.joules or 0.0)

    def save(self, **now: dict[str, float]) -> None:
        """Write the file, with `now` in place of the values of that name."""
        body = {k: v for k, v in vars(self).items() if k != "file"} | now
        atomically(self.file, lambda part: part.write_text(json.dumps(body)))


@dataclass
class _Phase:
    """A phase that is being measured, and what phases inside it have cost."""

    spent: Spent
    name: str
    inside: Cost = field(default_factory=Cost)
    start: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    written: float = field(default_factory=time.monotonic)


_running: list[_Phase] = []  # phases that are measured now, one inside the other


def tick() -> None:
    """Write what the innermost phase has cost so far, every half minute: a process that is killed does not lose it."""
    if _running and time.monotonic() - _running[-1].written > 30:
        now = _running[-1]
        now.written, spent = time.monotonic(), now.spent
        seconds = spent.seconds.get(now.name, 0.0) + time.monotonic() - now.start - now.inside.seconds
        processor = spent.cpu_seconds.get(now.name, 0.0) + time.process_time() - now.cpu - now.inside.cpu_seconds
        spent.save(seconds={**spent.seconds, now.name: seconds}, cpu_seconds={**spent.cpu_seconds, now.name: processor})


class Activity:
    """What this process is doing, in a file that `distill watch` reads; and the log of the cell it computes.

    Args:
        cells: how many cells the run has.
    """

    def __init__(self, cells: int = 1):
        self.cells = cells
        self.file = _folder() / f"{platform.node() or 'host'}-{os.getpid()}.json"
        self._about: dict[str, Any] = {}
        self._written = self._logged = 0.0
        self._log: Path | None = None

    @contextlib.contextmanager
    def cell(self, cell: Any, profile: str, number: int, why: str = "") -> Iterator[None]:
        """A cell is being computed: the `number`th of the run."""
        self._log = log_path(cell, profile)
        self._about = {"cell": str(cell), "profile": profile, "number": number, "cells": self.cells, "pid": os.getpid()}
        self._about |= {"host": platform.node(), "started": time.time(), "log": str(self._log)}
        self._say(f"started{': ' + why if why else ''}")
        self._write("starting", 0, 0, {})
        try:
            yield
        except BaseException as err:
            known = isinstance(err, (UserError, KeyboardInterrupt, TimeUp))
            self._say(
                "stopped: " + (str(err) or type(err).__name__ if known else "".join(traceback.format_exception(err)))
            )
            raise
        finally:
            self._log, self._about = None, {}
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)

    @property
    def title(self) -> str:
        """Which cell of how many is being computed, for a progress bar."""
        return f"[{self._about['number']}/{self.cells}] " if self._about else ""

    def note(self, line: str) -> None:
        """A line for the log of the cell that is being computed."""
        if self._log:
            self._say(line)

    def tell(self, name: str, done: int, total: int, values: dict[str, float]) -> None:
        """Given to loops as their `tell`: updates the note, and now and then the log."""
        tick()
        now = time.monotonic()
        if self._about and (now - self._written > 2 or done == total):
            self._written = now
            self._write(name, done, total, values)
        if self._log and (now - self._logged > 30 or done == total):
            self._logged = now
            self._say(f"{name} {done} of {total}" + "".join(f", {k} {v:.4g}" for k, v in values.items()))

    def _write(self, phase: str, done: int, total: int, values: dict[str, float]) -> None:
        body = {**self._about, "phase": phase, "done": done, "total": total, "values": values, "at": time.time()}
        with contextlib.suppress(UserError, OSError):  # a full disk must not end a computation over a note about it
            atomically(self.file, lambda part: part.write_text(json.dumps(body)))

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a") as f:
                f.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")


def _folder() -> Path:
    return paths.runs() / "activity"


def log_path(cell: Any, profile: str) -> Path:
    """The log of a cell; every run of it adds to the same file."""
    return paths.runs() / profile / "logs" / cell.experiment / f"{cell.stem}.log"


def running() -> list[dict[str, Any]]:
    """What is being computed under this `runs` folder, also on other machines that share it; oldest first.

    Notes of processes that are gone are removed; a note from another machine counts as gone after ten silent minutes.
    """
    found = []
    for file in sorted(_folder().glob("*.json")):
        try:
            note = json.loads(file.read_text())
            here = note["host"] == platform.node()
            alive = psutil.pid_exists(note["pid"]) if here else time.time() - note["at"] < 600
        except (OSError, json.JSONDecodeError, KeyError, TypeError):
            continue  # just being removed
        if alive:
            found.append(note)
        elif here:
            file.unlink(missing_ok=True)
    return sorted(found, key=lambda note: note["started"])


def as_row(note: dict[str, Any]) -> dict[str, str]:
    """A note as a row for people: cell, phase, steps, seconds spent and left in this phase."""
    done, total, seconds = note["done"], note["total"], time.time() - note["started"]
    values = ", ".join(f"{k} {v:.4g}" for k, v in note["values"].items())
    return {
        "cell": f"[{note['number']}/{note['cells']}] {note['cell']}",
        "phase": note["phase"],
        "steps": f"{done} of {total}" if total else "",
        "values": values,
        "running": f"{seconds:.0f} s",
        "silent": f"{time.time() - note['at']:.0f} s",
        "process": f"{note['pid']} on {note['host']}",
    }
