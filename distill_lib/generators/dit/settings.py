"""Settings of a latent diffusion model."""

from __future__ import annotations

from typing import Literal

from ...core.settings import Count, replace, settings
from ..diffusion import discrete
from . import network as dit_network
from .network import Architecture

VERSION = 1  # of what the stages make: part of every key
Precision = Literal["float32", "bfloat16"]


# --- settings ----------------------------------------------------------------------------------------------------------
@settings
class Base:
    """Stage 1: which model to start from. The defaults are DiT-XL/2 at 256 pixels as published, with the autoencoders
    of Minimax's code."""

    weights: str | None = (
        "facebook/DiT-XL-2-256"  # a folder or a name on the hub; None: trained here, by the settings below
    )
    numerics: dit_network.Numerics = "official"  # of published weights
    autoencoder: str = "stabilityai/sd-vae-ft-ema"  # see generators.autoencoder
    decoder: str | None = "stabilityai/sd-vae-ft-mse"  # another one to decode with; None: the same
    side: Count | None = (
        256  # pixels of the images it works on; others are resized to it and back; None: those of the set
    )
    flips: bool = True  # half of the training images mirrored
    precision: Precision = "float32"  # of matrix products; residuals, losses and weights stay float32
    # --- a DiT trained here (our values; no paper has one)
    patch: Count | None = None  # None: the smallest that leaves at most 8 x 8 tokens
    width: Count = 384
    depth: Count = 12
    heads: Count = 6
    schedule: discrete.Name = "linear"
    steps: Count = 100_000
    batch: Count = 128
    lr: float = 1e-4  # AdamW
    warm_up: int = 0  # steps of a linear rise
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero
    ema: float = 0.9999  # of the weights that draw; after k steps at most (1 + k) / (10 + k)
    drop: float = 0.1  # share of labels replaced by "no class", for guidance
    seed: int = 0

    def smoke(self) -> Base:
        """In pixels, for seconds."""
        return replace(
            self.in_pixels(),
            width=32,
            depth=2,
            heads=2,
            steps=12,
            batch=16,
            lr=2e-3,
            ema=0.9,
            flips=False,
            precision="float32",
        )

    def small(self) -> Base:
        """About half an hour on one CPU core: six blocks of 256; published weights give way to the tiny autoencoder's
        latents."""
        start = (
            self
            if self.weights is None
            else replace(self, weights=None, autoencoder="taef2", decoder=None, side=None, patch=2)
        )
        return replace(
            start, width=256, depth=6, heads=4, steps=4_000, batch=32, lr=5e-4, warm_up=200, lr_decay=0.4, ema=0.995
        )

    def in_pixels(self) -> Base:
        return replace(self, weights=None, autoencoder="identity", decoder=None, side=None)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network while it is trained, a backward pass counted as two forward ones."""
        return 0.0 if self.weights else 3.0 * self.steps * self.batch


@settings
class Sampling:
    """How images are drawn. The defaults are those of Minimax's code."""

    steps: Count = 50
    guidance: float = 4.0
    channels: Literal["official", "all"] = "official"  # guided: the first three, or all as diffusers does
    batch: Count = 100  # images at a time

    def smoke(self) -> Sampling:
        return replace(self, steps=4, guidance=1.5, channels="all", batch=40)

    def small(self) -> Sampling:
        """Half the steps, and twice the guidance: a model trained for half an hour follows labels weakly. On all
        channels of the other latents.

        Of 60 images of ImageWoof, MobileNetV2 recognised 8 at guidance 2, 13 at 4, 23 at 8 and 24 at 12 (of real ones
        two thirds).
        """
        return replace(self, steps=25, guidance=8.0, channels="all")

    def work(self, images: int) -> float:
        return images * self.steps * (1.0 if self.guidance == 1 else 2.0)


def has_published(dataset: str) -> bool:
    """Whether published weights know the classes of a data set: subsets of ImageNet."""
    from ...data import DATASETS, sized

    found = DATASETS.get(sized(dataset)[0])
    return found is not None and bool(found.imagenet_indices)


def _sizes(of: Base, side: int, channels: int, num_classes: int) -> Architecture:
    patch = of.patch or next(p for p in range(1, side + 1) if side % p == 0 and side // p <= 8)
    return Architecture(side, channels, patch, of.width, of.depth, of.heads, num_classes=num_classes).check()


def peak_bytes(of: Architecture, images: int, gpu: bool, trained: float = 0.0) -> float:
    """Bytes a step keeps alive: weights, and of the trained share of them average, gradients and moments; activations
    of every block, or of one.

    Args:
        trained: share of the weights; 0 draws images.
    """
    weights = dit_network.parameters(of) * ((2 if trained else 1) + 3 * trained)
    if trained:
        return 4.0 * weights + images * dit_network.image_bytes(of)
    per_block = of.tokens * (14 * of.width + 2 * int(of.width * of.mlp_ratio)) + (0 if gpu else of.tokens**2 * of.heads)
    return 4.0 * (weights + images * per_block)
