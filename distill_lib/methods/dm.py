"""DM: dataset condensation with distribution matching (Zhao & Bilen, WACV 2023). Book page: book/dm.md

Pull each class's mean synthetic embedding onto its mean real embedding, in the feature spaces of networks drawn at
random and never trained: equation 4, `dm_loss`. One outer loop, no inner loop, no second derivative.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .. import networks
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import lowered, replace, settings
from ..data import ImageSet, augment, like
from .common.matching import embeddings, mean_embeddings

VERSION = 1


@settings
class Config:
    ipc: int = 10  # images per class
    iterations: int = 20_001  # outer steps, one fresh random network each; the official loop runs 0 to 20,000 inclusive
    network: str = "ConvNet"
    lr_img: float = 1.0  # SGD step size on the pixels, in normalised units
    momentum_img: float = 0.5
    batch_real: int = 256  # real images per class and step
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # siamese, one draw per class and step; "none" for none
    init: Literal["real", "noise"] = "real"
    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks; the synthetic images stay float32

    def smoke(self) -> Config:
        return replace(lowered(self, iterations=40), batch_real=32)

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: fewer steps on smaller real batches."""
        return replace(lowered(self, iterations=400), batch_real=32)


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the paper's table.

    Source: defaults and README of the official code: lr_img 1, and 10 from 100 images per class on, but for CIFAR100;
    no flips on digits.
    """
    return Config(
        ipc=ipc,
        lr_img=10.0 if ipc >= 100 and like(dataset).name != "CIFAR100" else 1.0,
        dsa=augment.strategy_for(dataset),
    )


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class.

    Returns: K x ipc normalised float32 images with hard labels.
    Source:  algorithm 1 of the paper; loss summed over classes and features, as in the official code.
    """
    loop = loop or Loop()
    rng = stream(seed, "DM")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).requires_grad_()  # (K, ipc, C, H, W)
    optimizer = torch.optim.SGD([synthetic], lr=cfg.lr_img, momentum=cfg.momentum_img)
    dsa = augment.dsa(cfg.dsa)
    network = networks.blank(cfg.network, real.shape, real.num_classes).to(real.device).requires_grad_(False)
    for _ in loop.steps("distill", cfg.iterations, {"synthetic": synthetic, "optimizer": optimizer, "rng": rng}):
        network.redraw(rng)
        real_batch = real.draw_classes(cfg.batch_real, rng)  # (K, batch_real, C, H, W)
        omega = dsa.draw(rng, groups=real.num_classes)  # one operation and one set of parameters per class
        loss = dm_loss(network, dsa.apply(real_batch, omega), dsa.apply(synthetic, omega), cfg.precision)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.log(loss=loss)
    return ImageSet.from_classes(synthetic, like=real, method="DM", seed=seed)


def dm_loss(network: nn.Module, real: Tensor, synthetic: Tensor, precision: str = "float32") -> Tensor:
    """Sum over classes of the squared distance between mean embeddings.

    All synthetic images go through the network in one pass. Without batch norm images do not depend on one another,
    so this equals a loop over the classes. With batch norm the statistics are those of all classes together, of real
    and of synthetic images apart, as in the official code.

    Args:
        real:      (K, n, C, H, W) augmented real images; no gradient flows into them.
        synthetic: (K, m, C, H, W) augmented synthetic images.
    Returns: scalar; gradient with respect to `synthetic`.
    Source:  equation 4 of the paper, with sums in place of means over features.
    """
    with torch.autocast(real.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        target, mean = mean_embeddings(network, real), embeddings(network, synthetic).mean(1)  # (K, D)
    return (target - mean).square().sum()
