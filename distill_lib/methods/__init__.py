"""The methods. Each is a module with `Config`, `paper_config`, `distill` and `VERSION`; add yours to `METHODS`."""

from . import (
    cafe, cgan, dc, dgs, dim, dit, dm, dsa, forgetting, frepo, full_data, glad, herding, idc, kcenter, kip, minimax, mtt,
    random_real, skd, slfd, uvit,
)  # fmt: skip

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
    "KIP": kip,
    "MTT": mtt,
    "FRePo": frepo,
    "CGAN": cgan,
    "DiM": dim,
    "SKD (no standardisation)": skd.NoStandardisation,
    "SKD": skd,
    "GLaD": glad,
    "SLFD": slfd,
    "U-ViT": uvit,
    "DiT": dit,
    "Minimax": minimax,
    "DGS": dgs,
    "Full data": full_data,
}
