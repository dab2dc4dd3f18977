"""Settings of a latent diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...core.settings import Count, replace, settings
from ...core.weights import find_folder
from ...data import DATASETS, sized
from ..diffusion import discrete
from .network import Numerics

VERSION = 1  # of what the stages make: part of their files' names; raise those of its methods too
Precision = Literal["float32", "bfloat16"]


@settings
class Pretraining:
    """Stage 1: which model to start from. The defaults are DiT-XL/2 at 256 pixels as published, with the autoencoders
    of Minimax's code."""

    # a folder or a name on the hub; None: trained here, by the settings below
    weights: str | None = "facebook/DiT-XL-2-256"
    numerics: Numerics = "official"  # of published weights
    autoencoder: str = "stabilityai/sd-vae-ft-ema"  # see generators.dit.autoencoder
    decoder: str | None = "stabilityai/sd-vae-ft-mse"  # another one to decode with; None: the same
    # pixels of the images it works on; others are resized to it and back; None: those of the set
    side: Count | None = 256
    flips: bool = True  # half of the training images mirrored
    precision: Precision = "float32"  # of matrix products; residuals, losses and weights stay float32
    # --- a DiT trained here (our values; no paper has one)
    patch: Count | None = None  # None: the smallest that leaves at most 8 x 8 tokens
    width: Count = 384
    depth: Count = 12
    heads: Count = 6
    schedule: discrete.ScheduleName = "linear"
    steps: Count = 100_000
    batch: Count = 128
    lr: float = 1e-4  # AdamW
    warm_up: int = 0  # steps of a linear rise
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero
    ema: float = 0.9999  # of the weights that draw; after k steps at most (1 + k) / (10 + k)
    drop: float = 0.1  # share of labels replaced by "no class", for guidance
    seed: int = 0

    def smoke(self) -> Pretraining:
        """A tiny DiT in pixels, trained for seconds."""
        course = dict(steps=12, batch=16, lr=2e-3, ema=0.9, flips=False, precision="float32")
        return replace(self.in_pixels(), width=32, depth=2, heads=2, **course)

    def small(self) -> Pretraining:
        """About half an hour on one CPU core: six blocks of 256; published weights give way to the tiny autoencoder's
        latents."""
        tiny = dict(weights=None, autoencoder="taef2", decoder=None, side=None, patch=2) if self.weights else {}
        course = dict(steps=4_000, batch=32, lr=5e-4, warm_up=200, lr_decay=0.4, ema=0.995)
        return replace(self, **tiny, width=256, depth=6, heads=4, **course)

    def file_state(self) -> dict[str, list[list[int]]]:
        """Sizes and times of the files of weights, for the keys of what is made from them; {} where there is none."""
        place = Path(self.weights or "nothing")
        if self.weights and not place.is_file():
            place = find_folder(self.weights) or place
        files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
        return {"weights_file": [[f.stat().st_size, f.stat().st_mtime_ns] for f in files]} if files else {}

    def in_pixels(self) -> Pretraining:
        return replace(self, weights=None, autoencoder="identity", decoder=None, side=None)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network while it is trained, a backward pass counted as two forward ones."""
        return 0.0 if self.weights else 3.0 * self.steps * self.batch


@settings
class Sampling:
    """Settings of drawing. The defaults are those of Minimax's code."""

    steps: Count = 50
    guidance: float = 4.0
    channels: Literal["official", "all"] = "official"  # guided: the first three, or all as diffusers does
    batch: Count = 100  # images at a time

    def smoke(self) -> Sampling:
        return replace(self, steps=4, guidance=1.5, channels="all", batch=40)

    def small(self) -> Sampling:
        """Half the steps, and twice the guidance, because a briefly trained model follows labels weakly; all channels,
        because other latents have more than four.

        Of 60 images of ImageWoof, MobileNetV2 recognised 8 at guidance 2, 13 at 4, 23 at 8 and 24 at 12 (of real ones
        two thirds).
        """
        return replace(self, steps=25, guidance=8.0, channels="all")

    def work(self, images: int) -> float:
        return images * self.steps * (1.0 if self.guidance == 1 else 2.0)


def has_published(dataset: str) -> bool:
    """Whether the published weights know the classes of a data set, as they do those of subsets of ImageNet."""
    found = DATASETS.get(sized(dataset)[0])
    return found is not None and bool(found.imagenet_indices)
