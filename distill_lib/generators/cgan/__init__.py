"""DiM's conditional GAN: network, losses, training."""

from .losses import Loss, conditional, discriminator_loss, generator_loss, gradient_penalty
from .network import SIDES, Architecture, Discriminator, Generator, normalised, rebuild, redraw
from .training import GAN, HealthCheck, Pair, TrainedGAN, batches_of, prepare, stage1, train
