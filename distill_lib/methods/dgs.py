"""DGS: difficulty-guided sampling (Li et al., ICCV 2025 workshop). Book page: book/dgs.md

Draw more images than are wanted, score each by 1 - p(true class), and keep those whose histogram of scores follows that
of the real images, class by class. Drawn images crowd at one end of the scores, so a clipped logarithm comes first:
`transformed` (equations 7 and 8), with the thresholds that minimise `objective` (equation 9).

The sampler needs a pool and scores, and no diffusion model: `sampled(pool, ...)` works on images of any generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, replace, settings
from ..data import ImageSet, like
from ..evaluation.metrics import difficulty
from ..evaluation.metrics.difficulty import Scorer
from ..generators import dit
from ..networks.reference import Training
from .minimax import Tuning, draw_pool, model

VERSION = 2
EPSILON = 1e-4  # lowest transformed score, and what takes the place of a lowest score of zero
PREDEFINED = {  # images wanted of each bin, easiest first (official code; Table 3 and Figure 4)
    "hill": {
        10: (1, 0, 1, 0, 3, 3, 1, 0, 0, 1),
        20: (1, 1, 1, 2, 5, 5, 2, 1, 1, 1),
        50: (1, 3, 5, 6, 10, 10, 6, 5, 3, 1),
    },
    "ground": {10: (1,) * 10, 20: (2,) * 10, 50: (5,) * 10},
    "slope": {
        10: (3, 3, 1, 1, 0, 0, 1, 1, 0, 0),
        20: (5, 5, 2, 2, 1, 1, 1, 1, 1, 1),
        50: (10, 10, 6, 6, 5, 5, 3, 3, 1, 1),
    },
    "cliff": {
        10: (6, 3, 0, 1, 0, 0, 0, 0, 0, 0),
        20: (9, 6, 1, 1, 1, 1, 1, 0, 0, 0),
        50: (20, 15, 3, 3, 2, 2, 2, 1, 1, 1),
    },
}
Variant = Literal["code", "paper"]
Target = Literal["scale", "hill", "ground", "slope", "cliff"]


@settings
class Sampler:
    """Settings of the choice from a pool."""

    target: Target = "scale"  # the real images' histogram, scaled; or one of four pre-defined ones at ipc 10, 20, 50
    transform: Literal["log", "none"] = "log"
    variant: Variant = "code"  # how thresholds are found and applied: as the official code, or as equations 7 to 9 read
    thresholds: Literal["ranks", "shares"] = "ranks"  # of pool and real images: equal numbers, or equal shares (ours)
    weight: float = 0.5  # lambda of equation 9
    bins: Count = 10


@settings
class Scoring:
    """Settings of the scorer of difficulty."""

    scorer: difficulty.Name = "resnet50"
    among: difficulty.Among = "all"  # a pretrained scorer's classes: all of ImageNet's, or the set's (ours)
    training: Training = Training()  # of "trained" and "held_out"
    folds: Count = 5  # of "held_out"

    def smoke(self, ipc: int) -> Scoring:
        return replace(self, training=replace(self.training.smoke(ipc), network="ConvNetW32", epochs=1))


@settings
class Config:
    ipc: Count = 10  # images per class
    pool: Count = 5  # images drawn for each one kept
    base: dit.Pretraining = dit.Pretraining()  # stage 1, shared with DiT and Minimax
    tuning: Tuning | None = Tuning()  # stage 2, shared with Minimax; None: a pool of plain DiT
    sampling: dit.Sampling = dit.Sampling()
    sampler: Sampler = Sampler()
    scoring: Scoring = Scoring()

    def smoke(self) -> Config:
        scoring = replace(self.scoring.smoke(self.ipc), scorer="trained")
        tuning, sampling = self.tuning and self.tuning.smoke(), self.sampling.smoke()
        return replace(self, base=self.base.smoke(), tuning=tuning, sampling=sampling, scoring=scoring)

    def small(self) -> Config:
        """A DiT trained for half an hour and tuned for five minutes on one CPU core, scored by MobileNetV2.

        The score is among the set's classes. At 64 pixels a probability over all of ImageNet's classes would be near
        zero for most images, real ones included.
        """
        scoring, tuning = self.scoring, self.tuning and self.tuning.small()
        if scoring.scorer == "resnet50":
            scoring = replace(scoring, scorer="mobilenet_v2", among="set")
        return replace(self, base=self.base.small(), tuning=tuning, sampling=self.sampling.small(), scoring=scoring)


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting of the tables on ImageNet subsets; else, ours: a DiT in pixels, a scorer trained on the set."""
    if dit.has_published(dataset):
        return Config(ipc=ipc)
    sampling, scoring = dit.Sampling(channels="all"), Scoring(scorer="trained")
    return Config(
        ipc=ipc, base=dit.Pretraining(flips=like(dataset).mirrors).in_pixels(), sampling=sampling, scoring=scoring
    )


