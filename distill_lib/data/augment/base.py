"""What every augmentation is: parameters drawn from explicit generators, then applied."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator]


# --- draws ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Params:
    """One draw: numbers in [0, 1) that an augmentation turns into choices and parameters.

    choice: (G, number of choices), one row per group.
    u:      (G, m, number of parameters); m = 1 is one set for all images of a group, m = n one set per image.
    """

    choice: Tensor
    u: Tensor


def _uniforms(rng: Generators, groups: int, count: int) -> Tensor:
    """(G, count): a row per group; from a list, row g is what generator g would draw alone."""
    if isinstance(rng, torch.Generator):
        return torch.rand(groups, count, generator=rng, device=rng.device)
    if len(rng) != groups:
        raise UserError(f"{len(rng)} generators for {groups} groups: give one generator, or one per group")
    return torch.stack([torch.rand(count, generator=g, device=g.device) for g in rng])


def _integer(u: Tensor, n: int | Tensor) -> Tensor:
    """Uniform integers 0..n-1 from uniform numbers in [0, 1)."""
    return (u * n).floor().clamp(max=n - 1).long()


class Augmentation(abc.ABC):
    """A random transformation of image batches: `draw` a record, `apply` it, or both at once by calling.

    A group is a set of images that share the choice of operation: a class in siamese matching, a network in stacked
    evaluation, or simply the batch.
    """

    name: str
    choices = 0  # numbers drawn per group
    columns = 0  # numbers drawn per image

    def draw(self, rng: Generators, groups: int = 1, images: int = 1) -> Params:
        """A record for `groups` groups.

        Args:
            rng:    one generator for all groups, or one per group; a group then draws what it would draw alone.
            images: 1 for parameters shared by all images of a group (siamese), n for parameters per image.
        """
        row = _uniforms(rng, groups, self.choices + images * self.columns)
        return Params(row[:, : self.choices], row[:, self.choices :].reshape(groups, images, self.columns))

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """The augmented images (x itself where nothing changes), differentiable in x unless the class says otherwise.

        Args:
            x:      (N, C, H, W), or (G, n, C, H, W) with one row of `params` per group.
            params: from `draw`; any x with that many groups (and images, where drawn per image) can use it.
        Raises: UserError: shapes that do not fit together, or integer pixels.
        """
        if x.ndim not in (4, 5) or not x.is_floating_point():
            raise UserError(
                "augmentation needs normalised float images (N, C, H, W) or (G, n, C, H, W); "
                f"got {tuple(x.shape)} {x.dtype}"
            )
        groups, images = (1, x.shape[0]) if x.ndim == 4 else x.shape[:2]
        if len(params.u) != groups or params.u.shape[1] not in (1, images):
            raise UserError(
                f"parameters drawn for {len(params.u)} groups of {params.u.shape[1]} images do not fit "
                f"{groups} groups of {images}; draw(rng, groups={groups}) shares one set per group, "
                f"draw(rng, groups={groups}, images={images}) has one per image"
            )
        if x.dtype in (torch.float16, torch.bfloat16):  # too coarse for sampling positions
            return self.apply(x.float(), params).to(x.dtype)
        return self._apply(x.unsqueeze(0), params).squeeze(0) if x.ndim == 4 else self._apply(x, params)

    @abc.abstractmethod
    def _apply(self, x: Tensor, params: Params) -> Tensor: ...  # x (G, n, C, H, W)

    def __call__(self, x: Tensor, rng: Generators) -> Tensor:
        """Draw with parameters per image, and apply."""
        groups, images = (1, x.shape[0]) if x.ndim == 4 else x.shape[:2]
        return self.apply(x, self.draw(rng, groups, images))

    def __repr__(self) -> str:
        return f"augment.named({self.name!r})"


def _needs_colour(x: Tensor, name: str) -> None:
    if x.shape[2] != 3:
        raise UserError(
            f"augmentation {name!r} needs colour images (3 channels); got {x.shape[2]}. "
            "The dsa and idc families take any"
        )
