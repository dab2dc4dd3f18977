"""What a list of accuracies says: mean, spread, interval, whether it equals a published number; and calibration.

    summarise([48.7, 49.2, 48.5, 49.0, 48.8])                     # 48.8 ± 0.2 (5 values, 95 % interval 48.5 to 49.2)
    equal_to_published([48.7, 49.2, 48.5], 48.9, 0.6, trials=5)    # matched: ...

Standard deviations are those of the population (ddof 0) unless asked otherwise, as in the public codes of the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import UserError


# --- one list of values ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (ddof 0: population, 1: sample) and t-interval of the mean, of `n` values; for one, the
    interval is NaN."""

    n: int
    mean: float
    std: float
    ddof: int
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:.1f} (1 value)"
        interval = f"{100 * self.level:.0f} % interval {self.low:.1f} to {self.high:.1f}"
        return f"{self.mean:.1f} ± {self.std:.1f} ({self.n} values, {interval})"


def mean(values: Sequence[float]) -> float:
    return math.fsum(_checked(values)) / len(values)


def std(values: Sequence[float], ddof: int = 0) -> float:
    """Standard deviation, dividing by n - ddof: 0 is the population's (as VICO and numpy), 1 the sample's. NaN if n is
    at most ddof."""
    if len(_checked(values)) <= ddof:
        return math.nan
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - ddof))


def half_width(spread: float, n: int, level: float = 0.95) -> float:
    """Half the width of the t-interval of the mean of n values with this sample deviation."""
    from scipy.special import stdtrit  # here: a machine that only computes need not have scipy

    return float(stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n)


def summarise(values: Sequence[float], ddof: int = 0, level: float = 0.95) -> Summary:
    """All of the above. Raises: UserError: no values, values that are not finite, a level outside 0 to 1."""
    if not 0 < level < 1:
        raise UserError(f"level {level}: a fraction between 0 and 1, such as 0.95")
    centre, n = mean(values), len(values)
    half = half_width(std(values, ddof=1), n, level) if n > 1 else math.nan
    return Summary(n, centre, std(values, ddof), ddof, centre - half, centre + half, level)


def _checked(values: Sequence[float]) -> list[float]:
    values = [float(v) for v in values]
    if not values or not all(map(math.isfinite, values)):
        raise UserError(f"statistics need at least one value, all finite; got {values}")
    return values


# --- against a published number -------------------------------------------------------------------
@dataclass(frozen=True)
class Comparison:
    """Ours minus the published mean, against a margin.

    verdict:    "matched", "differs" or "undecided".
    difference: ours minus published, in the values' unit; `low` and `high` bound it with 90 % confidence.
    margin:     the largest difference that still counts as equal.
    p_value:    of Welch's two-sided test that both means are the same; NaN if it cannot be computed. Information only.
    reason:     the verdict in a sentence, with every assumption made.
    """

    verdict: Literal["matched", "differs", "undecided"]
    difference: float
    low: float
    high: float
    margin: float
    p_value: float
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


ASSUMED_TRIALS = 3  # of a published mean that does not say; the fewest that print a deviation in this field