def stage1(cfg: Config) -> dict[str, dit.Pretraining | Tuning]:
    return {"DiT": cfg.base} | ({"Minimax fine-tuning": cfg.tuning} if cfg.tuning else {})


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make the stages, unless they are there already."""
    model(real, cfg.base, cfg.tuning, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Draw a pool from Minimax, and sample from it by difficulty.

    Returns: K x ipc images, normalised, at the side of `real`; facts.extra["dgs"] has each class's thresholds, counts
             and scores.
    Raises:  UserError: missing weights, or settings that do not fit.
    """
    predefined(cfg.sampler, cfg.ipc)  # a pre-defined target at another ipc stops before the pool is drawn
    images = draw_pool(real, cfg.base, cfg.tuning, cfg.sampling, cfg.pool * cfg.ipc, seed, loop)
    score = scored(real, cfg.scoring, loop)
    return sampled(images, real, score, cfg.ipc, cfg.sampler, seed, method="DGS")


def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[float]]:
    """Total variation between achieved and wanted counts, mean over the classes, for the record."""
    classes = synthetic.facts.extra["dgs"]
    return {"total_variation": [sum(c["total_variation"] for c in classes) / len(classes)]}


def scored(real: ImageSet, cfg: Scoring, loop: Loop | None = None) -> Scorer:
    """The scorer of these settings for a real set, with the scores of its images; made once per process."""
    key = (real.sha256(), str(real.device), cfg)
    if key not in _SCORERS:
        while len(_SCORERS) > 3:
            _SCORERS.pop(next(iter(_SCORERS)))
        options = {"folds": cfg.folds, "seed": 0, "loop": loop, "among": cfg.among}
        _SCORERS[key] = difficulty.scorer(cfg.scorer, real, cfg.training, **options)
    return _SCORERS[key]


_SCORERS: dict[tuple, Scorer] = {}


# --- choosing ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Chosen:
    """The images chosen of one class, and how.

    Attributes:
        places:          (ipc,) which images of the class's pool, distinct.
        bottom, top:     thresholds b and t of the pool, in images.
        wanted, in_pool, achieved: images per bin of transformed difficulty: target, pool, chosen.
        total_variation: half the sum of |achieved - wanted| over ipc, in [0, 1].
    """

    places: Tensor
    bottom: int
    top: int
    wanted: Tensor
    in_pool: Tensor
    achieved: Tensor
    total_variation: float


def sampled(
    images: ImageSet, real: ImageSet, score: Scorer, ipc: int, cfg: Sampler, seed: int, method: str = "DGS"
) -> ImageSet:
    """Choose `ipc` images of every class from a pool of any origin.

    Args:
        images: the pool: at least ipc images of every class of `real`, at any side.
        score:  of the classes of `real`, with their scores.
    Raises: UserError: a class has too few images.
    """
    of_pool, index, report = score(images), [], []
    for k, (members, originals) in enumerate(zip(images.class_index, real.class_index, strict=True)):
        if len(members) < ipc:
            raise UserError(f"pool: {len(members)} images of class {real.facts.class_names[k]!r}; {ipc} are wanted")
        found = choose(of_pool[members], score.real[originals], ipc, cfg, stream(seed, "DGS", k, ipc))
        index.append(members[found.places])
        kept = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in vars(found).items()}
        report.append(kept | {"pool_scores": of_pool[members].tolist()})
    return dit.as_set(images, real, torch.stack(index), method=method, seed=seed, scorer=score.name, dgs=report)


