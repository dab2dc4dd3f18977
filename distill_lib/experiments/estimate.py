"""What a cell will cost: seconds of past records, scaled by counted operations, and the memory that the nearest record
measured.

Operations are images through a network (`method_costs`; `work` of a stage's settings; the training and the test of an
evaluation) times the operations of one image. Records say in how many seconds a device computes them: processor
seconds on a CPU, which say the same on a busy machine, divided by the threads at hand. What cells share, such as a
trained generator, is counted once in a total. Without a record of the method, time and memory are unknown. Only a
measurement tells the truth: every estimate names what it was made from.
"""

from __future__ import annotations

import functools
import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import networks, records
from ..core import paths
from ..core.device import describe, pick
from ..core.errors import UserError
from ..core.settings import build
from ..data import DATASETS, sized
from ..evaluation import protocols
from ..evaluation.protocols import Protocol
from ..methods import METHODS, optional
from ..networks.base import Shape
from ..networks.reference import Training
from ..records import Record, summaries
from . import compute
from . import state as experiments_state
from .definition import Task
from .method_costs import WORK
from .state import TO_COMPUTE, Status

IMAGENET_CLASS = 1_300  # training images of most classes of ILSVRC-2012; the fewest are 732
ENOUGH = 8  # records of a method and network that are read
NEAREST = 3  # of them to go by


# --- counting operations ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Workload:
    """What decides how much there is to compute for a set and its evaluation."""

    method: str
    config: Any
    dataset: str
    ipc: int | None
    networks: tuple[str, ...]
    protocol: str
    num_eval: int


def _of_task(task: Task) -> Workload:
    judges = task.networks or (task.key["network"],)
    return Workload(task.maker, task.config, task.dataset, task.cell.ipc, judges, task.protocol, task.num_eval)


def _of_record(record: Record) -> Workload | None:
    """None for a record of another version, whose settings do not read."""
    key, cell = record.key, record.cell
    try:
        method, judges = key.get("method", cell.method), tuple(key.get("networks", [key["network"]]))
        config = build(METHODS[method].Config, key["config"])
        return Workload(method, config, key["dataset"], cell.ipc, judges, key["protocol"]["name"], key["num_eval"])
    except (KeyError, UserError):
        return None


@functools.lru_cache(maxsize=512)
def _sizes(dataset: str) -> tuple[Shape, int, int, int] | None:
    """Shape, classes, training images and test images of a data set; None if they are not documented."""
    name, px, _ = sized(dataset)
    facts = DATASETS.get(name)
    if facts is None:
        return None
    images = facts.counts.get("train") or (IMAGENET_CLASS * facts.num_classes if facts.family == "imagenet" else 0)
    side = px or facts.resolution
    return ((facts.channels, side, side), facts.num_classes, images, facts.counts.get("test", 0)) if images else None


