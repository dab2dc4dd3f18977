"""Continuous-time diffusion: the schedule's values, solvers on an equation with a known solution, and diffusers'
schedulers where they solve the same."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.generators.diffusion.continuous import (
    VP,
    ancestral,
    ddim,
    dpm_multistep,
    dpm_step,
    fast_orders,
    sample,
    uniform_lambda,
)

STARTS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
EXACT = torch.tensor([-0.70101863, -0.20100296, 0.29901272, 0.79902839, 1.29904406], dtype=torch.float64)  # at t = 1e-4


def gaussian(x, t):
    """The noise in x_t where images are N(0.3, 0.25)."""
    alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
    return sigma * (x - 0.3 * alpha) / (0.25 * alpha**2 + sigma**2)


def solution(x, s, t):
    """Where the probability flow takes x from time s to time t: its distance from the mean grows as the standard
    deviation."""
    alpha, std = (
        (lambda u: float(VP.alpha(u))),
        (lambda u: math.sqrt(0.25 * float(VP.alpha(u)) ** 2 + float(VP.sigma(u)) ** 2)),
    )
    return 0.3 * alpha(t) + (x - 0.3 * alpha(s)) * std(t) / std(s)


# --- schedule ---
def test_the_schedule_has_the_published_values():
    assert float(VP.alpha(0.5) ** 2) == pytest.approx(0.07906381, abs=1e-8)
    assert [float(VP.lambda_(t)) for t in (1.0, 1e-3, 1e-4)] == pytest.approx([-5.024978, 4.557715, 5.751510], abs=1e-6)
    assert float(VP.alpha(1.0)) == pytest.approx(6.571586e-3, rel=1e-6) and float(VP.sigma(1.0)) == pytest.approx(
        0.9999784069, abs=1e-10
    )
    assert float(VP.t_of_lambda(0.0)) == pytest.approx(0.25896026, abs=1e-8)


def test_time_and_half_log_snr_are_inverse():
    t = torch.linspace(1e-4, 1, 50, dtype=torch.float64)
    assert torch.allclose(VP.t_of_lambda(VP.lambda_(t)), t, rtol=1e-9)
    assert torch.allclose(VP.alpha(t) ** 2 + VP.sigma(t) ** 2, torch.ones_like(t), rtol=1e-12)
    assert float(VP.sigma(0.0)) == 0 and float(VP.alpha(0.0)) == 1


def test_a_batch_of_times_keeps_its_type():
    assert VP.alpha(torch.rand(4)).dtype == torch.float32 and VP.alpha(0.5).dtype == torch.float64


def test_the_times_of_fifty_evaluations_are_the_published_ones():
    times = uniform_lambda(len(fast_orders(50)))
    assert len(times) == 18
    assert times[:4] == pytest.approx([1.0, 0.934479, 0.864048, 0.787444], abs=1e-6)
    assert times[-3:] == pytest.approx([0.00114459, 0.00034687, 0.0001], abs=1e-8)


@pytest.mark.parametrize(
    "steps, orders",
    [(50, [3] * 16 + [2]), (10, [3, 3, 3, 1]), (12, [3, 3, 3, 2, 1]), (3, [2, 1]), (4, [3, 1]), (5, [3, 2])],
)
def test_the_orders_of_the_fast_solver_add_up_to_its_evaluations(steps, orders):
    assert fast_orders(steps) == orders and sum(orders) == steps


# --- solvers ---
def test_the_fast_solver_gives_the_published_values():
    assert torch.allclose(solution(STARTS, 1.0, 1e-4), EXACT, atol=1e-8)
    got = sample("dpm_fast", gaussian, STARTS, 50)
    assert torch.allclose(
        got,
        torch.tensor([-0.70149392, -0.20124084, 0.29901225, 0.79926533, 1.29951842], dtype=torch.float64),
        atol=1e-8,
    )


@pytest.mark.parametrize("steps, error", [(100, 4.5e-5), (50, 4.75e-4), (20, 1.2e-2), (10, 1.8e-2), (12, 1.0e-1)])
def test_the_fast_solver_has_the_published_errors(steps, error):
    assert float((sample("dpm_fast", gaussian, STARTS, steps) - EXACT).abs().max()) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("order, intervals, error", [(1, 50, 5.3e-2), (2, 25, 1.2e-2), (3, 16, 5.8e-4)])
def test_a_fixed_order_has_the_published_error(order, intervals, error):
    x, times = STARTS, uniform_lambda(intervals)
    for s, t in zip(times[:-1], times[1:], strict=True):
        x = dpm_step(gaussian, x, s, t, order)
    assert float((x - EXACT).abs().max()) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_halving_a_step_divides_its_error_by_two_to_the_order_plus_one(order):
    middle = float(VP.lambda_(0.5))

    def error(h):
        t = float(VP.t_of_lambda(middle + h))
        return float((dpm_step(gaussian, STARTS, 0.5, t, order) - solution(STARTS, 0.5, t)).abs().max())

    assert math.log2(error(0.05) / error(0.025)) == pytest.approx(order + 1, abs=0.25)


def test_the_multistep_solver_is_of_order_two():
    errors = [float((sample("dpm++2m", gaussian, STARTS, n) - EXACT).abs().max()) for n in (100, 200, 400)]
    assert [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([2, 2], abs=0.25)


@pytest.mark.parametrize("name, steps", [("dpm_fast", 50), ("dpm_fast", 12), ("dpm++2m", 7), ("ddim", 7), ("ddpm", 7)])
def test_a_sampler_uses_as_many_network_evaluations_as_it_is_given(name, steps):
    calls = []
    sample(name, lambda x, t: calls.append(t) or gaussian(x, t), STARTS, steps, noise=lambda: torch.zeros_like(STARTS))
    assert len(calls) == steps and calls[0] == 1.0 and min(calls) > 0


def test_order_one_is_ddim_and_ddim_reaches_time_zero():
    x, s, t = STARTS, 0.7, 0.4
    alpha, sigma = (lambda u: float(VP.alpha(u))), (lambda u: float(VP.sigma(u)))
    image = (x - sigma(s) * gaussian(x, s)) / alpha(s)
    assert torch.allclose(dpm_step(gaussian, x, s, t, 1), alpha(t) * image + sigma(t) * gaussian(x, s), atol=1e-14)
    assert torch.allclose(ddim(gaussian, x, [s, 0.0]), image, atol=1e-14)


def test_ancestral_samples_have_the_mean_and_spread_of_the_images():
    rng = stream(0, "ancestral")
    x = torch.randn(20_000, generator=rng, dtype=torch.float64)
    got = sample("ddpm", gaussian, x, 300, noise=lambda: torch.randn(20_000, generator=rng, dtype=torch.float64))
    assert float(got.mean()) == pytest.approx(0.3, abs=0.02) and float(got.std()) == pytest.approx(0.5, abs=0.02)


def test_the_solvers_state_keeps_the_precision_of_its_images():
    assert sample("dpm++2m", gaussian, STARTS.float(), 5).dtype == torch.float32


# --- diffusers ---
N = 1000


@pytest.fixture(scope="module")
def bridge() -> list[float]:
    """Betas whose discrete alpha-bar of index n is the continuous one of time (n + 1) / 1000."""
    t = torch.arange(N + 1, dtype=torch.float64) / N
    abar = VP.alpha(t) ** 2
    return (1 - abar[1:] / abar[:-1]).tolist()


def through(scheduler, steps, x, **options):
    """diffusers' loop, and the times it used."""
    scheduler.set_timesteps(steps)
    times = [(int(n) + 1) / N for n in scheduler.timesteps]
    for n, t in zip(scheduler.timesteps, times, strict=True):
        x = scheduler.step(gaussian(x, t), n, x, **options).prev_sample
    return x, times


