"""The methods. Each is a module with `Config`, `paper_config`, `distill` and `VERSION`; add yours to `METHODS`."""

from . import dc, dm, dsa, forgetting, full_data, herding, kcenter, random_real

METHODS = {
    "Random": random_real,
    "Herding": herding,
    "K-Center": kcenter,
    "Forgetting": forgetting,
    "DC": dc,
    "DSA": dsa,
    "DM": dm,
    "Full data": full_data,
}
