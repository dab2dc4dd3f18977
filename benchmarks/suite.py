"""The benchmarks' common part: what a benchmark is, how it is measured, what is written.

A benchmark is a function that prepares one side and returns the call that is measured; the call returns what both sides
must agree on, or None if there is nothing to compare:

    @benchmark("dm", "a DM step", "a loop over classes", size={"classes": 10}, quick={"classes": 2}, tolerance=1e-4)
    def dm(side: str, device: str, classes: int) -> Call: ...

Each side has a process of its own, so that neither changes the other's memory, and both stay until the last repeat:
they take turns, after a pause each, so that a busy machine slows both. Before anything is timed, each side runs once at
the quick size, and once in full for its result, its peak memory and (plain) its counted operations. A benchmark whose
results differ by more than its tolerance fails. A busy machine is not measured, unless `--busy-anyway` says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from distill_lib.core import paths
from distill_lib.core.device import describe, pick, processor
from distill_lib.core.measure import forget_peak, peak_mb
from distill_lib.records import benchmarks, provenance

FOLDER = Path(__file__).resolve().parent
MODULES = sorted(f.stem for f in FOLDER.glob("*.py") if f.stem not in ("suite", "gpu_kit", "__main__"))
BUSY = 0.1  # cores that other work may take
LEAST = 3  # repeats before a budget may end a benchmark
SETTLE = (
    0.2  # seconds before a turn: idle threads of PyTorch and OpenBLAS keep a processor busy for tens of milliseconds
)

Call = Callable[[], Tensor | dict[str, float] | None]


class Failed(Exception):
    """A benchmark that could not be measured, or whose sides do not agree."""


@dataclass(frozen=True)
class Benchmark:
    """One thing that is measured.

    Attributes:
        what:      in words, with the size's names in braces.
        compared:  the plain reference in words; "" if only ours runs.
        build:     (side, device, **size) -> the call; side is "plain" or "ours".
        size, quick: the size that is reported, and one that runs in seconds.
        tolerance: largest allowed difference of both results; None if they return nothing to compare.
        distance:  (ours, plain) -> that difference, and `difference_is` its unit; by default `apart`.
        target:    see `distill_lib.records.benchmarks`.
        growth:    for `--scaling`: name in `size` -> values; `small` changes the other sizes for it.
        repeats:   at most, where one is enough.
        lacks:     () -> what it needs and is not there, in words; it is left out then.
        once:      takes minutes: its one run is what is measured, without memory, and `--quick` leaves it out.
        elsewhere: runs in a process of its own, whose memory is not measured.
    """

    name: str
    what: str
    compared: str
    build: Callable[..., Call]
    size: dict[str, Any]
    quick: dict[str, Any]
    tolerance: float | None = None
    distance: Callable[[np.ndarray, np.ndarray], float] | None = None
    difference_is: str = ""
    target: dict[str, float] = field(default_factory=dict)
    growth: dict[str, tuple[int, ...]] = field(default_factory=dict)
    small: dict[str, Any] = field(default_factory=dict)
    repeats: int | None = None
    lacks: Callable[[], str | None] = lambda: None
    once: bool = False
    elsewhere: bool = False


KNOWN: dict[str, Benchmark] = {}


def benchmark(
    name: str, what: str, compared: str, **options: Any
) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Register a function as a benchmark; see `Benchmark`."""

    def register(build: Callable[..., Call]) -> Callable[..., Call]:
        KNOWN[name] = Benchmark(name, what, compared, build, **options)
        return build

    return register


