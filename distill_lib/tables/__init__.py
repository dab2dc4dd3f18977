"""Tables: the paper's number beside ours, and the ledger of all of them."""

from .compare import across, as_published, counts, details, grid, marks, points
from .html import show
from .numbers import records_of, spread
from .ranks import mean_interval, rank_ranges, ranked, ranking

__all__ = [
    "across",
    "as_published",
    "counts",
    "details",
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
]
