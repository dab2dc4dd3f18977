"""Two ways to the same numbers, each in processes of its own, so that neither changes the other's memory; alternating, so that
a busy machine slows both. Used by the benchmarks of this folder."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_lib.device import describe

Side = Callable[[], Tensor]  # one call of what is measured; returns what both sides must agree on


def memory_mb(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def parser(text: str, rounds: int) -> argparse.ArgumentParser:
    """Options that every such benchmark has; `text` is its docstring."""
    options = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", default="cpu")
    options.add_argument("--json", type=Path, help="write the figures there too")
    options.add_argument("--child", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    return options


def run(file: str, args: argparse.Namespace, what: str, build: Callable[[str], tuple[Side, Side]]) -> None:
    """Measure "plain" and "ours" and print the figures; in a child process, measure one side once.

    Args:
        build: side -> (a small call that warms up, the call that is measured).
    """
    if args.child:
        torch.set_num_threads(args.threads)
        side, out = args.child
        warm_up, call = build(side)
        warm_up()
        before, start, processor = memory_mb(args.device), time.perf_counter(), time.process_time()
        result = call()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        figures = {"seconds": seconds, "processor_seconds": processor, "memory_mb": memory_mb(args.device) - before}
        torch.save({"figures": figures, "result": result.cpu()}, out)
        return
    measured: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    results: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for side, found in measured.items():
                out = f"{folder}/{side}.pt"
                command = [sys.executable, file, *sys.argv[1:], "--child", side, out]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
                loaded = torch.load(out, weights_only=True)
                found.append(loaded["figures"])
                results[side] = loaded["result"].double()
    report: dict[str, Any] = {"what": what, "device": describe(args.device), "threads": args.threads, "torch": torch.__version__}
    for side, found in measured.items():
        seconds = [m["seconds"] for m in found]
        report[side] = {
            "seconds": [round(s, 3) for s in seconds],
            "median_seconds": round(statistics.median(seconds), 3),
            "spread_seconds": round(max(seconds) - min(seconds), 3),
            "processor_seconds": [round(m["processor_seconds"], 3) for m in found],
            "memory_mb": round(max(m["memory_mb"] for m in found)),  # above what the process held before
        }
    for of, name in (("seconds", "ratio"), ("processor_seconds", "processor_ratio")):
        ratios = [a[of] / b[of] for a, b in zip(measured["plain"], measured["ours"], strict=True)]
        report[name], report[f"{name}s"] = round(statistics.median(ratios), 2), [round(r, 2) for r in ratios]
    report["relative_difference"] = float((results["ours"] - results["plain"]).norm() / results["plain"].norm())
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
