"""Tables: the paper's number beside ours, and the ledger of all of them."""

from ..records.reported import matrix as as_published
from .compare import across, details, grid, marks, points, under_protocols
from .html import show
from .ledger import of_outcome as counts
from .numbers import device, records_of, spread
from .ranks import mean_interval, rank_ranges, ranked, ranking
