"""What a cell will cost: seconds of past records, scaled by counted operations.

A method counts the images it passes through networks (`work` in its module), an evaluation those it trains and tests on;
times the operations of one image through the network that is a number of operations, and records say how many of them a
device does in a second. Only a measurement tells the truth: every estimate names what it was made from.
"""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import experiment, paths, records
from .errors import UserError
from .experiment import Status, Task
from .records import Record
from .settings import build


@dataclass(frozen=True)
class Estimate:
    """Seconds and peak memory to expect; None where no record is of any help, and `basis` says so."""

    seconds: float | None
    memory_mb: float | None
    basis: str


@dataclass
class Rates:
    """Seconds per operation by method and by evaluation network, each on one kind of device; peak memory likewise."""

    device: str = ""
    distill: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    evaluate: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory_mb: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Record) -> None:
        work = _of_record(record)
        method, network = record.key.get("method", record.cell.method), record.key.get("network", "")
        if work is None:
            return
        distill, evaluate = work
        if distill:
            self.distill[method].append(record.seconds.get("distill", 0.0) / distill)
        if evaluate:
            self.evaluate[network].append(record.seconds.get("evaluate", 0.0) / evaluate)
            self.evaluate[""].append(record.seconds.get("evaluate", 0.0) / evaluate)
        self.memory_mb[method].append(record.memory_mb)


def rates(profile: str) -> Rates:
    """Learned from all readable records; from those made on the device at hand where there are any, else on the commonest."""
    from .device import describe, pick

    by_device: dict[str, Rates] = {}
    for folder in {paths.results(p) for p in ("full", "small", profile)}:
        for file in folder.glob("*/*/*.json"):
            try:
                record = records.read(file)
            except UserError:
                continue  # reported by whoever wants its number
            device = record.made_by.get("device", "an unnamed device")
            by_device.setdefault(device, Rates(device)).add(record)
    try:
        here = describe(pick())
    except UserError:
        here = ""
    if here in by_device:
        return by_device[here]
    return max(by_device.values(), key=lambda r: len(r.evaluate[""]), default=Rates())


def estimate(task: Task, known: Rates) -> Estimate:
    """What a task will cost by the rates of past records."""
    network = task.key["network"]
    networks = task.networks or (network,)
    operations = _operations(task.maker, task.config, task.dataset, task.cell.ipc, networks, task.protocol, task.num_eval, task.num_sets)
    if operations is None:
        return Estimate(None, None, "the data set's size is not known before it is loaded")
    distill, evaluate = operations
    own, judge = known.distill.get(task.maker), known.evaluate.get(network) or known.evaluate.get("")
    if not judge or (distill and not own):
        return Estimate(None, None, f"no record of {task.maker if judge else 'any evaluation'} to go by")
    seconds = distill * statistics.median(own or [0.0]) + evaluate * statistics.median(judge)
    memory = known.memory_mb.get(task.maker)
    return Estimate(seconds, max(memory) if memory else None, f"{len(own or judge)} records on {known.device}")


def rows(statuses: list[Status], profile: str) -> list[dict[str, Any]]:
    """A plan as plain rows: cell, state, why, needs, seconds, memory_mb, basis. Costs are of what is still to compute."""
    todo = any(s.state in ("missing", "stale") for s in statuses)
    known = rates(profile) if todo else Rates()
    out = []
    for s in statuses:
        cost = estimate(s.task, known) if s.state in ("missing", "stale") else Estimate(None, None, "")
        needs = list(experiment.stage1(s.task)) if s.task else []
        seconds = None if cost.seconds is None else round(cost.seconds, 1)
        out.append({"cell": str(s.cell), "record": s.cell.stem, "state": s.state, "why": s.why, "needs": needs})
        out[-1] |= {"seconds": seconds, "memory_mb": cost.memory_mb, "basis": cost.basis}
    return out


def words(seconds: float | None, memory_mb: float | None) -> str:
    """'about 3.2 min, 1.0 GB', or that nothing is known."""
    if seconds is None:
        return "time unknown"
    return f"about {_time(seconds)}" + (f", {memory_mb / 1000:.1f} GB" if memory_mb else "")


def total(rows_: list[dict[str, Any]]) -> str:
    """A plan in one line."""
    todo = [r for r in rows_ if r["state"] in ("missing", "stale")]
    known = [r["seconds"] for r in todo if r["seconds"] is not None]
    line = f"{len(rows_)} cells: " + ", ".join(
        f"{n} {state}" for state in ("recorded", "missing", "stale", "damaged", "skipped") if (n := sum(r["state"] == state for r in rows_))
    )
    if not todo:
        return line
    bases = sorted({r["basis"].partition(" on ")[2] for r in todo if r["seconds"] is not None})
    cost = f"about {_time(sum(known))} as on {', '.join(bases)}" if known else "time unknown"
    return f"{line}; to compute: {cost}" + (f", and {len(todo) - len(known)} of unknown cost" if known and len(known) < len(todo) else "")


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


# --- counting ----------------------------------------------------------------------------------------------------------
def _of_record(record: Record) -> tuple[float, float] | None:
    from .methods import METHODS

    key, cell = record.key, record.cell
    try:
        method, networks = key.get("method", cell.method), key.get("networks", [key["network"]])
        config = build(METHODS[method].Config, key["config"])
        return _operations(method, config, key["dataset"], cell.ipc, networks, key["protocol"]["name"], key["num_eval"], key["num_sets"])
    except (KeyError, UserError):  # of another version
        return None


def _operations(
    method: str, config: Any, dataset: str, ipc: int | None, networks: Sequence[str], protocol: str, num_eval: int, num_sets: int
) -> tuple[float, float] | None:  # fmt: skip
    """Operations of making the sets and of evaluating them; None for a data set whose size is not documented."""
    from . import protocols
    from .data.catalogue import DATASETS, sized
    from .methods import METHODS

    name, px, _ = sized(dataset)
    facts = DATASETS.get(name)
    if facts is None or not facts.counts.get("train"):
        return None
    classes, images, tested = facts.num_classes, facts.counts["train"], facts.counts.get("test", 0)
    side = px or facts.resolution
    shape = (facts.channels, side, side)
    inner = getattr(config, "network", "ConvNet")
    distill = METHODS[method].work(config, classes, images) * per_image(inner, shape, classes)
    rule = protocols.protocol(protocol)
    trained = images if ipc is None else classes * ipc
    epochs = rule.num_epochs(ipc or images // classes, trained)
    return num_sets * distill, num_sets * num_eval * (3 * epochs * trained + tested) * sum(per_image(n, shape, classes) for n in networks)


@functools.cache
def per_image(network: str, shape: tuple[int, int, int], num_classes: int) -> float:
    """Floating-point operations of one image through a network, forwards; by torch's own counter, without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from . import networks
    from .data import Facts, ImageSet

    facts = Facts("shape", tuple(map(str, range(num_classes))), (0.0,) * shape[0], (1.0,) * shape[0])
    like = ImageSet(torch.zeros(num_classes, *shape), torch.arange(num_classes), facts)
    try:
        model = networks.fresh(network, like, torch.Generator().manual_seed(0)).to("meta")
    except UserError:
        return 0.0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape, device="meta"))
    return float(counter.get_total_flops())
