"""DGS: scores, transform, targets and sampling by hand and against plain loops; any pool will do."""

import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.evaluation.metrics import difficulty
from distill_lib.methods import dgs
from distill_lib.methods.dgs import (
    Sampler,
    bin_of,
    choose,
    from_bins,
    histogram,
    objective,
    scaled,
    thresholds,
    transformed,
)
from distill_lib.networks.reference import Training

TEN = torch.tensor([0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 0.9, 0.95, 0.99], dtype=torch.float64)


def beta(a, b, n, seed):
    return torch.from_numpy(np.random.default_rng(seed).beta(a, b, n)).round(decimals=4)


# --- difficulty -------------------------------------------------------------------------------------------------------
def test_difficulty_is_one_minus_the_probability_to_four_decimals():
    log_p = torch.tensor([0.75, 1.0, 0.123456, 1e-12], dtype=torch.float64).log()
    assert difficulty.difficulty(log_p).tolist() == [0.25, 0.0, 0.8765, 1.0]
    small = difficulty.difficulty(torch.tensor([-1e-9], dtype=torch.float64), rounded=False)
    assert small.item() == pytest.approx(1e-9, rel=1e-6)  # 1 - exp would lose half of the digits


@pytest.fixture(scope="module")
def real():
    digits = data.load("digits")[0]
    return digits.subset(digits.draw_index(20, stream(0)).flatten())


QUICK = Training(network="ConvNetW32", epochs=2, batch=64)


def test_a_trained_scorer_scores_by_the_classifier_of_the_real_set(real):
    from distill_lib.networks import reference

    score = difficulty.scorer("trained", real, QUICK)
    network = reference.on_real(real, QUICK, 0).network
    images, labels = real.all()
    with torch.no_grad():
        p = network(images).double().softmax(1)[torch.arange(len(real)), labels]
    assert torch.allclose(score.real, 1 - p, atol=6e-5) and torch.equal(score(real), score.real)
    larger = data.ImageSet(real.images.repeat_interleave(2, 2).repeat_interleave(2, 3), real.labels, real.facts)
    assert score(larger).shape == (200,)  # a pool at another side than the real images


def test_held_out_scores_come_from_the_classifier_that_has_not_seen_the_image(real):
    from distill_lib.networks import reference

    score = difficulty.scorer("held_out", real, QUICK, folds=2)
    parts = difficulty._folds(real, 2, 0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(200))
    assert [torch.bincount(real.labels[p]).tolist() for p in parts] == [[10] * 10] * 2
    logits = []
    for held, rest in (parts, parts[::-1]):
        network = reference.on_real(real.subset(rest), QUICK, 0).network
        with torch.no_grad():
            logits.append(network(real.all()[0]).double())
        p = logits[-1].softmax(1)[held, real.labels[held]]
        assert torch.allclose(score.real[held], 1 - p, atol=6e-5)
    mean = torch.stack([x.softmax(1) for x in logits]).mean(0)[torch.arange(200), real.labels]
    assert torch.allclose(score(real), 1 - mean, atol=6e-5)
    with pytest.raises(UserError, match="give 2 to 20"):
        difficulty.scorer("held_out", real, QUICK, folds=21)


def test_a_pretrained_scorer_refuses_classes_it_does_not_know(real):
    with pytest.raises(UserError, match="trained or held_out"):
        difficulty.scorer("resnet50", real)


def test_mobilenet_pads_strided_convolutions_right_and_below_alone():
    class State(dict):  # random weights for whatever layer is asked for
        def __missing__(self, name):
            layer, _, part = name.rpartition(".")
            shape = shapes[layer]
            size = {"weight": shape, "weight_zero": (1,) * len(shape), "weight_scale": (1,) * len(shape)}
            return torch.randint(9, size.get(part, shape[:1]), generator=rng)

    rng, plain = stream(0), torchvision.models.MobileNetV2(num_classes=1001)
    layers = dict(plain.named_modules())
    shapes = {n: m.weight.shape for n, m in layers.items() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    network = difficulty.mobilenet_of(State()).eval()
    # torchvision's, norms folded, one class more
    assert sum(p.numel() for p in network.parameters()) == 3_504_872 - 17_056 + 1_281
    first, x = network.features[0][0], torch.randn(1, 3, 8, 8, generator=rng)
    padded = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), first.weight, first.bias, stride=2)
    assert torch.equal(first(x), padded) and padded.shape[-1] == 4


