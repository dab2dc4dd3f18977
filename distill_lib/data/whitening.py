"""ZCA whitening of a set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ..core.errors import unknown

if TYPE_CHECKING:
    from .imageset import ImageSet

Of = Literal["pixels", "standardised", "alone"]


@dataclass(frozen=True, eq=False, repr=False)
class Whitening:
    """ZCA: z = W' (x - m) for pixels x in [0, 1]. Along a direction of variance s, z has variance s / (s + eps) < 1.

    Attributes:
        mean:   m, (C H W,).
        matrix: W, (C H W, C H W).
        alone:  (2, C) mean and std per channel: every image is first standardised by these, then freed of its own mean
                and divided by its own norm, and x is the result. None: x are the pixels.
    """

    mean: Tensor
    matrix: Tensor
    alone: Tensor | None = None

    @staticmethod
    def fit(images: ImageSet, eps: float = 0.1, of: Of = "pixels") -> Whitening:
        """From a real set: W = U diag(1 / sqrt(s + eps)) U' for the covariance U diag(s) U'.

        Args:
            eps: absolute for "pixels", as kornia's ZCAWhitening has it, which MTT uses; else a share of the mean
                 variance.
            of:  "pixels" in [0, 1]; "standardised": each channel by its own mean and standard deviation over the set
                 (FRePo); "alone": each image by itself, see `alone` (KIP).
        """
        if of not in get_args(Of):
            raise unknown("whitening", of, get_args(Of))
        n, parts = len(images), torch.arange(len(images)).split(4096)
        channels, pixels = images.shape[0], images.shape[1] * images.shape[2]
        dimensions, alone, scale = channels * pixels, None, None
        if of == "alone":
            alone = torch.tensor([images.facts.mean, images.facts.std], device=images.device)
        elif of == "standardised":
            each = (images.subset(i).pixels().double() for i in parts)
            moments = sum(torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))]) for x in each)
            first, second = moments / (n * pixels)
            scale = (second - first.square()).clamp_min(1e-12).rsqrt().float().repeat_interleave(pixels)  # (C H W,)

        def rows(index: Tensor) -> Tensor:
            x = images.subset(index).pixels()
            x = x.flatten(1) if alone is None else _alone(x, alone)
            return x if scale is None else x * scale

        mean = sum(rows(i).double().sum(0) for i in parts).div(n).float()
        if n > dimensions:
            covariance = sum((x := rows(i) - mean).T @ x for i in parts) / (n - 1)
            s, u = torch.linalg.eigh(covariance)
        else:  # the same eigenvectors, from the smaller matrix of products between images
            x = rows(torch.arange(n)) - mean
            s, v = torch.linalg.eigh(x @ x.T / max(n - 1, 1))
            s, v = s[s > 1e-6 * s[-1]], v[:, s > 1e-6 * s[-1]]
            u = x.T @ v / (s * max(n - 1, 1)).sqrt()
        eps = eps if of == "pixels" else eps * s.clamp_min(0).sum().item() / dimensions
        change = torch.rsqrt(s.clamp_min(0) + eps) - eps**-0.5  # along directions without variance W is 1 / sqrt(eps)
        matrix = (u * change) @ u.T + torch.eye(dimensions, device=u.device) * eps**-0.5
        return Whitening(mean, matrix, alone) if scale is None else Whitening(mean / scale, scale[:, None] * matrix)

    def to(self, device: torch.device | str) -> Whitening:
        return Whitening(
            self.mean.to(device), self.matrix.to(device), None if self.alone is None else self.alone.to(device)
        )

    def apply(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N, C, H, W) whitened."""
        x = pixels.flatten(1) if self.alone is None else _alone(pixels, self.alone)
        return ((x - self.mean) @ self.matrix).view_as(pixels)

    def undo(self, whitened: Tensor) -> Tensor:
        """(N, C, H, W) whitened -> (N, C, H, W) in [0, 1], where they came from there.

        What `alone` took from every image is gone: each then has the set's mean and contrast.
        """
        x = (torch.linalg.solve(self.matrix.T, whitened.flatten(1).T).T + self.mean).view_as(whitened)
        if self.alone is None:
            return x
        mean, std = self.alone.view(2, 1, -1, 1, 1)
        return x * whitened[0].numel() ** 0.5 * std + mean

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it."""
        named = {"mean": self.mean, "matrix": self.matrix, "alone": self.alone}
        return {f"whitening.{k}": v.cpu().contiguous() for k, v in named.items() if v is not None}

    def sha256(self) -> str:
        """Of all numbers."""
        h = hashlib.sha256()
        for name, tensor in self.tensors().items():
            h.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return h.hexdigest()

    def equals(self, other: Whitening | None) -> bool:
        if other is None or self.tensors().keys() != other.tensors().keys():
            return False
        return all(torch.equal(v, other.tensors()[k]) for k, v in self.tensors().items())


def _alone(pixels: Tensor, channels: Tensor) -> Tensor:
    """(N, C, H, W) in [0, 1] -> (N, C H W): standardised by channel, each image less its own mean and divided by its
    own norm."""
    mean, std = channels.view(2, 1, -1, 1, 1)
    x = ((pixels - mean) / std).flatten(1)
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
