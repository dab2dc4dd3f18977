"""Fill what is missing, the cheapest number first, until the time is up: what a spare machine does in a night.

    jobs, left_out = plan("full")          # every set that is missing, in the order of `run`
    run(jobs, time_limit=7200, say=print)

A job is one distilled set of one cell with its networks. Stages and sets that several jobs share are made once; what a
job costs counts its share of them. The n-th set of a cell counts n times: the first set gives a number, the others
narrow its interval. Of claims, whose sets are paired repeats, the one with the least left to compute comes first: its
verdict counts, not its first number.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import data
from ..core.errors import TimeUp, UserError
from ..records import Cell
from . import claims, compute, engine, estimate, prerequisites, registry, state
from .definition import Parameters
from .state import TO_COMPUTE, Status


@dataclass(frozen=True)
class Job:
    """One distilled set of a cell and its networks.

    Attributes:
        sets:    the number of sets in the cell's record afterwards.
        of:      how many the profile has.
        seconds: for this set, with its part of what it shares with other jobs; None if no record tells.
        printed: whether the paper prints the cell.
    """

    cell: Cell
    params: Parameters
    sets: int
    of: int
    seconds: float | None
    printed: bool

    def __str__(self) -> str:
        return f"{self.cell.experiment}: {self.cell}" + (f", set {self.sets} of {self.of}" if self.of > 1 else "")


def plan(
    profile: str,
    names: list[str] | None = None,
    cells: str | None = None,
    parameters: dict[str, Any] | None = None,
    sets: int | None = None,
) -> tuple[list[Job], Counter[str]]:
    """What is missing of the named experiments, or of all, in the order of `run`; and how many cells are left out, by
    reason.

    Args:
        cells:      a selection as in `experiment.select`; experiments without such a cell are passed over.
        parameters: of the experiments, as notebooks take them.
        sets:       that are enough for a cell, if the profile has more.
    Raises: UserError: an unknown name, or a selection that fits no experiment.
    """
    statuses, left_out, selected = [], Counter(), False
    for name in names or list(registry.experiments()):
        params = registry.check_parameters(name, {"profile": profile, **(parameters or {})})
        try:
            some = registry.select(registry.experiment(name).cells(params), cells)
        except UserError:
            if names and len(names) == 1:
                raise
            continue
        selected |= bool(some)
        for status in state.plan(name, params, some, sets):
            reason = _left_out(status, profile)
            if reason:
                left_out[reason] += 1
            elif status.state in TO_COMPUTE:
                statuses.append((status, params))
    if cells and not selected:
        raise UserError(f"cells {cells!r}: no cell of {', '.join(names or ['any experiment'])} fits")
    return _ordered(statuses, profile, sets), left_out


def _left_out(status: Status, profile: str) -> str:
    """Why a cell cannot be computed here; "" if it can."""
    if status.state == "damaged":
        return status.why
    if status.state not in TO_COMPUTE:
        return ""
    try:
        prerequisites.check(status.cell.experiment, profile, [status.task.maker])
    except UserError as err:
        return str(err)
    return data.not_at_hand(status.task.dataset) or ""


def _ordered(statuses: list[tuple[Status, Parameters]], profile: str, sets: int | None) -> list[Job]:
    known, made = estimate.rates(profile), compute.made(profile)
    found = []  # status, parameters, number of sets after it, parts
    for status, params in statuses:
        record = status.record if status.state == "partial" else None
        done = len(record.done) if record else 0
        for n, index in enumerate(state.missing_sets(status.task, record, sets), done + 1):
            found.append((status, params, n, estimate.shares(status.task, [index], known, made)))
    users = Counter(part.key for *_, parts in found for part in parts or ())
    jobs = []
    for status, params, n, parts in found:
        unknown = parts is None or any(p.seconds is None for p in parts)
        seconds = None if unknown else sum(p.seconds / users[p.key] for p in parts)
        printed = registry.experiment(status.cell.experiment).printed(status.cell)
        jobs.append(Job(status.cell, params, n, status.task.num_sets, seconds, printed))
    seconds = {(j.cell, j.sets): math.inf if j.seconds is None else j.seconds for j in jobs}
    ranks = {job: (cost * job[1], 0) for job, cost in seconds.items()}
    for name in {j.cell.experiment for j in jobs}:
        if (of := registry.experiment(name)).claims:
            ranks |= claims.order(of, profile, {job: s for job, s in seconds.items() if job[0].experiment == name})
    return sorted(jobs, key=lambda j: (ranks[j.cell, j.sets], not j.printed))


def run(
    jobs: list[Job], time_limit: float | None = None, say: Callable[[str], None] = print, device: str | None = None
) -> dict[str, list[str]]:
    """Compute jobs in their order until the time is up; what is interrupted goes on from there at the next run.

    A cell that another process computes is left to it. A cell that fails is not tried again.

    Returns: what happened: "computed", "failed" with the error, "elsewhere"; a line for each job.
    Raises:  DiskFull: at once.
    """
    start = time.monotonic()
    done: dict[str, list[str]] = {"computed": [], "failed": [], "elsewhere": []}
    failed: set[Cell] = set()
    for i, job in enumerate(jobs, 1):
        left = None if time_limit is None else time_limit - (time.monotonic() - start)
        if left is not None and left <= 0:
            break
        if job.cell in failed:
            continue
        say(f"[{i}/{len(jobs)}] {job}" + ("" if job.seconds is None else f", {estimate.words(job.seconds, None)}"))
        try:
            options = {"say": lambda line: None, "device": device, "strict": False, "sets": job.sets, "wait": False}
            outcome = engine.run(job.cell.experiment, job.params, [job.cell], left, **options)
        except TimeUp:
            break
        for status in outcome:
            if status.state == "failed":
                failed.add(job.cell)
                say(f"failed: {status.why}")
                done["failed"].append(f"{job}: {status.why}")
            elif status.state == "computed":
                done["computed"].append(str(job))
        if not outcome.statuses:
            done["elsewhere"].append(str(job))
    return done