def load(modules: list[str] = MODULES) -> dict[str, Benchmark]:
    """All benchmarks of these files, in their order."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    for module in modules:
        importlib.import_module(module)
    return KNOWN


def apart(ours: np.ndarray, plain: np.ndarray) -> float:
    """Norm of the difference of two results as a share of the reference's norm; NaN where there is one.

    Not the largest difference: where rounding moves a pre-activation across the kink of a ReLU, as it does between any
    two float32 computations, a gradient's few entries behind it change by a finite amount.
    """
    if ours.shape != plain.shape:
        raise Failed(f"results of shapes {ours.shape} and {plain.shape}")
    return float(np.linalg.norm((ours - plain).ravel()) / max(np.linalg.norm(plain.ravel()), 1e-300))


# --- one side, in its own process ------------------------------------------------------------------------------------
class Counter(TorchDispatchMode):
    """Operations of convolutions and products in the block, and bytes of all tensors that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        if not func.is_view:
            self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        return out


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _held_mb(device: str) -> float:
    """Memory now; the peak starts again from here."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    forget_peak()
    return peak_mb()


def _highest_mb(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else peak_mb()


def _first(call: Call, side: str, device: str) -> dict[str, Any]:
    """What the first run says: result or facts, peak memory, and of the plain side the counts."""
    before, counter = _held_mb(device), Counter() if side == "plain" else contextlib.nullcontext()
    rounding, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # results are compared unrounded
    with counter:
        found = call()
    _synchronise(device)
    torch.backends.cudnn.allow_tf32 = rounding
    first = {"memory_mb": _highest_mb(device) - before, "result": None, "facts": {}}
    if isinstance(found, Tensor):
        first["result"] = found.detach().double().cpu().numpy()
    elif found is not None:
        first["facts"] = found
    return first | ({"operations": counter.operations, "bytes": counter.bytes} if side == "plain" else {})


def serve(
    module: str,
    name: str,
    side: str,
    device: str,
    threads: int,
    size: dict[str, Any],
    quick: dict[str, Any],
    pipe: Connection,
) -> None:
    """A side's process: prepare and run once, then answer every "go" with the seconds of one call."""
    try:
        torch.set_num_threads(threads)
        if side == "ours":
            pick(device)  # as the library does before it computes
        of = load([module])[name]
        if not of.once:
            of.build(side, device, **quick)()
        call = of.build(side, device, **size)
        if of.once:
            pipe.send({"memory_mb": None, "result": None, "facts": {}})
        else:
            pipe.send(_first(call, side, device) | ({"memory_mb": None} if of.elsewhere else {}))
        while pipe.recv() == "go":
            _synchronise(device)
            start, processor = time.perf_counter(), time.process_time()
            call()
            _synchronise(device)
            pipe.send((time.perf_counter() - start, time.process_time() - processor))
    except EOFError:  # the parent is gone
        pass
    except BaseException:
        pipe.send(Failed(traceback.format_exc(limit=-6)))


def peaks(device: str, threads: int, pipe: Connection) -> None:
    """Operations a second of a large float32 matrix product, bytes a second of adding two long vectors: the best of
    some tries."""
    torch.set_num_threads(threads)
    on_gpu = device.startswith("cuda")
    n, length = (8192, 2**28) if on_gpu else (1536, 2**25)
    a, b, c = (torch.ones(n, n, device=device) for _ in range(3))
    x, y, z = (torch.ones(length, device=device) for _ in range(3))

    def best(call: Callable[[], Any], tries: int) -> float:
        found = []
        for _ in range(tries):
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            found.append(time.perf_counter() - start)
        return min(found)

    flops = 2 * n**3 / best(lambda: torch.mm(a, b, out=c), 10)
    pipe.send((flops, 12 * length / best(lambda: torch.add(x, y, out=z), 10)))


# --- both sides ------------------------------------------------------------------------------------------------------
def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "distill_lib.evaluation.evaluator", "distill_lib.methods"])
    return context


