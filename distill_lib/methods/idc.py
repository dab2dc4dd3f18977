"""IDC-1: dataset condensation via synthetic-data parameterization (Kim et al., ICML 2022). Book page: book/idc.md

Learn images that give the convolutions of a network the loss gradient of real images of the same class, along the path
of a network trained on **real** data, with strong augmentation. The distance (equation 6 of the paper) is `distance`.
*Multi-formation*, the second row of this page, stores factor x factor small images in each image: `decode`.

As in the official code, classes take turns: one SGD step on the images after each class, with one momentum buffer for
all, so a class drifts on its momentum while others have their turn. Classes do not share images, so `sweep_classes`
computes all turns at once, each at the point to which its images will have drifted: the same numbers, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import networks
from ..core.device import send
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, augment, like
from ..data.distilled import decode
from ..networks.gradients import Derivatives
from .common import matching

VERSION = 1
# VERSION 2 has other parts at the start, and a bound on decoded images; with factor 1 nothing changed
ABOUT_IDC = "IDC: IDC-1 with several small images in each stored one (Kim et al., ICML 2022). Book page: book/idc.md"


@settings
class Config:
    ipc: Count = 10  # stored images per class; factor² times as many are trained on
    factor: Count = 1  # multi-formation: small images per side of a stored one
    iterations: int = 2_000  # networks: each is drawn anew and trained on real data while the images follow it
    inner: Count = 100  # sweeps over the classes per network, each followed by training it
    network: str = "ConvNet"
    metric: Literal["mse", "l1"] = "mse"  # sum over all entries of squared or absolute gradient differences
    lr_img: float = 5e-3  # SGD on the pixels in [0, 1], at 10 images per class and `base_side` pixels; see `step_size`
    base_side: int = 32
    momentum_img: float = 0.5
    batch_real: Count = 64  # real images per class and sweep
    batch_syn: Count = 128  # decoded images per class and sweep, at most, at random
    decoding: Literal["bound"] | None = None  # while matching: all parts; "bound": at most batch_syn, see `formations`
    augment: str = "color_crop_cutout"  # of matching, one draw for a class's real and synthetic images
    lr_net: float = 0.01
    momentum_net: float = 0.9
    weight_decay_net: float = 5e-4
    batch_net: Count = 64
    images_net: int = 2_000  # real images the network is trained on after every sweep
    augment_net: str = "color_crop"  # of training the network, per image
    cutmix: float = 0.5  # probability per batch of training the network
    early_epochs: int = 0  # epochs on the real set before a network's first sweep
    init: Literal["first", "random"] = "first"  # the first images of each class in file order, or random ones

    def smoke(self) -> Config:
        few = {"iterations": 1, "batch_real": 16, "images_net": 64, "batch_net": 32, "early_epochs": 0}
        return replace(lowered(self, inner=10), **few)

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: sixty updates, with a step size for so few of them."""
        few = {"iterations": 2, "batch_real": 32, "images_net": 128, "early_epochs": 0}
        return replace(lowered(self, inner=30), lr_img=max(self.lr_img, 2e-3), **few)


# data set: metric, lr_img, images_net of the official code; others take the values of CIFAR10
PUBLISHED = {
    "CIFAR10": ("mse", 5e-3, 2_000),
    "SVHN": ("mse", 5e-3, 500),
    "MNIST": ("l1", 1e-4, 500),
    "FashionMNIST": ("l1", 1e-4, 500),
}


