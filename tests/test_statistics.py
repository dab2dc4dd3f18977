"""Summaries, the three-way verdict against published numbers, and calibration."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.evaluation import statistics
from distill_lib.evaluation.statistics import (
    calibration_error_pct,
    equal_to_published,
    per_class_accuracy_pct,
    summarise,
)

FIVE = [48.7, 49.2, 48.5, 49.0, 48.8]


def test_mean_and_deviation_say_which_ddof():
    assert statistics.mean(FIVE) == pytest.approx(48.84)
    assert statistics.std(FIVE) == pytest.approx(np.std(FIVE)) and statistics.std(FIVE, ddof=1) == pytest.approx(
        np.std(FIVE, ddof=1)
    )
    assert statistics.std([50.0]) == 0 and math.isnan(statistics.std([50.0], ddof=1))
    assert statistics.std([1e8 + 1, 1e8 + 2, 1e8 + 3]) == pytest.approx(math.sqrt(2 / 3))
    assert summarise(FIVE).ddof == 0 and summarise(FIVE, ddof=1).std > summarise(FIVE).std


def test_the_interval_of_a_summary_is_student_s():
    low, high = scipy.stats.t.interval(0.9, 4, np.mean(FIVE), scipy.stats.sem(FIVE))
    found = summarise(FIVE, level=0.9)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert math.isnan(summarise([50.0]).low)
    with pytest.raises(UserError, match="level 95: a fraction"):
        summarise(FIVE, level=95)


def test_summary_reads_well():
    assert str(summarise(FIVE)) == "48.8 ± 0.2 (5 values, 95 % interval 48.5 to 49.2)"
    assert str(summarise([50.0])) == "50.0 (1 value)"


@pytest.mark.parametrize("values", [[], [math.nan], [50.0, math.inf]])
def test_values_that_are_none(values):
    for f in (summarise, statistics.mean, statistics.std, lambda v: equal_to_published(v, 50.0)):
        with pytest.raises(UserError, match="at least one value, all finite"):
            f(values)


# --- published numbers ----------------------------------------------------------------------------
def around(mean, std, n):
    """n values with exactly this mean and sample deviation."""
    x = np.linspace(-1, 1, n)
    return (mean + std * x / x.std(ddof=1)).tolist()


def test_welch_equals_scipy():
    for ours, published, std, trials in [
        (FIVE, 48.9, 0.6, 5),
        (around(51, 0.3, 20), 50.2, 1.2, 3),
        (around(20, 4, 3), 30, 0.1, 25),
    ]:
        got = equal_to_published(ours, published, std, trials, ddof=1)
        by_summary = scipy.stats.ttest_ind_from_stats(
            np.mean(ours), np.std(ours, ddof=1), len(ours), published, std, trials, equal_var=False
        )
        assert got.p_value == pytest.approx(by_summary.pvalue)
        interval = scipy.stats.ttest_ind(ours, around(published, std, trials), equal_var=False).confidence_interval(0.9)
        assert (got.low, got.high) == pytest.approx(tuple(interval))
    population = equal_to_published(FIVE, 48.9, 0.6, 5)  # a printed population deviation is the smaller one
    assert population.p_value == equal_to_published(FIVE, 48.9, 0.6 * math.sqrt(5 / 4), 5, ddof=1).p_value


@pytest.mark.parametrize(
    "ours,n,published,std,trials,verdict",
    [
        (48.9, 5, 48.9, 0.6, 5, "matched"),
        (48.5, 5, 48.9, 0.6, 5, "matched"),
        (46.0, 5, 48.9, 0.6, 5, "differs"),
        (51.9, 5, 48.9, 0.6, 5, "differs"),
        (48.1, 5, 48.9, 0.6, 5, "undecided"),
        (48.1, 25, 48.9, 0.6, 25, "matched"),  # more values decide
        (48.9, 2, 48.9, 0.6, 3, "undecided"),  # two values know too little
        (99.2, 5, 99.1, 0.0, 5, "undecided"),  # the last printed digit is the least margin
        (57.0, 20, 63.0, 0.4, 25, "differs"),  # DM at IPC 50 as users report it
    ],
)
def test_verdicts(ours, n, published, std, trials, verdict):
    got = equal_to_published(around(ours, max(std, 0.05), n), published, std, trials)
    assert got.verdict == verdict, got
    assert got.margin == pytest.approx(max(2 * std, 0.1)) and got.low <= got.difference <= got.high


def test_one_value_is_undecided():
    got = equal_to_published([48.9], 48.9, 0.6, 5)
    assert got.verdict == "undecided" and "at least 2" in got.reason and math.isnan(got.p_value)


def test_missing_trials_and_deviation_are_named_assumptions():
    assumed = equal_to_published(FIVE, 48.9, 0.6)
    assert "3 published runs assumed" in assumed.reason
    assert assumed.p_value == equal_to_published(FIVE, 48.9, 0.6, 3).p_value
    for missing in (None, math.nan):
        bare = equal_to_published(FIVE, 48.9, missing, 5)
        assert "ours stands in" in bare.reason and bare.margin == pytest.approx(2 * np.std(FIVE))
    assert equal_to_published(FIVE, 60.0).verdict == "differs"
    one = equal_to_published(FIVE, 48.9, None, 1)  # a single published run: a prediction interval
    assert one.high - one.low > bare.high - bare.low


def test_no_spread_at_all():
    assert equal_to_published([50.0] * 3, 50.0, 0.0, 3).verdict == "matched"
    assert equal_to_published([50.0] * 3, 50.0, 0.0, 3).p_value == 1
    assert equal_to_published([50.0] * 3, 51.0, 0.0, 3).verdict == "differs"
    assert equal_to_published([50.0] * 3, 50.0, 0.0, 1).verdict == "matched"
    assert equal_to_published([50.0] * 3, 50.05).verdict == "matched"


@settings(deadline=None, derandomize=True, database=None)
@given(
    ours=st.floats(0, 100),
    spread=st.floats(0.01, 5),
    n=st.integers(2, 30),
    published=st.floats(0, 100),
    std=st.none() | st.floats(0, 5),
    trials=st.none() | st.integers(1, 30),
)
def test_verdicts_follow_from_interval_and_margin(ours, spread, n, published, std, trials):
    got = equal_to_published(around(ours, spread, n), published, std, trials)
    inside, outside = -got.margin <= got.low and got.high <= got.margin, got.high < -got.margin or got.low > got.margin
    assert got.verdict == ("matched" if inside else "differs" if outside else "undecided")
    assert 0 <= got.p_value <= 1 and f"±{got.margin:.2f}" in got.reason
    mirrored = equal_to_published(around(-ours, spread, n), -published, std, trials)
    assert mirrored.verdict == got.verdict


def test_false_verdicts_are_rare_when_the_truth_is_known():
    """Repeated runs of the same truth are hardly ever said to differ; a truth at the margin is matched in about 5 % of
    the cases."""
    rng = np.random.default_rng(0)
    same, edge = [], []
    for _ in range(400):
        paper = rng.normal(50, 1, 5)
        same.append(equal_to_published(rng.normal(50, 1, 5), paper.mean(), paper.std(), 5).verdict)
        edge.append(equal_to_published(rng.normal(52, 1, 20), 50.0, 1.0, 200).verdict)
    assert same.count("differs") <= 4
    assert edge.count("matched") / 400 == pytest.approx(0.05, abs=0.035) and edge.count(
        "differs"
    ) / 400 == pytest.approx(0.05, abs=0.035)


BETWEEN, WITHIN = 1.0, 0.4  # deviations of sets, and of the networks of one
SPREAD = math.hypot(BETWEEN, WITHIN)  # of a single run


def runs(rng, mean, sets, networks=5):
    """Accuracies of networks trained on sets that vary, and the number of each network's set."""
    centres = rng.normal(mean, BETWEEN, sets)
    return rng.normal(centres[:, None], WITHIN, (sets, networks)).ravel().tolist(), np.repeat(
        np.arange(sets), networks
    ).tolist()