class Side:
    """A process and what it answers."""

    def __init__(self, target: Callable[..., None], *args: Any):
        context = _context()
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=target, args=(*args, there), daemon=False)
        self.process.start()
        there.close()

    def answer(self) -> Any:
        try:
            found = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise Failed(f"its process ended with status {self.process.exitcode}; out of memory?") from None
        if isinstance(found, Failed):
            raise found
        return found

    def once(self) -> tuple[float, float]:
        self.pipe.send("go")
        return self.answer()

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send("stop")
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def measured(
    of: Benchmark,
    size: dict[str, Any],
    repeats: int,
    device: str,
    threads: int,
    machine: tuple[float, float],
    others: float,
    until: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The entry of one benchmark at one size; `until`, as `time.monotonic()`, ends its repeats early, and `others` is
    what `busy_cores` said before.

    Raises: Failed.
    """
    began = time.monotonic()
    module, names = of.build.__module__, ("plain", "ours") if of.compared else ("ours",)
    sides: dict[str, Side] = {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    try:
        first = {}
        for name in names:
            sides[name] = Side(serve, module, of.name, name, device, threads, size, of.quick)
            first[name] = sides[name].answer()
        for i in range(1 if of.once else min(repeats, of.repeats or repeats)):
            if until is not None and i >= LEAST and time.monotonic() > until:
                break
            for name in names if i % 2 == 0 else reversed(names):
                time.sleep(SETTLE)
                seconds[name].append(sides[name].once())
    finally:
        for side in sides.values():
            side.end()
    words = of.what.format(**size)
    return (
        entry(of, words, first, seconds, machine)
        | more
        | {
            "size": size,
            "seconds": round(time.monotonic() - began, 1),
            "made_by": made_by(device, threads) | {"busy_cores": round(others, 2)},
        }
    )


def entry(
    of: Benchmark,
    what: str,
    first: dict[str, dict[str, Any]],
    seconds: dict[str, list[tuple[float, float]]],
    machine: tuple[float, float],
) -> dict[str, Any]:
    """What a benchmark's measurements say; see `distill_lib.records.benchmarks`.

    Args:
        first:   side -> memory_mb, result, facts, and of the plain side operations and bytes.
        seconds: side -> wall and processor seconds of every repeat.
        machine: its operations and bytes a second.
    """
    sides = {
        name: benchmarks.summary([s for s, _ in times], [p for _, p in times], first[name]["memory_mb"])
        for name, times in seconds.items()
    }
    plain, ours = sides.get("plain"), sides["ours"]
    pairs = [a / b for (a, _), (b, _) in zip(seconds.get("plain", ()), seconds["ours"])]
    found = {
        "name": of.name,
        "group": "benchmark",
        "what": what,
        "compared": of.compared,
        "ours": ours,
        "plain": plain,
        "ratio": plain["median"] / ours["median"] if plain else None,
        "ratio_low": min(pairs, default=None),
        "ratio_high": max(pairs, default=None),
        "processor_ratio": plain["processor_median"] / ours["processor_median"]
        if plain and ours["processor_median"]
        else None,
        "difference": None,
        "tolerance": of.tolerance,
        "difference_is": of.difference_is,
        "operations": first["plain"]["operations"] if plain else None,
        "bytes": first["plain"]["bytes"] if plain else None,
        "peak_flops": machine[0],
        "peak_bytes": machine[1],
        "target": of.target,
        "facts": first["ours"]["facts"],
    }
    if of.tolerance is not None:
        results = [first[name]["result"] for name in ("ours", "plain")]
        if any(r is None for r in results):
            raise Failed("it has a tolerance, and a side returned nothing to compare")
        found["difference"] = (of.distance or apart)(*results)
    return found


def made_by(device: str, threads: int) -> dict[str, Any]:
    about = {k: v for k, v in provenance(device).items() if k != "python"}
    return about | {"threads": threads, "processor": processor()}


def machine_name(device: str) -> str:
    """The device as the results name it: processors of one name that differ in instructions are kept apart, and so is
    a GPU whose networks are not compiled."""
    name = describe(device).rpartition(", ")[0] or describe(device)
    slow = [] if paths.switch("DISTILL_COMPILE", True) else ["nothing compiled"]
    best = processor()[-1:] if torch.device(device).type == "cpu" else slow
    return " with ".join([name, *best])


def busy_cores(seconds: float = 1.0) -> float:
    """How many cores worked during this time, in which this process waits: the load of others."""
    return psutil.cpu_percent(seconds) / 100 * psutil.cpu_count()


# --- the command -----------------------------------------------------------------------------------------------------
def chosen(names: list[str]) -> list[Benchmark]:
    """The benchmarks of these names; "fid" is also every "fid-...".

    Raises: SystemExit: no benchmark has one of the names; lists those there are.
    """
    known = load()
    out = []
    for name in names:
        found = [b for b in known.values() if b.name == name or b.name.startswith(f"{name}-")]
        if not found:
            raise SystemExit(f"no benchmark {name!r}; there are: {', '.join(known)}")
        out += [b for b in found if b not in out]
    return out or list(known.values())


def main(argv: list[str] | None = None) -> None:
    """Measure and show."""
    options = argparse.ArgumentParser(
        prog="benchmarks", description="Speed and memory against plain references of the same mathematics."
    )
    options.add_argument("names", nargs="*", help="of benchmarks; by default all")
    options.add_argument("--list", action="store_true", help="name them and stop")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    options.add_argument("--device", default="cpu")
    options.add_argument(
        "--quick", action="store_true", help="tiny sizes, once: whether everything runs and agrees; nothing is written"
    )
    options.add_argument(
        "--scaling",
        action="store_true",
        help="also how some grow with images per class, classes, resolution and networks",
    )
    options.add_argument(
        "--budget", type=float, help="seconds after which no benchmark begins and none is repeated more than it must"
    )
    options.add_argument(
        "--busy-anyway", action="store_true", help=f"measure although other work takes more than {BUSY} of a core"
    )
    args = options.parse_args(argv)
    if args.repeats < 1 or args.threads < 1:
        raise SystemExit("--repeats and --threads: at least 1")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the processes below
    torch.set_num_threads(args.threads)
    todo = chosen(args.names)
    if args.list:
        print("\n".join(f"{b.name:20s} {b.what.format(**b.size)}" for b in todo))
        return
    device = str(pick(args.device))
    until = None if args.budget is None else time.monotonic() + args.budget
    machine = (0.0, 0.0)
    if not args.quick:
        side = Side(peaks, device, args.threads)
        machine = side.answer()
        side.end()
        print(
            f"{describe(device)}, torch {torch.__version__}: "
            f"{machine[0] / 1e9:.0f} GFLOP/s, {machine[1] / 1e9:.1f} GB/s",
            flush=True,
        )
    jobs = [(b, b.quick if args.quick else b.size, {}) for b in todo]
    if args.scaling:
        jobs += [
            (
                b,
                {**b.size, **b.small, axis: at},
                {"name": f"{b.name}/{axis}={at}", "group": "growth", "base": b.name, "axis": axis, "at": at},
            )
            for b in todo
            for axis, values in b.growth.items()
            for at in values
        ]
    bad = []
    for of, size, more in jobs:
        name = more.get("name", of.name)
        if args.quick and of.once:
            print(f"{name}: takes minutes, left out", flush=True)
            continue
        if missing := of.lacks():
            print(f"{name}: left out, {missing}", flush=True)
            continue
        if until is not None and time.monotonic() > until:
            print(f"{name}: not measured, the time is up", flush=True)
            continue
        others = 0.0 if args.quick else busy_cores()
        if others > BUSY and not args.busy_anyway:
            refused = f"{name}: other work takes {others:.1f} cores of this machine, which would be measured too"
            raise SystemExit(f"{refused}; stop it, or give --busy-anyway to record it with that load")
        try:
            repeats = 1 if args.quick else args.repeats
            found = measured(of, size, repeats, device, args.threads, machine, others, until, **more)
        except Failed as err:
            bad.append(name)
            print(f"{name}: FAILED\n{err}", flush=True)
            continue
        print(line(found), flush=True)
        if not benchmarks.agrees(found):
            bad.append(name)
        elif not args.quick:
            benchmarks.add(machine_name(device), args.threads, [found])
    if not args.quick:
        print(f"in {benchmarks.file(machine_name(device), args.threads)}")
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


def line(found: dict[str, Any]) -> str:
    """An entry for the screen."""
    row = benchmarks.table([found]).iloc[0].to_dict()
    parts = [f"{found['name']:24s} ours {row['ours']}"]
    if found["plain"]:
        parts.append(f"plain {row['plain']}, ratio {row['ratio']}")
    parts += [
        f"{k} {row[k]}"
        for k in ("target", "difference", "memory, ours", "memory, plain", "GFLOP/s", "facts")
        if row.get(k)
    ]
    return "; ".join(parts) + ("" if benchmarks.agrees(found) else "; RESULTS DISAGREE")
