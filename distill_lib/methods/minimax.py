"""Minimax: a latent diffusion model fine-tuned for representativeness and diversity (Gu et al., CVPR 2024). Book page:
book/dgs.md

DiffFit tunes biases, labels and scales of a DiT on the classes at hand. Beside the diffusion loss, the predicted clean
latent is pulled to the least similar remembered real latent and pushed from the most similar remembered prediction of
its class.
"""

from __future__ import annotations

from dataclasses import field

from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet
from ..generators import dit
from ..generators.dit import Pretraining, Sampling
from .common import minimax_tuning
from .common.minimax_tuning import Tuning

VERSION = 1


@settings
class Config:
    ipc: Count = 10  # images per class: the first of a pool
    base: Pretraining = field(default_factory=Pretraining)  # stage 1, shared with DiT and DGS
    tuning: Tuning = field(default_factory=Tuning)  # stage 2, shared with DGS
    sampling: Sampling = field(default_factory=Sampling)

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        return replace(self, base=self.base.smoke(), tuning=self.tuning.smoke(), sampling=self.sampling.smoke())

    def small(self) -> Config:
        """A DiT trained for half an hour and tuned for five minutes on one CPU core, at half the denoising steps."""
        return replace(self, base=self.base.small(), tuning=self.tuning.small(), sampling=self.sampling.small())


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting of the official code on subsets of ImageNet; on other sets a DiT is trained in pixels, which is
    ours."""
    if dit.has_published(dataset):
        return Config(ipc=ipc)
    return Config(ipc=ipc, base=Pretraining().in_pixels(), sampling=Sampling(channels="all"))


def stage1(cfg: Config) -> dict[str, Pretraining | Tuning]:
    """What cells share before their sets differ."""
    return {"DiT": cfg.base, "Minimax fine-tuning": cfg.tuning}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make both stages, if they are not there."""
    minimax_tuning.tuned(real, cfg.base, cfg.tuning, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Fine-tune, and draw the set.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc drawn images, normalised, at the side of `real`.
    Raises:  UserError: missing weights, or images the model does not fit.
    """
    images = minimax_tuning.pool(real, cfg.base, cfg.tuning, cfg.sampling, cfg.ipc, seed, loop)
    return dit.as_set(images, real, dit.first(images, cfg.ipc), method="Minimax", seed=seed)
