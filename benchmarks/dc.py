"""One step of DC and of DSA, against the loop a reader would write from the papers: class by class, the network's own
layers, the real branch differentiated and detached, one backward pass through the sum.

A step is the distance between real and synthetic gradients and its derivative by the synthetic images, which both sides
return. For DSA both apply the same augmentation.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.rng import stream
from distill_lib.data import augment
from distill_lib.methods.common import matching
from distill_lib.networks.gradients import Derivatives

SIZE, QUICK = (
    {"ipc": 10, "classes": 10, "real": 256, "channels": 3, "pixels": 32},
    {"ipc": 1, "classes": 2, "real": 2, "channels": 3, "pixels": 32},
)


def step(
    aug: augment.Augmentation, side: str, device: str, ipc: int, classes: int, real: int, channels: int, pixels: int
) -> suite.Call:
    rng, shape = stream(0, "benchmark"), (channels, pixels, pixels)
    network = networks.fresh("ConvNet", (shape, classes), rng).to(device).requires_grad_(False)
    theirs, synthetic = (torch.randn(classes, n, *shape, generator=rng).to(device) for n in (real, ipc))
    omega = aug.draw(rng, groups=classes)

    def plain() -> Tensor:
        images, total = synthetic.clone().requires_grad_(), 0.0
        parameters = list(network.requires_grad_().parameters())
        for k in range(classes):
            one = augment.Params(omega.choice[k : k + 1], omega.u[k : k + 1])
            loss = F.cross_entropy(network(aug.apply(theirs[k], one)), torch.full((real,), k, device=device))
            target = [g.detach() for g in torch.autograd.grad(loss, parameters)]
            loss = F.cross_entropy(network(aug.apply(images[k], one)), torch.full((ipc,), k, device=device))
            for a, b in zip(torch.autograd.grad(loss, parameters, create_graph=True), target, strict=True):
                if a.ndim > 1:
                    a, b = a.flatten(1), b.flatten(1)
                    total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        return torch.autograd.grad(total, images)[0]

    def ours() -> Tensor:
        images = synthetic.clone().requires_grad_()
        seen = aug.apply(images, omega)
        _, gradient = matching.match(
            Derivatives(network), [p.detach() for p in network.parameters()], aug.apply(theirs, omega), seen
        )
        return torch.autograd.grad(seen, images, gradient)[0] if seen is not images else gradient

    return plain if side == "plain" else ours


WHAT = "step: {classes} classes of {real} real images and IPC {ipc}, ConvNet, {channels} x {pixels} x {pixels}"


@suite.benchmark(
    "dc",
    f"a DC {WHAT}",
    "class by class, the network's own layers",
    size=SIZE,
    quick=QUICK,
    tolerance=1e-2,
    target={"ratio": 3.0},
    growth={"ipc": (1, 10, 50), "classes": (5, 10, 20), "pixels": (16, 32, 64)},
    small={"real": 64},
)
def dc(*args, **size) -> suite.Call:
    return step(augment.none(), *args, **size)


@suite.benchmark(
    "dsa", f"a DSA {WHAT}", "class by class, the network's own layers", size=SIZE, quick=QUICK, tolerance=1e-2
)
def dsa(*args, **size) -> suite.Call:
    return step(augment.dsa(), *args, **size)
