"""Measured speed: what `benchmarks/` writes into `results/benchmarks` and the page on speed shows.

One file per device and number of threads, one entry per benchmark. An entry is a plain dictionary:

name, group, what, compared
    The benchmark, and in words what is done and by what plain reference. The group "growth" is one size of another
    benchmark, `base`, with `axis` at `at`.
ours, plain
    `seconds` of every repeat, `median`, `q1`, `q3`, `processor_median`, and `memory_mb` above what was held before.
    `plain` is None without a reference.
ratio, ratio_low, ratio_high
    Median of plain over median of ours; smallest and largest ratio of two neighbouring repeats. `processor_ratio` is
    that of seconds of processor time.
difference, tolerance, difference_is
    Norm of the difference of both results, as a share of the reference's norm, unless `difference_is` names another
    unit.
operations, bytes
    Floating-point operations of the convolutions and products of the plain form; bytes that all its operations read and
    write.
peak_flops, peak_bytes
    Of the machine, a second, in the same run.
target
    What is to be reached: {"ratio": at least}, {"seconds": at most} or {"added_seconds": at most}.
facts, size, seconds, made_by
    Further numbers; the benchmark's sizes; seconds of measuring; device, threads, torch, commit, time, instructions of
    the `processor`, and `busy_cores`, which other work took just before.
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import paths
from ..core.errors import UserError
from ..core.files import write_json

FORMAT = "distill_lib.speed/1"
WANTED = {"ratio": "≥ {}×", "seconds": "≤ {} s", "added_seconds": "≤ {} s more", "off_pct": "≤ {} % off"}


def _folder() -> Path:
    """The folder of the measurements."""
    return paths.results("benchmarks")


def file(device: str, threads: int) -> Path:
    """The file of a device, as `device.describe` names it, and a number of threads."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r", \d+ threads$", "", device).lower()).strip("-")
    return _folder() / f"{slug}-{threads}threads.json"


@dataclass(frozen=True)
class Report:
    """The measurements of one device with one number of threads."""

    device: str
    threads: int
    entries: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        return f"{self.device}, {self.threads} thread{'s' * (self.threads > 1)}"

    def of(self, group: str) -> list[dict[str, Any]]:
        return [e for e in self.entries.values() if e["group"] == group]

    @property
    def peaks(self) -> tuple[float, float]:
        """The machine's operations and bytes a second: the highest of all runs."""
        return max(e["peak_flops"] for e in self.entries.values()), max(e["peak_bytes"] for e in self.entries.values())


