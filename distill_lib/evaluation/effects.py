"""What paired repeats say of a difference: its interval, its p-value, and a verdict against the smallest difference
that matters.

    effect = paired([0.8, 1.1, 0.4, 0.9], delta=0.5)     # +0.80 (+0.33 to +1.27), 4 repeats
    verdict(effect, holm([effect.p_value])[0])           # holds

The repeats are independent: of each, one number, the difference between two sets that share everything but the idea
under test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.errors import UserError
from .statistics import half_width, mean, std

LEVEL = 0.95
MOST = 10_000  # repeats; a claim that needs more is said to need more than that
Word = Literal["holds", "reversed", "no effect larger than δ", "undecided", "not run"]
WORDS: tuple[Word, ...] = ("holds", "reversed", "no effect larger than δ", "undecided", "not run")


@dataclass(frozen=True)
class Effect:
    """Mean difference of `n` paired repeats with its 95 % t-interval, in the unit of the differences.

    std:     of the differences, of the sample (ddof 1); NaN for fewer than two.
    p_value: of the two-sided t-test that the mean difference is zero; 1 for fewer than two.
    delta:   the smallest difference that matters.
    needed:  repeats after which the interval would lie above or below zero, or inside ±delta, if mean and spread stayed
             what they are; None where they cannot be told.
    """

    n: int
    mean: float
    low: float
    high: float
    std: float
    p_value: float
    delta: float
    needed: int | None

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def needed_inside(self) -> int | None:
        """As `needed`, until it would lie inside ±delta."""
        return _fewest(self.std, self.delta - abs(self.mean))

    def __str__(self) -> str:
        if not self.n:
            return "not run"
        if self.n < 2:
            return f"{self.mean:+z.2f} (one repeat)"
        return f"{self.mean:+z.2f} ({self.low:+z.2f} to {self.high:+z.2f}), {self.n} repeats"


def paired(differences: Sequence[float], delta: float) -> Effect:
    """The effect of differences, one per repeat.

    Raises: UserError: a delta that is not above zero, or differences that are not finite.
    """
    if not (math.isfinite(delta) and delta > 0):
        raise UserError(f"delta {delta}: the smallest difference that matters is a number above zero")
    from scipy.special import stdtr  # here: a machine that only computes need not have scipy

    n = len(differences)
    if n < 2:
        centre = mean(differences) if n else math.nan
        return Effect(n, centre, -math.inf, math.inf, math.nan, 1.0, delta, None)
    centre, spread = mean(differences), std(differences, ddof=1)
    error = spread / math.sqrt(n)
    half = half_width(spread, n)
    p_value = float(centre == 0) if error == 0 else float(2 * stdtr(n - 1, -abs(centre) / error))
    return Effect(n, centre, centre - half, centre + half, spread, p_value, delta, needed(centre, spread, delta))


def needed(centre: float, spread: float, delta: float) -> int | None:
    """The fewest repeats whose interval around `centre` decides: it leaves out zero, or lies inside ±delta.

    None where more than `MOST` would be needed.
    """
    return _fewest(spread, max(abs(centre), delta - abs(centre)))


def _fewest(spread: float, room: float) -> int | None:
    """The fewest repeats after which half the interval is less than `room`; None where more than `MOST` are needed."""
    low, high = 2, MOST
    if not half_width(spread, high) < room:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(spread, middle) < room else (middle + 1, high)
    return low


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the p-values of a family of tests, made larger for their number, in the order given.

    The smallest is multiplied by their number m, the next by m - 1, and so on; none gets below one before it, or above
    1. Source: Holm 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        out[i] = least
    return out


def verdict(effect: Effect, adjusted: float) -> Word:
    """What the interval says.

    * "holds", "reversed": it lies above or below zero, and does so after Holm's correction too;
    * "no effect larger than δ": it lies inside ±delta;
    * "undecided": neither; with fewer than two repeats there is no interval.

    Args:
        adjusted: the effect's p-value after Holm's correction over its family.
    """
    if not effect.n:
        return "not run"
    if adjusted < 1 - LEVEL and not effect.low <= 0 <= effect.high:
        return "holds" if effect.low > 0 else "reversed"
    if -effect.delta < effect.low and effect.high < effect.delta:
        return "no effect larger than δ"
    return "undecided"
