"""Reading a data set and drawing real batches, against the official code of DC and DM: every image through the set's
transformation, one by one, into a list; then a permutation of a class's positions for every batch.

reading: the set from the library's prepared copy, normalised, against the same pixels from the file. batches: `batches`
draws of `real` images of every class; random numbers differ, so that there is nothing to compare.
"""

from __future__ import annotations

import numpy as np
import suite
import torch
from torch import Tensor

from distill_lib import data
from distill_lib.core import paths

NAME = "FashionMNIST-mini"


@suite.benchmark(
    "loading",
    "the {name} set read and normalised",
    "the official code: image after image through the transformation",
    size={"name": NAME},
    quick={"name": NAME},
    tolerance=1e-5,
)
def reading(side: str, device: str, name: str) -> suite.Call:
    facts = data.load(name)[0].facts

    def ours() -> Tensor:
        return data.load(name)[0].to(device).all()[0]

    def plain() -> Tensor:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (facts.mean, facts.std))
        with np.load(paths.bundled() / f"{name}.npz", allow_pickle=False) as file:
            images = file["train_images"]
        images = images if images.ndim == 4 else images[:, None] if images.ndim == 3 else images
        found = [torch.unsqueeze((torch.from_numpy(image).float().div(255) - mean) / std, 0) for image in images]
        return torch.cat(found).to(device)

    return plain if side == "plain" else ours


@suite.benchmark(
    "loading-batches",
    "{batches} batches of {real} real images of every class of {name}",
    "a permutation and an index per class, from float32 in memory",
    size={"name": NAME, "batches": 20, "real": 64},
    quick={"name": NAME, "batches": 1, "real": 2},
)
def batches(side: str, device: str, name: str, batches: int, real: int) -> suite.Call:
    images = data.load(name)[0].to(device)
    rng, other, memory = torch.Generator().manual_seed(0), np.random.default_rng(0), images.all()[0]
    members = [[i for i, label in enumerate(images.labels.tolist()) if label == k] for k in range(images.num_classes)]

    def ours() -> None:
        for _ in range(batches):
            images.draw_classes(real, rng)

    def plain() -> None:
        for _ in range(batches):
            for k in range(images.num_classes):
                memory[other.permutation(members[k])[:real]]

    return plain if side == "plain" else ours
