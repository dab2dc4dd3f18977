"""What each table and figure consists of: one file per paper. Add an experiment to its paper's list."""

from __future__ import annotations

from . import claims_skd, claims_slfd, dgs, skd, slfd, uvit

EXPERIMENTS = [
    *skd.EXPERIMENTS,
    *claims_skd.EXPERIMENTS,
    *uvit.EXPERIMENTS,
    *slfd.EXPERIMENTS,
    *claims_slfd.EXPERIMENTS,
    *dgs.EXPERIMENTS,
]
