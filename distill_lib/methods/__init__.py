"""The methods by name, each with `VERSION`, `Config`, `paper_config` and `distill`; add yours to `METHODS`."""

from __future__ import annotations

from . import (
    cafe,
    cgan,
    dc,
    dgs,
    dim,
    dit,
    dm,
    dsa,
    forgetting,
    frepo,
    full_data,
    glad,
    herding,
    idc,
    kcenter,
    kip,
    minimax,
    mtt,
    pool,
    random_real,
    skd,
    slfd,
    uvit,
)
from .contract import Method, optional, variant

__all__ = ["METHODS", "Method", "optional", "variant"]

multi_formation = variant(
    idc,
    "IDC: IDC-1 with several small images in each stored one (Kim et al., ICML 2022). Book page: book/idc.md",
    version=2,  # other parts at the start, and a bound on decoded images; with factor 1 nothing changed
    factor=None,  # the papers'
)
no_standardisation = variant(
    skd,
    'The row "No Stand.": SKD with softmax(x / tau) in place of equations 3 to 5 (Li et al., ICASSP 2025). '
    "Book page: book/skd.md",
    standardise=False,
)

METHODS: dict[str, Method] = {
    "Random": random_real,
    "Herding": herding,
    "K-Center": kcenter,
    "Forgetting": forgetting,
    "DC": dc,
    "DSA": dsa,
    "DM": dm,
    "CAFE": cafe,
    "IDC-1": idc,
    "IDC": multi_formation,
    "KIP": kip,
    "MTT": mtt,
    "FRePo": frepo,
    "CGAN": cgan,
    "DiM": dim,
    "SKD (no standardisation)": no_standardisation,
    "SKD": skd,
    "GLaD": glad,
    "SLFD": slfd,
    "U-ViT": uvit,
    "DiT": dit,
    "Minimax": minimax,
    "DGS": dgs,
    "Pool": pool,
    "Full data": full_data,
}
