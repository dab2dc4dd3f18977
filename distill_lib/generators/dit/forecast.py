"""What a stage will take, said before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from .network import DiT
from .settings import peak_bytes


# --- cost --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outlook:
    """What a stage will take, from counted operations and a short measurement of matrix products on the device at
    hand."""

    what: str
    steps: int
    batch: int
    flops: float
    rate: float  # operations per second
    memory_gb: float

    @property
    def seconds(self) -> float:
        return self.flops / self.rate

    def __str__(self) -> str:
        for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
            if self.seconds >= size or unit == "s":
                took = f"{self.seconds / size:.1f} {unit}"
                break
        return (
            f"{self.what}: {self.steps:,} steps of {self.batch} images, {self.flops / 1e12:,.1f} TFLOP: about {took} at the "
            f"{self.rate / 1e9:,.0f} GFLOP/s of matrix products here, {self.memory_gb:.1f} GB"
        )


def outlook(what: str, network: DiT, passes: float, steps: int, batch: int) -> Outlook:
    """Time and memory of a stage before it starts.

    Args:
        passes: forward passes an image counts as.
    """
    of, device = network.of, network.pos_embed.device
    share = sum(p.numel() for p in network.parameters() if p.requires_grad) / sum(
        p.numel() for p in network.parameters()
    )
    return Outlook(
        what,
        steps,
        batch,
        passes * of.flops() * steps * batch,
        _rate(device),
        peak_bytes(of, batch, device.type == "cuda", share) / 2**30,
    )


def _rate(device: torch.device) -> float:
    a = torch.ones(768, 768, device=device)
    for _ in range(2):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, count = time.perf_counter(), 4
    for _ in range(count):
        b = a @ a
    float(b[0, 0])
    return count * 2 * 768**3 / (time.perf_counter() - start)


def say(found: Outlook) -> None:
    """Print what a stage will take, where that is more than a minute."""
    if found.seconds > 60:
        print(found, flush=True)
