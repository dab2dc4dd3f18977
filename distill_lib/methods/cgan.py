"""CGAN: the images of a conditional GAN, as they are (Mirza and Osindero 2014; DiM's networks). Book page: book/skd.md

The row below DiM and SKD in their tables: stage 1 alone.
"""

from __future__ import annotations

from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet
from ..generators import cgan
from ..generators.generated import GeneratedSet
from .common.network_pool import Matching, second_stage

VERSION = 1
EVERY_IPC = True  # one generator serves every ipc
prepare, stage1 = cgan.prepare, cgan.stage1  # stage 1 is the conditional GAN


@settings
class Config:
    ipc: Count = 10  # images per class and epoch, or of the fixed set
    gan: cgan.GAN = cgan.GAN()  # stage 1, shared with DiM and SKD
    longer: Matching | None = None  # go on for as many steps as this second stage has, without matching: a control

    def smoke(self) -> Config:
        return replace(self, gan=self.gan.smoke(), longer=self.longer and self.longer.smoke())

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: a narrower GAN, fewer steps."""
        return replace(self, gan=self.gan.small(), longer=self.longer and self.longer.small())


def paper_config(dataset: str, ipc: int) -> Config:
    """DiM's stage 1; neither DiM nor SKD says more of this row than its name."""
    return Config(ipc=ipc)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> GeneratedSet:
    """A generator of `real`'s classes.

    Returns: a set that draws cfg.ipc images of every class.
    Raises:  UserError: images no GAN here fits.
    """
    loop = loop or Loop()
    trained = cgan.train(real, cfg.gan, loop)
    generator = second_stage(trained, cfg.longer, None, seed, loop) if cfg.longer else trained.generator
    return GeneratedSet.made("CGAN", real, generator, cfg.ipc, seed)
