"""DiM: distilling a data set into a generative model (Wang et al. 2023). Book page: book/skd.md

Stage 1 trains a conditional GAN. Stage 2 (`common.network_pool.second_stage`) goes on with it, while the images it
generates should give the same log-probabilities as real images of their class, on networks in training: `dim_loss`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet, side
from ..generators import cgan
from ..generators.generated import GeneratedSet
from .common import network_pool

VERSION = 1
EVERY_IPC = True  # one generator serves every ipc
prepare, stage1 = cgan.prepare, cgan.stage1  # stage 1 is the conditional GAN
WEIGHTS = {"logit": 0.01, "feat": 0.001, "grad": 0.001}  # constants of the official code, whatever its option says


@settings
class Config:
    ipc: Count = 10  # images per class and epoch, or of the fixed set
    gan: cgan.GAN = cgan.GAN()  # stage 1, shared with CGAN and SKD
    matching: network_pool.Matching = network_pool.Matching()  # stage 2
    target: Literal["logit", "feat", "grad"] = "logit"  # as the official README's command; the code's default is "grad"
    weight: float | None = None  # None: the official constant of the target

    def smoke(self) -> Config:
        return replace(self, gan=self.gan.smoke(), matching=self.matching.smoke())

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: a narrower GAN, a narrower pool, fewer steps."""
        return replace(self, gan=self.gan.small(), matching=self.matching.small())


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting of the official code and README. The paper trains one generator for every ipc.

    The pool has two networks more than SKD's, ResNet10 and ResNet18 with average pooling, which crash on 28 pixels.
    """
    pool = network_pool.pool_for(dataset)
    if side(dataset) >= 32:
        pool += tuple(name.replace("ResNet", "ResNetAP") for name in pool[1:])
    return Config(ipc=ipc, matching=network_pool.Matching(pool=pool))


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> GeneratedSet:
    """Distil `real` into a generator.

    Returns: a set that draws cfg.ipc images of every class.
    Raises:  UserError: images no GAN here fits.
    """
    loop, trained = loop or Loop(), cgan.train(real, cfg.gan, loop)
    weight = WEIGHTS[cfg.target] if cfg.weight is None else cfg.weight

    def loss(network: nn.Module, real_images: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        return weight * dim_loss(network, real_images, fake, labels, cfg)

    generator = network_pool.second_stage(trained, cfg.matching, loss if weight else None, seed, loop)
    return GeneratedSet.made("DiM", real, generator, cfg.ipc, seed)


def dim_loss(network: nn.Module, real: Tensor, fake: Tensor, labels: Tensor, cfg: Config) -> Tensor:
    """How differently a network answers real and generated images of the same labels.

    logit: mean over pairs and classes of the squared difference of log-probabilities.
    feat:  squared distance of the mean embeddings of the two batches.
    grad:  sum of absolute differences of the gradients of the cross-entropy by all convolution weights.

    Args:
        real, fake: (B, C, H, W); gradients flow to `fake` alone. labels (B,).
    """
    if cfg.target == "grad":
        weights = [m.weight.requires_grad_() for m in network.modules() if isinstance(m, nn.Conv2d)]
        target = torch.autograd.grad(F.cross_entropy(network(real), labels), weights)
        ours = torch.autograd.grad(F.cross_entropy(network(fake), labels), weights, create_graph=True)
        return torch.stack([(a - b).abs().sum() for a, b in zip(target, ours, strict=True)]).sum()
    target, ours = network_pool.answers(network, real, fake, embedding=cfg.target == "feat")
    if cfg.target == "feat":
        return (target.mean(0) - ours.mean(0)).square().sum()
    target, ours = (network_pool.pair_up(x, labels, cfg.matching, network.num_classes) for x in (target, ours))
    return F.mse_loss(ours.log_softmax(1), target.log_softmax(1))
