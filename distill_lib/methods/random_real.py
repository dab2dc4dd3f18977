"""Random: real images drawn uniformly, the same number of every class. Book page: book/selection.md

The floor every method must beat. Labels are hard, images unmodified (Zhao et al. 2021, baselines).
"""

from __future__ import annotations

from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import settings
from ..data import ImageSet

VERSION = 1


@settings
class Config:
    ipc: int = 10  # images per class

    def smoke(self) -> Config:
        return self

    small = smoke


def paper_config(dataset: str, ipc: int) -> Config:
    return Config(ipc=ipc)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Draw the set.

    Returns: K x ipc of them, normalised, class after class.
    Raises:  UserError: a class has fewer than ipc images.
    """
    real.enough(cfg.ipc)
    images = real.draw_classes(cfg.ipc, stream(seed, "Random"))
    return ImageSet.from_classes(images, like=real, method="Random", seed=seed)
