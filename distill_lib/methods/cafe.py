"""CAFE: learning to condense a dataset by aligning features (Wang et al., CVPR 2022). Book page: book/cafe.md

Pull the mean feature maps of each class's synthetic images onto those of its real images, in every block of a network
(equation 2, `feature_loss`), and make the synthetic class centres classify real embeddings (equation 4,
`discrimination_loss`). The network is trained on the synthetic set between image updates; accuracies on real images
decide when either stops.

The official code and the paper's text leave three things open; each is an option here:

* The code does not reset a running sum, so every accuracy it watches holds a tenth (for ten classes) of the one before.
  The published numbers were made so: `watcher="official"`. `"fixed"` watches the accuracies themselves.
* Neither loop has a cap in the code. `max_updates` and `max_epochs` are ours; they end what the rules would not.
* `dsa="none"` is plain CAFE, a strategy is CAFE+DSA: siamese when matching, per image when training the network.

The code's further cross-entropy on real images has no gradient with respect to the synthetic ones, and is left out.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import networks
from ..core.device import Pieces, chunked
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, augment, like
from ..networks.gradients import Derivatives
from ..networks.winograd import Products
from .common import matching

VERSION = 1
Maps = Callable[[Tensor], list[Tensor]]  # (N, C, H, W) -> feature maps (N, width, H_l, W_l)


@settings
class Config:
    ipc: Count = 10  # images per class
    iterations: int = 2_001  # fresh networks, one after the other; the official loop runs 0 to 2,000 inclusive
    network: str = "ConvNet"  # any ConvNet: the feature maps of its blocks are compared
    lr_img: float = 0.1  # SGD step size on the pixels, in normalised units
    momentum_img: float = 0.5
    milestones: tuple[int, ...] = (1_200, 1_600, 1_800)  # iterations from which lr_img is halved (again)
    lr_net: float = 0.01  # plain SGD on the network
    batch_real: Count = 256  # real images per class and image update; the discrimination loss sums over them
    batch_train: Count = 256  # synthetic images per step of the network
    batch_query: Count = 128  # real images per class for an accuracy that is watched
    layers: tuple[float, ...] = (0.1, 0.1, 1.0, 1.0)  # weights of the blocks' maps and of the last map after pooling
    embedding: float = 1.0  # weight of the embedding, which is the last map once more
    discrimination: float = 0.01
    settled: float = 0.04  # image updates end when the accuracy varied less than this over the window
    moved: float = 0.03  # training the network ends when the accuracy varied more than this over the window
    window: Count = 10  # accuracies looked back at
    watcher: Literal["official", "fixed"] = "official"
    max_updates: Count = 100  # image updates per network, at most
    max_epochs: Count = 50  # epochs on the synthetic set between two image updates, at most
    dsa: str = "none"
    init: Literal["noise", "real"] = "noise"
    precision: Literal["float32", "bfloat16"] = "float32"  # of the maps; bfloat16 moves the gradient by about 5 %

    def smoke(self) -> Config:
        return self._reduced(iterations=2, batch_real=16, batch_query=4, max_updates=4, max_epochs=3, window=3)

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: few networks, short paths, small real batches and queries."""
        return self._reduced(iterations=5, batch_real=32, batch_query=8, max_updates=10, max_epochs=3, window=3)

    def _reduced(self, **changes: int) -> Config:
        """Smaller numbers; the discrimination loss keeps its share although it sums over fewer images."""
        few = lowered(self, **changes)
        return replace(few, milestones=(), discrimination=self.discrimination * self.batch_real / few.batch_real)


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the papers' tables: CAFE+DSA, but for MNIST at one image per class plain CAFE.

    Source: the official code's defaults; no setting per data set is published. Which of the two variants a cell of the
    SKD paper's table quotes follows from the numbers of the CAFE paper's.
    """
    return Config(ipc=ipc, dsa="none" if (like(dataset).name, ipc) == ("MNIST", 1) else augment.strategy_for(dataset))


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class.

    Returns: K x ipc normalised float32 images with hard labels.
    Raises:  UserError: a network whose maps cannot be compared, or rules that cannot take effect.
    Source:  algorithm 1 of the paper, with the losses, weights and rules of the official code.
    """
    loop, rng = loop or Loop(), stream(seed, "CAFE")
    if cfg.window > min(cfg.max_updates, cfg.max_epochs):
        caps = f"max_updates {cfg.max_updates} and max_epochs {cfg.max_epochs}"
        raise UserError(f"window {cfg.window}: {caps} must not be below it")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).requires_grad_()  # (K, ipc, C, H, W)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(cfg.ipc)
    optimizer = torch.optim.SGD([synthetic], lr=cfg.lr_img, momentum=cfg.momentum_img)
    network = networks.fresh(cfg.network, real, rng).to(real.device).requires_grad_(False)
    weights, dsa = layer_weights(network, cfg), augment.dsa(cfg.dsa)
    parameters, derivatives = [p.detach() for p in network.parameters()], Derivatives(network)
    images_each, classes_each = Pieces(images_at_once(real.shape[1:], real.device)), Pieces(real.num_classes)
    how = {"batch": cfg.batch_train, "lr": cfg.lr_net, "augmentation": dsa}
    train_epoch = functools.partial(matching.train_epoch, derivatives, parameters, labels=labels, rng=rng, **how)
    live = {"synthetic": synthetic, "optimizer": optimizer, "rng": rng}
    for iteration in loop.steps("distill", cfg.iterations, live):
        network.redraw(rng)
        optimizer.param_groups[0]["lr"] = step_size(cfg, iteration)
        updates = Watcher(cfg, real.num_classes)
        while True:
            omega = dsa.draw(rng, groups=real.num_classes)  # one operation and one set of parameters per class
            real_batch = dsa.apply(real.draw_classes(cfg.batch_real, rng), omega)  # (K, batch_real, C, H, W)
            seen = dsa.apply(synthetic, omega)
            loss, gradient = image_gradient(network, real_batch, seen.detach(), weights, cfg, images_each, classes_each)
            optimizer.zero_grad()
            seen.backward(gradient)
            optimizer.step()
            updates.note(query(network, real, cfg.batch_query, rng))
            if updates.count == cfg.max_updates or (updates.spread is not None and updates.spread < cfg.settled):
                break
            epochs = Watcher(cfg, real.num_classes)
            while epochs.count < cfg.max_epochs and (epochs.spread is None or epochs.spread <= cfg.moved):
                train_epoch(synthetic.flatten(0, 1))
                epochs.note(query(network, real, cfg.batch_query, rng))
        loop.log(loss=loss, updates=updates.count, query_accuracy_pct=100 * updates.accuracy)
    return ImageSet.from_classes(synthetic, like=real, method="CAFE", seed=seed)


