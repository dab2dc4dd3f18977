"""Forgetting: the images a network forgets most often while it learns (Toneva et al. 2019). Book page:
book/selection.md

Real images, chosen class by class. Forgotten means classified right at one visit in training and wrong at the next;
counted during one ordinary training run on the whole real set, without extra passes. As run as a baseline by Zhao et
al. 2021. The chosen images are hard ones, so few of them train worse than random ones do.

An image that was never right was never forgotten either. Toneva et al.'s code puts such images first; DeepCore's (Guo,
Zhao and Bai 2022), of an author of the baseline, counts events alone. That comes near the printed numbers: our default.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import replace, settings
from ..data import ImageSet
from ..networks import reference
from ..networks.reference import Training, prepare, stage1  # noqa: F401

VERSION = 2


@settings
class Config:
    ipc: int = 10  # images per class
    training: Training = Training()  # the run that is watched; shared with Herding and K-Center
    never_learned: Literal["most", "none"] = (
        "none"  # their events: "none", as counted; "most", more than any other image's
    )

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        return replace(self, training=self.training.smoke(self.ipc))

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: fewer epochs on, and images chosen from, part of the real set."""
        return replace(self, training=self.training.small(self.ipc))


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the papers' tables: their network; its training is ours, none is published."""
    return Config(ipc=ipc, training=reference.for_selection(dataset))


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Choose the cfg.ipc most forgotten images of every class.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc of them, normalised, class after class, most forgotten first.
    Raises:  UserError: a class has fewer than ipc images.
    """
    trained = reference.on_real(real, cfg.training, seed, loop)
    rng, chosen = stream(seed, "Forgetting"), []
    real.enough(cfg.ipc, trained.classes(real))
    for places in trained.classes(real):
        top = most_forgotten(trained.forgotten[places], trained.learned[places], cfg.ipc, rng, cfg.never_learned)
        chosen.append(trained.index[places[top]])
    return reference.selected(real, torch.stack(chosen), method="Forgetting", seed=seed)


def most_forgotten(
    forgotten: Tensor, learned: Tensor, n: int, rng: torch.Generator, never_learned: str = "none"
) -> Tensor:
    """Places (n,) of the most forgotten images, most forgotten first; ties in random order.

    Args:
        forgotten: (N,) forgetting events.
        learned:   (N,) whether the image was ever classified right.
        never_learned: as in `Config`.
    """
    score = forgotten.double()
    if never_learned == "most":
        score = score.masked_fill(~learned, torch.inf)
    shuffled = torch.randperm(len(score), generator=rng)
    return shuffled[score[shuffled].argsort(descending=True, stable=True)[:n]]