def choose(pool: Tensor, real: Tensor, ipc: int, cfg: Sampler, rng: torch.Generator) -> Chosen:
    """Sample one class by difficulty.

    Args:
        pool: (n,) scores of drawn images; real: (N,) of the original ones; both in [0, 1].
    Raises: UserError: fewer than ipc images, or a pre-defined target for another ipc.
    """
    if len(pool) < ipc:
        raise UserError(f"a pool of {len(pool)} images; {ipc} are wanted")
    bottom, top, ours, theirs = 0, 0, pool, real
    if cfg.transform == "log":
        bottom, top = thresholds(pool, real, ipc, cfg)
        share = len(real) / len(pool) if cfg.thresholds == "shares" else 1
        logs = transformed(pool, bottom, top, cfg.variant)
        real_logs = transformed(real, round(share * bottom), round(share * top), cfg.variant)
        ours, theirs = (raw if x.isnan().any() else x for x, raw in ((logs, pool), (real_logs, real)))  # NaN: no scale
    wanted = predefined(cfg, ipc)
    wanted = scaled(histogram(theirs, cfg.bins), ipc) if wanted is None else wanted
    bins = bin_of(ours, cfg.bins)
    places = from_bins(bins, wanted, ipc, rng)
    achieved = torch.bincount(bins[places], minlength=cfg.bins)
    difference = float((achieved - wanted).abs().sum()) / 2 / ipc
    return Chosen(places, bottom, top, wanted, torch.bincount(bins, minlength=cfg.bins), achieved, difference)


def predefined(cfg: Sampler, ipc: int) -> Tensor | None:
    """(bins,) images wanted of each bin by a pre-defined target; None for "scale".

    Raises: UserError: another ipc or number of bins than the target has.
    """
    if cfg.target == "scale":
        return None
    if ipc not in PREDEFINED[cfg.target] or cfg.bins != 10:
        known = f"target {cfg.target!r} is defined for ipc 10, 20 and 50 with 10 bins"
        raise UserError(f"{known}, not for ipc {ipc} with {cfg.bins}; use scale")
    return torch.tensor(PREDEFINED[cfg.target][ipc])


def bin_of(scores: Tensor, bins: int) -> Tensor:
    """(n,) which of equal bins of [0, 1] each score is in; the last bin is closed.

    The edges are numpy's, whole multiples of 1 / bins: a score of 0.3 lies below 3 * 0.1, as in the official code.
    """
    edges = torch.arange(1, bins, dtype=torch.float64) * (1 / bins)
    return torch.bucketize(scores.double(), edges, right=True)


def histogram(scores: Tensor, bins: int) -> Tensor:
    """(bins,) how many scores each bin holds."""
    return torch.bincount(bin_of(scores, bins), minlength=bins)


def scaled(counts: Tensor, ipc: int) -> Tensor:
    """(bins,) int64: a histogram scaled to `ipc` images; largest remainders, ties to the lower bin."""
    whole = (counts * ipc) // counts.sum()
    rest = counts * ipc - whole * counts.sum()  # whole numbers, so ties are ties
    order = torch.sort(rest, descending=True, stable=True).indices
    whole[order[: ipc - int(whole.sum())]] += 1
    return whole


def from_bins(bins: Tensor, wanted: Tensor, ipc: int, rng: torch.Generator) -> Tensor:
    """(ipc,) distinct places: from each bin as many as wanted, or all it holds, at random; then others at random."""
    taken: list[Tensor] = []
    for k, count in enumerate(wanted.tolist()):
        members = torch.nonzero(bins == k).flatten()
        taken.append(members[torch.randperm(len(members), generator=rng)[:count]])
    places = torch.cat(taken)
    free = torch.ones(len(bins), dtype=torch.bool)
    free[places] = False
    rest = torch.nonzero(free).flatten()
    return torch.cat([places, rest[torch.randperm(len(rest), generator=rng)[: ipc - len(places)]]])


