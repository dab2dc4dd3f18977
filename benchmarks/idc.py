"""How long one inner step of IDC-1 takes, against the official form: class after class, one joint pass of the class's real and
synthetic images, gradients of every parameter for both branches, one backward pass and one SGD step on the images per
class; then training of the network; the network's own layers in eager float32.

    python benchmarks/idc.py [--ipc 10] [--real 64] [--train 512] [--rounds 2] [--threads 2] [--device cpu] [--json FILE]

A step is ten classes, ConvNet-3, 28 x 28 images, with the published augmentations. Both sides take the same draws and return
how far the images moved and the trained weights, which must agree. Where other programs use the processor too, the ratio
of processor seconds with --threads 1 is the more reliable one.
"""

from __future__ import annotations

from functools import partial

import sides
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import augment, matching, networks
from distill_lib.data import Facts, ImageSet
from distill_lib.derivatives import Derivatives
from distill_lib.device import pick
from distill_lib.methods import idc
from distill_lib.rng import generator

SHAPE, K = (1, 28, 28), 10


def plain(network: torch.nn.Module, real: ImageSet, batch: Tensor, images: Tensor, cfg: idc.Config, rng: torch.Generator) -> Tensor:
    """The official form; the images' way and the trained weights."""
    start, images = images, images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=1.0, momentum=cfg.momentum_img)
    augmentation, parameters = augment.idc(cfg.augment), list(network.parameters())
    omega = augmentation.draw(rng, groups=K)
    for k in range(K):
        one, classes = augment.Params(omega.choice[k : k + 1], omega.u[k : k + 1]), torch.full((len(batch[k]),), k, device=batch.device)
        both = augmentation.apply(torch.cat([batch[k], idc.normalised(images[k], real)]), one)
        theirs = torch.autograd.grad(F.cross_entropy(network(both[: len(classes)].detach()), classes), parameters)
        loss = F.cross_entropy(network(both[len(classes) :]), classes.new_full((len(images[k]),), k))
        ours = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = sum((a.detach() - b).square().sum() for a, b in zip(theirs, ours, strict=True) if a.ndim > 2)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
    network.zero_grad()
    optimizer = torch.optim.SGD(network.parameters(), lr=cfg.lr_net, momentum=cfg.momentum_net, weight_decay=cfg.weight_decay_net)
    own, cutmix, order = augment.idc(cfg.augment_net), augment.CutMix(cfg.cutmix), torch.randperm(len(real), generator=rng)
    for index in order[: cfg.images_net].split(cfg.batch_net):
        x, target = cutmix(own(real.take(index)[0], rng), real.labels[index.to(real.device)], rng, K)
        optimizer.zero_grad()
        F.cross_entropy(network(x), target).backward()
        optimizer.step()
    return result(network, images.detach() - start)


def ours(network: torch.nn.Module, real: ImageSet, batch: Tensor, images: Tensor, cfg: idc.Config, rng: torch.Generator) -> Tensor:
    moved = images.clone()
    augmentation, parameters = augment.idc(cfg.augment), [p.detach() for p in network.parameters()]
    omega = augmentation.draw(rng, groups=K)
    augmented = augmentation.apply(batch, omega)

    def gradient_at(point: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        seen = augmentation.apply(idc.normalised(point, real), omega)
        _, by_seen = matching.match(Derivatives(network), parameters, augmented, seen.detach(), partial(idc.distance, metric="mse"))
        return torch.autograd.grad(seen, point, by_seen)[0]

    idc.sweep(moved, torch.zeros_like(moved), gradient_at, lr=1.0, momentum=cfg.momentum_img)
    optimizer = torch.optim.SGD(network.parameters(), lr=cfg.lr_net, momentum=cfg.momentum_net, weight_decay=cfg.weight_decay_net)
    idc.train_network(network, optimizer, real, cfg, rng, cfg.images_net)
    return result(network, moved - images)


def result(network: torch.nn.Module, way: Tensor) -> Tensor:
    """What both sides must agree on, each part of norm 1 to rounding: the images' way, and the weights."""
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    return torch.cat([way.flatten() / way.norm(), weights / weights.norm()])


def main() -> None:
    options = sides.parser(__doc__, rounds=2)
    options.add_argument("--ipc", type=int, default=10)
    options.add_argument("--real", type=int, default=64)
    options.add_argument("--train", type=int, default=512, help="real images the network is trained on, a multiple of 64")
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        if side == "ours":
            pick(args.device)
        rng = generator(0, "benchmark")
        facts = Facts("noise", tuple("0123456789"), (0.5,), (0.25,))
        pixels = torch.randint(256, (2 * args.train, *SHAPE), dtype=torch.uint8, generator=rng)
        real = ImageSet(pixels, torch.arange(len(pixels)) % K, facts).to(args.device)
        batch = torch.randn(K, args.real, *SHAPE, generator=rng).to(args.device)
        images = torch.rand(K, args.ipc, *SHAPE, generator=rng).to(args.device)
        cfg, step = idc.Config(ipc=args.ipc, images_net=args.train), plain if side == "plain" else ours

        def call(batch: Tensor, images: Tensor, cfg: idc.Config) -> Tensor:
            return step(networks.fresh("ConvNet", real, generator(1)).to(args.device), real, batch, images, cfg, generator(2))

        small = idc.Config(ipc=1, images_net=64)
        return lambda: call(batch[:, :2], images[:, :1], small), lambda: call(batch, images, cfg)

    what = f"one IDC-1 step, {K} classes x {args.real} real images, IPC {args.ipc}, network trained on {args.train}, ConvNet-3, 28 x 28"
    sides.run(__file__, args, what, build)


if __name__ == "__main__":
    main()
