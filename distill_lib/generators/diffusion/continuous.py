"""Variance-preserving diffusion in continuous time: its noise schedule, and solvers from noise to images.

    x = sample("dpm_fast", eps, noise, steps=50)     # eps(x, t): the predicted noise at time t in (0, 1]

x_t = alpha(t) x_0 + sigma(t) eps with alpha² + sigma² = 1 and lambda = log(alpha / sigma), half the log signal-to-noise
ratio. Coefficients are computed in double precision, whatever the precision of the images.

Source: Song et al. 2021 (schedule), Lu et al. 2022 (DPM-Solver, single-step, "fast") and 2023 (DPM-Solver++), Song et
al. 2021 (DDIM), Ho et al. 2020 (ancestral sampling); the variant for U-ViT is that of its code (Bao et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError, unknown

Eps = Callable[[Tensor, float], Tensor]  # (B, C, H, W) at time t -> predicted noise (B, C, H, W)


@dataclass(frozen=True)
class VPSchedule:
    """Noise rate beta(t) = beta_0 + (beta_1 - beta_0) t for t in [0, 1]. Times may be floats or tensors; a float gives
    a float64 scalar."""

    beta_0: float = 0.1
    beta_1: float = 20.0

    def log_alpha(self, t: float | Tensor) -> Tensor:
        t = _tensor(t)
        return -(self.beta_1 - self.beta_0) / 4 * t * t - self.beta_0 / 2 * t

    def alpha(self, t: float | Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def lambda_(self, t: float | Tensor) -> Tensor:
        """log(alpha / sigma), falling from infinity at t = 0."""
        return self.log_alpha(t) - torch.log(self.sigma(t))

    def t_of_lambda(self, lambda_: float | Tensor) -> Tensor:
        """The time at which log(alpha / sigma) has this value."""
        slope = self.beta_1 - self.beta_0
        u = 2 * slope * torch.nn.functional.softplus(-2 * _tensor(lambda_), threshold=100)
        return u / (slope * (torch.sqrt(self.beta_0**2 + u) + self.beta_0))


def _tensor(value: float | Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


VP = VPSchedule()


# --- times ---
def uniform_lambda(intervals: int, end: float = 1e-4) -> list[float]:
    """intervals + 1 times from 1 to `end`, equally far apart in lambda."""
    first, last = (float(VP.lambda_(t)) for t in (1.0, end))
    lambdas = torch.linspace(first, last, intervals + 1, dtype=torch.float64)
    return [1.0, *VP.t_of_lambda(lambdas[1:-1]).tolist(), end]


def uniform_time(intervals: int, end: float = 1e-4) -> list[float]:
    """intervals + 1 times from 1 to `end`, equally far apart."""
    return torch.linspace(1.0, end, intervals + 1, dtype=torch.float64).tolist()


def fast_orders(steps: int) -> list[int]:
    """Orders of the intervals of DPM-Solver-fast, whose sum is the number of network evaluations."""
    threes, rest = divmod(steps, 3)
    return {0: [3] * (threes - 1) + [2, 1], 1: [3] * threes + [1], 2: [3] * threes + [2]}[rest]


# --- one interval ---
class _Interval:
    """Coefficients between two times s > t."""

    def __init__(self, s: float, t: float):
        self.alpha_s, self.sigma_s = float(VP.alpha(s)), float(VP.sigma(s))
        self.alpha_t, self.sigma_t = float(VP.alpha(t)), float(VP.sigma(t))
        self.keep = self.alpha_t / self.alpha_s
        # sigma_t (e^h - 1), also if sigma_t is 0
        self.turn = self.alpha_t * self.sigma_s / self.alpha_s - self.sigma_t


def dpm_step(eps: Eps, x: Tensor, s: float, t: float, order: int) -> Tensor:
    """One step of the single-step DPM-Solver of order 1 (which is DDIM), 2 or 3, with as many network evaluations.

    Args:
        x: (B, C, H, W) at time s; returns it at the smaller time t > 0.
    Source: Lu et al. 2022, algorithms 1, 4 and 5, with r1 = 1/2 at order 2 and 1/3, 2/3 at order 3.
    """
    whole, e_s = _Interval(s, t), eps(x, s)
    if order == 1:
        return whole.keep * x - whole.turn * e_s
    lambda_s = float(VP.lambda_(s))
    h = float(VP.lambda_(t)) - lambda_s

    def part(r: float) -> tuple[float, _Interval]:
        middle = float(VP.t_of_lambda(lambda_s + r * h))
        return middle, _Interval(s, middle)

    if order == 2:
        s_1, first = part(1 / 2)
        e_1 = eps(first.keep * x - first.turn * e_s, s_1)
        return whole.keep * x - whole.turn * e_1  # e_s + (e_1 - e_s) / (2 r1)
    (s_1, first), (s_2, second) = part(1 / 3), part(2 / 3)
    e_1 = eps(first.keep * x - first.turn * e_s, s_1)
    bend = second.sigma_t * (math.expm1(2 * h / 3) / (2 * h / 3) - 1)
    e_2 = eps(second.keep * x - second.turn * e_s - 2 * bend * (e_1 - e_s), s_2)
    bend = whole.sigma_t * (math.expm1(h) / h - 1)
    return whole.keep * x - whole.turn * e_s - 1.5 * bend * (e_2 - e_s)


# --- solvers ---
def dpm_fast(eps: Eps, x: Tensor, steps: int) -> Tensor:
    """DPM-Solver-fast: `steps` network evaluations in single steps of order 3, uniform in lambda; the rest is a last
    step of order 2 or 1.

    If `steps` is a multiple of 3, the last two steps are of order 2 and 1: 50, 47, 23 or 20 evaluations are better
    spent.
    """
    orders = fast_orders(steps)
    times = uniform_lambda(len(orders))
    for order, s, t in zip(orders, times[:-1], times[1:], strict=True):
        x = dpm_step(eps, x, s, t, order)
    return x


def dpm_multistep(eps: Eps, x: Tensor, times: Sequence[float]) -> Tensor:
    """DPM-Solver++ of order 2, multi-step: one network evaluation for each of the intervals between `times`, the first
    of order 1.

    Source: Lu et al. 2023, algorithm 2.
    """
    before, h_before = None, 0.0
    for s, t in zip(times[:-1], times[1:], strict=True):
        i, h = _Interval(s, t), float(VP.lambda_(t)) - float(VP.lambda_(s))
        image = (x - i.sigma_s * eps(x, s)) / i.alpha_s  # the network's x_0
        towards = image if before is None else image + (h / h_before / 2) * (image - before)
        x = i.sigma_t / i.sigma_s * x - i.alpha_t * math.expm1(-h) * towards
        before, h_before = image, h
    return x


def ddim(eps: Eps, x: Tensor, times: Sequence[float]) -> Tensor:
    """DDIM without noise: steps of order 1 between `times`, the last of which may be 0."""
    for s, t in zip(times[:-1], times[1:], strict=True):
        x = dpm_step(eps, x, s, t, 1)
    return x


def ancestral(eps: Eps, x: Tensor, times: Sequence[float], noise: Callable[[], Tensor]) -> Tensor:
    """DDPM: draws from the posterior q(x_t | x_s, x_0) at the network's x_0, for each interval between `times`; the
    last may be 0.

    Args:
        noise: returns new standard normal numbers of the shape of x; not called for a step to t = 0.
    """
    for s, t in zip(times[:-1], times[1:], strict=True):
        i = _Interval(s, t)
        image = (x - i.sigma_s * eps(x, s)) / i.alpha_s
        ratio = i.alpha_s / i.alpha_t
        added = i.sigma_s**2 - ratio**2 * i.sigma_t**2  # variance of q(x_s | x_t)
        x = ratio * i.sigma_t**2 / i.sigma_s**2 * x + i.alpha_t * added / i.sigma_s**2 * image
        if t > 0:
            x = x + math.sqrt(added) * i.sigma_t / i.sigma_s * noise()
    return x


SAMPLERS = {
    "dpm_fast": "DPM-Solver-fast, single steps up to order 3",
    "dpm++2m": "DPM-Solver++, multi-step, order 2",
    "ddim": "DDIM, uniform in time",
    "ddpm": "ancestral sampling, uniform in time",
}


def sample(name: str, eps: Eps, x: Tensor, steps: int, noise: Callable[[], Tensor] | None = None) -> Tensor:
    """From noise at time 1 to images, with `steps` network evaluations: "dpm_fast" and "dpm++2m" down to time 1e-4,
    "ddim" and "ddpm" to 0.

    Args:
        name:  one of `SAMPLERS`.
        x:     (B, C, H, W) standard normal numbers.
        noise: for "ddpm": returns new standard normal numbers like x.
    Returns: (B, C, H, W) in the units the network was trained in, not clipped.
    Raises:  UserError: an unknown name, or too few steps.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    least = 3 if name == "dpm_fast" else 1
    if steps < least:
        raise UserError(f"{name}: {steps} steps; at least {least}")
    if name == "dpm_fast":
        return dpm_fast(eps, x, steps)
    if name == "dpm++2m":
        return dpm_multistep(eps, x, uniform_lambda(steps))
    if name == "ddim":
        return ddim(eps, x, uniform_time(steps, 0.0))
    if noise is None:
        raise UserError("ddpm: give `noise`, which draws the random numbers of every step")
    return ancestral(eps, x, uniform_time(steps, 0.0), noise)
