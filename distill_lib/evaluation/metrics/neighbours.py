"""Nearest neighbours between two sets: precision and recall, density and coverage, and how near samples come to
training images."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import UserError

TILE = 2**24  # numbers held at a time: distances, or rows of the set searched


def nearest(queries: Tensor, among: Tensor, k: int = 1, own: bool = False) -> tuple[Tensor, Tensor]:
    """The k nearest of a set to every query, in Euclidean distance.

    Found by matrix products and then measured directly, so that a copy has distance 0.

    Args:
        queries: (N, ...) and among (M, ...): rows of equal shape, flattened here; uint8 pixels count as pixel / 255.
        own:     the two are the same set, and a row is not its own neighbour.
    Returns: distances (N, k), ascending, float32, and positions (N, k) in `among`.
    Raises:  UserError: fewer than k to choose from.
    """
    k_all = k + own
    if k < 1 or len(among) < k_all:
        raise UserError(f"{k} nearest neighbours among {len(among) - own}: at least 1, at most all")
    columns = max(k_all, 256, TILE // max(len(queries), among[0].numel()))
    best = torch.full((len(queries), k_all), torch.inf, device=queries.device)
    place = torch.zeros(len(queries), k_all, dtype=torch.int64, device=queries.device)
    rows = max(1, min(len(queries), TILE // min(columns, len(among))))
    for i in range(0, len(queries), rows):
        q = _rows(queries[i : i + rows])
        norm = q.square().sum(1, keepdim=True)
        for j in range(0, len(among), columns):
            a = _rows(among[j : j + columns])
            squared = torch.addmm(norm + a.square().sum(1), q, a.T, alpha=-2)  # (rows, columns)
            values, index = torch.cat([best[i : i + rows], squared], 1).topk(k_all, largest=False)
            known = index < k_all
            place[i : i + rows] = torch.where(
                known, place[i : i + rows].gather(1, index.clamp_max(k_all - 1)), index - k_all + j
            )
            best[i : i + rows] = values
    exact = torch.empty_like(best)
    for i in range(0, len(queries), 256):
        here = place[i : i + 256]
        gap = _rows(queries[i : i + 256]).unsqueeze(1) - _rows(among[here.flatten()]).view(*here.shape, -1)
        exact[i : i + 256] = gap.square().sum(2).sqrt()
    if own:
        exact[place == torch.arange(len(queries), device=place.device).unsqueeze(1)] = -1.0  # first, and left out
    order = exact.argsort(dim=1, stable=True)[:, own:]
    return exact.gather(1, order), place.gather(1, order)


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
    share = lambda x: float(x.double().mean())  # noqa: E731
    return {
        "precision": share(inside > 0),
        "recall": share(recalled),
        "density": share(inside) / k,
        "coverage": share(covered),
    }