@functools.lru_cache(maxsize=4096)
def _operations(work: Workload) -> tuple[float | None, float] | None:
    """Operations of making one set, stages apart, and of evaluating it; None for a data set of unknown size.

    Those of making it are None for a method without an entry in `WORK`.
    """
    if (sizes := _sizes(work.dataset)) is None:
        return None
    shape, classes, images, tested = sizes
    distill = None
    if work.method in WORK:
        once = per_image(getattr(work.config, "network", "ConvNet"), shape, classes)
        distill = WORK[work.method](work.config, classes, images) * once
    trained, evaluate = images if work.ipc is None else classes * work.ipc, 0.0
    per_class = work.ipc or max(1, images // classes)
    for network in work.networks:
        rule = _rule(work.protocol).settled(sized(work.dataset)[0], network, per_class, classes)
        epochs = rule.num_epochs(per_class, trained)
        passes = 3 * epochs * trained + (1 + min(epochs, rule.num_checks(per_class, trained))) * tested
        evaluate += work.num_eval * max(1, len(rule.lr_grid)) * passes * per_image(network, shape, classes)
    return distill, evaluate


@functools.lru_cache(maxsize=512)
def _stage_operations(settings: Any, config: Any, dataset: str) -> float | None:
    """Operations of making a stage once, on a data set of known size; None if its settings have no `work`."""
    if not hasattr(settings, "work"):
        return None
    shape, classes, images, _ = _sizes(dataset)
    network = getattr(settings, "network", getattr(config, "network", "ConvNet"))
    return settings.work(classes, images) * per_image(network, shape, classes)


@functools.lru_cache(maxsize=512)
def _rule(name: str) -> Protocol:
    return protocols.protocol(name)


@functools.cache
def per_image(network: str, shape: Shape, num_classes: int) -> float:
    """Floating-point operations of the convolutions and linear layers for one image, forwards.

    0 for a network that does not take such images. By hooks on a processor, because PyTorch's counter and its device
    "meta" import symbolic algebra, which takes a second of every plan.
    """
    try:
        model = networks.blank(network, shape, num_classes).eval()
    except UserError:
        return 0.0
    found = []

    def count(layer: nn.Module, _: Any, out: torch.Tensor) -> None:
        found.append(2.0 * out.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    return sum(found)


# --- what records say ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rate:
    """What one record says: the seconds that a number of operations took.

    `counted` says that they are processor seconds, or a GPU's: wall seconds also say how busy the machine was.
    """

    counted: bool
    seconds: float
    operations: float


@dataclass
class Rates:
    """What records say.

    Attributes:
        devices: whose records are asked, in this order: the one at hand, then those with most records. A processor is
                 the same with any number of threads.
        threads: of the process that asks, by which processor seconds are divided.
        rates:   (device, kind, name) -> rates. The kinds are "distill" of a method, "with stage"
                 of a method whose record may include its stage, "stage" such as "conditional GAN", and "evaluate" of a
                 network, or of "" for any.
        peaks:   (device, method, network, shape) -> (images that were trained on, MB of the process, record) of each.
    """

    devices: list[str] = field(default_factory=list)
    threads: int = 1
    rates: dict[tuple[str, str, str], list[Rate]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[tuple[str, str, str, Shape], list[tuple[int, float, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def seconds(self, kind: str, name: str, operations: float | None) -> tuple[float | None, str]:
        """Predicted seconds and what they are based on; None if no record tells, or the operations are not known.

        Those records count whose numbers of operations are nearest, because small computations take more time per
        operation than large ones; only those with processor seconds, where there are some.
        """
        if operations is None:
            return None, f"what {name} computes is not counted"
        if not operations:
            return 0.0, ""
        other = ("with stage", name) if kind == "distill" else ("evaluate", "")  # networks in training, of any kind
        for which, what in [(kind, name), other]:
            for device in self.devices:
                if found := self.rates.get((device, which, what)):
                    found = [r for r in found if r.counted] or found
                    if which == "with stage":  # the record that is least likely to include a stage
                        found = [min(found, key=lambda r: r.seconds / r.operations)]
                    found = heapq.nsmallest(NEAREST, found, key=lambda r: abs(math.log(r.operations / operations)))
                    rate = sum(r.seconds for r in found) / sum(r.operations for r in found)
                    threads = self.threads if _processor(device) else 1
                    on = device.replace("any threads", f"{threads} threads")
                    return operations * rate / threads, f"{len(found)} records on {on}"
        return None, f"no record of {'any evaluation' if kind == 'evaluate' else name} to go by"

    def memory(self, work: Workload) -> tuple[float | None, str]:
        """The peak, in MB, of the nearest record with the method, network and image size, and which record that is.

        The lowest of those that are equally near, because the others' processes held more from earlier cells.
        """
        shape, classes, images, _ = _sizes(work.dataset)
        trained = images if work.ipc is None else classes * work.ipc
        for device in self.devices:
            if found := self.peaks.get((device, work.method, work.networks[0], shape)):
                _, memory_mb, what = min(found, key=lambda peak: (abs(math.log(peak[0] / trained)), peak[1]))
                return memory_mb, f"measured for {what}"
        return None, f"no record of {work.method} with {work.networks[0]} on images of this size"

    def add(self, record: Record) -> None:
        """Learn from a record; nothing from one whose settings or data set are not known."""
        work, device = _of_record(record), _kind(str(record.made_by.get("device", "")))
        if work is None or (operations := _operations(work)) is None:
            return
        gpu, done = not _processor(device), len(record.done)
        stages = _stages(work)

        def learn(kind: str, name: str, seconds: float, count: float) -> None:
            self.rates[device, kind, name].append(Rate(gpu or bool(record.cpu_seconds), seconds, count))

        distill, evaluate = operations
        if distill:
            kind = "distill" if record.shared or not stages else "with stage"
            learn(kind, work.method, _spent(record, "distill") / done, distill)
        if evaluate:
            for name in (record.key["network"], ""):
                learn("evaluate", name, _spent(record, "evaluate") / done, evaluate)
        for what, settings in stages.items():
            once = _stage_operations(settings, work.config, work.dataset)
            costs = [v for k, v in record.shared.items() if k.startswith(what.removesuffix(" trajectories"))]
            if costs and once is not None:
                made = len(costs) if isinstance(settings, Training) else 1
                learn("stage", what, sum(v["seconds" if gpu else "cpu_seconds"] for v in costs) / made, once)
        if record.memory_mb:
            shape, classes, images, _ = _sizes(work.dataset)
            peak = (classes * work.ipc if work.ipc else images, record.memory_mb, str(record.cell))
            self.peaks[device, work.method, work.networks[0], shape].append(peak)


def _stages(work: Workload) -> dict[str, Any]:
    """What has to be made before a method's sets, with its settings."""
    return optional(METHODS[work.method], "stage1")(work.config)


def _processor(device: str) -> bool:
    """Whether a device in words is a processor, which is described with its number of threads."""
    return device.endswith("threads")


def _kind(device: str) -> str:
    """A device in words whatever its number of threads."""
    return re.sub(r"\d+ threads$", "any threads", device)


def _threads(device: str) -> int:
    found = re.search(r"(\d+) threads$", device)
    return int(found[1]) if found else 1


def _spent(record: Record, phase: str) -> float:
    """Processor seconds of a phase; wall seconds on a GPU. Of a record without processor seconds: its wall seconds
    times its threads."""
    device = str(record.made_by.get("device", ""))
    wall = record.seconds.get(phase, 0.0) * _threads(device)
    return record.cpu_seconds.get(phase, wall) if _processor(device) else wall


def rates(profile: str) -> Rates:
    """What the newest records of every device, method and network say."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in sorted({"full", "small", profile}):
        for file, summary in summaries.summaries(name)[0].items():
            key = (_kind(summary.device), summary.method, summary.network)
            groups[key].append((summary.at, f"{paths.results(name)}/{file}.json"))
    count = Counter()
    for (device, *_), files in groups.items():
        count[device] += len(files)
    try:
        here = describe(pick())
    except UserError:
        here = ""
    known = Rates(sorted(count, key=lambda d: (d != _kind(here), -count[d])), _threads(here))
    for files in groups.values():
        for _, file in heapq.nlargest(ENOUGH, files):
            try:
                known.add(records.read(Path(file)))
            except UserError:
                continue  # reported by whoever wants its number
    return known


# --- estimates -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Share:
    """A part of what a task needs: seconds are None if no record tells. All tasks that share the part have its key."""

    key: str
    seconds: float | None
    basis: str


def shares(task: Task, sets: list[int], known: Rates, made: Collection[str] = ()) -> list[Share] | None:
    """What making and evaluating these sets of a task takes, part by part; None for a data set of unknown size.

    Args:
        made: keys of parts that are there already.
    """
    operations = _operations(_of_task(task))
    if operations is None:
        return None
    distill, evaluate = operations
    judging = known.seconds("evaluate", task.key["network"], evaluate)
    out: dict[str, Share] = {}
    for index in sets:
        for part in compute.shared_parts(task, index):
            if part.key in out or part.key in made:
                continue
            if part.stage:
                count = _stage_operations(part.settings, task.config, task.dataset)
                out[part.key] = Share(part.key, *known.seconds("stage", part.what, count))
            else:
                out[part.key] = Share(part.key, *known.seconds("distill", task.maker, distill))
        key = f"{task.cell.experiment}/{task.cell.stem}/{index}"
        out[key] = Share(key, *judging)
    return list(out.values())


def total_seconds(parts: list[Share] | None) -> float | None:
    """Of all parts; None if one of them is unknown."""
    return None if parts is None or any(p.seconds is None for p in parts) else sum(p.seconds for p in parts)


def rows(statuses: list[Status], profile: str, sets: int | None = None) -> list[dict[str, Any]]:
    """A plan as plain rows: cell, record, state, why, needs, seconds, added_seconds, memory_mb, basis, memory_basis.

    Costs are of what is still to compute. `seconds` is for the cell alone, `added_seconds` for it after the cells above
    it, with which it may share a trained generator or a distilled set. None is unknown.
    """
    todo = any(s.state in TO_COMPUTE for s in statuses)
    known, made = (rates(profile), compute.made(profile)) if todo else (Rates(), set())
    counted, out = set(made), []
    for s in statuses:
        seconds = added = memory_mb = None
        basis = memory_basis = ""
        if s.state in TO_COMPUTE:
            missing = experiments_state.missing_sets(s.task, s.record if s.state == "partial" else None, sets)
            parts = shares(s.task, missing, known, made)
            seconds = total_seconds(parts)
            if parts is None:
                basis = memory_basis = "the data set's size is not known before it is loaded"
            else:
                basis = max(parts, key=lambda p: math.inf if p.seconds is None else p.seconds).basis if parts else ""
                memory_mb, memory_basis = known.memory(_of_task(s.task))
            if seconds is not None:
                added = round(sum(p.seconds for p in parts if p.key not in counted), 1)
                counted |= {p.key for p in parts}
        out.append(
            {
                "cell": str(s.cell),
                "record": s.cell.stem,
                "state": s.state,
                "why": s.why,
                "needs": list(compute.stage1(s.task)) if s.task else [],
                "seconds": None if seconds is None else round(seconds, 1),
                "added_seconds": added,
                "memory_mb": memory_mb,
                "basis": basis,
                "memory_basis": memory_basis,
            }
        )
    return out


def words(seconds: float | None, memory_mb: float | None) -> str:
    """'about 3.2 min, 1.0 GB', or what of it is known."""
    time = "time unknown" if seconds is None else f"about {duration(seconds)}"
    return time + (f", {memory_mb / 1000:.1f} GB" if memory_mb else "")


def total(rows_: list[dict[str, Any]]) -> str:
    """A plan in one line."""
    todo = [r for r in rows_ if r["state"] in TO_COMPUTE]
    known = [r.get("added_seconds", r["seconds"]) for r in todo if r["seconds"] is not None]
    states = Counter(r["state"] for r in rows_)
    order = ("recorded", "partial", "missing", "stale", "damaged", "skipped")
    line = f"{len(rows_)} cells: " + ", ".join(f"{states[state]} {state}" for state in order if states[state])
    if not todo:
        return line
    bases = sorted({r["basis"].partition(" on ")[2] for r in todo if r["seconds"] is not None} - {""})
    on = f" as on {', '.join(bases)}" if bases else ""
    line += "; to compute: " + (f"about {duration(sum(known))}{on}" if known else "time unknown")
    if known and len(known) < len(todo):
        line += f", and {len(todo) - len(known)} of unknown cost"
    most = max((r for r in todo if r["memory_mb"]), key=lambda r: r["memory_mb"], default=None)
    if most is None:
        return line
    line += f"; peak memory about {most['memory_mb'] / 1000:.1f} GB ({most['memory_basis']})"
    unknown = sum(not r["memory_mb"] for r in todo)
    return line + (f", of {unknown} unknown" if unknown else "")


def duration(seconds: float) -> str:
    """'3.2 min'."""
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
