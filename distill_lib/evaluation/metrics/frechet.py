"""Fréchet distance between two sets of features. A number means something only beside the name of the feature space."""

from __future__ import annotations

import torch
from torch import Tensor


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of features (N, D), in float64."""
    x = features.double()
    return x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


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
