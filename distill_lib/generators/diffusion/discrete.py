"""Diffusion in discrete time: beta schedules, respacing, learned variances, the variational bound, ancestral sampling.

    schedule = Schedule.linear()                     # 1000 betas from 1e-4 to 0.02
    z_t = schedule.noised(z, t, noise)
    z = sample(predict, schedule.respaced(50), draw)

A network takes the step's number in the schedule it was trained with, `schedule.timesteps[t]`, and answers (B, 2C, H,
W): the noise, and a number in about [-1, 1] that places the log-variance between those of the posterior and of beta.

Source: Ho et al. 2020 (DDPM), Nichol and Dhariwal 2021 (IDDPM), Dhariwal and Nichol 2021 (ADM), whose code DiT uses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ...core.device import send
from ...core.errors import UserError

ScheduleName = Literal["linear", "cosine"]


class Schedule:
    """The numbers of S steps, float64 (S,), and what follows from them.

    Args:
        betas:     variances added by the steps, in (0, 1).
        timesteps: each step's number in the schedule the network was trained with; by default 0 .. S-1.
    Attributes:
        alpha_bar: share of the clean signal's variance left after a step.
        posterior_variance, posterior_log_variance: of q(z_{t-1} | z_t, z_0). The first variance is 0; its logarithm is
            that of the second, as in the official code.
    """

    def __init__(self, betas: Tensor, timesteps: Tensor | None = None):
        betas = betas.double()
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
            raise UserError("a diffusion schedule needs at least one beta, each between 0 and 1")
        self.betas = betas
        self.timesteps = torch.arange(len(betas)) if timesteps is None else timesteps
        self.alpha_bar = (1 - betas).cumprod(0)
        before = torch.cat([torch.ones_like(betas[:1]), self.alpha_bar[:-1]])
        self.posterior_variance = betas * (1 - before) / (1 - self.alpha_bar)
        first = self.posterior_variance[1:2] if len(betas) > 1 else betas
        self.posterior_log_variance = torch.cat([first, self.posterior_variance[1:]]).log()
        self.log_betas = betas.log()
        self.of_clean = betas * before.sqrt() / (1 - self.alpha_bar)  # weights of z_0 and z_t in the posterior's mean
        self.of_noised = (1 - before) * (1 - betas).sqrt() / (1 - self.alpha_bar)

    @staticmethod
    def linear(steps: int = 1000) -> Schedule:
        """Betas from 1e-4 to 0.02 at 1000 steps, and 1000 / steps times as large at others."""
        scale = 1000 / steps
        return Schedule(torch.linspace(scale * 1e-4, min(scale * 0.02, 0.999), steps, dtype=torch.float64))

    @staticmethod
    def cosine(steps: int = 1000) -> Schedule:
        """alpha_bar follows a squared cosine (IDDPM, eq. 17); betas at most 0.999."""
        level = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2).square()
        return Schedule((1 - level[1:] / level[:-1]).clamp_max(0.999))

    @staticmethod
    def named(name: ScheduleName) -> Schedule:
        return Schedule.cosine() if name == "cosine" else Schedule.linear()

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, count: int) -> Schedule:
        """`count` of the steps, evenly spaced with the first and the last, with betas that keep their alpha_bar.

        The strides are added up and the sum is rounded, as in the official code: multiples of the stride sometimes
        round differently.

        Raises: UserError: fewer than 1 or more than there are.
        """
        if not 1 <= count <= len(self):
            raise UserError(f"{count} denoising steps: give 1 to {len(self)}")
        stride = (len(self) - 1) / (count - 1) if count > 1 else 1.0
        kept = torch.tensor([round(at) for at in itertools.accumulate([stride] * (count - 1), initial=0.0)])
        level = self.alpha_bar[kept]
        before = torch.cat([torch.ones_like(level[:1]), level[:-1]])
        return Schedule(1 - level / before, self.timesteps[kept])

    def at(self, values: Tensor, t: Tensor, like: Tensor) -> Tensor:
        """Entries `t` (B,) of a table of this schedule, to be broadcast over `like` (B, ...)."""
        return send(values[t.cpu()], like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))

    # --- forwards ---
    def noised(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t = sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise."""
        return self.at(self.alpha_bar.sqrt(), t, z) * z + self.at((1 - self.alpha_bar).sqrt(), t, z) * noise

    def clean(self, z_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The z that `noise` leads from: `noised` solved for it."""
        return self.at(self.alpha_bar.rsqrt(), t, z_t) * z_t - self.at((1 / self.alpha_bar - 1).sqrt(), t, z_t) * noise

    # --- backwards ---
    def posterior_mean(self, z: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(z_{t-1} | z_t, z)."""
        return self.at(self.of_clean, t, z) * z + self.at(self.of_noised, t, z) * z_t

    def reverse(self, answer: Tensor, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, C, H, W) of p(z_{t-1} | z_t) for a network's answer (B, 2C, H, W)."""
        noise, place = answer.chunk(2, 1)
        share = (place + 1) / 2
        low, high = self.at(self.posterior_log_variance, t, z_t), self.at(self.log_betas, t, z_t)
        return self.posterior_mean(self.clean(z_t, t, noise), z_t, t), share * high + (1 - share) * low

    # --- losses ---
    def losses(self, answer: Tensor, z: Tensor, z_t: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) mean squared error of the noise, and (B,) the variational bound's term of step t.

        The bound is in bits per number and not rescaled: DiT's loss is the sum of both. Its mean is detached, so it
        trains variances alone.
        """
        predicted, place = answer.chunk(2, 1)
        mean, log_variance = self.reverse(torch.cat([predicted.detach(), place], 1), z_t, t)
        wanted, low = self.posterior_mean(z, z_t, t), self.at(self.posterior_log_variance, t, z)
        bound = normal_kl(wanted, low.expand_as(mean), mean, log_variance).flatten(1).mean(1)
        first = -discretised_log_likelihood(z, mean, 0.5 * log_variance).flatten(1).mean(1)
        error = (predicted - noise).square().flatten(1).mean(1)
        return error, torch.where(t.to(z.device) == 0, first, bound) / math.log(2)


def normal_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence of one normal distribution from another, in nats, number by number."""
    squares = (mean - other).square() * torch.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance - 1 + torch.exp(log_variance - other_log_variance) + squares)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log-probability, in nats, of x in [-1, 1] rounded to 256 levels under a normal distribution (IDDPM's code: a tanh
    form of the error function, and open outer levels)."""
    inverse = torch.exp(-log_scale)
    above, below = (_cdf(inverse * (x - mean + side / 255)) for side in (1, -1))
    inside = (above - below).clamp_min(1e-12).log()
    low, high = above.clamp_min(1e-12).log(), (1 - below).clamp_min(1e-12).log()
    return torch.where(x < -0.999, low, torch.where(x > 0.999, high, inside))


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@torch.no_grad()
def sample(predict: Callable[[Tensor, Tensor], Tensor], schedule: Schedule, draw: Callable[[], Tensor]) -> Tensor:
    """Ancestral sampling with learned variances, nothing clipped.

    Args:
        predict: (z_t (B, C, H, W), timesteps (B,)) -> (B, 2C, H, W).
        draw:    standard normal numbers (B, C, H, W): the start, then once for every step but the last.
    Returns: (B, C, H, W).
    """
    z = draw()
    for i in reversed(range(len(schedule))):
        t = torch.full((len(z),), i)
        answer = predict(z, schedule.timesteps[t].to(z.device))
        mean, log_variance = schedule.reverse(answer, z, t)
        z = mean + torch.exp(0.5 * log_variance) * draw() if i else mean
    return z
