"""DiT: images of a class-conditional latent diffusion model, as they are (ICCV 2023). Book page: book/dgs.md

The row below Minimax and DGS in their tables (Peebles and Xie): stage 1 alone, without any fine-tuning.
"""

from __future__ import annotations

from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet, like
from ..generators import dit
from .minimax import draw_pool

VERSION = 1


@settings
class Config:
    ipc: Count = 10  # images per class: the first of a pool
    base: dit.Pretraining = dit.Pretraining()  # stage 1, shared with Minimax and DGS
    sampling: dit.Sampling = dit.Sampling()

    def smoke(self) -> Config:
        return replace(self, base=self.base.smoke(), sampling=self.sampling.smoke())

    def small(self) -> Config:
        """A DiT trained for half an hour on one CPU core, at half the denoising steps."""
        return replace(self, base=self.base.small(), sampling=self.sampling.small())


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting of the published rows on subsets of ImageNet; on other sets, ours: a DiT trained in pixels."""
    if dit.has_published(dataset):
        return Config(ipc=ipc)
    return Config(
        ipc=ipc, base=dit.Pretraining(flips=like(dataset).mirrors).in_pixels(), sampling=dit.Sampling(channels="all")
    )


def stage1(cfg: Config) -> dict[str, dit.Pretraining]:
    return {"DiT": cfg.base}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    dit.base(real, cfg.base, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Draw the set.

    Returns: K x ipc drawn images, normalised, at the side of `real`.
    Raises:  UserError: missing weights, or images the model does not fit.
    """
    images = draw_pool(real, cfg.base, None, cfg.sampling, cfg.ipc, seed, loop)
    return dit.as_set(images, real, dit.first(images, cfg.ipc), method="DiT", seed=seed)
