"""The methods. Each is a module with `Config`, `paper_config`, `distill` and `VERSION`; add yours to `METHODS`."""

from . import cafe, dc, dm, dsa, forgetting, full_data, herding, idc, kcenter, mtt, random_real

METHODS = {
    "Random": random_real,
    "Herding": herding,
    "K-Center": kcenter,
    "Forgetting": forgetting,
    "DC": dc,
    "DSA": dsa,
    "DM": dm,
    "CAFE": cafe,
    "IDC-1": idc,
    "IDC": idc.MultiFormation,
    "MTT": mtt,
    "Full data": full_data,
}
