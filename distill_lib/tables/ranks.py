"""Methods ranked by their means, with intervals and ties."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .. import records
from ..evaluation import statistics
from ..experiments import Outcome
from ..records import Cell, Record
from .compare import Axis, along
from .numbers import NOT_RUN, UNDERFIT, records_of


def mean_interval(values: list[float], sets: list[int], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and t interval of percentages: of the sets' means where there are several, else of the one set's networks.

    Args:
        values: one per network.
        sets:   for each network, which set it was trained on.
    Returns: mean, low, high, both within 0 and 100; NaN for a single network, which has no interval.
    """
    units, _ = statistics.units(values, sets if len(set(sets)) > 1 else None)
    mean = statistics.mean(units)
    if len(units) == 1:
        return mean, math.nan, math.nan
    half = statistics.half_width(statistics.std(units, ddof=1), len(units), level)
    return mean, max(mean - half, 0.0), min(mean + half, 100.0)


def rank_ranges(low: list[float], high: list[float]) -> list[tuple[int, int]]:
    """First and last rank, 1 the best, of each interval: behind all that lie wholly above it, ahead of all wholly
    below.

    An interval of NaN overlaps all.
    """
    return [
        (1 + sum(other > h for other in low), len(low) - sum(other < a for other in high))
        for a, h in zip(low, high, strict=True)
    ]


RANKING = "profile,data,IPC,budget,method,labels,mean,low,high,of,sets,networks,first,last,state".split(",")


def ranking(outcome: Outcome, labels: Axis) -> pd.DataFrame:
    """Sets ranked by mean accuracy among those of their profile, data set, IPC and budget.

    Args:
        outcome: of cells with one protocol and network, but for the loss that their labels need.
        labels:  what to call a cell's labels.
    Returns: columns `RANKING`: `of` says whether low and high are of sets or of networks, first and last are the rank,
        state is "" where there is a mean. Cells that are underfit at small, or without a record, come last in their
        group, with NaN and "underfit" or "not run"; a setting of which a profile has no record is one line.
    """
    out: list[dict[str, Any]] = []
    found = {(p, s.cell): r for s in outcome for p, r in records_of(s.cell, outcome).items()}
    for profile in dict.fromkeys(p for p, _ in found):
        settings: dict[tuple[str, int | None], list[Cell]] = {}
        for s in outcome:
            settings.setdefault((s.cell.dataset, s.cell.ipc), []).append(s.cell)
        for (dataset, ipc), cells in settings.items():
            measures = {c: _measure(found[profile, c], profile) for c in cells if (profile, c) in found}
            if not measures:
                line = {"profile": profile, "data": dataset, "IPC": ipc}
                out.append({**line, "method": "every row", "state": NOT_RUN})
            for data, budget in dict.fromkeys((m["data"], m["budget"]) for m in measures.values()):
                here = {c: m for c, m in measures.items() if (m["data"], m["budget"]) == (data, budget)}
                order = sorted((c for c in here if "mean" in here[c]), key=lambda c: -here[c]["mean"])
                ranks = rank_ranges([here[c]["low"] for c in order], [here[c]["high"] for c in order])
                for c, (first, last) in zip(order, ranks, strict=True):
                    here[c] |= {"first": first, "last": last}
                underfit = [c for c in here if c not in order]
                for c in [*order, *underfit, *(c for c in cells if c not in here)]:
                    line = {"profile": profile, "data": data, "IPC": ipc, "budget": budget, "state": NOT_RUN}
                    out.append({**line, "method": c.method, "labels": along(c, labels), **here.get(c, {})})
    return pd.DataFrame(out, columns=RANKING)


def _measure(record: Record, profile: str) -> dict[str, Any]:
    """What `ranking` takes from a record: of an underfit one no number."""
    rules = record.key["protocol"]
    what = {"data": record.key["dataset"], "budget": f"{rules['budget'] or rules['epochs']} epochs"}
    if profile == "small" and records.underfit(record):
        return what | {"state": UNDERFIT}
    mean, low, high = mean_interval(record.test_accuracy_pct, record.sets)
    sets, networks = len(set(record.sets)), len(record.sets)
    return what | {
        "state": "",
        "mean": mean,
        "low": low,
        "high": high,
        "of": "sets" if sets > 1 else "networks",
        "sets": sets,
        "networks": networks // sets,
    }


def ranked(frame: pd.DataFrame) -> pd.DataFrame:
    """`ranking` for reading: rank 2–4 where intervals overlap, and how many sets say so; "underfit" in its place is no
    result. What is not run is folded."""

    setting = ["profile", "data", "IPC", "budget"]
    measured = frame.groupby(setting, dropna=False)["mean"].transform("count")

    def line(row: pd.Series) -> dict[str, Any]:
        shown = {"data": row["data"], "IPC": row["IPC"], "rank": row["state"]} | dict(row[["method", "labels"]])
        if row["state"] == UNDERFIT:
            return shown | {"budget": row["budget"]}
        if row["state"]:
            return shown
        first, last, sets, networks = (int(row[k]) for k in ("first", "last", "sets", "networks"))
        alone = measured[row.name] == 1
        return shown | {
            "rank": "only row" if alone else str(first) if first == last else f"{first}–{last}",
            "ours": f"{row['mean']:.1f}",
            "95 % interval": "none" if math.isnan(row["low"]) else f"{row['low']:.1f} to {row['high']:.1f}",
            "interval of": row["of"] if sets > 1 else f"{row['of']} only",
            "measured on": f"{sets} set{'s' * (sets > 1)} × {networks} network{'s' * (networks > 1)}",
            "budget": row["budget"],
        }

    run_first = frame.sort_values("state", key=lambda state: state == NOT_RUN, kind="stable")
    lines = pd.DataFrame([line(row) for _, row in run_first.iterrows()]).fillna("")
    if left := int((frame["state"] == NOT_RUN).sum()):
        lines.attrs["folded"] = left, f"{left} rows not run"
    return lines
