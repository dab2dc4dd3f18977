"""The methods by name, each with `VERSION`, `Config`, `paper_config` and `distill`; add yours to `METHODS`."""

from __future__ import annotations

from functools import partial

from . import (
    cafe,
    cgan,
    dc,
    dgs,
    dim,
    dit,
    dm,
    frepo,
    full_data,
    glad,
    idc,
    kip,
    minimax,
    mtt,
    pool,
    random_real,
    selection,
    skd,
    slfd,
    uvit,
)
from .contract import Method, optional, variant

METHODS: dict[str, Method] = {
    "Random": random_real,
    "Herding": selection,
    "K-Center": variant(selection, selection.ABOUT_K_CENTER, {"distill": partial(selection.distill, rule="K-Center")}),
    "Forgetting": variant(
        selection,
        selection.ABOUT_FORGETTING,
        {"distill": partial(selection.distill, rule="Forgetting"), "VERSION": 2},
        never_learned="none",
    ),
    "DC": dc,
    "DSA": variant(dc, dc.ABOUT_DSA, siamese=True),
    "DM": dm,
    "CAFE": cafe,
    "IDC-1": idc,
    "IDC": variant(idc, idc.ABOUT_IDC, {"VERSION": 2}, factor=None),
    "KIP": kip,
    "MTT": mtt,
    "FRePo": frepo,
    "CGAN": cgan,
    "DiM": dim,
    "SKD (no standardisation)": variant(skd, skd.ABOUT_NO_STANDARDISATION, standardise=False),
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
