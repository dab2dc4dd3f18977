"""Make the small sets inside the package again, from the full ones: `python -m distill_lib.data.make_bundled FOLDER`.

Every cut takes the same number of images of each class, drawn with seed 0, in the order of the full set. FOLDER gets
one .npz per set; their sha256 is printed and belongs into `find.BUNDLED_SHA256`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch

from ..core import rng
from ..core.files import atomically
from . import loading
from .imageset import ImageSet

CUTS = {  # px, training and test images per class
    "FashionMNIST": (28, 200, 100),
    "BloodCells": (32, 150, 60),
    "PneumoniaMNIST": (28, 200, 100),
}


def cut(full: ImageSet, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, H, W) or (n, H, W, 3) and labels (n, 1) of a seeded, class-balanced part of a set."""
    full.enough(per_class)
    g = rng.stream(0, "bundled", full.facts.name, full.facts.split)
    index = torch.cat([m[torch.randperm(len(m), generator=g)[:per_class]] for m in full.class_index]).sort().values
    images = full.images[index].permute(0, 2, 3, 1).numpy()
    return images.squeeze(-1) if images.shape[-1] == 1 else images, full.labels[index, None].numpy().astype(np.uint8)


def _write(part: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(part, "wb") as f:  # given a name, numpy adds an ending to it
        np.savez_compressed(f, **arrays)


def make(folder: Path) -> dict[str, str]:
    """Write every cut; returns the sha256 of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, (resolution, *per_class) in CUTS.items():
        arrays = {}
        for full, n in zip(loading.load(name, resolution), per_class, strict=True):
            arrays[f"{full.facts.split}_images"], arrays[f"{full.facts.split}_labels"] = cut(full, n)
        path = folder / f"{name}-mini.npz"
        atomically(path, lambda part, arrays=arrays: _write(part, arrays))
        made[f"{name}-mini"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, sha256 in make(Path(sys.argv[1])).items():
        print(name, sha256)
