"""SKD: generative dataset distillation by self-knowledge distillation (Li et al., ICASSP 2025). Book page: book/skd.md

Stage 1 trains a conditional GAN. Stage 2 goes on with it, as in DiM (`common.network_pool.second_stage`):

    every epoch: draw a network of the pool, with new weights
    every step:  train that network on real images
                 generate images of the labels of a batch of real ones, and augment both alike
                 generator: the GAN's loss + lambda tau² L_SKD (equation 7, in `distill`); discriminator: the GAN's loss

L_SKD (equations 3 to 6, `skd_loss`) compares the network's answers: the softmax of *standardised* logits of real images
is the target distribution over the classes, that of generated images of the same class the one to be moved.

No code was published. What the paper leaves open is an option here; the comment beside it says which reading is the
default.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet, like
from ..generators import cgan
from ..generators.generated import GeneratedSet
from .common import network_pool

VERSION = 1
ABOUT_NO_STANDARDISATION = 'The row "No Stand.": softmax(x / tau) in place of equations 3 to 5. Book page: book/skd.md'
EVERY_IPC = True  # one generator serves every ipc
prepare, stage1 = cgan.prepare, cgan.stage1  # stage 1 is the conditional GAN


@settings
class Config:
    ipc: Count = 10  # images per class and epoch, or of the fixed set
    gan: cgan.GAN = cgan.GAN()  # stage 1, shared with CGAN and DiM
    matching: network_pool.Matching = network_pool.Matching()  # stage 2: DiM's, as the paper states no other
    weight: float = 0.01  # lambda of equation 7
    tau: Annotated[float, pydantic.Field(gt=0)] = 2.0
    standardise: bool = True  # False: the row "No Stand.", softmax(x / tau)
    std: Literal["unbiased", "biased"] = "unbiased"  # as in Sun et al. 2024, which the paper does not cite
    eps: float = 1e-7  # added to the standard deviation, from the same code
    target: Literal["logits", "embedding"] = "logits"  # K in equation 6 is the classes; one sentence could say features

    def smoke(self) -> Config:
        return replace(self, gan=self.gan.smoke(), matching=self.matching.smoke())

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: a narrower GAN, a narrower pool, fewer steps."""
        return replace(self, gan=self.gan.small(), matching=self.matching.small())


def paper_config(dataset: str, ipc: int, standardise: bool = True) -> Config:
    """Section 3.2: tau 2, lambda 0.001 on MNIST and 0.01 on FashionMNIST and CIFAR10. The rest is DiM's."""
    weight, matching = (
        0.001 if like(dataset).name == "MNIST" else 0.01,
        network_pool.Matching(pool=network_pool.pool_for(dataset)),
    )
    return Config(ipc=ipc, weight=weight, standardise=standardise, matching=matching)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> GeneratedSet:
    """Distil `real` into a generator.

    Returns: a set that draws cfg.ipc images of every class.
    Raises:  UserError: images no GAN here fits.
    Source:  equation 7: the GAN's loss + lambda tau² L_SKD.
    """
    loop, trained = loop or Loop(), cgan.train(real, cfg.gan, loop)

    def loss(network: nn.Module, real_images: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        target, ours = network_pool.answers(network, real_images, fake, embedding=cfg.target == "embedding")
        target, ours = (network_pool.pair_up(x, labels, cfg.matching, network.num_classes) for x in (target, ours))
        return cfg.weight * cfg.tau**2 * skd_loss(target, ours, cfg)

    generator = network_pool.second_stage(trained, cfg.matching, loss if cfg.weight else None, seed, loop)
    name = "SKD" if cfg.standardise else "SKD (no standardisation)"
    return GeneratedSet.made(name, real, generator, cfg.ipc, seed)


def standardised(logits: Tensor, cfg: Config) -> Tensor:
    """(..., K) -> (..., K): zero mean and standard deviation 1 / tau over the classes of one image.

    Unbiased, every value lies within (K - 1) / (tau sqrt(K)). Equal logits give zeros. Without standardisation x / tau.
    Source: equation 3.
    """
    if not cfg.standardise:
        return logits / cfg.tau
    centred, count = logits - logits.mean(-1, keepdim=True), logits.shape[-1] - (cfg.std == "unbiased")
    # at zero the gradient of this norm is zero, that of torch.std is NaN
    std = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / count**0.5
    return centred / ((std + cfg.eps) * cfg.tau)


def skd_loss(real: Tensor, fake: Tensor, cfg: Config) -> Tensor:
    """Mean over images of KL(d(x_O) || d(x_S)) between the softmax of standardised logits.

    Args:
        real, fake: (B, K) logits; no gradient flows to `real`.
    Source: equations 4 to 6.
    """
    target, ours = (standardised(x, cfg).log_softmax(-1) for x in (real.detach(), fake))
    return F.kl_div(ours, target, reduction="none", log_target=True).sum(-1).mean()
