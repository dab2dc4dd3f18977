"""What each table and figure consists of: one file per paper. Add an experiment to its paper's list."""

from __future__ import annotations

from . import dgs, skd, slfd, uvit

EXPERIMENTS = [*skd.EXPERIMENTS, *uvit.EXPERIMENTS, *slfd.EXPERIMENTS, *dgs.EXPERIMENTS]
