"""Fréchet distance between two sets of features. A number means something only beside the name of the feature space."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of features that come in parts, in float64 and one pass.

    Parts are joined by their own means, so that a large common offset of all features costs no digits.

    Attributes:
        n:    features seen.
        mean: (D,).
    """

    def __init__(self, parts: Iterable[Tensor] = ()):
        self.n = 0
        self.mean: Tensor | None = None
        self._scatter: Tensor | None = None  # (D, D) sum of (x - mean)(x - mean)'
        for part in parts:
            self.add(part)

    def add(self, features: Tensor) -> None:
        """Args: features: (N, D), N at least 1."""
        x, n = features.double(), len(features)
        mean = x.mean(0)
        scatter = (x - mean).T @ (x - mean)
        if self.mean is None:
            self.n, self.mean, self._scatter = n, mean, scatter
            return
        gap, total = mean - self.mean, self.n + n
        self._scatter += scatter + torch.outer(gap, gap) * (self.n * n / total)
        self.mean += gap * (n / total)
        self.n = total

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased."""
        return self._scatter / (self.n - 1)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64."""
    found = Moments([features])
    return found.mean, found.covariance


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½) between two normal distributions.

    Estimated from few samples it is too large: compare only distances from equally many.

    Args:
        first, second: mean (D,) and covariance (D, D), as `moments` gives them.
    Source: Heusel et al. 2017 (FID, there in the features of Inception-v3); Dowson and Landau 1982.
    """
    (m1, c1), (m2, c2) = first, second
    values, vectors = torch.linalg.eigh(c1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c2 @ root).clamp_min(0).sqrt().sum()
    return float((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * cross)
