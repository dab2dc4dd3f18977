"""Herding: keep the mean of the chosen features close to the class mean (Welling 2009). Book page: book/selection.md

This page has three rules that choose real images, class by class, with a network trained on the whole real set:
`herding`, `k_center` and `most_forgotten`. All three are baselines of Zhao et al. 2021.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import added, replace, settings
from ..data import ImageSet, like
from ..networks import reference

VERSION = 1
ABOUT_K_CENTER = """K-Center: cover every class in feature space (Sener & Savarese 2018). Book page: book/selection.md

The farthest image comes next. The first centre is the image nearest to the class mean, so at one image per class
K-Center and Herding choose the same. Later centres are outliers, and accuracy may fall with more of them.
"""
ABOUT_FORGETTING = """Forgetting: what a network forgets most (Toneva et al. 2019). Book page: book/selection.md

Forgotten means classified right at one visit in training and wrong at the next, counted during one training run. The
chosen images are hard ones, so a few of them train worse than random images do.

An image that was never right was never forgotten either. Toneva et al.'s code puts such images first; DeepCore's (Guo,
Zhao and Bai 2022), of an author of the baseline, counts events alone. That comes near the printed numbers: our default.
"""


@settings
class Config:
    ipc: int = 10  # images per class
    training: reference.Training = reference.Training()  # of the network; one network serves all three rules
    never_learned: Literal["most", "none"] | None = None  # Forgetting: such images first, or no event (None: the same)
    nearest: bool = added(False)  # Herding: the images nearest to the class mean, whatever was chosen before

    def smoke(self) -> Config:
        return replace(self, training=self.training.smoke(self.ipc))

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: the network sees, and images come from, part of the real set."""
        return replace(self, training=self.training.small(self.ipc))


def paper_config(dataset: str, ipc: int, never_learned: Literal["most", "none"] | None = None) -> Config:
    """The setting behind one cell of the papers' tables: their network; its training is ours, none is published.

    SLFD's unions of ImageNet subsets, for which no selection is published, have the ConvNet.

    Source: Zhao et al. 2021: ConvNet on small images; Kim et al. 2022 (code): ResNetAP-10 on ImageNet subsets.
    """
    known = like(dataset)
    network = "ResNetAP-10" if known.is_imagenet_subset and not known.union else "ConvNet"
    return Config(ipc=ipc, training=reference.Training(network=network), never_learned=never_learned)


def stage1(cfg: Config) -> dict[str, reference.Training]:
    return {"feature network": cfg.training}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    reference.on_real(real, cfg.training, seed, loop)


def distill(
    real: ImageSet,
    cfg: Config,
    seed: int,
    loop: Loop | None = None,
    rule: Literal["Herding", "K-Center", "Forgetting"] = "Herding",
) -> ImageSet:
    """Choose cfg.ipc images of every class.

    Returns: K x ipc of them, normalised and unmodified, class after class in the order they were chosen.
    Raises:  UserError: a class has fewer than ipc images.
    """
    loop = loop or Loop()
    trained = reference.on_real(real, cfg.training, seed, loop)
    rng, chosen, classes = stream(seed, "Forgetting"), [], trained.classes(real)
    real.enough(cfg.ipc, classes)
    for k in loop.steps("choose", real.num_classes, {"chosen": chosen, "rng": rng}):
        index = trained.index[classes[k]]
        if rule == "Forgetting":
            events, learned = trained.forgotten[classes[k]], trained.learned[classes[k]]
            order = most_forgotten(events, learned, cfg.ipc, rng, cfg.never_learned)
        else:
            choose = k_center if rule == "K-Center" else nearest_to_mean if cfg.nearest else herding
            order = choose(reference.features(trained.network, real, index), cfg.ipc).cpu()
        chosen.append(index[order].tolist())
    images = real.take(torch.tensor(chosen).flatten())[0].unflatten(0, (-1, cfg.ipc))
    return ImageSet.from_classes(images, like=real, indices=chosen, method=rule, seed=seed)


# --- the rules --------------------------------------------------------------------------------------------------------
def herding(features: Tensor, n: int) -> Tensor:
    """Places (n,) of the chosen features, in order: each brings the mean of the chosen nearest to the mean of all.

    With features centred on their mean, the next one has the smallest norm of (sum of the chosen) + (candidate). None
    is chosen twice; the first is the one nearest to the mean.

    Args:
        features: (N, D), n <= N.
    Source:  the greedy form of the authors of Zhao et al. 2021 (Chen et al. 2010), not Welling's inner products.
    """
    centred = features - features.mean(0)
    squared = centred.square().sum(1)  # (N,)
    taken = torch.zeros_like(squared)  # infinite once chosen
    total, order = torch.zeros_like(centred[0]), []
    for _ in range(n):
        best = (squared + 2 * (centred @ total) + taken).argmin()
        order.append(best)
        taken[best] = torch.inf
        total = total + centred[best]
    return torch.stack(order)


def nearest_to_mean(features: Tensor, n: int) -> Tensor:
    """Places (n,) of the features nearest to their mean, nearest first: another reading of herding, which forgets what
    was chosen before.

    Args:
        features: (N, D), n <= N.
    """
    return (features - features.mean(0)).square().sum(1).argsort(stable=True)[:n]


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
        nearest[best] = -torch.inf  # never again, not even if images are equal
        best = nearest.argmax()
    return torch.stack(order)


def most_forgotten(
    forgotten: Tensor, learned: Tensor, n: int, rng: torch.Generator, never_learned: str | None = None
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