def paper_config(dataset: str, ipc: int, factor: int | None = 1) -> Config:
    """The setting behind one cell of the papers' tables, for IDC-1 or, with a factor above 1, IDC.

    Args:
        factor: of multi-formation; None for the papers', 3 on ImageNet subsets, else 2.

    Source: the official repository's `--reproduce` settings. It scales the step size by the side over 32 for every
    small set but MNIST, FashionMNIST's 28 pixels included. ImageNet subsets follow its ImageNet-10 settings, at 224
    pixels. There the decoded images are bounded from factor 3 and 20 images per class on.
    """
    known = like(dataset)
    if known.is_imagenet_subset:
        factor = factor or 3
        return Config(
            ipc=ipc,
            factor=factor,
            iterations=500,
            network="ResNetAP-10",
            metric="l1",
            lr_img=3e-3,
            base_side=224,
            images_net=500,
            cutmix=1.0,
            early_epochs=10,
            decoding="bound" if factor >= 3 and ipc >= 20 else None,
        )
    metric, lr_img, images_net = PUBLISHED.get(known.name, PUBLISHED["CIFAR10"])
    cfg = Config(ipc=ipc, factor=factor or 2, metric=metric, lr_img=lr_img, images_net=images_net)
    if known.name != "MNIST":
        return cfg
    cfg = replace(cfg, base_side=28)
    return replace(cfg, augment="color_crop", cutmix=0.0) if cfg.factor > 1 else cfg


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc stored images per class.

    Returns: K x ipc x factor² decoded, normalised float32 images with hard labels: what networks are trained on. With a
             factor above 1 they can be stored in 1 / factor² of the pixels.
    Raises:  UserError: a class has too few images to start from, or they have fewer pixels a side than parts.
    """
    loop, rng = loop or Loop(), stream(seed, "IDC")
    images = initial_images(real, cfg, rng)  # (K, ipc, C, H, W) pixels in [0, 1]
    velocity = torch.zeros_like(images)
    network = networks.fresh(cfg.network, real, rng).to(real.device)
    parameters, derivatives = [p.detach() for p in network.parameters()], Derivatives(network)
    options = {"lr": cfg.lr_net, "momentum": cfg.momentum_net, "weight_decay": cfg.weight_decay_net}
    optimizer = torch.optim.SGD(network.parameters(), **options)
    between, lr = partial(distance, metric=cfg.metric), step_size(cfg, real.shape)
    augmentation = augment.idc(cfg.augment)
    live = {"images": images, "velocity": velocity, "network": network, "optimizer": optimizer, "rng": rng}
    for step in loop.steps("distill", cfg.iterations * cfg.inner, live):
        if step % cfg.inner == 0:
            network.redraw(rng)
            optimizer.state.clear()
            images.clamp_(0, 1)
            for _ in range(cfg.early_epochs):
                train_network(network, optimizer, real, cfg, rng, len(real))
        omega = augmentation.draw(rng, groups=real.num_classes)  # one set of parameters per class, for both branches
        real_batch = augmentation.apply(real.draw_classes(cfg.batch_real, rng), omega)  # (K, batch_real, C, H, W)
        subset = decoded_subset(real.num_classes, cfg, rng)

        def gradient_at(point: Tensor) -> Tensor:
            point = point.detach().requires_grad_()
            decoded = take(decode_to_match(point, cfg), subset)  # (K, m, C, H, W)
            seen = augmentation.apply(real.facts.normalise(decoded), omega)
            loss, by_seen = matching.match(derivatives, parameters, real_batch, seen.detach(), between)
            loop.log(loss=loss.sum())
            return torch.autograd.grad(seen, point, by_seen)[0]

        sweep_classes(images, velocity, gradient_at, lr=lr, momentum=cfg.momentum_img)
        train_network(network, optimizer, real, cfg, rng, cfg.images_net)
    decoded = real.facts.normalise(decode(images, cfg.factor))
    return ImageSet.from_classes(decoded, like=real, method="IDC-1" if cfg.factor == 1 else "IDC", seed=seed)


def step_size(cfg: Config, shape: tuple[int, int, int]) -> float:
    """Step size on the pixels: proportional to the images per class and to the pixels, as in the official code."""
    return cfg.lr_img * cfg.ipc / 10 * (shape[-1] / cfg.base_side) ** 2


# --- images -----------------------------------------------------------------------------------------------------------
def initial_images(real: ImageSet, cfg: Config, rng: torch.Generator) -> Tensor:
    """(K, ipc, C, H, W) pixels in [0, 1]: ipc real images per class, or ipc x factor² small ones, tiled.

    Part p of stored image m, counted row by row, is image p * ipc + m. If the factor does not divide a side, the first
    parts are a pixel larger than the others, although `decode` cuts equal ones; so does the official code.

    Raises: UserError: a class has fewer images than that, or a side fewer pixels than parts.
    """
    need, (_, height, width) = cfg.ipc * cfg.factor**2, real.shape
    f = cfg.factor
    if f > min(height, width):
        small = f"parts of less than a pixel; the factor must be at most {min(height, width)}"
        raise UserError(f"factor {f} for images of {height} x {width} pixels: {small}")
    chosen = []
    for name, members in zip(real.facts.class_names, real.class_index, strict=True):
        if len(members) < need:
            wanted = f"ipc {cfg.ipc} with factor {f} starts from {need}"
            raise UserError(f"{real.facts.name}: class {name!r} has {len(members)} images; {wanted}")
        random = cfg.init == "random"
        chosen.append((members[torch.randperm(len(members), generator=rng)] if random else members)[:need])
    pixels = real.subset(torch.cat(chosen)).pixels()
    if f == 1:
        return pixels.unflatten(0, (-1, cfg.ipc))
    heights, widths = ([side // f + (i < side % f) for i in range(f)] for side in (height, width))
    parts = pixels.unflatten(0, (-1, f, f, cfg.ipc)).permute(1, 2, 0, 3, 4, 5, 6)  # (f, f, K, ipc, C, H, W)

    def small(i: int, j: int) -> Tensor:
        shrunk = F.interpolate(parts[i, j].flatten(0, 1), size=(heights[i], widths[j]), mode="nearest")
        return shrunk.unflatten(0, (-1, cfg.ipc))

    return torch.cat([torch.cat([small(i, j) for j in range(f)], -1) for i in range(f)], -2)


def formations(cfg: Config) -> list[tuple[int, int]]:
    """(factor, number of stored images decoded by it) of a class while matching, in the order of its images.

    With `decoding="bound"` as many images as possible are decoded by the largest factor, then by the next smaller one,
    so that all make at most `batch_syn`. If there are more stored images than that, each is taken whole.

    Source: the official code, at most `batch_syn` images per class.
    """
    if cfg.decoding is None:
        return [(cfg.factor, cfg.ipc)]
    found, left, decoded = [], cfg.ipc, 0
    for factor in range(cfg.factor, 0, -1):
        room = cfg.batch_syn - decoded - left  # every image left keeps a place, those decoded now too
        n = left if factor == 1 else max(0, min(room // factor**2, left))
        found += [(factor, n)] if n else []
        left, decoded = left - n, decoded + n * factor**2
    return found


def decoded_images(cfg: Config) -> int:
    """Decoded images per class while matching, before `decoded_subset` chooses among them."""
    return sum(n * factor**2 for factor, n in formations(cfg))


def decode_to_match(images: Tensor, cfg: Config) -> Tensor:
    """(K, ipc, C, H, W) -> (K, `decoded_images`, C, H, W), the images of one factor after those of another."""
    how = formations(cfg)
    stored = images.split([n for _, n in how], dim=1)
    return torch.cat([decode(part, factor) for part, (factor, _) in zip(stored, how, strict=True)], 1)


def decoded_subset(num_classes: int, cfg: Config, rng: torch.Generator) -> Tensor | None:
    """(K, batch_syn) decoded images of each class that take part in a sweep, at random; None if all do."""
    decoded = decoded_images(cfg)
    if decoded <= cfg.batch_syn:
        return None
    return torch.stack([torch.randperm(decoded, generator=rng)[: cfg.batch_syn] for _ in range(num_classes)])


def take(images: Tensor, subset: Tensor | None) -> Tensor:
    """The images (K, m, C, H, W) of `subset` (K, n), class by class; all of them if it is None."""
    if subset is None:
        return images
    return images[torch.arange(len(images), device=images.device)[:, None], send(subset, images.device)]


# --- matching ---------------------------------------------------------------------------------------------------------
def distance(ours: list[Tensor], theirs: list[Tensor], metric: str) -> Tensor:
    """(K,) squared or absolute differences of gradients (K, *shape), summed over all entries of all convolutions.

    The classifier, biases and norm parameters do not count.
    """
    gaps = [(a - b).flatten(1) for a, b in zip(ours, theirs, strict=True) if a.ndim == 5]
    return sum(g.square().sum(1) if metric == "mse" else g.abs().sum(1) for g in gaps)


@torch.no_grad()
def sweep_classes(
    images: Tensor, velocity: Tensor, gradient_at: Callable[[Tensor], Tensor], lr: float, momentum: float
) -> None:
    """One turn of every class, in place: a step of SGD with momentum per class, without gradient of all others.

    Class c meets its gradient after c steps of momentum alone have moved it; K - 1 - c such steps follow.

    Args:
        images, velocity: (K, ...).
        gradient_at: (K, ...) -> (K, ...): row k of the result depends on row k of the argument only.
    """
    turns = torch.arange(len(images), device=images.device, dtype=images.dtype)  # steps before one's own
    turns = turns.view(-1, *[1] * (images.ndim - 1))
    after = len(images) - 1 - turns

    def coasting(steps: Tensor) -> Tensor:  # momentum + momentum² + ... , `steps` terms
        return momentum * (1 - momentum**steps) / (1 - momentum)

    images -= lr * coasting(turns) * velocity
    with torch.enable_grad():
        gradient = gradient_at(images)
    velocity.mul_(momentum ** (turns + 1)).add_(gradient)
    images -= lr * (1 + coasting(after)) * velocity
    velocity.mul_(momentum**after)


# --- the network ------------------------------------------------------------------------------------------------------
def train_network(
    network: nn.Module, optimizer: torch.optim.Optimizer, real: ImageSet, cfg: Config, rng: torch.Generator, images: int
) -> None:
    """Train on `images` random real ones, in whole batches: augmentation per image, then perhaps CutMix."""
    network.train()
    augmentation, cutmix = augment.idc(cfg.augment_net), augment.CutMix(cfg.cutmix)
    order = torch.randperm(len(real), generator=rng)
    for batch in order[: math.ceil(images / cfg.batch_net) * cfg.batch_net].split(cfg.batch_net):
        x, _ = real.take(batch)
        x, target = cutmix(augmentation(x, rng), real.hard_labels[send(batch, real.device)], rng, real.num_classes)
        optimizer.zero_grad()
        F.cross_entropy(networks.logits(network, x), target).backward()
        optimizer.step()
