"""Losses of the conditional GAN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["acwgan_gp", "vanilla"]


def generator_loss(loss: Loss, score: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """The generator's loss, from the discriminator's answers to its images.

    acwgan_gp: -mean score + cross-entropy of the class head.  vanilla: -log D(x|y), the form whose gradient does not
    vanish.
    """
    if loss == "vanilla":
        return F.softplus(-conditional(score, classes, labels)).mean()
    return F.cross_entropy(classes, labels) - score.mean()


def discriminator_loss(loss: Loss, real: tuple[Tensor, Tensor, Tensor], fake: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The discriminator's loss without the gradient penalty; each side is scores (B,), class logits (B, K), labels
    (B,)."""
    if loss == "vanilla":
        return F.softplus(-conditional(*real)).mean() + F.softplus(conditional(*fake)).mean()
    return fake[0].mean() - real[0].mean() + F.cross_entropy(fake[1], fake[2]) + F.cross_entropy(real[1], real[2])


def conditional(score: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """(B,) logit of D(x|y): the score plus the label's class logit, so that the log loss uses the same two heads.

    SKD's equation 1 does not say how D takes its label; this is a projection discriminator (Miyato and Koyama 2018).
    """
    return score + classes.gather(1, labels[:, None]).squeeze(1)


def gradient_penalty(
    discriminator: Callable[[Tensor], tuple[Tensor, Tensor]], real: Tensor, fake: Tensor, alpha: Tensor
) -> Tensor:
    """Mean of (|gradient of the score| - 1)² at alpha real + (1 - alpha) fake.

    Args:
        real, fake: (B, C, H, W), no gradient.
        alpha:      (B,) in [0, 1].
    """
    mixed = torch.lerp(fake, real, alpha.view(-1, 1, 1, 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(mixed)[0].sum(), mixed, create_graph=True)
    norm = gradient.flatten(1).square().sum(1).add(1e-12).sqrt()  # 1e-12: the root has no derivative at 0
    return (norm - 1).square().mean()