@pytest.mark.parametrize(
    ("sets", "level"), [(1, 0.05), (2, 0.08), (5, 0.05)]
)  # Welch's degrees of freedom are rough for two
def test_wrong_verdicts_keep_their_level_where_networks_share_sets(sets, level):
    """A truth that lies just at the margin is called equal, or different, no more often than the test allows."""
    rng = np.random.default_rng(1)
    ours = [runs(rng, 50 + 2 * SPREAD, sets) for _ in range(600)]
    edge = [equal_to_published(values, 50.0, SPREAD, 200, sets=numbers).verdict for values, numbers in ours]
    naive = [equal_to_published(values, 50.0, SPREAD, 200).verdict for values, _ in ours]
    for wrong in ("matched", "differs"):
        assert edge.count(wrong) / 600 <= level + 0.02
        assert naive.count(wrong) / 600 > 0.15  # taking networks that share a set for independent ones does not
    if sets == 1:
        assert "matched" not in edge


@pytest.mark.parametrize("sets", [1, 2, 5])
def test_the_same_truth_hardly_ever_differs_whatever_the_number_of_sets(sets):
    rng = np.random.default_rng(2)
    verdicts, far = [], []
    for _ in range(400):
        paper, _ = runs(rng, 50, 5)
        for place, mean in ((verdicts, 50), (far, 35)):
            values, numbers = runs(rng, mean, sets)
            place.append(equal_to_published(values, np.mean(paper), np.std(paper), 5, sets=numbers).verdict)
    assert verdicts.count("differs") <= 8 and far.count("matched") == 0 and far.count("differs") > 350
    least, most = {1: (0, 0), 2: (80, 200), 5: (200, 400)}[sets]
    assert least <= verdicts.count("matched") <= most


