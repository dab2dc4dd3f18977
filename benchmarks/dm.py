"""One DM step, against the loop over classes that a reader would write from the paper.

A step is siamese augmentation, embedding of the real batches without a graph and of the synthetic images with one, the
loss, and its derivative by the synthetic images, which both sides return.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import suite
import torch
from torch import Tensor, nn

from distill_lib import networks
from distill_lib.core.rng import stream
from distill_lib.data import augment
from distill_lib.data.augment import Augmentation, Params
from distill_lib.methods import dm


def plain(network: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """DM's loss as the paper writes it: over pairs of a class's real and synthetic images."""
    loss = 0.0
    for real, synthetic in pairs:
        target = network.embed(real).detach().mean(0)
        loss = loss + (target - network.embed(synthetic).mean(0)).square().sum()
    return loss


def augmented(dsa: Augmentation, omega: Params, real: Tensor, synthetic: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Class after class, both sides under the class's own numbers."""
    for k in range(len(real)):
        own = Params(omega.choice[k : k + 1], omega.u[k : k + 1])
        yield dsa.apply(real[k], own), dsa.apply(synthetic[k], own)


@suite.benchmark(
    "dm",
    "a DM step: {classes} classes of {real} real images and IPC {ipc}, ConvNet, {channels} x {pixels} x {pixels}",
    "class by class, the network's own layers",
    tolerance=5e-3,
    target={"ratio": 4.0},
    size={"ipc": 10, "classes": 10, "real": 256, "pixels": 32, "channels": 3},
    quick={"ipc": 1, "classes": 2, "real": 2, "pixels": 32, "channels": 3},
    growth={"ipc": (1, 10, 50), "classes": (5, 10, 20), "pixels": (16, 32, 64)},
    small={"real": 64},
)
def step(side: str, device: str, ipc: int, classes: int, real: int, pixels: int, channels: int) -> suite.Call:
    rng, shape = stream(0, "benchmark", "dm"), (channels, pixels, pixels)
    network = networks.fresh("ConvNet", (shape, classes), rng).to(device).requires_grad_(False)
    theirs, start = (torch.randn(classes, n, *shape, generator=rng).to(device) for n in (real, ipc))
    dsa = augment.dsa()
    omega = dsa.draw(rng, groups=classes)

    def alone() -> torch.Tensor:
        synthetic = start.clone().requires_grad_()
        plain(network, augmented(dsa, omega, theirs, synthetic)).backward()
        return synthetic.grad

    def ours() -> torch.Tensor:
        synthetic = start.clone().requires_grad_()
        dm.dm_loss(network, dsa.apply(theirs, omega), dsa.apply(synthetic, omega)).backward()
        return synthetic.grad

    return alone if side == "plain" else ours
