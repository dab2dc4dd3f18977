"""Pool: images chosen from a pool of a conditional GAN, or of real images, by DGS's rule or a control's. Book page:
book/dgs.md

DGS's sampler needs a pool and scores, and no diffusion model. Here the pool costs seconds, so that claims about the
sampler can be repeated often: every rule chooses from the same pool, which the seed decides.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, replace, settings
from ..data import ImageSet
from ..generators import cgan
from . import dgs

VERSION = 1


@settings
class Config:
    ipc: Count = 10  # images per class
    pool: Count = 5  # images in the pool for each one kept
    source: Literal["GAN", "real"] = "GAN"
    # DGS's; the same with the scores of a class shuffled; uniformly; those drawn first
    rule: Literal["difficulty", "shuffled", "random", "first"] = "difficulty"
    gan: cgan.GAN = cgan.GAN()  # stage 1, shared with CGAN, DiM and SKD
    sampler: dgs.Sampler = dgs.Sampler()
    scoring: dgs.Scoring = dgs.Scoring(scorer="trained")

    def smoke(self) -> Config:
        return replace(self, gan=self.gan.smoke(), scoring=replace(self.scoring.smoke(self.ipc), folds=2))

    def small(self) -> Config:
        """A narrower GAN and a scorer that is trained for less long."""
        training = self.scoring.training.small(self.ipc)
        return replace(self, gan=self.gan.small(), scoring=replace(self.scoring, training=training))


def paper_config(dataset: str, ipc: int) -> Config:
    """Ours: DGS's rule on a pool of DiM's conditional GAN."""
    return Config(ipc=ipc)


def stage1(cfg: Config) -> dict[str, cgan.GAN]:
    return {"conditional GAN": cfg.gan} if cfg.source == "GAN" else {}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make stage 1, if it is not there."""
    if cfg.source == "GAN":
        cgan.train(real, cfg.gan, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Draw a pool and choose from it.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc images, normalised; facts.extra["difficulty_pct"] has the mean score of the pool and of the images
             chosen, where the rule looks at scores.
    Raises:  UserError: images no GAN here fits, a class smaller than its pool of real images, or a pre-defined target
             for another ipc.
    """
    per_class, classes = cfg.pool * cfg.ipc, range(real.num_classes)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(per_class)
    index = None
    if cfg.source == "real":
        if (least := min(map(len, real.class_index))) < per_class:
            asked = f"a pool of {cfg.pool} x {cfg.ipc} = {per_class} real images of every class"
            raise UserError(f"{asked}: {real.facts.name} has a class of only {least}")
        index = real.draw_index(per_class, stream(seed, "Pool"))  # (K, n)
        images = real.take(index.flatten())[0]
    else:
        images = _drawn(real, cfg, seed, loop)
    scores: Tensor | None = None
    if cfg.rule in ("difficulty", "shuffled"):
        scorer = dgs.scored(real, cfg.scoring, loop)
        pool = ImageSet(images, labels, real.synthetic_facts())
        scores = (scorer(pool) if index is None else scorer.real[index.flatten()]).view(len(classes), per_class)
    places = []  # in the pool of a class
    for k in classes:
        rng = stream(seed, "choose", cfg.rule, k)
        if cfg.rule == "first":
            places.append(torch.arange(cfg.ipc))
        elif scores is None:
            places.append(torch.randperm(per_class, generator=rng)[: cfg.ipc])
        else:
            seen = scores[k] if cfg.rule == "difficulty" else scores[k][torch.randperm(per_class, generator=rng)]
            originals = scorer.real[real.class_index[k]]
            places.append(dgs.choose(seen, originals, cfg.ipc, cfg.sampler, rng).places)
    chosen = torch.stack(places)  # (K, ipc)
    rows = torch.arange(len(classes))[:, None]
    extra: dict[str, Any] = {"method": "Pool", "seed": seed}
    if scores is not None:
        extra["difficulty_pct"] = [100 * float(scores.mean()), 100 * float(scores[rows, chosen].mean())]
    return ImageSet.from_classes(images.unflatten(0, (len(classes), per_class))[rows, chosen], like=real, **extra)


def _drawn(real: ImageSet, cfg: Config, seed: int, loop: Loop | None) -> Tensor:
    """(K x n, C, H, W) normalised images of the GAN, class after class; pools of all sizes begin alike."""
    generator = cgan.train(real, cfg.gan, loop).generator.to(real.device)
    parts = []
    for k in range(real.num_classes):
        labels = torch.full((cfg.ipc,), k, device=real.device)
        parts += [generator.draw(labels, stream(seed, "Pool", k, i)) for i in range(cfg.pool)]
    return cgan.normalised(torch.cat(parts), real)


def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[float]]:
    """Mean difficulty of the pool and of the images chosen, in percent."""
    pool, chosen = synthetic.facts.extra.get("difficulty_pct", (None, None))
    return {} if pool is None else {"pool_difficulty_pct": [pool], "chosen_difficulty_pct": [chosen]}
