"""What came out where recorded cells were computed again, on another processor or with other threads."""

from __future__ import annotations

import pandas as pd

from ..evaluation import statistics
from ..experiments.recompute import Recomputed, comparisons
from ..records import Record
from .findings import Findings
from .numbers import spread


def table() -> pd.DataFrame:
    """A row per cell that was computed again, the largest differences first."""
    rows = [
        {
            "cell": str(r.record.cell),
            "networks": len(r.pairs),
            "recorded": spread(r.record.test_accuracy_pct, 2),
            "computed again": spread(r.again.test_accuracy_pct, 2),
            "difference of the means": f"{r.mean_difference:+.2f}",
            "largest of a network": f"{r.largest_difference:.2f}",
            "recorded on": _device(r.record),
            "computed again on": _device(r.again),
        }
        for r in sorted(comparisons(), key=lambda r: -abs(r.mean_difference))
    ]
    return pd.DataFrame(rows)


def sentence() -> Findings:
    """How far the numbers moved, beside how far they move with the seed."""
    found = comparisons()
    if not found:
        return Findings(["No recorded cell has been computed again yet."])
    moved = [abs(r.mean_difference) for r in found]
    within = sum(_within(r) for r in found)
    equal = sum(r.largest_difference == 0 for r in found)
    return Findings(
        [
            f"{len(found)} recorded cells were computed again, with nothing reused. {equal} gave the same accuracies; "
            f"the mean of a cell moved by {statistics.mean(moved):.2f} points on average and {max(moved):.2f} at most. "
            f"In {within} of {len(found)} cells that is less than the standard deviation over the record's networks."
        ]
    )


def _within(r: Recomputed) -> bool:
    return abs(r.mean_difference) < statistics.std(r.record.test_accuracy_pct) or r.mean_difference == 0


def _device(record: Record) -> str:
    by = record.made_by
    return ", ".join([by.get("device", "unknown"), *by.get("processor", [])])
