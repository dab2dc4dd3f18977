"""Peak memory of every method at 50 images per class of CIFAR-10's shape.

A step of the method and two steps of an evaluation are run at the published settings, except where a step takes hours:
then at the part that `REDUCED` says. The images are noise, because the memory does not depend on what they show.
"""

from __future__ import annotations

import os
import tempfile
import unittest.mock
from typing import Any

import suite
import torch

from distill_lib.core.loop import Loop
from distill_lib.core.measure import measure
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import Facts, ImageSet
from distill_lib.evaluation import evaluate
from distill_lib.methods import METHODS

# fields that make one step of a run; dotted names are of settings within
ONES = """
    iterations outer_loop inner_epochs max_updates max_epochs window inner experts.count max_start_epoch
    expert_epochs training.epochs gan.epochs gan.looks gan.judge.epochs matching.epochs matching.pool_steps
    base.steps tuning.steps sampling.steps training.steps scoring.training.epochs
"""
ONE_STEP: dict[str, int] = dict.fromkeys(ONES.split(), 1) | {
    "images_net": 64,
    "experts.epochs": 2,
    "experts.per_epoch": 256,
    "gan.samples": 50,
    "gan.judge.per_class": 50,
    "steps": 3,
}
REDUCED: dict[str, dict[str, Any]] = {  # what a processor would take hours for; the peak is that of fewer images
    "Herding": {"training.per_class": 500},
    "K-Center": {"training.per_class": 500},
    "Forgetting": {"training.per_class": 500},
    "MTT": {"syn_steps": 3},
    "KIP": {"ipc": 1, "batch_target": 10},
    "CGAN": {"gan.per_epoch": 128},
    "DiM": {"gan.per_epoch": 128, "matching.per_epoch": 64},
    "SKD": {"gan.per_epoch": 128, "matching.per_epoch": 64},
    "Minimax": {"ipc": 1},
    "DiT": {"ipc": 1},
    "DGS": {"ipc": 1},
    "U-ViT": {"training.batch": 4, "ipc": 1},
    "GLaD": {"ipc": 1, "space.prior.weights": "random"},
    "SLFD": {"ipc": 1, "space.prior.weights": "random"},
}
QUICK: dict[str, Any] = {
    "batch_real": 2,
    "gan.width": 16,
    "base.width": 32,
    "base.depth": 2,
    "base.heads": 2,
    "base.batch": 8,
    "batch_target": 50,
}


def changed(cfg: Any, changes: dict[str, Any]) -> Any:
    """The settings with those of the changes that they have."""
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        if hasattr(cfg, first) and not (rest and getattr(cfg, first) is None):
            cfg = replace(cfg, **{first: changed(getattr(cfg, first), {rest: value}) if rest else value})
    return cfg


def peak(method: str, device: str, ipc: int, images: int, quick: bool) -> suite.Call:
    """Run a step of the method and of an evaluation; megabytes measured."""
    facts = Facts("CIFAR10", tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=stream(0, "benchmark"), dtype=torch.uint8)
    data = ImageSet(pixels, torch.arange(images) % 10, facts).to(device)
    changes = ONE_STEP | REDUCED.get(method, {}) | (QUICK if quick else {})
    cfg = changed(METHODS[method].paper_config("CIFAR10", ipc), changes)

    def run() -> dict[str, float]:
        with (
            tempfile.TemporaryDirectory() as folder,
            unittest.mock.patch.dict(os.environ, DISTILL_RUNS=folder),
            measure(device) as cost,
        ):
            synthetic = METHODS[method].distill(data, cfg, seed=0, loop=Loop(bar=False))
            evaluate(synthetic, data.subset(torch.arange(200)), "vico_dsa@1ep", num_eval=1, loop=Loop(bar=False))
        return {"measured_mb": round(cost.memory_mb)}

    return run


def registered(method: str) -> None:
    reduced = REDUCED.get(method, {})
    part = ", ".join(f"{k} {v}" for k, v in reduced.items() if k != "ipc")
    size = f"IPC {reduced.get('ipc', '{ipc}')} on {{images}} images, 3 x 32 x 32"

    @suite.benchmark(
        f"memory-{method.lower()}",
        f"a step of {method} at {size}{part and f' ({part})'}: peak memory",
        "",
        size={"ipc": 50, "images": 50_000, "quick": False},
        quick={"ipc": 1, "images": 1_000, "quick": True},
        repeats=1,
    )
    def build(side: str, device: str, **size: Any) -> suite.Call:
        return peak(method, device, **size)


for name in METHODS:
    if name not in ("Full data", "SKD (no standardisation)"):  # no method, and SKD with a setting less
        registered(name)
