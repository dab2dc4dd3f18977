"""U-ViT: train a diffusion model, generate for ten minutes, train on that (Li et al. 2024). Book page: book/uvit.md

No matching: the distilled set is a large sample of the generator (`generators.uvit`), in equal parts of every class. It
is the authors' entry in the ECCV 2024 challenge.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet, like, side
from ..generators import uvit

VERSION = 1


@settings
class Config:
    """One of `seconds`, `images` and `ipc` says how much is generated."""

    seconds: float | None = 600.0  # the challenge's ten minutes; how many images that is depends on the machine
    images: Count | None = None  # in all
    ipc: Count | None = None  # of every class
    training: uvit.UViTTraining = uvit.UViTTraining()  # stage 1, shared by all sets of a data set
    training_seed: int = 0
    sampler: str = "dpm_fast"
    steps: Count = 50  # network evaluations per image
    batch: Count = 500  # images at a time
    precision: str = "bfloat16"  # of the network's multiplications when sampling
    guidance: float = 1.0  # towards the label, classifier-free; 1 is none, as the paper and its base code on these sets

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds; a time becomes a number of images."""
        ipc = self.ipc if self.seconds is None else 10
        return self._reduced(seconds=None, ipc=ipc, training=self.training.smoke(), steps=10)

    def small(self) -> Config:
        """45 minutes of training on one CPU core, then one of generation. A briefly trained network needs guidance."""
        seconds = self.seconds and min(self.seconds, 60.0)
        return self._reduced(seconds=seconds, training=self.training.small(), steps=20, guidance=3.0)

    def _reduced(self, **changes: Any) -> Config:
        return replace(self, sampler="dpm++2m", batch=100, precision="float32", **changes)


def paper_config(dataset: str, ipc: int | None = None) -> Config:
    """Section 5.2: Small from the CIFAR-10 weights for less than 64 pixels, Mid from the ImageNet weights from 64 on.

    The paper has CIFAR-100 and TinyImageNet; the other data sets follow them and start from random weights.

    Args:
        ipc: images per class; None: as many as ten minutes give.
    """
    known = like(dataset)
    pixels, training = side(dataset), uvit.UViTTraining(flip=known.mirrors)
    if (known.name, pixels) == ("CIFAR100", 32):
        training = replace(training, start="cifar10_uvit_small.pth")
    elif pixels >= 64:
        mid = {k: getattr(uvit.ARCHITECTURES["Mid"], k) for k in ("patch", "width", "depth", "heads")}
        start = "imagenet64_uvit_mid.pth" if (known.name, pixels) == ("TinyImageNet", 64) else None
        training = replace(training, steps=117_000, warm_up=5000, looks=117, checkpointing=True, start=start, **mid)
    return Config(ipc=ipc, seconds=600.0 if ipc is None else None, training=training)


def of_profile(dataset: str, profile: str, ipc: int | None = None) -> Config:
    """The settings of a data set in a profile: smoke, small or full."""
    cfg = paper_config(dataset, ipc)
    return {"smoke": cfg.smoke, "small": cfg.small, "full": lambda: cfg}[profile]()


def stage1(cfg: Config) -> dict[str, uvit.UViTTraining]:
    """Settings of stage 1, which several sets share, by name."""
    return {"U-ViT": cfg.training}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> uvit.TrainedUViT:
    """Make stage 1, unless it is there already."""
    return uvit.trained(real, cfg.training, cfg.training_seed, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Generated images of every class, uint8; how many were generated in how many seconds is in `facts.extra`.

    Raises: UserError: images no U-ViT here fits; not one image of every class in the time.
    """
    if (cfg.seconds is None) + (cfg.images is None) + (cfg.ipc is None) != 2:
        raise UserError(f"U-ViT: seconds={cfg.seconds}, images={cfg.images}, ipc={cfg.ipc}; give one of the three")
    loop = loop or Loop()
    model = prepare(real, cfg, seed, loop).model().to(real.device)
    images = cfg.images if cfg.ipc is None else cfg.ipc * real.num_classes
    with tempfile.TemporaryDirectory() as beside:
        folder = loop.folder / "generated" if loop.folder else Path(beside)
        how = {k: getattr(cfg, k) for k in ("steps", "sampler", "batch", "precision", "guidance")}
        made = uvit.generate_for(
            model, cfg.seconds, real.num_classes, seed=seed, folder=folder, images=images, loop=loop, **how
        )
        return made.load(real, method="U-ViT", seed=seed)


def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[Any]]:
    """Images generated and seconds that took, without loading the network."""
    made, seconds = synthetic.facts.extra["images"], synthetic.facts.extra["generation_seconds"]
    return {"images": [made], "generation_seconds": [seconds], "images_per_second": [made / seconds]}
