"""What samples of a generator are like: FID, KID, precision, recall, density, coverage, recognition, distance to
training images.

    judge = Judge(real, test, Scores(samples=5000))
    judge(images)                # {"FID-ResNet-56-5000": 12.3, "KID-ResNet-56-5000": 0.004, "precision": 0.71, ...}

Every number is of as many samples as its name says; scores of other numbers, or in other features, do not compare.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...core.errors import UserError
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, replace, settings
from ...data import ImageSet
from ...networks.reference import Training
from . import features
from .features import TRAINED, as_bytes
from .frechet import frechet_distance, moments
from .neighbours import nearest, support_scores


@settings
class Scores:
    """What is measured, on how many images."""

    extractor: str = "auto"  # see `features.extractor`
    samples: Count = 50_000  # of those at hand, the first of every class in turn
    reference: Count | None = None  # random training images they are compared with; None for all
    neighbours: Count = 5  # k of precision, recall, density and coverage
    support: Count = 10_000  # samples, and training images, of these four
    memorised: Count = 1_000  # samples, and test images, whose nearest training images are looked for
    trained: Training = field(default_factory=lambda: TRAINED)  # the classifier, if no published one is at hand

    def smoke(self) -> Scores:
        cheap = replace(self.trained, epochs=1, batch=64, per_class=60)
        few = {"samples": 100, "reference": 500, "support": 100, "memorised": 50}
        return replace(self, extractor=cheap.network, trained=cheap, **few)

    def small(self) -> Scores:
        """For two CPU cores: fewer samples and training images, a classifier trained for minutes."""
        cheap = replace(self.trained, epochs=10, batch=64, per_class=600)
        return replace(self, samples=5_000, reference=10_000, support=5_000, trained=cheap)


class Judge:
    """Scores samples against one real set.

    Args:
        real: training images, on the device to compute on.
        test: test images, the yardstick of memorisation; None leaves it out.
        seed: of the random choices among real images.
    """

    def __init__(self, real: ImageSet, test: ImageSet | None, cfg: Scores, seed: int = 0, loop: Loop | None = None):
        self.real, self.test, self.cfg, self.seed = real, test, cfg, seed
        self.extractor = self.recogniser = features.extractor(cfg.extractor, real, cfg.trained, seed, loop)
        if not self.extractor.classify:
            self.recogniser = features.recogniser(real, cfg.trained, seed, loop)
        self.reference = features.reference(real, self.extractor, cfg.reference, max(cfg.support, 1_000), seed)

    def name(self, score: str, samples: int) -> str:
        """FID-ResNet-56-5000."""
        return f"{score}-{self.extractor.name}-{samples}"

    def about(self) -> str:
        """The extractor and the real side in a sentence, for captions."""
        return f"{self.extractor.name}: {self.extractor.about}; compared with {self.reference.n} training images"

    def distances(self, images: ImageSet) -> dict[str, float]:
        """FID, KID and the share of samples recognised as their class: what a curve over training steps shows."""
        self._check(images)
        return self._distances(self._some(images, self.cfg.samples))[0]

    def __call__(self, images: ImageSet) -> dict[str, float]:
        """All scores of a set's first images, by name; fractions, distances, and percentages if the name says so."""
        self._check(images)
        some = self._some(images, self.cfg.samples)
        out, x = self._distances(some)
        support = min(self.cfg.support, len(x), len(self.reference.features))
        if support > self.cfg.neighbours:
            balanced = x[self._turns(some)[:support].to(x.device)]
            out |= support_scores(self.reference.features[:support], balanced, self.cfg.neighbours)
        if self.test is not None:
            test, samples = (self._some(s, self.cfg.memorised) for s in (self.test, images))
            out |= memorisation(self.real, test, samples)
        return out

    def _check(self, images: ImageSet) -> None:
        if images.shape != self.real.shape or images.num_classes != self.real.num_classes:
            raise UserError(
                f"samples of {images.num_classes} classes and {images.shape}; the real images, {self.real.facts.name}, "
                f"have {self.real.num_classes} and {self.real.shape}: they must agree"
            )

    def _distances(self, images: ImageSet) -> tuple[dict[str, float], Tensor]:
        x = self.extractor.features(images)
        if len(x) < 2:
            raise UserError(f"{len(x)} sample: a distance of distributions needs at least 2")
        size = min(1_000, len(x), len(self.reference.features))
        kid, _ = kernel_distance(self.reference.features, x, size, self.seed)
        out = {
            self.name("FID", len(x)): frechet_distance(self.reference.moments, moments(x)),
            self.name("KID", len(x)): kid,
        }
        seen = x if self.recogniser is self.extractor else self.recogniser.features(images)
        return out | {"recognised_pct": self.recogniser.class_accuracy_pct(seen, images.hard_labels)}, x

    @staticmethod
    def _some(images: ImageSet, most: int) -> ImageSet:
        """The first images of every class in turn, so that any number of them is balanced."""
        return images if len(images) <= most else images.subset(Judge._turns(images)[:most])

    @staticmethod
    def _turns(images: ImageSet) -> Tensor:
        """(N,) positions, one image of every class in turn."""
        rows = pad_sequence(images.class_index, batch_first=True, padding_value=-1)  # (K, most of a class)
        turns = rows.T.flatten()
        return turns[turns >= 0]


