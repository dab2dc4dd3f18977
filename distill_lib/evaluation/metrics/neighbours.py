"""Nearest neighbours between two sets, and what follows from them: precision, recall, density and coverage."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import UserError

TILE = 2**24  # distances held at a time


def nearest(queries: Tensor, among: Tensor, k: int = 1, own: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest of a set to every query, in Euclidean distance.

    Found by matrix products and then measured directly, so that a copy has distance 0.

    Args:
        queries: (N, ...) and among (M, ...): rows of equal shape, flattened here; uint8 pixels count as pixel / 255.
        own:     the two are the same set, and a row is not its own neighbour.
    Returns: distances (N, k), ascending, float32, and positions (N, k) in `among`.
    Raises:  UserError: fewer than k to choose from.
    """
    if not 1 <= k <= len(among) - own:
        raise UserError(f"{k} nearest neighbours among {len(among) - own}: at least 1, at most all")
    rows, found = _rows(among), []
    norms = rows.square().sum(1)
    size = max(1, TILE // max(len(among), k * rows.shape[1]))
    for start in range(0, len(queries), size):
        q = _rows(queries[start : start + size])
        gaps = torch.addmm(norms, q, rows.T, alpha=-2)  # squared distances, less the query's own square
        if own:
            gaps.diagonal(start).fill_(torch.inf)
        index = gaps.topk(k, largest=False).indices
        exact = (q.unsqueeze(1) - rows[index]).square().sum(2).sqrt()
        order = exact.argsort(dim=1, stable=True)
        found.append((exact.gather(1, order), index.gather(1, order)))
    return torch.cat([d for d, _ in found]), torch.cat([i for _, i in found])


def _rows(x: Tensor) -> Tensor:
    x = x.flatten(1)
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def support_scores(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """How two sets of features overlap, by balls that reach to each point's k-th neighbour in its own set. Fractions.

    precision: share of samples inside a ball of a real point; recall: share of real points inside a ball of a sample;
    density:   balls of real points that a sample lies in, on average, over k (may exceed 1);
    coverage:  share of real points with a sample in their ball.

    Args:
        real: (N, D); fake (M, D). Recall and coverage depend on the numbers of points: compare scores of equal N and M
        only.
    Source: Kynkäänniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage; k = 5).
    """
    if real.ndim != 2 or fake.shape[1:] != real.shape[1:]:
        raise UserError(
            f"features (N, D) and (M, D) of one space are needed; got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    centre = real.mean(0)  # distances by matrix products lose digits to a common offset
    real, fake = real.float() - centre, fake.float() - centre
    reach_real = nearest(real, real, k, own=True)[0][:, -1]
    reach_fake = nearest(fake, fake, k, own=True)[0][:, -1]
    inside = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)  # balls of real points around each sample
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    recalled = torch.zeros_like(covered)
    rows = max(1, TILE // len(real))
    for i in range(0, len(fake), rows):
        distance = torch.cdist(fake[i : i + rows], real)
        hit = distance <= reach_real
        inside[i : i + rows] = hit.sum(1)
        covered |= hit.any(0)
        recalled |= (distance <= reach_fake[i : i + rows].unsqueeze(1)).any(0)
    shares = {"precision": inside > 0, "recall": recalled, "density": inside / k, "coverage": covered}
    return {name: float(share.double().mean()) for name, share in shares.items()}
