"""MTT's inner loop, there and back, against the loop a reader would write from the paper: the network's own layers,
every step's graph kept, one backward pass through all of them. The reference's memory grows with the steps.

A loop is a number of steps of a student on all synthetic images of ten classes, with augmentation, then the distance to
the expert and its derivative by the images, which both sides return.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.rng import stream
from distill_lib.data import augment
from distill_lib.methods.common import trajectories
from distill_lib.methods.common.trajectories import flat, unflat
from distill_lib.networks.gradients import Derivatives

K = 10


@suite.benchmark(
    "mtt",
    "MTT's inner loop there and back: {steps} steps on IPC {ipc}, ConvNet, {channels} x {pixels} x {pixels}",
    "every step's graph is kept",
    size={"ipc": 10, "steps": 10, "channels": 3, "pixels": 32},
    quick={"ipc": 1, "steps": 2, "channels": 1, "pixels": 16},
    tolerance=1e-2,
    target={"ratio": 2.0},
    growth={"ipc": (1, 5, 10), "steps": (2, 5, 10)},
    small={"channels": 1, "pixels": 28},
)
def loop(side: str, device: str, ipc: int, steps: int, channels: int, pixels: int) -> suite.Call:
    rng, shape = stream(0, "benchmark"), (channels, pixels, pixels)
    network = networks.fresh("ConvNet", (shape, K), rng).to(device).requires_grad_(False)
    start = flat(list(network.parameters()))
    target = start + 0.001 * torch.randn(start.shape, generator=rng).to(device)
    images, labels = torch.randn(K * ipc, *shape, generator=rng).to(device), torch.arange(K, device=device).repeat(ipc)
    step_size, aug = torch.tensor(0.01, device=device), augment.dsa()
    again = stream(1, "benchmark")
    draws = [aug.draw(again, images=K * ipc) for _ in range(steps)]

    def plain() -> Tensor:
        leaf, theta, names = (
            images.clone().requires_grad_(),
            start.clone().requires_grad_(),
            [n for n, _ in network.named_parameters()],
        )
        for draw in draws:
            weights = dict(zip(names, unflat(theta, network), strict=True))
            loss = F.cross_entropy(functional_call(network, weights, (aug.apply(leaf, draw),)), labels)
            theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
        loss = (theta - target).square().sum() / (start - target).square().sum()
        return torch.autograd.grad(loss, leaf)[0]

    def ours() -> Tensor:
        batches = [torch.arange(K * ipc, device=device)] * steps
        return trajectories.student_loss(
            Derivatives(network), start, target, images, labels, step_size, batches, draws, aug
        )[1]

    return plain if side == "plain" else ours