def test_mobilenet_recognises_real_images():
    from distill_lib.core import weights

    if weights.find("MobileNetV2") is None:
        pytest.skip("MobileNetV2's weights are not in a weights folder")
    try:
        test = data.load("ImageNette", download=False)[1]
    except UserError as err:
        pytest.skip(str(err))
    some = test.subset(test.draw_index(2, stream(0)).flatten())
    score = difficulty.scorer("mobilenet_v2", some)
    among = difficulty.scorer(
        "mobilenet_v2", some, among="set"
    )  # 95 % of all validation images have the right class of ten on top
    assert bool((among.real <= score.real + 1e-4).all()) and (among.real < 0.5).sum() >= 16


# --- transform --------------------------------------------------------------------------------------------------------
def test_the_transform_of_ten_scores_by_hand():
    x = transformed(TEN, 1, 1)
    wanted = [1e-4, 1e-4, 0.237336, 0.416874, 0.596412, 0.775950, 0.955488, 0.985996, 1, 1]
    assert torch.allclose(x, torch.tensor(wanted, dtype=torch.float64), atol=1e-6)
    assert histogram(x, 10).tolist() == [2, 0, 1, 0, 1, 1, 0, 1, 0, 4]
    assert scaled(histogram(x, 10), 5).tolist() == [1, 0, 1, 0, 1, 0, 0, 0, 0, 2]  # ties of remainders to the lower bin


def test_without_thresholds_the_ends_become_the_floor_and_one():
    x = transformed(TEN, 0, 0)
    assert (x[0].item(), x[-1].item()) == (1e-4, 1.0)


def test_a_lowest_score_of_zero_counts_as_the_resolution_of_the_rounding():
    x = transformed(torch.tensor([0.0, 0.01, 1.0]), 0, 0)
    assert x.tolist() == pytest.approx([1e-4, 0.5, 1.0])


def test_equation_7_as_it_reads_makes_the_cut_images_the_easiest():
    x = transformed(torch.tensor([0.1, 0.2, 0.4, 0.8]), 1, 1, "paper")
    middle = math.log(0.2001 / 1e-4) / math.log(0.4001 / 1e-4)
    assert x.tolist() == pytest.approx([1e-4, middle, 1.0, 1e-4])


@given(st.lists(st.floats(0, 1), min_size=8, max_size=40), st.integers(0, 3), st.integers(0, 3), st.floats(0.1, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_transform_keeps_the_order_and_ignores_a_common_factor(values, b, t, factor):
    scores = torch.tensor(values, dtype=torch.float64).clamp_min(0.01)
    x = transformed(scores, b, t)
    if x.isnan().any():
        assert scores.sort().values[b] == scores.sort().values[len(scores) - 1 - t]
        return
    assert bool((x[scores.argsort()].diff() >= -1e-12).all()) and float(x.min()) >= 1e-4 and float(x.max()) <= 1
    assert torch.allclose(transformed(scores * factor, b, t), x, atol=1e-9)


def test_the_easy_heavy_becomes_hard_heavy():
    raw = beta(0.5, 1.2, 1300, 0)
    x = transformed(raw, 2, 1)
    before, after = histogram(raw, 10), histogram(x, 10)
    assert before[0] == before.max() and after[9] == after.max() and after[9] > 300


def test_too_large_thresholds_are_one_clear_error():
    with pytest.raises(UserError, match="thresholds up to 10 and 0 for 10 scores"):
        transformed(TEN, 10, 0)


@pytest.mark.parametrize("bins", [3, 7, 10])
def test_a_score_on_an_edge_goes_where_numpy_puts_it(bins):
    scores = torch.arange(10_001, dtype=torch.float64) / 10_000  # every score there is, at four decimals
    found = bin_of(scores, bins)
    assert torch.bincount(found).tolist() == np.histogram(scores.numpy(), bins, (0, 1))[0].tolist() and bool(
        (found.diff() >= 0).all()
    )
    if bins == 10:  # 0.3, 0.6 and 0.7 lie below 3, 6 and 7 times 0.1
        assert bin_of(
            torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0], dtype=torch.float64), 10
        ).tolist() == [0, 1, 2, 2, 5, 5, 6, 9, 9]


