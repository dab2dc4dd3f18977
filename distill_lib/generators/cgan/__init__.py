"""DiM's conditional GAN: network, losses, training."""

from .losses import Loss, conditional, discriminator_loss, generator_loss, gradient_penalty
from .network import DRAWN_MB, SIDES, Architecture, Discriminator, Generator, normalised, rebuild, redraw, signed
from .training import GAN, Epochs, Judge, Pair, Trained, prepare, stage1, train

__all__ = ["Architecture", "DRAWN_MB", "Discriminator", "Epochs", "GAN", "Generator", "Judge", "Loss", "Pair", "SIDES", "Trained", "conditional", "discriminator_loss", "generator_loss", "gradient_penalty", "normalised", "prepare", "rebuild", "redraw", "signed", "stage1", "train"]