def equal_to_published(
    values: Sequence[float],
    published: float,
    published_std: float | None = None,
    trials: int | None = None,
    ddof: int = 0,
    digit: float = 0.1,
    sets: Sequence[int] | None = None,
) -> Comparison:
    """Whether measured values agree with a published mean within the published spread.

    Two means count as equal when they differ by at most two published standard deviations (never less than the last
    printed digit): that is how far single runs of the paper itself lie from its mean. The difference is known up to the
    spread of both means, so there are three verdicts, from its 90 % interval (Welch, unequal variances):

    * "matched":   the interval lies inside the margin (two one-sided tests at 5 %, Schuirmann 1987);
    * "differs":   it lies outside;
    * "undecided": it does both, or there are too few values to have an interval. More networks decide it.

    Networks trained on one distilled set share that set, so they do not vary independently. With `sets`, the values
    compared are therefore the means of the sets, whose spread holds both that between sets and that of their networks.
    A single set says nothing of the spread between sets: it is never "matched", and "differs" only if the published
    deviation, taken for that spread, puts the whole interval outside the margin.

    Args:
        values:        one accuracy per network, in the unit of `published`.
        published_std: as printed; None or NaN: the spread of `values` stands in for it.
        trials:        runs behind the published mean; None: three are assumed.
        ddof:          of the printed deviation: 0 is what the public codes compute.
        digit:         the last printed digit.
        sets:          for each value, the set its network was trained on; None if there is only one set to make: then
                       networks are what varies.
    Raises: UserError: no values, or numbers that cannot be a mean and its deviation.
    """
    each, what = units(values, sets)
    ours, n = mean(each), len(each)
    given = published_std is not None and not math.isnan(published_std)
    m = ASSUMED_TRIALS if trials is None else trials
    if not math.isfinite(published) or (given and not 0 <= published_std < math.inf) or m < 1:
        raise UserError(
            "a published number needs a finite mean, a deviation >= 0 and trials >= 1; "
            f"got {published}, {published_std}, {trials}"
        )
    difference = ours - published
    notes = [] if trials else [f"{m} published runs assumed"]
    margin = max(2 * (published_std if given else std(values)), digit)
    if given:
        theirs = published_std * math.sqrt(m / (m - 1)) if ddof == 0 and m > 1 else published_std  # sample deviation
    if n < 2 and (sets is None or not given or m < 2):
        margin = margin if given else math.nan
        reason = f"too few {what}: one has no spread, at least 2 are needed"
        return Comparison("undecided", difference, -math.inf, math.inf, margin, math.nan, reason)
    if n < 2:
        between = max(theirs, digit / 2)  # a deviation printed as 0.0
        within = std(values, ddof=1) if len(values) > 1 else between
        a, b, df = between**2 + within**2 / len(values), theirs**2 / m, m - 1
        notes.append("one set, whose own spread is not known: the published deviation stands in for it")
    elif given:
        spread = std(each, ddof=1)
        if m > 1:
            a, b = spread**2 / n, theirs**2 / m
            df = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)) if a + b else math.inf
        else:  # a deviation of one run, say over networks: taken as known
            a, b = spread**2 / n, theirs**2
            df = (a + b) ** 2 / (a**2 / (n - 1)) if a else math.inf
    else:
        spread = std(each, ddof=1)
        a, b, df = spread**2 / n, spread**2 / m, n - 1
        notes.append("no published deviation, ours stands in for it")
    half, p_value = _welch(difference, math.sqrt(a + b), df)
    low, high = difference - half, difference + half
    if -margin <= low and high <= margin and n > 1:
        verdict, why = "matched", "inside"
    elif high < -margin or low > margin:
        verdict, why = "differs", "outside"
    elif n > 1:
        why = f"too few {what}: {n} of ours and {m} published ones leave it both inside and outside"
        verdict = "undecided"
    else:
        verdict, why = "undecided", "not wholly outside"
    reason = f"{difference:+z.2f} (90 % interval {low:+z.2f} to {high:+z.2f}), {why} the margin of ±{margin:.2f}"
    return Comparison(verdict, difference, low, high, margin, p_value, "; ".join([reason, *notes]))


def units(values: Sequence[float], sets: Sequence[int] | None) -> tuple[list[float], str]:
    """What varies independently, and its name: the values, or the mean of those of each set."""
    values = _checked(values)
    if sets is None:
        return values, "values"
    if len(sets) != len(values):
        raise UserError(f"{len(values)} values need as many numbers of sets; got {len(sets)}")
    return [mean([v for v, s in zip(values, sets, strict=True) if s == i]) for i in sorted(set(sets))], "sets"


def _welch(difference: float, error: float, df: float) -> tuple[float, float]:
    """Half-width of the 90 % interval of a difference, and the two-sided p-value of its being zero."""
    from scipy.special import ndtr, ndtri, stdtr, stdtrit  # here: a machine that only computes need not have scipy

    if error == 0:
        return 0.0, float(difference == 0)
    quantile = ndtri(0.95) if math.isinf(df) else stdtrit(df, 0.95)
    tail = -abs(difference) / error
    return float(quantile * error), float(2 * (ndtr(tail) if math.isinf(df) else stdtr(df, tail)))


# --- classes and calibration ----------------------------------------------------------------------
def per_class_accuracy_pct(answers: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Accuracy of every class in percent; None for a class without images.

    Args:
        answers: (N,) predicted classes, or (N, K) logits or probabilities.
        labels:  (N,) true classes.
    """
    answers = answers.argmax(1) if answers.ndim == 2 else answers
    hits, count = (torch.bincount(x, minlength=num_classes).tolist() for x in (labels[answers == labels], labels))
    return [100 * h / n if n else None for h, n in zip(hits, count, strict=True)]


def calibration_error_pct(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent: |accuracy - mean confidence| per bin of confidence, weighted by the bin's
    share of the answers.

    Args:
        confidence: (N,) probability of the answer, in [0, 1].
        right:      (N,) whether the answer was right.
    Source: Guo et al. 2017, equation 3; bin b holds confidences in (b/bins, (b + 1)/bins].
    """
    if confidence.ndim != 1 or confidence.shape != right.shape or not len(right):
        raise UserError(
            f"calibration needs one confidence per answer; got {tuple(confidence.shape)} and {tuple(right.shape)}"
        )
    low, high = confidence.min().item(), confidence.max().item()
    if low < 0 or high > 1 + 1e-6:
        raise UserError(f"confidences are probabilities in [0, 1]; got {low:g} to {high:g}; apply softmax first")
    index = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, index, right.double() - confidence.double())  # of every bin: its share times its gap, times N
    return 100 * gaps.abs().sum().item() / len(right)
