"""The methods. Each is a module with `Config`, `paper_config`, `distill` and `VERSION`; add yours to `METHODS`."""

from . import dm, full_data, random_real

METHODS = {
    "Random": random_real,
    "DM": dm,
    "Full data": full_data,
}