# --- the transform ----------------------------------------------------------------------------------------------------
def transformed(scores: Tensor, bottom: int, top: int, variant: Variant = "code") -> Tensor:
    """(n,) scores on a clipped logarithmic scale, in [0, 1]; it never changes the order of what it keeps apart.

    code:  scores are clipped to those with ranks `bottom` and n - 1 - `top`, whose logarithms become 0 and 1; never
           below 1e-4.
    paper: equations 7 and 8 as they read: the scores with lower and with higher ranks become zero, 1e-4 is added to
           all, and the logarithms of the least and the greatest become 0 and 1. So images cut off at the top join the
           easiest.

    Returns: NaN if the two ends are the same.
    """
    scores = scores.double()
    return _log_scale(scores, torch.tensor([bottom]), torch.tensor([top]), variant)[0]


def _log_scale(scores: Tensor, bottom: Tensor, top: Tensor, variant: Variant) -> Tensor:
    """(P, n) scores (n,) on the scales of P pairs of thresholds (P,)."""
    n = len(scores)
    first, last = bottom[:, None], n - 1 - top[:, None]  # ranks of the ends
    if int(torch.minimum(first, last).min()) < 0 or int(torch.maximum(first, last).max()) >= n:
        raise UserError(f"thresholds up to {int(bottom.max())} and {int(top.max())} for {n} scores")
    if variant == "code":
        ordered = scores.sort().values
        low, high = ordered[first], ordered[last]
        low = torch.where(low == 0, EPSILON, low)
        x = torch.minimum(torch.maximum(scores, low), high.clamp_min(EPSILON))
    else:
        rank = torch.argsort(torch.argsort(scores, stable=True))  # ties in order
        x = torch.where((rank >= first) & (rank <= last), scores, 0.0) + EPSILON
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    scale = (high / low).log()
    return torch.where(scale > 0, (x / low).log() / scale, torch.nan).clamp(EPSILON, 1)


def thresholds(pool: Tensor, real: Tensor, ipc: int, cfg: Sampler) -> tuple[int, int]:
    """The numbers of images (b, t) to cut at both ends that minimise equation 9; see `objective`."""
    values = objective(pool, real, ipc, cfg)
    if bool(values.isnan().all()):
        return 0, 0
    ties = torch.nonzero(values == values[~values.isnan()].min())  # several: the smallest b + t, then the smallest b
    return min(((int(i), int(j)) for i, j in ties), key=lambda pair: (sum(pair), pair[0]))


def objective(pool: Tensor, real: Tensor, ipc: int, cfg: Sampler) -> Tensor:
    """(G, G) equation 9 over b, t = 0 .. ipc // 2 - 1 (and small enough to leave two images), in bits; NaN: no scale.

    code:  weight KL(raw || log) + (1 - weight) KL(uniform || log) of the pool: infinite if a bin of log is empty.
    paper: weight KL(log || raw) + (1 - weight) KL(log || uniform) of the real images.
    """
    scores = (pool if cfg.variant == "code" else real).double()
    most = max(1, min(ipc // 2, (len(pool) - 1) // 2, (len(real) - 1) // 2))
    b, t = (x.flatten() for x in torch.meshgrid(torch.arange(most), torch.arange(most), indexing="ij"))
    log = _log_scale(scores, b, t, cfg.variant)  # (P, n)
    counts = torch.zeros(len(b), cfg.bins, dtype=torch.float64)
    counts.scatter_add_(1, bin_of(log.nan_to_num(0.0), cfg.bins), torch.ones_like(log))
    ours = counts / counts.sum(1, keepdim=True)
    raw = histogram(scores, cfg.bins).double()
    raw, even = (raw / raw.sum()).expand_as(ours), torch.full_like(ours, 1 / cfg.bins)
    if cfg.variant == "code":
        value = cfg.weight * divergence(raw, ours) + (1 - cfg.weight) * divergence(even, ours)
    else:
        value = cfg.weight * divergence(ours, raw) + (1 - cfg.weight) * divergence(ours, even)
    return torch.where(log.isnan().any(1), torch.nan, value).view(most, most)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """(P,) KL divergence of p (P, bins) from q in bits: infinite if p has something in a bin and q nothing."""
    terms = torch.where(p > 0, p * (p / q).log2(), 0.0)
    return terms.sum(1)