def read(path: Path) -> Report:
    """Raises: UserError: missing, damaged or foreign file."""
    try:
        body = json.loads(path.read_text())
        if body["format"] != FORMAT:
            raise KeyError("format")
        return Report(body["device"], body["threads"], body["entries"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(
            f"{path}: not measurements of this library ({type(err).__name__}: {err}); delete it and measure again"
        ) from None


def reports() -> list[Report]:
    """Every report, in the order of the files' names."""
    return [read(path) for path in sorted(_folder().glob("*.json"))]


def add(device: str, threads: int, entries: list[dict[str, Any]]) -> Path:
    """Put entries into the device's file: one of the same name is replaced, the others stay."""
    path = file(device, threads)
    kept = (read(path).entries if path.exists() else {}) | {e["name"]: e for e in entries}
    body = {"format": FORMAT, "device": re.sub(r", \d+ threads$", "", device), "threads": threads}
    body["entries"] = dict(sorted(kept.items()))
    return write_json(path, body)


# --- what entries say -----------------------------------------------------------------------------
def summary(seconds: list[float], processor: list[float], memory_mb: float | None) -> dict[str, Any]:
    """Median and quartiles of a side's repeats."""
    q1, middle, q3 = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return {
        "seconds": [_short(s) for s in seconds],
        "median": _short(middle),
        "q1": _short(q1),
        "q3": _short(q3),
        "processor_median": _short(statistics.median(processor)),
        "memory_mb": None if memory_mb is None else round(memory_mb, 1),
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def agrees(entry: dict[str, Any]) -> bool:
    """Whether both sides found the same, to the tolerance; true without one. A NaN agrees with nothing."""
    return entry["tolerance"] is None or entry["difference"] <= entry["tolerance"]


def target_met(entry: dict[str, Any]) -> bool | None:
    """Whether the target was reached; None without one."""
    if not entry.get("target"):
        return None
    ((kind, limit),) = entry["target"].items()
    if kind == "ratio":
        return entry["ratio"] is not None and entry["ratio"] >= limit
    if kind in ("seconds", "added_seconds"):
        reached = entry["ours"]["median"] - (entry["plain"]["median"] if kind == "added_seconds" else 0.0)
    else:
        reached = entry["facts"].get(kind)
    return reached is not None and reached <= limit


def rate(entry: dict[str, Any], side: str) -> float | None:
    """Operations a second: those of the plain form over the side's median. None if none were counted."""
    if not entry.get("operations") or not entry.get(side):
        return None
    return entry["operations"] / entry[side]["median"]


def _target(entry: dict[str, Any]) -> str:
    """A target in words, and whether it was met: "≥ 4×, met"."""
    if not entry.get("target"):
        return ""
    ((kind, limit),) = entry["target"].items()
    return WANTED[kind].format(limit) + (", met" if target_met(entry) else ", missed")


def table(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """One line per entry, in words and rounded numbers: first those with a target of a ratio, then of anything else,
    then the others."""
    lines, kinds = [], list(WANTED)
    for e in sorted(entries, key=lambda e: [kinds.index(k) for k in e.get("target") or ()] or [len(kinds)]):
        plain, flops = e["plain"], rate(e, "ours")
        lines.append(
            {
                "benchmark": e["name"],
                "what": e["what"],
                "ratio": f"{e['ratio']:.1f} ({e['ratio_low']:.1f} to {e['ratio_high']:.1f})" if plain else "",
                "target": _target(e),
                "ours": _spread(e["ours"]),
                "plain": _spread(plain),
                "compared with": e["compared"],
                "difference": "" if e["tolerance"] is None else _difference(e),
                "memory, plain": _memory(plain),
                "memory, ours": _memory(e["ours"]),
                "GFLOP/s": f"{flops / 1e9:.1f}" if flops else "",
                "of peak": f"{100 * flops / e['peak_flops']:.0f} %" if flops and e["peak_flops"] else "",
                "facts": ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in e["facts"].items()),
            }
        )
    frame = pd.DataFrame(lines)
    return frame.drop(columns="facts") if len(frame) and not frame["facts"].any() else frame


def _has_reference(entry: dict[str, Any]) -> bool:
    return bool(entry["plain"]) and set(entry["target"]) <= {"ratio"}


def alone(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """One line per entry that `overview` leaves out: what was run, its seconds or, where that is measured, the peak
    memory of a step; of a process apart, for which old entries say 0 MB, no memory."""
    rows = []
    for e in (e for e in entries if not _has_reference(e)):
        step = e["facts"].get("measured_mb")
        memory = step or e["ours"]["memory_mb"]
        rows.append(
            {
                "what": _at_its_ipc(e["what"]),
                "seconds": "" if step else f"{e['ours']['median']:.3g}",
                "peak memory, MB": f"{memory:.0f}" if memory else "",
            }
        )
    return pd.DataFrame(rows, columns=["what", "seconds", "peak memory, MB"])


def _at_its_ipc(what: str) -> str:
    """Old entries name two numbers of images per class, of which the one in brackets was run."""
    own = re.search(r"\bipc (\d+)(, )?", what)
    if not own:
        return what
    left = what.replace(own[0], "").replace(" ()", "").replace(", )", ")")
    return re.sub(r"at IPC \d+", f"at IPC {own[1]}", left)


def overview(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """One line per entry that another loop is the reference of, the largest gain first: what was run, how many times as
    long that loop takes, in the column of the plain or of the official one, which share of the machine's arithmetic
    ours uses, and what figures call it."""
    rows, loops = [], [e for e in entries if _has_reference(e)]
    for e in sorted(loops, key=lambda e: -e["ratio"]):
        official = any(word in e["compared"] for word in ("official", "published"))
        flops, times = rate(e, "ours"), f"{e['ratio']:.2g}" if e["ratio"] < 10 else f"{e['ratio']:.0f}"
        share = f"{100 * flops / e['peak_flops']:.0f} %" if flops and e["peak_flops"] else ""
        rows.append((e["what"], "" if official else times, times if official else "", share, e["name"]))
    faster = [f"faster than the {loop} loop (times; below 1: slower)" for loop in ("plain", "official")]
    columns = ["what", *faster, "share of the limit", "in figures"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.loc[:, (frame != "").any()] if len(frame) else frame


def _spread(side: dict[str, Any] | None) -> str:
    """'0.82 s (0.80 to 0.84)': median and quartiles."""
    if side is None:
        return ""
    scale, unit = (1, "s") if side["median"] >= 0.1 else (1000, "ms")
    return f"{scale * side['median']:.3g} {unit} ({scale * side['q1']:.3g} to {scale * side['q3']:.3g})"


def _difference(entry: dict[str, Any]) -> str:
    unit = f" {entry['difference_is']}" if entry["difference_is"] else ""
    return f"{entry['difference']:.1g}{unit} (≤ {entry['tolerance']:g})"


def _memory(side: dict[str, Any] | None) -> str:
    return "" if side is None or side["memory_mb"] is None else f"{side['memory_mb']:.0f} MB"


def growth(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Numbers for a figure of how seconds grow: columns base, axis, at, ours, plain, ratio, difference."""
    columns = ["base", "axis", "at", "ours", "plain", "ratio", "difference"]
    rows = [e | {side: e[side]["median"] for side in ("ours", "plain")} for e in entries]
    return pd.DataFrame(rows, columns=columns).sort_values(["base", "axis", "at"], ignore_index=True)


def roofline(entries: list[dict[str, Any]]) -> pd.DataFrame:
    """Points for `figures.roofline`: columns name, who, intensity (operations per byte), rate (operations a second).

    Without entries that do less than an operation a byte: they spend their time on what is not counted.
    """
    rows = [
        {"name": e["name"], "who": side, "intensity": e["operations"] / e["bytes"], "rate": flops}
        for e in entries
        for side in ("plain", "ours")
        if (flops := rate(e, side)) and e["operations"] >= e["bytes"]
    ]
    return pd.DataFrame(rows, columns=["name", "who", "intensity", "rate"])
