"""What the trainings of the generators share: learning rates, averaged weights, and where a result is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import paths, store


def lr_share(step: int, steps: int, warm_up: int = 0, lr_decay: float = 0.0) -> float:
    """The learning rate of a step as a share of the highest one.

    Args:
        warm_up:  steps of a linear rise, from 1 / warm_up.
        lr_decay: last share of the steps, over which the rate falls linearly to zero.
    """
    rise = min(1.0, (step + 1) / warm_up) if warm_up else 1.0
    return rise * (min(1.0, (1 - step / steps) / lr_decay) if lr_decay else 1.0)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards those that are trained: average = decay average + (1 - decay) weights."""
    pairs = [(a, p) for a, p in zip(average.parameters(), network.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)


def look_steps(steps: int, looks: int) -> set[int]:
    """Steps after which a training is looked at: `looks` of them, evenly spread, the last step included."""
    return {round(steps * (i + 1) / looks) - 1 for i in range(looks)}


def kept_in(family: str, dataset: str, key: dict[str, Any]) -> Path:
    """The folder in `runs/generators` of what these settings make."""
    name = f"{family}-{dataset}-{store.digest(key)}"
    return paths.runs() / "generators" / name.replace("/", "_").replace(":", "_")
