"""What came out where recorded cells were computed again, on another processor or with other threads."""

from __future__ import annotations

import pandas as pd

from ..evaluation import statistics
from ..experiments.recompute import Recomputed, comparisons
from ..records import Record
from .findings import Findings
from .numbers import device, spread


def table() -> pd.DataFrame:
    """A row per cell that was computed again, the largest differences first."""
    rows = [
        {
            "cell": str(r.record.cell),
            "networks": len(r.pairs),
            "recorded": spread([a for a, _ in r.pairs], 2),
            "computed again": spread([b for _, b in r.pairs], 2),
            "difference of the means": f"{r.mean_difference:+z.2f}",
            "largest of a network": f"{r.largest_difference:.2f}",
            "between seeds": "one set" if r.spread is None else f"{r.spread:.2f} ({_sets(r)} sets)",
            "recorded on": _device(r.record),
            "computed again on": _device(r.again),
        }
        for r in sorted(comparisons(), key=lambda r: -abs(r.mean_difference))
    ]
    return pd.DataFrame(rows)


def sentence() -> Findings:
    """How far the numbers moved, beside how far they move with the seed of a set."""
    found = comparisons()
    if not found:
        return Findings(["No recorded cell has been computed again yet."])
    moved = [abs(r.mean_difference) for r in found]
    equal = sum(r.largest_difference == 0 for r in found)
    said = (
        f"{len(found)} recorded cells were computed again, with nothing reused. {equal} gave the same accuracies; "
        f"the mean of a cell moved by {statistics.mean(moved):.2f} points on average and {max(moved):.2f} at most."
    )
    if several := [r for r in found if r.spread is not None]:
        usual = statistics.mean([r.spread for r in several])
        more = [r for r in several if abs(r.mean_difference) > 2 * r.spread]
        said += (
            f" Where sets of several seeds were made, the standard deviation between their means is {usual:.2f} points "
            f"on average; {len(more)} of {len(several)} cells moved by more than twice their own."
        )
    return Findings([said])


def _sets(r: Recomputed) -> int:
    return len((r.again if len(r.again.done) > 1 else r.record).done)


def _device(record: Record) -> str:
    return ", ".join([device(record, "unknown"), *record.made_by.get("processor", [])])
