"""What a cell will cost: seconds of the nearest recent record, scaled by counted operations, and the memory it took.

Operations are images through a network (`method_costs`; `work` of a stage's settings; the training and the test of an
evaluation) times the operations of one image. Records say in how many seconds a device computes them: processor
seconds on a CPU, which say the same on a busy machine, divided by the threads at hand. What cells share, such as a
trained generator, is counted once in a total. Without a record of the method, its time is unknown. Only a measurement
tells the truth: every estimate names what it was made from.
"""

from __future__ import annotations

import contextlib
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
from ..core.device import describe, pick, processor
from ..core.errors import UserError
from ..core.settings import from_dict
from ..data import DATASETS, sized
from ..evaluation import protocols
from ..methods import METHODS, optional
from ..networks.base import Shape
from ..networks.reference import Training
from ..records import Record, summaries
from . import compute, state
from .definition import Task
from .method_costs import WORK
from .state import TO_COMPUTE, Status

IMAGENET_CLASS = 1_300  # training images of most classes of ILSVRC-2012; the fewest are 732
ENOUGH = 8  # records of a method and network that are read
NEWEST = 4  # of them to go by: a shared machine is not equally fast on all days
ALIKE = 4  # times as many pixels, or as few, as the images whose memory is known


# --- counting operations ---------------------------------------------------------------------------------------------
def _task_of(record: Record) -> Task | None:
    """The task behind a record; None for a record of another version, whose settings do not read."""
    key, cell = record.key, record.cell
    try:
        method, rules = key.get("method", cell.method), key["protocol"]["name"]
        config, judges = from_dict(METHODS[method].Config, key["config"]), tuple(key.get("networks", ()))
        judging = {"num_eval": key["num_eval"], "network": key["network"], "networks": judges}
        judging |= {"tested": key.get("tested")}
        return Task(cell, config, key["dataset"], rules, method=method, **judging)
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


def _network(config: Any) -> str:
    """The network that a method distils with: its own, or that of its experts or of its features."""
    students = getattr(config, "students", None) if getattr(config, "match", "") == "MTT" else None
    places = (students and students.experts, config, *(getattr(config, name, None) for name in ("experts", "training")))
    return next((of.network for of in places if getattr(of, "network", None)), "ConvNet")


def _images(task: Task) -> int:
    """How many images a set has that is evaluated; all real ones where the cell names no number."""
    _, classes, images, _ = _sizes(task.dataset)
    return images if task.cell.ipc is None else classes * task.cell.ipc