# --- thresholds -------------------------------------------------------------------------------------------------------
def plain_objective(scores, ipc, weight, variant):
    """Equation 9 in plain loops over numpy's histograms, nothing else."""
    n, most, out = len(scores), ipc // 2, {}
    ordered = np.sort(scores)
    kl = lambda p, q: sum(
        0 if a == 0 else math.inf if c == 0 else a * math.log2(a / c) for a, c in zip(p, q, strict=True)
    )
    raw, even = np.histogram(scores, 10, (0, 1))[0] / n, np.full(10, 0.1)
    for b in range(most):
        for t in range(most):
            if variant == "code":
                low, high = ordered[b] or 1e-4, ordered[n - 1 - t]
                x = np.clip(scores, low, max(high, 1e-4))
            else:
                rank = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
                x = np.where((rank >= b) & (rank <= n - 1 - t), scores, 0) + 1e-4
                low, high = x.min(), x.max()
            if high <= low:
                out[b, t] = math.nan
                continue
            log = np.clip(np.log(x / low) / math.log(high / low), 1e-4, 1)
            h = np.histogram(log, 10, (0, 1))[0] / n
            pairs = ((raw, h), (even, h)) if variant == "code" else ((h, raw), (h, even))
            out[b, t] = weight * kl(*pairs[0]) + (1 - weight) * kl(*pairs[1])
    return out


@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_objective_equals_plain_loops(variant, seed):
    scores = beta(0.3, 2.0, 250, seed)
    found = objective(scores, scores, 20, Sampler(variant=variant, weight=0.3))
    for (b, t), value in plain_objective(scores.numpy(), 20, 0.3, variant).items():
        assert found[b, t].item() == pytest.approx(value, nan_ok=True, abs=1e-9), (b, t)


def test_the_paper_looks_at_the_real_images_and_the_code_at_the_pool():
    pool, real = beta(0.3, 2.0, 50, 0), beta(0.5, 1.2, 500, 1)
    other = beta(2.0, 0.5, 500, 2)
    assert torch.equal(objective(pool, real, 10, Sampler()), objective(pool, other, 10, Sampler()))
    paper = Sampler(variant="paper")
    assert torch.equal(objective(pool, real, 10, paper), objective(beta(2, 2, 50, 3), real, 10, paper))


def test_all_infinite_or_no_scale_chooses_no_cut():
    few = torch.tensor([0.0] * 25 + [1.0] * 25)  # two values leave eight bins empty
    assert bool(objective(few, few, 10, Sampler()).isinf().all()) and thresholds(few, few, 10, Sampler()) == (0, 0)
    same = torch.full((50,), 0.3)
    assert bool(objective(same, same, 10, Sampler()).isnan().all()) and thresholds(same, same, 10, Sampler()) == (0, 0)


def test_a_cut_without_scale_is_never_chosen():
    scores = torch.tensor([0.1] + [0.5] * 10)  # any b > 0 leaves one value
    assert thresholds(scores, scores, 4, Sampler()) == (0, 0)
    assert bool(objective(scores, scores, 4, Sampler())[1].isnan().all())


# --- targets and sampling ---------------------------------------------------------------------------------------------
def test_largest_remainders_by_hand():
    assert scaled(torch.tensor([5, 3, 0, 0, 0, 0, 0, 0, 0, 2]), 4).tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]