def kernel_distance(
    real: Tensor, fake: Tensor, size: int = 1_000, seed: int = 0, subsets: int = 50
) -> tuple[float, float]:
    """KID: the squared maximum mean discrepancy under the kernel (x.y / D + 1)³, unbiased: mean and deviation over
    random subsets.

    Args:
        real, fake: features (N, D) and (M, D).
        size:       of a subset, of either.
    Raises: UserError: a subset of fewer than 2, or of more than there are.
    Source: Binkowski et al. 2018; torchmetrics.
    """
    if not 2 <= size <= min(len(real), len(fake)):
        most = min(len(real), len(fake))
        raise UserError(f"KID of subsets of {size} from {len(real)} real and {len(fake)} generated images: 2 to {most}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.image.kid import KernelInceptionDistance  # here: every `distill plan` would wait a second

        metric = KernelInceptionDistance(torch.nn.Identity(), subsets=subsets, subset_size=size).to(real.device)
        metric.update(real.float(), real=True)
        metric.update(fake.float(), real=False)
        with torch.random.fork_rng(devices=[]):  # torchmetrics draws its subsets from the global generator
            torch.set_rng_state(stream(seed, "KID").get_state())
            mean, std = metric.compute()
    return float(mean), float(std)


def memorisation(real: ImageSet, test: ImageSet, images: ImageSet) -> dict[str, float]:
    """Distances in pixels (root mean square, 0 to 1) from samples, and from test images, to their nearest training
    images.

    Test images cannot have been memorised, so their distances are the yardstick: `nearest_below_test_pct` is the share
    of samples nearer to a training image than 99 % of the test images are; 1 is what independent images would give.
    """
    scale = real.images[0].numel() ** -0.5
    of_test, of_samples = (nearest(as_bytes(x), as_bytes(real))[0].flatten() * scale for x in (test, images))
    return {
        "nearest_median": float(of_samples.median()),
        "nearest_minimum": float(of_samples.min()),
        "nearest_median_test": float(of_test.median()),
        "nearest_below_test_pct": 100 * float((of_samples < of_test.quantile(0.01)).double().mean()),
    }


@dataclass(frozen=True)
class Neighbours:
    """Samples with the training images nearest to them.

    Attributes:
        images:    (N, C, H, W) uint8: for each sample its nearest training image.
        index:     (N,) positions in the training set.
        distances: (N,) in the space named by `space`.
        test:      median distance of test images to theirs.
    """

    space: str
    images: Tensor
    index: Tensor
    distances: Tensor
    test: float


def neighbours_of(samples: ImageSet, real: ImageSet, test: ImageSet, by: Any = None) -> Neighbours:
    """The nearest training image of every sample, in pixels or in an extractor's features.

    Args:
        by: a `features.Extractor`; None for pixels (root mean square, 0 to 1).
    """
    index = torch.arange(0, len(test), max(1, len(test) // 1_000))  # about a thousand test images
    sets = [as_bytes(samples), as_bytes(test.subset(index)), as_bytes(real)]
    scale = real.images[0].numel() ** -0.5 if by is None else 1.0
    x, y, among = sets if by is None else map(by.features, sets)
    distances, place = (t[:, 0] for t in nearest(x, among))
    median = float(nearest(y, among)[0].median())
    return Neighbours("pixels" if by is None else by.name, sets[2][place], place, distances * scale, median * scale)