def test_sets_are_the_unit_and_one_set_is_not_enough():
    pairs = [48.7, 48.9, 49.2, 49.0]
    means = equal_to_published([48.8, 49.1], 48.9, 0.6, 5)
    grouped = equal_to_published(pairs, 48.9, 0.6, 5, sets=[3, 3, 7, 7])
    assert (grouped.low, grouped.high, grouped.verdict) == (
        pytest.approx(means.low),
        pytest.approx(means.high),
        means.verdict,
    )
    alone = equal_to_published(FIVE, 48.9, 0.6, 5, sets=[0] * 5)
    assert alone.verdict == "undecided" and "one set" in alone.reason and math.isfinite(alone.low)
    assert equal_to_published([30.0] * 5, 48.9, 0.6, 5, sets=[0] * 5).verdict == "differs"
    assert (
        equal_to_published([30.0] * 5, 48.9, 0.0, 5, sets=[0] * 5).verdict == "differs"
    )  # a deviation rounded to nothing
    assert equal_to_published([48.9] * 5, 48.9, 0.0, 5, sets=[0] * 5).verdict == "undecided"
    for unknown in ({"published_std": None, "trials": 5}, {"published_std": 0.6, "trials": 1}):  # no spread to borrow
        none = equal_to_published([30.0] * 5, 48.9, sets=[0] * 5, **unknown)
        assert none.verdict == "undecided" and "at least 2" in none.reason
    with pytest.raises(UserError, match="5 values need as many numbers of sets; got 2"):
        equal_to_published(FIVE, 48.9, 0.6, 5, sets=[0, 1])


@pytest.mark.parametrize("bad", [(math.nan, 0.5, 5), (50.0, -0.5, 5), (50.0, 0.5, 0), (50.0, math.inf, 3)])
def test_numbers_that_cannot_be_published(bad):
    with pytest.raises(UserError, match="finite mean, a deviation >= 0 and trials >= 1"):
        equal_to_published(FIVE, *bad)


# --- classes and calibration ----------------------------------------------------------------------
def test_per_class_accuracy():
    labels = torch.tensor([0, 0, 1, 1, 1, 3])
    answers = torch.tensor([0, 1, 1, 1, 0, 3])
    expected = [50.0, pytest.approx(200 / 3), None, 100.0]
    assert per_class_accuracy_pct(answers, labels, 4) == expected
    assert per_class_accuracy_pct(torch.nn.functional.one_hot(answers, 4).float(), labels, 4) == expected


def test_calibration_error_by_hand_and_by_loop():
    confidence, right = torch.tensor([0.95, 0.95, 0.55, 0.55]), torch.tensor([True, False, True, False])
    assert calibration_error_pct(confidence, right, bins=10) == pytest.approx(100 * (0.5 * 0.45 + 0.5 * 0.05))
    rng = stream(0)
    confidence, right = torch.rand(500, generator=rng), torch.rand(500, generator=rng) < 0.6
    total = 0.0
    for b in range(15):
        inside = [(float(c), bool(r)) for c, r in zip(confidence, right, strict=True) if b / 15 < c <= (b + 1) / 15]
        if inside:
            total += len(inside) / 500 * abs(np.mean([r for _, r in inside]) - np.mean([c for c, _ in inside]))
    assert calibration_error_pct(confidence, right) == pytest.approx(100 * total)
    assert calibration_error_pct(torch.ones(4), torch.ones(4, dtype=torch.bool)) == 0
    assert calibration_error_pct(torch.ones(4), torch.zeros(4, dtype=torch.bool)) == 100


def test_confidences_at_the_ends_have_a_bin_and_bad_ones_are_refused():
    confidence, right = torch.tensor([0.0, 0.1, 1.0]), torch.tensor([False, True, True])
    assert calibration_error_pct(confidence, right, bins=2) == pytest.approx(100 * 2 / 3 * 0.45)
    with pytest.raises(UserError, match="softmax"):
        calibration_error_pct(torch.tensor([2.0, 3.0]), torch.tensor([True, True]))
    with pytest.raises(UserError, match="one confidence per answer"):
        calibration_error_pct(torch.rand(3), torch.ones(2, dtype=torch.bool))
