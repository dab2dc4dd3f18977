"""What a cell will cost: processor seconds of past records, scaled by counted operations, and peak memory by counted
bytes.

`method_costs` counts the images that a method passes through networks, a stage before it those of its own (`work` of
its settings), an evaluation those it trains and tests on; times the operations of one image through the network that is
a number of operations, and records say how many of them a device does in a second. On a CPU these are processor
seconds, which say the same on a busy machine, divided by the threads at hand. What cells share, such as a trained
generator, is counted once in a total.

It also counts the bytes that a method's step keeps alive, and those of an evaluation's networks in training. To the
larger come the data set and what a process holds besides, which records say: code and libraries. Of a method that has
no entry there, time and memory are unknown. Only a measurement tells the truth: every estimate names what it was made
from.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import evaluation, networks, records
from ..core import paths
from ..core.device import can_compile, describe, pick
from ..core.errors import UserError
from ..core.files import atomically
from ..core.settings import as_dict, build
from ..data import DATASETS, sized
from ..evaluation import protocols
from ..evaluation.protocols import Protocol
from ..methods import METHODS, optional
from ..networks import memory
from ..networks.reference import Training
from ..records import Record, summaries
from . import compute
from . import state as experiments_state
from .definition import Task
from .method_costs import COSTS, evaluating
from .state import TO_COMPUTE, Status

IMAGENET_CLASS = 1_300  # training images of most classes of ILSVRC-2012; the fewest are 732
ENOUGH = 8  # records of a method and network to go by
HELD_MB = 570.0  # by a process besides tensors and data, on a CPU without records: measured with torch's libraries loaded, see `Rates.held_mb`


@dataclass(frozen=True)
class Estimate:
    """Seconds and peak memory to expect; None where they cannot be told. `basis` and `memory_basis` say from what they
    are."""

    seconds: float | None
    memory_mb: float | None
    basis: str
    memory_basis: str = ""


@dataclass(frozen=True, order=True)
class Rate:
    """What one record says: seconds for so many operations; `counted` if they are processor seconds (or a GPU's), not
    wall seconds."""

    counted: bool
    at: str
    seconds: float
    operations: float


@dataclass
class Rates:
    """Seconds and operations of records, all on one kind of device, and the memory a process holds besides.

    Attributes:
        device:    a GPU's name, or the processor's, whatever number of threads.
        threads:   of the process that asks; seconds on a CPU are processor seconds, to be divided by it.
        distill:   rates of records by method, what is shared with other cells apart.
        guessed:   the same of older records of methods with a stage before them, in which its seconds may be included.
        stage:     the same by stage, such as "conditional GAN".
        evaluate:  the same by evaluation network; "" for all of them.
        beside_mb: of every record, its peak less what is counted for it.
        other:     rates of the device with most records, for what has none on this one.
    """

    device: str = ""
    other: Rates | None = None
    threads: int = 1
    distill: dict[str, list[Rate]] = field(default_factory=lambda: defaultdict(list))
    guessed: dict[str, list[Rate]] = field(default_factory=lambda: defaultdict(list))
    stage: dict[str, list[Rate]] = field(default_factory=lambda: defaultdict(list))
    evaluate: dict[str, list[Rate]] = field(default_factory=lambda: defaultdict(list))
    beside_mb: list[float] = field(default_factory=list)

    @property
    def gpu(self) -> bool:
        """A processor is described with its number of threads."""
        return bool(self.device) and not self.device.endswith("threads")

    @functools.cached_property
    def held_mb(self) -> float:
        """What a process holds besides what is counted: the lower eighth over records.

        Many are of processes that still held what other cells had left: caches, and memory that fragments keep.
        """
        if not self.beside_mb:
            return 0.0 if self.gpu else HELD_MB
        return max(0.0, sorted(self.beside_mb)[len(self.beside_mb) // 8])

    def typical(self, kind: str, name: str) -> float | None:
        """Seconds per operation ("distill", "stage", "evaluate") of the newest records of that name together; None
        without a record.

        Together, because what small records take is mostly not operations, and those to estimate are larger. The
        newest, because code and machine change; those with processor seconds first, because wall seconds also say how
        busy the machine was.
        """
        if found := heapq.nlargest(ENOUGH, getattr(self, kind).get(name, ())):
            found = [r for r in found if r.counted == found[0].counted]
            return sum(r.seconds for r in found) / sum(r.operations for r in found)
        if kind == "distill" and (found := self.guessed.get(name)):
            return min(
                r.seconds / r.operations for r in found
            )  # of the record that is least likely to include the stage
        return None

    def add(self, record: Record) -> None:
        plan = _plan_of(record)
        work = plan and _operations(*plan[:7])
        method, network = record.key.get("method", record.cell.method), record.key.get("network", "")
        if not work:
            return
        distill, evaluate = (len(record.done) * (operations or 0.0) for operations in work)
        about = bool(record.cpu_seconds) or self.gpu, str(record.made_by.get("at", ""))
        if distill:
            kind = self.guessed if _stages(plan[0], plan[1]) and not record.shared else self.distill
            kind[method].append(Rate(*about, _spent(record, "distill"), distill))
        if evaluate:
            for name in (network, ""):
                self.evaluate[name].append(Rate(*about, _spent(record, "evaluate"), evaluate))
        for what, settings in _stages(plan[0], plan[1]).items():
            operations = _stage_operations(settings, plan[1], plan[2])
            costs = [v for k, v in record.shared.items() if k.startswith(what.removesuffix(" trajectories"))]
            if costs and operations is not None:
                seconds = sum(v["seconds"] if self.gpu else v["cpu_seconds"] for v in costs)
                made = len(costs) if isinstance(settings, Training) else 1
                self.stage[what].append(Rate(*about, seconds, made * operations))
        if record.memory_mb and (counted := remembered_mb(plan, self.gpu)) is not None:
            self.beside_mb.append(record.memory_mb - counted)


def _spent(record: Record, phase: str) -> float:
    """Processor seconds of a phase; wall seconds on a GPU. Of a record made before these were counted: its wall seconds
    times its threads."""
    device = str(record.made_by.get("device", ""))
    if not device.endswith("threads"):
        return record.seconds.get(phase, 0.0)
    return (
        record.cpu_seconds[phase] if phase in record.cpu_seconds else record.seconds.get(phase, 0.0) * _threads(device)
    )


def _threads(device: str) -> int:
    """Of a device in words; 1 for a GPU."""
    found = re.search(r"(\d+) threads$", device)
    return int(found[1]) if found else 1


def _kind(device: str) -> str:
    """A device in words whatever its number of threads."""
    return re.sub(r"\d+ threads$", "any threads", device)


def rates(profile: str) -> Rates:
    """Learned from records, of every method and network the last `ENOUGH`: those of the device at hand, else of the one
    with most."""
    groups: dict[str, dict[tuple[str, str], list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted({"full", "small", profile}):
        folder = f"{paths.results(name)}/"
        for file, summary in summaries.summaries(name)[0].items():
            groups[_kind(summary.device)][summary.method, summary.network].append((summary.at, f"{folder}{file}.json"))
    try:
        here = describe(pick())
    except UserError:
        here = ""

    def learned(device: str) -> Rates:
        known = Rates(device, threads=_threads(here))
        for found in groups.get(device, {}).values():
            for _, file in heapq.nlargest(ENOUGH, found):
                try:
                    known.add(records.read(Path(file)))
                except UserError:
                    continue  # reported by whoever wants its number
        return known

    most = max(groups, key=lambda device: sum(map(len, groups[device].values())), default="")
    known = learned(_kind(here) if _kind(here) in groups else most)
    if known.device != most:
        known.other = learned(most)
    return known


@dataclass(frozen=True)
class Share:
    """A part of what a task needs: seconds are None where no record tells. `key` is the same for all tasks that share
    the part."""

    key: str
    seconds: float | None
    basis: str


def shares(task: Task, sets: list[int], known: Rates, made: Collection[str] = ()) -> list[Share] | None:
    """What making and evaluating these sets of a task takes, part by part; None where the data set's size is not known.

    Args:
        made: keys of parts that are there already.
    """
    network = task.key["network"]
    networks = task.networks or (network,)
    work = _operations(task.maker, task.config, task.dataset, task.cell.ipc, networks, task.protocol, task.num_eval)
    if work is None:
        return None
    distill, evaluate = work
    judge = network if known.evaluate.get(network) or (known.other and known.other.evaluate.get(network)) else ""
    out: dict[str, Share] = {}
    for index in sets:
        for part in compute.shared_parts(task, index):
            if part.key not in out and part.key not in made:
                kind, name = ("stage", part.what) if part.stage else ("distill", task.maker)
                operations = _stage_operations(part.settings, task.config, task.dataset) if part.stage else distill
                out[part.key] = Share(part.key, *_seconds(kind, name, operations, known))
        key = f"{task.cell.experiment}/{task.cell.stem}/{index}"
        out[key] = Share(key, *_seconds("evaluate", judge, evaluate, known))
    return list(out.values())


def _seconds(kind: str, name: str, operations: float | None, known: Rates) -> tuple[float | None, str]:
    """Predicted seconds and what they are based on; None if no record tells, or the operations are not known."""
    if operations is None:
        return None, f"what {name} computes is not counted"
    if not operations:
        return 0.0, ""
    for rates_ in (known, known.other):
        if rates_ is None:
            continue
        rate, found = rates_.typical(kind, name), getattr(rates_, kind).get(name) or rates_.guessed.get(name, ())
        if rate is None and kind == "stage":  # networks in training, too
            rate, found = rates_.typical("evaluate", ""), rates_.evaluate.get("", ())
        if rate is not None:
            threads = 1 if rates_.gpu else rates_.threads
            device = rates_.device.replace("any threads", f"{threads} threads")
            return operations * rate / threads, f"{min(len(found), ENOUGH)} records on {device}"
    return None, f"no record of {'any evaluation' if kind == 'evaluate' else name} to go by"


def estimate(task: Task, known: Rates, sets: list[int] | None = None, made: Collection[str] = ()) -> Estimate:
    """What a task will cost by the rates of past records.

    Args:
        sets: numbers of the sets to compute; all by default.
        made: keys of shared parts that are there already.
    """
    network = task.key["network"]
    plan = (
        task.maker,
        task.config,
        task.dataset,
        task.cell.ipc,
        task.networks or (network,),
        task.protocol,
        task.num_eval,
        task.num_sets,
    )
    parts = shares(task, list(range(task.num_sets)) if sets is None else sets, known, made)
    if parts is None:
        return Estimate(None, None, "the data set's size is not known before it is loaded")
    memory: tuple[float | None, str] = (None, f"what {task.maker} keeps in memory is not counted")
    if (counted := remembered_mb(plan, known.gpu)) is not None:
        besides = f"{len(known.beside_mb)} records" if known.beside_mb else "no record"
        memory = (
            counted + known.held_mb,
            f"{counted:.0f} MB of tensors and data counted, {known.held_mb:.0f} MB held besides by {besides}",
        )
    unknown = next((p for p in parts if p.seconds is None), None)
    seconds = None if unknown else sum(p.seconds for p in parts)
    dearest = unknown or max(parts, key=lambda p: p.seconds, default=Share("", 0.0, ""))
    return Estimate(seconds, memory[0], dearest.basis, memory[1])


def rows(statuses: list[Status], profile: str, sets: int | None = None) -> list[dict[str, Any]]:
    """A plan as plain rows: cell, state, why, needs, seconds, added_seconds, memory_mb, basis, memory_basis.

    Costs are of what is still to compute. `seconds` is for the cell alone, `added_seconds` for it after the cells above
    it, with which it may share a trained generator or a distilled set.
    """
    todo = any(s.state in TO_COMPUTE for s in statuses)
    known, made, out = rates(profile) if todo else Rates(), compute.made(profile) if todo else set(), []
    counted = set(made)
    for s in statuses:
        cost, added = Estimate(None, None, ""), None
        if s.state in TO_COMPUTE:
            missing = experiments_state.missing_sets(s.task, s.record if s.state == "partial" else None, sets)
            cost = estimate(s.task, known, missing, made)
            if cost.seconds is not None:
                parts = shares(s.task, missing, known, counted)
                added = round(sum(p.seconds for p in parts), 1)
                counted |= {p.key for p in parts}
        needs = list(compute.stage1(s.task)) if s.task else []
        seconds = None if cost.seconds is None else round(cost.seconds, 1)
        out.append({"cell": str(s.cell), "record": s.cell.stem, "state": s.state, "why": s.why, "needs": needs})
        memory_mb = None if cost.memory_mb is None else round(cost.memory_mb)
        out[-1] |= {
            "seconds": seconds,
            "added_seconds": added,
            "memory_mb": memory_mb,
            "basis": cost.basis,
            "memory_basis": cost.memory_basis,
        }
    return out


def words(seconds: float | None, memory_mb: float | None) -> str:
    """'about 3.2 min, 1.0 GB', or what of it is known."""
    return ("time unknown" if seconds is None else f"about {_time(seconds)}") + (
        f", {memory_mb / 1000:.1f} GB" if memory_mb else ""
    )


def total(rows_: list[dict[str, Any]]) -> str:
    """A plan in one line."""
    todo = [r for r in rows_ if r["state"] in TO_COMPUTE]
    known = [r.get("added_seconds", r["seconds"]) for r in todo if r["seconds"] is not None]
    line = f"{len(rows_)} cells: " + ", ".join(
        f"{n} {state}"
        for state in ("recorded", "partial", "missing", "stale", "damaged", "skipped")
        if (n := sum(r["state"] == state for r in rows_))
    )
    if not todo:
        return line
    bases = sorted({r["basis"].partition(" on ")[2] for r in todo if r["seconds"] is not None})
    cost = f"about {_time(sum(known))} as on {', '.join(bases)}" if known else "time unknown"
    line += f"; to compute: {cost}" + (
        f", and {len(todo) - len(known)} of unknown cost" if known and len(known) < len(todo) else ""
    )
    most = max((r for r in todo if r["memory_mb"]), key=lambda r: r["memory_mb"], default=None)
    return line + (f"; peak memory at most {most['memory_mb'] / 1000:.1f} GB ({most['memory_basis']})" if most else "")


def _time(seconds: float) -> str:
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


# --- counting ----------------------------------------------------------------------------------------------------------
Plan = tuple[str, Any, str, int | None, tuple[str, ...], str, int, int]  # the arguments of `_operations`


def _plan_of(record: Record) -> Plan | None:
    key, cell = record.key, record.cell
    try:
        method, networks = key.get("method", cell.method), tuple(key.get("networks", [key["network"]]))
        config = build(METHODS[method].Config, key["config"])
        return (
            method,
            config,
            key["dataset"],
            cell.ipc,
            networks,
            key["protocol"]["name"],
            key["num_eval"],
            key.get("num_sets", len(record.done)),
        )
    except (KeyError, UserError):  # of another version
        return None


@functools.lru_cache(maxsize=512)
def _data(dataset: str, gpu: bool = False) -> tuple[memory.Size, int] | None:
    """Sizes of a data set and its number of test images; None where they are not documented."""
    name, px, _ = sized(dataset)
    facts = DATASETS.get(name)
    if facts is None:
        return None
    images = facts.counts.get("train") or (IMAGENET_CLASS * facts.num_classes if facts.family == "imagenet" else 0)
    side = px or facts.resolution
    return (
        (memory.Size((facts.channels, side, side), facts.num_classes, images, gpu), facts.counts.get("test", 0))
        if images
        else None
    )


_remembered: dict[str, float] = {}


def _kept(kind: str, what: list[Any], count: Callable[[], float]) -> float:
    """What `count` finds, kept in the cache folder under what it depends on: counting runs parts of networks, and a
    plan has many."""
    key = records.digest([kind, _networks_as_they_are(), *what])
    if key not in _remembered:
        file = paths.cache() / kind / f"{key}.json"
        try:
            _remembered[key] = float(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            _say_once()
            found = _remembered[key] = count()
            with contextlib.suppress(OSError, UserError):  # no place to keep it
                file.parent.mkdir(parents=True, exist_ok=True)
                atomically(file, lambda part: part.write_text(json.dumps(found)))
    return _remembered[key]


@functools.cache
def _say_once() -> None:
    if sys.stderr.isatty():
        print(
            f"counting operations and memory, once for every setting; they are kept in {paths.cache()}", file=sys.stderr
        )


@functools.cache
def _networks_as_they_are() -> str:
    """A digest of the sources of the networks: one that was changed is counted again."""
    folder = Path(__file__).parents[1] / "networks"
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()


def remembered_mb(plan: Plan, gpu: bool) -> float | None:
    """`counted_mb`, kept in the cache folder, because counting a set of networks takes seconds."""
    if _data(plan[2]) is None or plan[0] not in COSTS:
        return None
    versions = [memory.VERSION, METHODS[plan[0]].VERSION, evaluation.VERSION, gpu, can_compile()]
    return _kept("memory", [*versions, plan[0], as_dict(plan[1]), *plan[2:7]], lambda: counted_mb(plan, gpu) or 0.0)


def counted_mb(plan: Plan, gpu: bool) -> float | None:
    """Peak of the tensors of making a set and of judging it, and of the data; None for a data set or a method that is
    not counted."""
    return _counted_mb(*plan[:7], gpu)


@functools.lru_cache(maxsize=4096)
def _counted_mb(
    method: str,
    config: Any,
    dataset: str,
    ipc: int | None,
    networks: tuple[str, ...],
    protocol: str,
    num_eval: int,
    gpu: bool,
) -> float | None:
    data, cost = _data(dataset, gpu), COSTS.get(method)
    if data is None or cost is None:
        return None
    size, tested = data
    images = size.images if ipc is None else size.num_classes * ipc
    judging = max(evaluating(_rule(protocol), name, size, images, num_eval, drawn=ipc is not None) for name in networks)
    most = max(cost.memory(config, size), judging)
    return (most + (size.images + tested) * math.prod(size.shape)) / 2**20  # the data set has a byte a number


@functools.lru_cache(maxsize=4096)
def _operations(
    method: str, config: Any, dataset: str, ipc: int | None, networks: tuple[str, ...], protocol: str, num_eval: int
) -> tuple[float | None, float] | None:
    """Operations of making one set, stages apart, and of evaluating it; None for a data set whose size is not
    documented.

    Those of making it are None for a method that is not counted.
    """

    data, cost = _data(dataset), COSTS.get(method)
    if data is None:
        return None
    (shape, classes, images), tested = (data[0].shape, data[0].num_classes, data[0].images), data[1]
    distill = (
        None
        if cost is None
        else cost.work(config, classes, images) * per_image(getattr(config, "network", "ConvNet"), shape, classes)
    )
    trained, evaluate = images if ipc is None else classes * ipc, 0.0
    per_class = ipc or max(1, images // classes)
    for network in networks:
        rule = _rule(protocol).settled(sized(dataset)[0], network, per_class, classes)
        looks = min(rule.num_epochs(per_class, trained), rule.num_checks(per_class, trained))
        once = 3 * rule.num_epochs(per_class, trained) * trained + (1 + looks) * tested
        evaluate += num_eval * max(1, len(rule.lr_grid)) * once * per_image(network, shape, classes)
    return distill, evaluate


def _stages(method: str, config: Any) -> dict[str, Any]:
    """What has to be made before a method's sets, with its settings."""
    return optional(METHODS[method], "stage1")(config)


@functools.lru_cache(maxsize=512)
def _stage_operations(settings: Any, config: Any, dataset: str) -> float | None:
    """Operations of making a stage once, on a data set whose size is known; None where its settings have no `work`."""
    if not hasattr(settings, "work"):
        return None
    size = _data(dataset)[0]
    network = getattr(settings, "network", getattr(config, "network", "ConvNet"))
    return settings.work(size.num_classes, size.images) * per_image(network, size.shape, size.num_classes)


@functools.lru_cache(maxsize=512)
def _rule(name: str) -> Protocol:
    return protocols.protocol(name)


@functools.cache
def per_image(network: str, shape: tuple[int, int, int], num_classes: int) -> float:
    """Floating-point operations of convolutions and products of one image through a network, forwards; kept in the
    cache folder."""
    return _kept("operations", [network, shape, num_classes], lambda: counted_operations(network, shape, num_classes))


def counted_operations(network: str, shape: tuple[int, int, int], num_classes: int) -> float:
    """As `per_image`, by running the network; 0 for one that does not take such images."""
    try:
        model = networks.blank(network, shape, num_classes)
    except UserError:
        return 0.0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return float(counter.get_total_flops())
