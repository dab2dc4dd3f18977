"""Tables: the paper's number beside ours, and the ledger of all of them."""

from .compare import across, as_published, counts, details, grid, marks, points, under_protocols
from .html import show
from .numbers import device, records_of, spread
from .ranks import mean_interval, rank_ranges, ranked, ranking

__all__ = [
    "across",
    "as_published",
    "counts",
    "details",
    "device",
    "grid",
    "marks",
    "mean_interval",
    "points",
    "rank_ranges",
    "ranked",
    "ranking",
    "records_of",
    "show",
    "spread",
    "under_protocols",
]