@functools.lru_cache(maxsize=4096)
def _operations(task: Task) -> tuple[float | None, float] | None:
    """Operations of making one set, stages apart, and of evaluating it; None for a data set of unknown size.

    Those of making it are None for a method without an entry in `WORK`.
    """
    if (sizes := _sizes(task.dataset)) is None:
        return None
    shape, classes, images, tested = sizes
    distill = None
    if task.maker in WORK:
        once = per_image(_network(task.config), shape, classes)
        distill = WORK[task.maker](task.config, classes, images) * once
    trained, evaluate = _images(task), 0.0
    tested = min(tested, task.tested * classes) if task.tested else tested
    per_class = task.cell.ipc or max(1, images // classes)
    for network in task.judges:
        rule = _rule(task.protocol).settled(sized(task.dataset)[0], network, per_class, classes)
        epochs = rule.num_epochs(per_class, trained)
        passes = 3 * epochs * trained + (1 + min(epochs, rule.num_checks(per_class, trained))) * tested
        evaluate += task.num_eval * max(1, len(rule.lr_grid)) * passes * per_image(network, shape, classes)
    return distill, evaluate


@functools.lru_cache(maxsize=512)
def _stage_operations(settings: Any, config: Any, dataset: str) -> float | None:
    """Operations of making a stage once, on a data set of known size; None if its settings have no `work`."""
    if not hasattr(settings, "work"):
        return None
    shape, classes, images, _ = _sizes(dataset)
    network = getattr(settings, "network", _network(config))
    return settings.work(classes, images) * per_image(network, shape, classes)


_rule = functools.lru_cache(maxsize=512)(protocols.protocol)


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
    """The seconds that a number of operations took: processor seconds, or a GPU's; and the record that says so."""

    seconds: float
    operations: float
    record: str


@dataclass(frozen=True)
class Peak:
    """The memory, in MB, that computing a cell took, and what decides it."""

    memory_mb: float
    method: str
    network: str
    pixels: int  # numbers of an image
    images: int  # that were trained on
    record: str
    counted: bool  # of this cell alone, and not of those before it in the same process


@dataclass
class Rates:
    """What records say.

    Attributes:
        devices: whose records are asked, in this order: the one at hand, those of its name, those with most records. A
                 processor is the same with any number of threads, and another one with other instructions.
        threads: of the process that asks, by which processor seconds are divided.
        rates:   (device, kind, name) -> rates. The kinds are "distill" of a method with its network or of a method,
                 "with stage" of one whose record may include its stage, "stage" such as "conditional GAN", and
                 "evaluate" of a network under a protocol, of a network, or of any network. The newest come last.
        peaks:   by device.
    """

    devices: list[str] = field(default_factory=list)
    threads: int = 1
    rates: dict[tuple[str, str, str], list[Rate]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, list[Peak]] = field(default_factory=lambda: defaultdict(list))

    def seconds(self, names: list[tuple[str, str]], operations: float | None) -> tuple[float | None, str]:
        """Predicted seconds and what they are based on; None if no record tells, or the operations are not known.

        Of the newest records of the first kind and name that has any, that one counts whose number of operations is
        nearest: small computations take more time per operation than large ones.
        """
        if operations is None:
            return None, f"what {names[0][1].partition(',')[0]} computes is not counted"
        if not operations:
            return 0.0, ""
        for kind, name in names:
            for device in self.devices:
                if found := self.rates.get((device, kind, name), [])[-NEWEST:]:
                    if kind == "with stage":  # the record that is least likely to include a stage
                        rate = min(found, key=lambda r: r.seconds / r.operations)
                    else:
                        rate = min(found, key=lambda r: _apart(r.operations, operations))
                    threads = self.threads if _processor(device) else 1
                    on = device.replace("any threads", f"{threads} threads")
                    return operations * rate.seconds / rate.operations / threads, f"{rate.record} on {on}"
        return None, f"no record of {names[0][1].partition(',')[0]} to go by"

    def memory(self, task: Task) -> tuple[float | None, str]:
        """The peak, in MB, of the most similar record, and which that is; None if none has images of about this size.

        Similar by method, whatever the device, then device, network, size of the images and number of images. The
        lowest of equals, because the others' processes held more from earlier cells.
        """
        pixels, images = math.prod(_sizes(task.dataset)[0]), _images(task)

        def unlike(peak: Peak) -> tuple[float, ...]:
            other = (not peak.counted, peak.method != task.maker, peak.network != task.judges[0])
            return *other, _apart(peak.pixels, pixels), _apart(peak.images, images), peak.memory_mb

        sized = [
            [p for p in self.peaks.get(d, ()) if _apart(p.pixels, pixels) <= math.log(ALIKE)] for d in self.devices
        ]
        own = [[p for p in found if p.method == task.maker] for found in sized]
        for found in [*own, *sized]:
            if found:
                peak = min(found, key=unlike)
                return peak.memory_mb, f"measured for {peak.record}"
        return None, "no record with images of about this size"

    def add(self, record: Record) -> None:
        """Learn from a record; nothing from one whose settings or data set are not known."""
        task, device = _task_of(record), kind_of(record)
        if task is None or (operations := _operations(task)) is None:
            return
        gpu, done, name = not _processor(device), len(record.done), str(record.cell)
        stages = optional(METHODS[task.maker], "stage1")(task.config)

        def learn(kind: str, of: str, seconds: float, count: float | None) -> None:
            if count:
                self.rates[device, kind, of].append(Rate(seconds, count, name))

        distill, evaluate = operations
        kind = "distill" if record.shared or not stages else "with stage"
        for of in _makings(task):
            learn(kind, of, _spent(record, "distill") / done, distill)
        for kind, of in _evaluations(task):
            learn(kind, of, _spent(record, "evaluate") / done, evaluate)
        for what, settings in stages.items():
            costs = [v for k, v in record.shared.items() if k.startswith(what.removesuffix(" trajectories"))]
            made = len(costs) if isinstance(settings, Training) else 1
            spent = sum(v["seconds" if gpu else "cpu_seconds"] for v in costs)
            learn("stage", what, spent / (made or 1), costs and _stage_operations(settings, task.config, task.dataset))
        if record.memory_mb:
            pixels, counted = math.prod(_sizes(task.dataset)[0]), gpu or bool(record.cpu_seconds)
            about = (task.maker, task.judges[0], pixels, _images(task), name, counted)
            self.peaks[device].append(Peak(record.memory_mb, *about))


def _makings(task: Task) -> list[str]:
    """What making a set is called, the most precise first: the method with its network, the method."""
    return [f"{task.maker}, {_network(task.config)}", task.maker]


def _evaluations(task: Task) -> list[tuple[str, str]]:
    """What evaluating a set is called, the most precise first: the network under the protocol, the network, any."""
    network = task.key["network"]
    return [("evaluate", name) for name in (f"{network}, {task.protocol.partition('@')[0]}", network, "any network")]


def _apart(a: float, b: float) -> float:
    """How far apart two sizes are: 0 for equal ones, log 2 for twice or half as much."""
    return abs(math.log(a / b))


def _processor(device: str) -> bool:
    """Whether a device in words is a processor, which is described with its number of threads."""
    return device.endswith("threads")


def _kind(device: str, instructions: str) -> str:
    """The name of a device, a processor's with its instructions and "any threads" in place of a number of threads."""
    return re.sub(r"\d+ threads$", f"{instructions}, any threads" if instructions else "any threads", device)


def kind_of(record: Record) -> str:
    """The kind of device that a record was made on."""
    by = record.made_by
    return _kind(str(by.get("device", "")), " ".join(by.get("processor", [])))


def nearest_first(kinds: Counter[str], here: str) -> list[str]:
    """Kinds of devices, counted: `here`, then those of its name, then those with most records."""
    name = here.partition(", ")[0]
    return sorted(kinds, key=lambda kind: (kind != here, kind.partition(", ")[0] != name, -kinds[kind]))


def _threads(device: str) -> int:
    return int(found[1]) if (found := re.search(r"(\d+) threads$", device)) else 1


def _spent(record: Record, phase: str) -> float:
    """Processor seconds of a phase; wall seconds on a GPU. Of a record without processor seconds: its wall seconds
    times its threads."""
    device = str(record.made_by.get("device", ""))
    wall = record.seconds.get(phase, 0.0) * _threads(device)
    return record.cpu_seconds.get(phase, wall) if _processor(device) else wall


def rates(profile: str) -> Rates:
    """What the newest records of every device, method and network say."""
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in sorted({*paths.RESULT_PROFILES, profile}):
        for file, summary in summaries.summaries(name)[0].items():
            key = (_kind(summary.device, summary.processor), summary.method, summary.network)
            groups[key].append((summary.at, f"{paths.results(name)}/{file}.json"))
    count = Counter()
    for (device, *_), files in groups.items():
        count[device] += len(files)
    try:
        here = describe(pick())
    except UserError:
        here = ""
    known = Rates(nearest_first(count, _kind(here, " ".join(processor()))), _threads(here))
    for _, file in sorted(newest for files in groups.values() for newest in heapq.nlargest(ENOUGH, files)):
        with contextlib.suppress(UserError):  # a damaged record is reported by whoever wants its number
            known.add(records.read(Path(file)))
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
    if (operations := _operations(task)) is None:
        return None
    distill, evaluate = operations
    out: dict[str, Share] = {}
    for index in sets:
        for part in compute.shared_parts(task, index):
            if part.key in out or part.key in made:
                continue
            if part.stage:
                count = _stage_operations(part.settings, task.config, task.dataset)
                names = [("stage", part.what), _evaluations(task)[-1]]  # networks in training, of any kind
                out[part.key] = Share(part.key, *known.seconds(names, count))
            else:
                names = [(kind, name) for kind in ("distill", "with stage") for name in _makings(task)]
                found = Share(part.key, *known.seconds(names, distill))
                if limit := getattr(task.config, "seconds", None):  # a set of as many images as that gives
                    found = Share(part.key, limit, f"the setting of {limit:g} s")
                out[part.key] = found
        key = f"{task.cell.experiment}/{task.cell.stem}/{index}"
        out[key] = Share(key, *known.seconds(_evaluations(task), evaluate))
    return list(out.values())


def total_seconds(parts: list[Share] | None) -> float | None:
    """The seconds of all parts together; None if those of one are unknown."""
    return None if parts is None or any(p.seconds is None for p in parts) else sum(p.seconds for p in parts)


def basis(parts: list[Share]) -> str:
    """What the longest of these parts is estimated from, or why one of them is not known."""
    return max(parts, key=lambda p: math.inf if p.seconds is None else p.seconds).basis if parts else ""


def rows(statuses: list[Status], profile: str, sets: int | None = None) -> list[dict[str, Any]]:
    """A plan as plain rows: cell, record, state, why, needs, seconds, added_seconds, memory_mb, basis, memory_basis.

    Costs are of what is still to compute. `seconds` is for the cell alone, `added_seconds` for it after the cells above
    it, with which it may share a trained generator or a distilled set. None is unknown.
    """
    todo = any(s.state in TO_COMPUTE for s in statuses)
    known, made = (rates(profile), compute.made(profile)) if todo else (Rates(), set())
    counted, out = set(made), []
    for s in statuses:
        row = {"cell": str(s.cell), "record": s.cell.stem, "state": s.state, "why": s.why}
        row["needs"] = list(compute.stage1(s.task)) if s.task else []
        row |= {"seconds": None, "added_seconds": None, "memory_mb": None, "basis": "", "memory_basis": ""}
        out.append(row)
        if s.state not in TO_COMPUTE:
            continue
        missing = state.missing_sets(s.task, s.record if s.state == "partial" else None, sets)
        parts = shares(s.task, missing, known, made)
        if parts is None:
            row["basis"] = row["memory_basis"] = "the data set's size is not known before it is loaded"
            continue
        row["basis"] = basis(parts)
        row["memory_mb"], row["memory_basis"] = known.memory(s.task)
        if (seconds := total_seconds(parts)) is not None:
            added = sum(p.seconds for p in parts if p.key not in counted)
            row |= {"seconds": round(seconds, 1), "added_seconds": round(added, 1)}
            counted |= {p.key for p in parts}
    return out


def words(seconds: float | None, memory_mb: float | None) -> str:
    """Seconds and memory in words: 'about 3.2 min, 1.0 GB', or 'time unknown'."""
    time = "time unknown" if seconds is None else f"about {duration(seconds)}"
    return time + (f", {memory_mb / 1000:.1f} GB" if memory_mb else "")


def total(rows_: list[dict[str, Any]]) -> str:
    """A plan's rows in one line: how many cells stand where, and what those to compute will cost."""
    todo = [r for r in rows_ if r["state"] in TO_COMPUTE]
    known = [r["added_seconds"] for r in todo if r["seconds"] is not None]
    states = Counter(r["state"] for r in rows_)
    order = ("recorded", "partial", "missing", "stale", "damaged", "skipped")
    line = f"{len(rows_)} cells: " + ", ".join(f"{states[state]} {state}" for state in order if states[state])
    if not todo:
        return line
    timed = (r["basis"].rpartition(" on ") for r in todo if r["seconds"] is not None)
    bases = sorted({machine for _, on, machine in timed if on})
    on = f" as on {', '.join(bases)}" if bases else ""
    line += "; to compute: " + (f"about {duration(sum(known))}{on}" if known else "time unknown")
    if known and len(known) < len(todo):
        line += f", and {len(todo) - len(known)} of unknown cost"
    if measured := [r for r in todo if r["memory_mb"]]:
        most = max(measured, key=lambda r: r["memory_mb"])
        line += f"; peak memory about {most['memory_mb'] / 1000:.1f} GB ({most['memory_basis']})"
        line += f", of {len(todo) - len(measured)} unknown" * (len(measured) < len(todo))
    return line


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits: '3.2 min'."""
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