def step_size(cfg: Config, iteration: int) -> float:
    """Step size on the pixels: halved from each milestone on."""
    return cfg.lr_img * 0.5 ** sum(iteration >= m for m in cfg.milestones)


# --- losses -----------------------------------------------------------------------------------------------------------
def layer_weights(network: nn.Module, cfg: Config) -> list[float]:
    """One weight per feature map of the network and one for its embedding.

    The published weights are for three blocks. They go to the last maps of another ConvNet; maps before those get the
    first weight.

    Raises: UserError: the network has no blocks to compare.
    """
    if not hasattr(network, "taps"):
        what = "CAFE compares the feature maps of a ConvNet's blocks"
        raise UserError(f"{what}; {cfg.network} is none: choose a ConvNet such as ConvNetD4W64")
    if network.norm == "BN":
        why = "batch norm couples the classes, which CAFE passes one by one"
        raise UserError(f"{cfg.network}: {why}; choose another norm, such as IN")
    if not cfg.layers:
        raise UserError("CAFE needs at least one weight in `layers`; the published ones are 0.1, 0.1, 1, 1")
    maps, given = network.depth + 1, list(cfg.layers)
    return [given[0]] * (maps - len(given)) + given[max(0, len(given) - maps) :] + [cfg.embedding]


def feature_maps(network: nn.Module, cfg: Config) -> Maps:
    """The function from images to the network's feature maps, with its present weights; on a CPU by `Products`."""
    if cfg.precision == "bfloat16":
        return torch.autocast(next(network.parameters()).device.type, torch.bfloat16)(network.taps)
    if next(network.parameters()).is_cuda or not Products.fits(network):
        return network.taps
    products = Products(network)
    return functools.partial(products.taps, products.weights([p.detach()[None] for p in network.parameters()]))


