"""Herding: keep the mean of the chosen features close to the class mean (Welling 2009; Chen et al. 2010). Book page:
book/selection.md

Real images, chosen class by class and one at a time in the feature space of a network trained on the whole real set.
As run as a baseline by Zhao et al. 2021. The first image chosen is the one nearest to the class mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.loop import Loop
from ..core.settings import replace, settings
from ..data import ImageSet
from ..networks import reference
from ..networks.reference import Training, prepare, stage1  # noqa: F401

VERSION = 1


@settings
class Config:
    ipc: int = 10  # images per class
    training: Training = Training()  # of the feature network; shared with K-Center and Forgetting

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        return replace(self, training=self.training.smoke(self.ipc))

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: a network trained on, and images chosen from, part of the real
        set."""
        return replace(self, training=self.training.small(self.ipc))


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the papers' tables: their feature network; its training is ours, none is
    published."""
    return Config(ipc=ipc, training=reference.for_selection(dataset))


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Choose cfg.ipc images of every class.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc of them, normalised, class after class in the order they were chosen.
    Raises:  UserError: a class has fewer than ipc images.
    """
    return reference.select(real, cfg.ipc, cfg.training, seed, "Herding", herding, loop)


def herding(features: Tensor, n: int) -> Tensor:
    """Places (n,) of the features chosen, in order.

    With i features chosen, the next one minimises the distance between the mean of the i + 1 and the mean of all; none
    is chosen twice. Centred on the mean, that is the smallest norm of (sum of the chosen) + (candidate), one
    matrix-vector product per choice.

    Args:
        features: (N, D), n <= N.
    Source:  the greedy form published by the authors of Zhao et al. 2021, which is not Welling's inner-product form.
    """
    centred = features - features.mean(0)
    squared = centred.square().sum(1)  # (N,)
    free = torch.zeros_like(squared)  # infinite where chosen
    total, order = torch.zeros_like(centred[0]), []
    for _ in range(n):
        best = (squared + 2 * (centred @ total) + free).argmin()
        order.append(best)
        free[best] = torch.inf
        total = total + centred[best]
    return torch.stack(order)
