"""The methods. Each is a module with `Config`, `paper_config`, `distill` and `VERSION`; add yours to `METHODS`."""

from . import dm, forgetting, full_data, herding, kcenter, random_real

METHODS = {
    "Random": random_real,
    "Herding": herding,
    "K-Center": kcenter,
    "Forgetting": forgetting,
    "DM": dm,
    "Full data": full_data,
}