@given(st.lists(st.integers(0, 60), min_size=10, max_size=10).filter(sum), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_targets_sum_to_ipc_and_stay_within_one_of_their_share(counts, ipc):
    counts = torch.tensor(counts)
    target = scaled(counts, ipc)
    assert int(target.sum()) == ipc and bool(((target - counts * ipc / counts.sum()).abs() < 1).all())


@pytest.mark.parametrize("name", dgs.PREDEFINED)
def test_every_predefined_target_sums_to_its_ipc(name):
    assert {ipc: sum(row) for ipc, row in dgs.PREDEFINED[name].items()} == {10: 10, 20: 20, 50: 50}
    assert all(len(row) == 10 for row in dgs.PREDEFINED[name].values())


@pytest.mark.parametrize("target", ["hill", "ground", "slope", "cliff"])
def test_a_predefined_target_is_met_where_the_pool_has_enough(target):
    raw = torch.linspace(0, 1, 1001)[:-1]
    found = choose(raw, raw, 20, Sampler(target=target, transform="none"), stream(0))
    assert found.achieved.tolist() == list(dgs.PREDEFINED[target][20]) and found.total_variation == 0
    with pytest.raises(UserError, match="defined for ipc 10, 20 and 50 with 10 bins, not for ipc 7"):
        choose(raw, raw, 7, Sampler(target=target), stream(0))


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_a_pool_equal_to_the_real_set_meets_a_whole_target_exactly(variant):
    raw = beta(0.5, 1.2, 200, 3)
    found = choose(raw, raw, 200, Sampler(variant=variant), stream(0))
    assert sorted(found.places.tolist()) == list(range(200))  # ipc = pool size: the whole pool
    doubled = raw.repeat(2)  # counts are even, so half of each bin is a whole number
    found = choose(doubled, doubled, 200, Sampler(variant=variant), stream(0))
    assert (
        torch.equal(found.achieved, found.wanted)
        and len(set(found.places.tolist())) == 200
        and found.total_variation == 0
    )


def test_a_poor_bin_gives_all_and_the_rest_is_filled_from_anywhere():
    bins = torch.tensor([0] * 8 + [5] * 2)
    places = from_bins(bins, torch.tensor([1, 0, 0, 0, 0, 4, 0, 0, 0, 0]), 5, stream(0))
    assert len(set(places.tolist())) == 5 and {8, 9} <= set(places.tolist())
    seen = {tuple(from_bins(bins, torch.tensor([1] + [0] * 9), 3, stream(s)).tolist()) for s in range(40)}
    assert len(seen) > 20  # uniform: other seeds, other images


def test_total_variation_counts_what_was_wanted_and_not_there():
    pool = torch.tensor([0.05] * 40 + [0.95] * 2)
    real = torch.tensor([0.05] * 50 + [0.95] * 50)
    found = choose(pool, real, 10, Sampler(transform="none"), stream(0))
    assert found.wanted.tolist() == [5] + [0] * 8 + [5] and found.achieved.tolist() == [8] + [0] * 8 + [2]
    assert found.total_variation == pytest.approx(0.3)


def test_shares_cut_the_same_part_of_pool_and_real_images():
    pool, real = beta(0.3, 2.0, 50, 0), beta(0.5, 1.2, 500, 1)
    b, t = thresholds(pool, real, 10, Sampler())
    ranks, shares = (choose(pool, real, 10, Sampler(thresholds=how), stream(0)) for how in ("ranks", "shares"))
    assert ranks.wanted.tolist() == scaled(histogram(transformed(real, b, t), 10), 10).tolist()
    assert shares.wanted.tolist() == scaled(histogram(transformed(real, 10 * b, 10 * t), 10), 10).tolist()


def test_the_sampler_works_on_the_pool_of_any_generator(real):
    """Images of a GAN, here real ones with noise, are a pool like any other."""
    score = difficulty.scorer("trained", real, QUICK)
    noise = torch.randint(0, 60, real.images.shape, generator=stream(1), dtype=torch.uint8)
    pool = data.ImageSet(torch.maximum(real.images, noise), real.labels, real.facts)
    made = dgs.sampled(pool, real, score, 4, Sampler(), seed=0, method="DGS on a GAN")
    assert (
        made.shape == real.shape
        and torch.bincount(made.labels).tolist() == [4] * 10
        and made.images.dtype == torch.float32
    )
    report = made.facts.extra["dgs"]
    for k, line in enumerate(report):
        assert sum(line["wanted"]) == sum(line["achieved"]) == 4 and sum(line["in_pool"]) == 20
        images = pool.take(pool.class_index[k][torch.tensor(line["places"])])[0]
        assert torch.allclose(made.images[4 * k : 4 * k + 4], images, atol=1e-5)
    again = dgs.sampled(pool, real, score, 4, Sampler(), seed=0)
    assert torch.equal(again.images, made.images)
    assert not torch.equal(dgs.sampled(pool, real, score, 4, Sampler(), seed=1).images, made.images)
    assert dgs.measure(made, real, dgs.Config())["total_variation"][0] == pytest.approx(
        sum(x["total_variation"] for x in report) / 10
    )
    with pytest.raises(UserError, match="20 images of class '0'; 21 are wanted"):
        dgs.sampled(pool, real, score, 21, Sampler(), seed=0)


def test_the_papers_settings():
    cfg = dgs.paper_config("ImageWoof", 10)
    assert (cfg.pool, cfg.sampler, cfg.scoring.scorer, cfg.scoring.among) == (
        5,
        Sampler("scale", "log", "code", "ranks", 0.5, 10),
        "resnet50",
        "all",
    )
    assert (cfg.tuning.batch, cfg.tuning.lr, cfg.sampling.steps, cfg.base.side) == (8, 1e-3, 50, 256)
    assert dgs.paper_config("digits", 10).scoring.scorer == "trained"
