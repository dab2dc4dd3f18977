"""What a stage will take, said before it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ...core.memory import parameter_count
from .network import DiT
from .settings import peak_bytes


@dataclass(frozen=True)
class Outlook:
    """What a stage will take, from counted operations and a short measurement of matrix products on the device."""

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
        unit, size = next((u, n) for u, n in (("h", 3600), ("min", 60), ("s", 1)) if self.seconds >= n or u == "s")
        return (
            f"{self.what}: {self.steps:,} steps of {self.batch} images, {self.flops / 1e12:,.1f} TFLOP: "
            f"about {self.seconds / size:.1f} {unit} at the {self.rate / 1e9:,.0f} GFLOP/s of matrix products here, "
            f"{self.memory_gb:.1f} GB"
        )


def outlook(what: str, network: DiT, passes: float, steps: int, batch: int) -> Outlook:
    """Time and memory of a stage before it starts.

    Args:
        passes: how many forward passes an image counts as.
    """
    arch, device = network.arch, network.pos_embed.device
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    peak = peak_bytes(arch, batch, device.type == "cuda", trained / parameter_count(network))
    return Outlook(what, steps, batch, passes * arch.flops() * steps * batch, _rate(device), peak / 2**30)


def _rate(device: torch.device) -> float:
    """Operations per second of matrix products."""
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
    """Print what a stage will take if it is more than a minute."""
    if found.seconds > 60:
        print(found, flush=True)
