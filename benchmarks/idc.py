"""One inner step of IDC-1, against the official form: class after class, one joint pass of the class's real and
synthetic images, gradients of every parameter for both branches, one backward pass and one SGD step on the images per
class; then training of the network.

With the published augmentations and the same draws, both sides return how far the images moved and the trained weights.
"""

from __future__ import annotations

from functools import partial

import suite
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.rng import stream
from distill_lib.data import Facts, ImageSet, augment
from distill_lib.methods import idc
from distill_lib.methods.common import matching
from distill_lib.networks.gradients import Derivatives

SHAPE, K = (1, 28, 28), 10


@suite.benchmark(
    "idc",
    "an IDC-1 step: 10 classes of {real} real images and IPC {ipc}, ConvNet trained on {train}, 1 x 28 x 28",
    "the official form: class by class, one joint pass",
    size={"ipc": 10, "real": 64, "train": 512},
    quick={"ipc": 1, "real": 2, "train": 64},
    tolerance=1e-2,
)
def step(side: str, device: str, ipc: int, real: int, train: int) -> suite.Call:
    rng = stream(0, "benchmark")
    facts = Facts("noise", tuple("0123456789"), (0.5,), (0.25,))
    pixels = torch.randint(256, (2 * train, *SHAPE), dtype=torch.uint8, generator=rng)
    data = ImageSet(pixels, torch.arange(len(pixels)) % K, facts).to(device)
    batch = torch.randn(K, real, *SHAPE, generator=rng).to(device)
    images = torch.rand(K, ipc, *SHAPE, generator=rng).to(device)
    run, cfg = plain if side == "plain" else ours, idc.Config(ipc=ipc, images_net=train)
    return lambda: run(networks.fresh("ConvNet", data, stream(1)).to(device), data, batch, images, cfg, stream(2))


def plain(
    network: torch.nn.Module, real: ImageSet, batch: Tensor, images: Tensor, cfg: idc.Config, rng: torch.Generator
) -> Tensor:
    start, images = images, images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=1.0, momentum=cfg.momentum_img)
    augmentation, parameters = augment.idc(cfg.augment), list(network.parameters())
    omega = augmentation.draw(rng, groups=K)
    for k in range(K):
        one, classes = (
            augment.Params(omega.choice[k : k + 1], omega.u[k : k + 1]),
            torch.full((len(batch[k]),), k, device=batch.device),
        )
        both = augmentation.apply(torch.cat([batch[k], real.facts.normalise(images[k])]), one)
        theirs = torch.autograd.grad(F.cross_entropy(network(both[: len(classes)].detach()), classes), parameters)
        loss = F.cross_entropy(network(both[len(classes) :]), classes.new_full((len(images[k]),), k))
        ours = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = sum((a.detach() - b).square().sum() for a, b in zip(theirs, ours, strict=True) if a.ndim > 2)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
    network.zero_grad()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=cfg.lr_net, momentum=cfg.momentum_net, weight_decay=cfg.weight_decay_net
    )
    own, cutmix, order = (
        augment.idc(cfg.augment_net),
        augment.CutMix(cfg.cutmix),
        torch.randperm(len(real), generator=rng),
    )
    for index in order[: cfg.images_net].split(cfg.batch_net):
        x, target = cutmix(own(real.take(index)[0], rng), real.labels[index.to(real.device)], rng, K)
        optimizer.zero_grad()
        F.cross_entropy(network(x), target).backward()
        optimizer.step()
    return result(network, images.detach() - start)


def ours(
    network: torch.nn.Module, real: ImageSet, batch: Tensor, images: Tensor, cfg: idc.Config, rng: torch.Generator
) -> Tensor:
    moved = images.clone()
    augmentation, parameters = augment.idc(cfg.augment), [p.detach() for p in network.parameters()]
    omega = augmentation.draw(rng, groups=K)
    augmented = augmentation.apply(batch, omega)

    def gradient_at(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        seen = augmentation.apply(real.facts.normalise(point), omega)
        _, by_seen = matching.match(
            Derivatives(network), parameters, augmented, seen.detach(), partial(idc.distance, metric="mse")
        )
        return torch.autograd.grad(seen, point, by_seen)[0]

    idc.sweep_classes(moved, torch.zeros_like(moved), gradient_at, lr=1.0, momentum=cfg.momentum_img)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=cfg.lr_net, momentum=cfg.momentum_net, weight_decay=cfg.weight_decay_net
    )
    idc.train_network(network, optimizer, real, cfg, rng, cfg.images_net)
    return result(network, moved - images)


def result(network: torch.nn.Module, way: Tensor) -> Tensor:
    """Each part of largest value 1: the images' way, and the weights."""
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    return torch.cat([way.flatten() / way.abs().max(), weights / weights.abs().max()])
