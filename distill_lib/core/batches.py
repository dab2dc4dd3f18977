"""Shuffled batches of positions: epoch after epoch, each in a new random order, which a checkpoint can hold."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .errors import UserError


class Batches:
    """Positions 0 to total - 1 in batches, shuffled anew for every epoch.

    A checkpoint of a loop needs the random stream and `order`, which is changed in place.

    Attributes:
        order: (images of an epoch,) int64, the order of the current epoch.
        steps_per_epoch: batches of an epoch.
    """

    def __init__(self, total: int, batch: int, last: Literal["keep", "drop"] = "keep", per_epoch: int | None = None):
        """Args:
            batch: positions per step.
            last:  what happens to an epoch's last batch if it is smaller than the others.
            per_epoch: random positions that an epoch passes over; None for all of them.
        Raises: UserError: an epoch without a batch.
        """
        images = min(per_epoch or total, total)
        if batch < 1 or images < (batch if last == "drop" else 1):
            raise UserError(f"a batch of {batch} images, but an epoch has {images}; give a batch of 1 to {images}")
        self.total, self.batch = total, batch
        self.order = torch.zeros(images, dtype=torch.int64)
        self.steps_per_epoch = images // batch if last == "drop" else math.ceil(images / batch)

    def index(self, step: int, rng: torch.Generator) -> Tensor:
        """(batch,) positions of a step; the first step of an epoch draws its order."""
        number = step % self.steps_per_epoch
        if number == 0:
            self.order.copy_(torch.randperm(self.total, generator=rng)[: len(self.order)])
        return self.order[number * self.batch :][: self.batch]
