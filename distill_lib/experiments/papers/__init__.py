"""What each table and figure consists of: one file per paper. Add an experiment to its paper's list."""

from . import claims_dgs, claims_skd, claims_slfd, claims_uvit, dgs, skd, slfd, uvit

EXPERIMENTS = [
    *skd.EXPERIMENTS,
    *claims_skd.EXPERIMENTS,
    *uvit.EXPERIMENTS,
    *claims_uvit.EXPERIMENTS,
    *slfd.EXPERIMENTS,
    *claims_slfd.EXPERIMENTS,
    *dgs.EXPERIMENTS,
    *claims_dgs.EXPERIMENTS,
]
