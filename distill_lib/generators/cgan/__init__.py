"""DiM's conditional GAN: network, losses, training."""

from .losses import Loss, conditional, discriminator_loss, generator_loss, gradient_penalty
from .network import DRAWN_MB, SIDES, Architecture, Discriminator, Generator, normalised, rebuild, redraw
from .training import GAN, Judge, Pair, Trained, batches_of, prepare, stage1, train

__all__ = [
    "DRAWN_MB",
    "GAN",
    "SIDES",
    "Architecture",
    "Discriminator",
    "Generator",
    "Judge",
    "Loss",
    "Pair",
    "Trained",
    "batches_of",
    "conditional",
    "discriminator_loss",
    "generator_loss",
    "gradient_penalty",
    "normalised",
    "prepare",
    "rebuild",
    "redraw",
    "stage1",
    "train",
]
