"""K-Center: cover every class in feature space, farthest point first (Sener & Savarese 2018). Book page:
book/selection.md

Real images, chosen class by class and one at a time in the feature space of a network trained on the whole real set.
As run as a baseline by Zhao et al. 2021: the first centre is the image nearest to the class mean, so at one image per
class K-Center and Herding choose the same. Later centres are outliers, and accuracy may fall with more of them.
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
    training: Training = Training()  # of the feature network; shared with Herding and Forgetting

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
    return reference.select(real, cfg.ipc, cfg.training, seed, "K-Center", k_center, loop)


def k_center(features: Tensor, n: int) -> Tensor:
    """Places (n,) of the centres, in order: nearest to the mean, then always the one farthest from its nearest centre.

    Args:
        features: (N, D), n <= N.
    Source:  the greedy form published by the authors of Zhao et al. 2021; the distance is Euclidean.
    """
    nearest = torch.full_like(features[:, 0], torch.inf)  # squared distance to the nearest centre, (N,)
    best = (features - features.mean(0)).square().sum(1).argmin()
    order = []
    for _ in range(n):
        order.append(best)
        nearest = torch.minimum(nearest, (features - features[best]).square().sum(1))
        nearest[best] = -torch.inf  # never again, not even where images are equal
        best = nearest.argmax()
    return torch.stack(order)