def class_means(maps_of: Maps, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Mean feature maps of every class, and every image's embedding.

    Args:
        maps_of: from `feature_maps`.
        images:  (K, n, C, H, W).
    Returns: per map (K, D) means, flattened, the embedding's last; and (K, n, D) embeddings, all float32.
    """
    num_classes, n = images.shape[:2]
    maps = [_rows(m).unflatten(0, (num_classes, n)) for m in maps_of(images.flatten(0, 1))]  # (K, n, D_l)
    kind = torch.promote_types(maps[0].dtype, torch.float32)
    share = torch.full((num_classes, 1, n), 1 / n, dtype=kind, device=images.device)
    means = [(m.mean(1, dtype=kind) if m.dtype != kind else torch.bmm(share, m)[:, 0]) for m in maps]
    return [*means, means[-1]], maps[-1].to(kind)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C H W), in the order the numbers lie in memory; it is the same for all maps of a function."""
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return (maps.permute(0, 2, 3, 1) if last else maps).flatten(1)


def feature_loss(real: list[Tensor], synthetic: list[Tensor], weights: list[float]) -> Tensor:
    """Weighted sum over maps and classes of the squared distance between mean maps; no mean over classes or entries.

    Source: equation 2 of the paper, with the official code's weights.
    """
    return sum(w * (a - b).square().sum() for w, a, b in zip(weights, real, synthetic, strict=True))


def discrimination_loss(embedded: Tensor, centres: Tensor) -> Tensor:
    """Cross-entropy, summed over real images, of classifying their embeddings by inner products with synthetic centres.

    Args:
        embedded: (K, n, D) real embeddings, row k of class k.
        centres:  (K, D) mean synthetic embeddings.
    Source: equation 4 of the paper; the official code sums over the images.
    """
    classes = torch.arange(len(centres), device=centres.device).repeat_interleave(embedded.shape[1])
    return F.cross_entropy(embedded.flatten(0, 1) @ centres.T, classes, reduction="sum")


def real_means(maps_of: Maps, real: Tensor, at_once: Pieces) -> tuple[list[Tensor], Tensor]:
    """`class_means` of real images (K, n, C, H, W) without a graph, `at_once` images of a class at a time."""

    @torch.no_grad()
    def part(images: Tensor) -> tuple[list[Tensor], Tensor]:
        means, embedded = class_means(maps_of, images[None])
        return [m * len(images) for m in means], embedded[0]

    targets, embedded = [], []
    for images in real:
        parts = at_once(len(images), lambda i, images=images: part(images[i]))
        targets.append([sum(m) / len(images) for m in zip(*(means for means, _ in parts), strict=True)])
        embedded.append(torch.cat([e for _, e in parts]))
    return [torch.cat(rows) for rows in zip(*targets, strict=True)], torch.stack(embedded)


def images_at_once(side: tuple[int, int], device: torch.device) -> int:
    """Images per pass: as many as keep the widest maps in the cache of a CPU, or use a GPU well."""
    return max(1, (2**21 if device.type == "cuda" else 2**14) // (side[0] * side[1]))  # 16 or 2048 of 32 x 32


def image_gradient(
    network: nn.Module,
    real: Tensor,
    synthetic: Tensor,
    weights: list[float],
    cfg: Config,
    images_at_once: Pieces | None = None,
    classes_at_once: Pieces | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the synthetic images.

    If the synthetic images do not fit in memory together, some classes go at a time: the feature loss of a class
    concerns no other, and the discrimination loss reaches the images through the centres alone, so it is differentiated
    by these first.

    Args:
        real:      (K, n, C, H, W) augmented.
        synthetic: (K, m, C, H, W) augmented.
        weights:   from `layer_weights`.
        images_at_once, classes_at_once: of the real and of the synthetic set; by default a whole class, and all
        classes.
    Returns: scalar, and (K, m, C, H, W).
    """
    maps_of, num_classes = feature_maps(network, cfg), len(synthetic)
    targets, embedded = real_means(maps_of, real, images_at_once or Pieces(real.shape[1]))
    classes_at_once = classes_at_once or Pieces(num_classes)

    @functools.cache
    def by_centres() -> tuple[Tensor, Tensor]:
        """The discrimination loss, and its derivative (K, D) by the centres."""
        with torch.no_grad():
            parts = classes_at_once(num_classes, lambda k: class_means(maps_of, synthetic[k])[0][-1])
        centres = torch.cat(parts).requires_grad_()
        loss = discrimination_loss(embedded, centres)
        return loss.detach(), torch.autograd.grad(loss, centres)[0]

    def part(k: slice) -> tuple[Tensor, Tensor]:
        images = synthetic[k].detach().requires_grad_()
        means, _ = class_means(maps_of, images)
        loss = feature_loss([t[k] for t in targets], means, weights)
        if len(images) == num_classes:
            loss = loss + cfg.discrimination * discrimination_loss(embedded, means[-1])
            return loss.detach(), torch.autograd.grad(loss, images)[0]
        pull = cfg.discrimination * (by_centres()[1][k] * means[-1]).sum()
        return loss.detach(), torch.autograd.grad(loss + pull, images)[0]

    found = classes_at_once(num_classes, part)
    loss = sum(value for value, _ in found) + (cfg.discrimination * by_centres()[0] if len(found) > 1 else 0)
    return loss, torch.cat([gradient for _, gradient in found])


# --- rules of stopping ------------------------------------------------------------------------------------------------
class Watcher:
    """The accuracies of the last `window` queries.

    The official code does not reset the sum over the classes' accuracies: to each it adds the one before over the
    number of classes. A constant accuracy a is watched as a, 1.1 a, 1.11 a, ... for ten classes.

    Attributes:
        count:    accuracies noted so far.
        accuracy: the last one, as it was.
    """

    def __init__(self, cfg: Config, num_classes: int):
        self.held: deque[float] = deque(maxlen=cfg.window)
        self.leak = 1 / num_classes if cfg.watcher == "official" else 0.0
        self.count, self.accuracy = 0, 0.0

    def note(self, accuracy: float) -> None:
        """Take in an accuracy between 0 and 1."""
        self.held.append(accuracy + self.leak * (self.held[-1] if self.held else 0.0))
        self.count, self.accuracy = self.count + 1, accuracy

    @property
    def spread(self) -> float | None:
        """Largest minus smallest accuracy held; None until the window is full."""
        return max(self.held) - min(self.held) if len(self.held) == self.held.maxlen else None


@torch.no_grad()
def query(network: nn.Module, real: ImageSet, n: int, rng: torch.Generator) -> float:
    """Accuracy between 0 and 1 on n fresh real images of every class."""
    index = real.draw_index(n, rng).flatten().to(real.device)
    answers = chunked(lambda part: networks.logits(network, real.take(part)[0]).argmax(1), index, size=256)
    return (answers == real.hard_labels[index]).float().mean().item()