@pytest.mark.filterwarnings("ignore:__array__")  # inside diffusers
def test_the_multistep_solver_equals_diffusers(bridge):
    scheduler = DPMSolverMultistepScheduler(
        N, trained_betas=bridge, final_sigmas_type="sigma_min", lower_order_final=False
    )
    theirs, times = through(scheduler, 20, STARTS)
    assert torch.allclose(dpm_multistep(gaussian, STARTS, [*times, 1 / N]), theirs, atol=1e-4)


def test_ddim_equals_diffusers(bridge):
    scheduler = DDIMScheduler(N, trained_betas=bridge, clip_sample=False, set_alpha_to_one=True)
    theirs, times = through(scheduler, 20, STARTS)
    ends = [*[t - 1 / 20 for t in times[:-1]], 0.0]
    x = STARTS
    for s, t in zip(times, ends, strict=True):
        x = ddim(gaussian, x, [s, t])
    assert torch.allclose(x, theirs, atol=1e-5)


def test_ancestral_sampling_equals_diffusers(bridge):
    scheduler = DDPMScheduler(N, trained_betas=bridge, clip_sample=False, variance_type="fixed_small")
    starts = STARTS[:, None]
    theirs, times = through(scheduler, 20, starts, generator=stream(0, "shared"))
    rng = stream(0, "shared")
    ours = ancestral(gaussian, starts, [*times, 0.0], lambda: torch.randn(5, 1, generator=rng, dtype=torch.float64))
    assert torch.allclose(ours, theirs, atol=1e-4)


# --- bad input ---
@pytest.mark.parametrize(
    "name, steps, says",
    [
        ("dpm_fats", 50, "did you mean dpm_fast"),
        ("dpm_fast", 2, "at least 3"),
        ("ddim", 0, "at least 1"),
        ("ddpm", 5, "give `noise`"),
    ],
)
def test_bad_input_is_one_clear_error(name, steps, says):
    with pytest.raises(UserError, match=says):
        sample(name, gaussian, STARTS, steps)
