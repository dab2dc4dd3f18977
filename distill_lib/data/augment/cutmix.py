"""CutMix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.device import send
from ...core.errors import UserError
from .base import Generators, _integer, _uniforms


# --- CutMix --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CutMixParams:
    """on (G,) bool; partner (G, n) positions; area, cy, cx (G,) in [0, 1): 1 - lambda and the box's centre."""

    on: Tensor
    partner: Tensor
    area: Tensor
    cy: Tensor
    cx: Tensor


@dataclass(frozen=True)
class CutMix:
    """With probability `prob` per batch, a box of every image comes from another image; labels mix by the box's area.

    The box covers a share 1 - lambda of the image, lambda ~ Beta(1, 1), before clipping at the borders.
    Source: Yun et al., ICCV 2019, as in IDC's code (0.5 on small images, 1 on ImageNet).
    """

    prob: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.prob <= 1:
            raise UserError(f"CutMix probability {self.prob} is outside [0, 1]")

    def draw(self, rng: Generators, groups: int = 1, images: int = 1) -> CutMixParams:
        """A record for `groups` batches of `images` images; generators as in `Augmentation.draw`."""
        row = _uniforms(rng, groups, 4 + images)
        return CutMixParams(row[:, 0] < self.prob, row[:, 4:].argsort(1), row[:, 1], row[:, 2], row[:, 3])

    @staticmethod
    def _box(h: int, w: int, p: CutMixParams) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(G,) top, bottom, left, right; empty where CutMix is off."""
        edges = []
        for n, centre in ((h, p.cy), (w, p.cx)):
            half = (n * p.area.sqrt()).long() // 2 * p.on
            centre = _integer(centre, n)
            edges += [(centre - half).clamp(0, n), (centre + half).clamp(0, n)]
        return tuple(edges)

    def apply(self, x: Tensor, labels: Tensor, params: CutMixParams, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mixed images and class probabilities.

        Args:
            x:      (N, C, H, W) or (G, n, C, H, W).
            labels: (N,) or (G, n) classes, or with a last dimension of K probabilities.
        Returns: images shaped as x, and labels (N, K) or (G, n, K) in x's type, for a cross entropy with soft labels.
        """
        if x.ndim == 4:
            mixed, soft = self.apply(x[None], labels[None], params, num_classes)
            return mixed[0], soft[0]
        if params.partner.shape != x.shape[:2]:
            raise UserError(f"CutMix drawn for {tuple(params.partner.shape)} images, applied to {tuple(x.shape[:2])}")
        soft = (F.one_hot(labels, num_classes) if labels.ndim == 2 else labels).to(x.dtype)
        if not params.on.any():
            return x, soft
        h, w = x.shape[-2:]
        box = self._box(h, w, params)
        top, bottom, left, right = (send(e, x.device)[:, None] for e in box)
        rows, cols = (torch.arange(n, device=x.device) for n in (h, w))
        inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((cols >= left) & (cols < right))[
            :, None, :
        ]  # (G, H, W)
        group, partner = torch.arange(len(x), device=x.device)[:, None], send(params.partner, x.device)
        share = send((box[1] - box[0]) * (box[3] - box[2]) / (h * w), x.device, x.dtype)[:, None, None]
        return torch.where(inside[:, None, None], x[group, partner], x), soft + share * (soft[group, partner] - soft)

    def __call__(self, x: Tensor, labels: Tensor, rng: Generators, num_classes: int) -> tuple[Tensor, Tensor]:
        groups, images = (1, x.shape[0]) if x.ndim == 4 else x.shape[:2]
        return self.apply(x, labels, self.draw(rng, groups, images), num_classes)
