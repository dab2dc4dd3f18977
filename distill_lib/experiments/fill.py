"""Fill what is missing, the cheapest number first, until the time is up: what a spare machine does in a night.

    jobs, left_out = plan("full")          # every set that is missing, in the order of `run`
    run(jobs, time_limit=7200, say=print)

A job is one distilled set of one cell with its networks. A stage or set that several jobs share, of any experiments, is
made once, with the first of them, and its cost is spread over their numbers when they are ordered. The n-th set of a
cell counts n times: the first set gives a number, the others narrow its interval. Of claims, whose sets are paired
repeats, the one with the least left to compute comes first: its verdict counts, not its first number.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from .. import data
from ..core.errors import TimeUp, UserError
from ..records import Cell
from . import claims, compute, engine, estimate, prerequisites, registry, state
from .definition import Parameters
from .estimate import Share
from .state import TO_COMPUTE, Status

Place = tuple[Cell, int]  # a cell, and the number of sets in its record after the job


@dataclass(frozen=True)
class Job:
    """One distilled set of a cell and its networks.

    Attributes:
        sets:    the number of sets in the cell's record afterwards.
        of:      how many the profile has.
        printed: whether the paper prints the cell.
        seconds: for this set and for what it needs that no job before it makes; None if no record tells.
        basis:   the record that says so.
    """

    cell: Cell
    params: Parameters
    sets: int
    of: int
    printed: bool
    seconds: float | None = None
    basis: str = ""

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
        sets:       that a cell's record should hold, fewer or more than the profile plans.
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
    if cells is not None and not selected:
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
        prerequisites.check_weights(status.task)
    except UserError as err:
        return str(err)
    return data.not_at_hand(status.task.dataset) or ""


def _ordered(statuses: list[tuple[Status, Parameters]], profile: str, sets: int | None) -> list[Job]:
    known, made = estimate.rates(profile), compute.made(profile)
    jobs: list[Job] = []
    parts: dict[Place, list[Share] | None] = {}
    for status, params in statuses:
        record = status.record if status.state == "partial" else None
        done, printed = len(record.done) if record else 0, registry.experiment(status.cell.experiment).printed
        for n, index in enumerate(state.missing_sets(status.task, record, sets), done + 1):
            jobs.append(
                Job(status.cell, params, n, max(status.task.num_sets, status.task.wanted(sets)), printed(status.cell))
            )
            parts[status.cell, n] = estimate.shares(status.task, [index], known, made)
    users = Counter(part.key for each in parts.values() for part in each or ())
    ranks = _cheapest_first(parts, users)
    for name in {j.cell.experiment for j in jobs}:
        if (of := registry.experiment(name)).claims:
            seconds = {job: _seconds(each, users) for job, each in parts.items() if job[0].experiment == name}
            ranks |= claims.order(of, profile, seconds)
    there, out = set(), []
    for job in sorted(jobs, key=lambda j: (ranks[j.cell, j.sets], not j.printed)):
        needs = parts[job.cell, job.sets]
        left = None if needs is None else [part for part in needs if part.key not in there]
        out.append(replace(job, seconds=estimate.total_seconds(left), basis=estimate.basis(left or [])))
        there |= {part.key for part in left or ()}
    return out


def _cheapest_first(parts: dict[Place, list[Share] | None], users: Counter[str]) -> dict[Place, tuple[float, int]]:
    """A rank for every job, lowest first: always the cheapest of those left, a cell's n-th set at n times its seconds.

    Every job pays its share of a stage until the stage is made with the first of them; then it costs the others
    nothing.
    """
    sharing: dict[str, list[Place]] = defaultdict(list)
    for job, needs in parts.items():
        for part in needs or ():
            sharing[part.key].append(job)
    order, there = {job: i for i, job in enumerate(parts)}, set()
    left = [(job[1] * _seconds(needs, users), order[job], job) for job, needs in parts.items()]
    heapq.heapify(left)
    ranks: dict[Place, tuple[float, int]] = {}
    last = 0.0
    while left:
        cost, _, job = heapq.heappop(left)
        if job in ranks:
            continue
        last = max(last, cost)
        ranks[job] = (last, len(ranks))
        new = {part.key for part in parts[job] or ()} - there
        there |= new
        for other in {other for key in new for other in sharing[key]} - ranks.keys():
            heapq.heappush(left, (other[1] * _seconds(parts[other], users, there), order[other], other))
    return ranks


def _seconds(parts: list[Share] | None, users: Counter[str], there: Collection[str] = ()) -> float:
    """A job's seconds, with its share of the parts that are not there yet; infinite if they are not known."""
    if estimate.total_seconds(parts) is None:
        return math.inf
    return sum(part.seconds / users[part.key] for part in parts if part.key not in there)


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
