"""DD-Ranking: the formulas' published values, and the procedure with an evaluation that answers from a table."""

import math
from types import SimpleNamespace

import pytest
import torch

from distill_lib.core.errors import UserError
from distill_lib.core.rng import stream
from distill_lib.data import Facts, ImageSet
from distill_lib.evaluation import evaluate
from distill_lib.evaluation.metrics import dd_ranking as ranking
from distill_lib.evaluation.metrics.dd_ranking import augmentation_robust_score, dd_ranking, label_robust_score


@pytest.mark.parametrize(
    "alpha,score", [(-1, 0.0), (-0.5, 0.10154), (0, 0.26894), (0.1, 0.31369), (0.5, 0.54495), (1, 1.0)]
)
def test_scores_of_the_paper(alpha, score):
    assert ranking._score(alpha) == pytest.approx(score, abs=5e-6)
    gain = max(alpha, 0.0)  # with weight 1 on IOR, alpha is the gain; with weight 0, minus the loss
    assert label_robust_score(1.0, 1.0 - max(-alpha, 0.0), gain, 0.0, weight=float(alpha >= 0)) == pytest.approx(
        score, abs=5e-6
    )
    assert augmentation_robust_score(gain, max(-alpha, 0.0), gain, max(-alpha, 0.0)) == pytest.approx(score, abs=5e-6)


def test_the_worked_example():
    assert ranking.hard_label_recovery(0.848, 0.606) == pytest.approx(0.242)
    assert ranking.improvement_over_random(0.606, 0.434) == pytest.approx(0.172)
    assert label_robust_score(0.848, 0.606, 0.606, 0.434) == pytest.approx(0.2543, abs=5e-5)
    assert label_robust_score(0.848, 0.606, 0.606, 0.434) != pytest.approx(-0.144, abs=0.01)  # release 0.2.0


def test_weights_choose_what_counts():
    assert label_robust_score(0.9, 0.5, 0.7, 0.3, weight=1.0) == pytest.approx(ranking._score(0.4))
    assert label_robust_score(0.9, 0.5, 0.7, 0.3, weight=0.0) == pytest.approx(ranking._score(-0.4))
    assert augmentation_robust_score(0.6, 0.4, 0.5, 0.5, weight=1.0) == pytest.approx(ranking._score(0.2))
    assert augmentation_robust_score(0.6, 0.4, 0.5, 0.5) == pytest.approx(ranking._score(0.1))


@pytest.mark.parametrize("bad", [84.8, -0.1, math.nan])
def test_percentages_are_refused(bad):
    for call in (
        lambda: ranking.hard_label_recovery(bad, 0.5),
        lambda: ranking.improvement_over_random(0.5, bad),
        lambda: label_robust_score(0.8, 0.6, bad, 0.4),
        lambda: augmentation_robust_score(0.6, 0.4, 0.5, bad),
        lambda: label_robust_score(0.8, 0.6, 0.6, 0.4, weight=bad),
    ):
        with pytest.raises(UserError, match="fractions in \\[0, 1\\]|divide percentages"):
            call()


# --- the procedure --------------------------------------------------------------------------------
def toy(n_per_class=40, classes=3, side=4):
    labels = torch.arange(classes).repeat(n_per_class)
    pixels = (
        torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 1, side, side).to(torch.uint8)
    )  # every image is its number
    return ImageSet(pixels.clone(), labels, Facts("toy", tuple("abc"), (0.5,), (0.2,)))


def synthetic_of(real, ipc=2, soft=False):
    made = ImageSet.from_classes(torch.randn(3, ipc, *real.shape, generator=stream(0)), like=real)
    return ImageSet(made.images, torch.rand(len(made), 3, generator=stream(1)), made.facts) if soft else made


class Table:
    """Stands in for `evaluate`: accuracies by set and protocol, and a note of every call."""

    def __init__(self, synthetic, real, /, looks=True, **accuracies):
        self.sets, self.looks, self.accuracies, self.calls = (
            {id(synthetic): "syn", id(real): "real"},
            looks,
            accuracies,
            [],
        )

    def __call__(self, images, test, protocol, **options):
        kind = self.sets.get(id(images), "rdm")
        name = protocol if isinstance(protocol, str) else protocol.name
        self.calls.append((kind, name, images, options))
        pct = self.accuracies[kind + ("_naug" if "+noaug" in name else "_soft" if "+kl" in name else "")]
        metrics = {"test_selected_pct": [pct + 3]} if self.looks else {}
        return SimpleNamespace(test_accuracy_pct=[pct], metrics=metrics)


def test_hard_label_procedure():
    real, test = toy(), toy(10)
    synthetic = synthetic_of(real)
    hashes = [s.sha256() for s in (synthetic, real)]
    table = Table(synthetic, real, syn=60.6, rdm=43.4, real=84.8, syn_naug=50.0, rdm_naug=45.0)
    got = dd_ranking(synthetic, real, test, table, rounds=2, seed=3, protocol="dd_ranking@60ep")
    assert got.hlr == pytest.approx([0.242] * 2) and got.ior == pytest.approx([0.172] * 2)
    assert got.lrs == pytest.approx([0.2543] * 2, abs=5e-5)
    assert got.ars == pytest.approx([ranking._score(0.5 * 0.172 + 0.5 * 0.05)] * 2)
    assert "LRS 25.4 ± 0.0 %" in str(got) and "last epoch" in str(got)
    assert got.official.hlr == pytest.approx(got.hlr) and got.official.accuracies["syn_any"] == pytest.approx(
        [0.636] * 2
    )
    assert "test set" in got.official.selection and got.official.official is None
    assert [s.sha256() for s in (synthetic, real)] == hashes

    assert [(kind, name) for kind, name, *_ in table.calls[:5]] == [
        ("syn", "dd_ranking@60ep"),
        ("rdm", "dd_ranking@60ep"),
        ("syn", "dd_ranking+noaug@60ep"),
        ("rdm", "dd_ranking+noaug@60ep"),
        ("real", "dd_ranking_full_data@60ep"),
    ]
    assert len(table.calls) == 10
    assert {c[3]["seed"] for c in table.calls[:5]} != {c[3]["seed"] for c in table.calls[5:]}
    assert all(c[3]["num_eval"] == 1 for c in table.calls)


def test_the_procedure_with_networks_that_are_trained(digits):
    real, test = digits
    few = real.subset(real.draw_index(1, stream(0)).flatten())
    got = dd_ranking(few, real, test, evaluate, "MLP", rounds=1, protocol="dd_ranking@1ep", full_data=[0.5])
    pct = got.accuracies
    assert got.hlr == [pct["real_hard"][0] - pct["syn_hard"][0]] and pct["real_hard"] == [0.5]
    assert all(0 < pct[name][0] <= got.official.accuracies[name][0] < 1 for name in ("syn_any", "rdm_any", "syn_naug"))


def test_random_images_are_fresh_balanced_and_apart_from_validation():
    real = toy()
    synthetic = synthetic_of(real, ipc=5)
    table = Table(synthetic, real, syn=50.0, rdm=40.0, real=80.0, syn_naug=50.0, rdm_naug=40.0)
    dd_ranking(synthetic, real, toy(10), table, rounds=3)
    drawn = [c[2] for c in table.calls if c[0] == "rdm" and "+noaug" not in c[1]]
    validation = [c[3]["validation"] for c in table.calls if c[0] in ("syn", "rdm")]
    assert len({v.sha256() for v in validation}) == 1
    held_out = set(validation[0].images[:, 0, 0, 0].tolist())
    assert len(held_out) == 3 * 4  # a tenth of 40 images per class
    for images in drawn:
        assert torch.bincount(images.labels).tolist() == [5, 5, 5]
        numbers = images.images[:, 0, 0, 0]
        assert torch.equal(numbers.long() % 3, images.labels) and len(set(numbers.tolist())) == 15
        assert not held_out & set(numbers.tolist())
    assert len({images.sha256() for images in drawn}) == 3
    again = Table(synthetic, real, syn=50.0, rdm=40.0, real=80.0, syn_naug=50.0, rdm_naug=40.0)
    dd_ranking(synthetic, real, toy(10), again, rounds=3)
    assert [c[2].sha256() for c in again.calls] == [c[2].sha256() for c in table.calls]


def test_soft_labels_treat_random_images_alike():
    real = toy()
    synthetic = synthetic_of(real, soft=True)
    table = Table(
        synthetic, real, looks=False, syn=50.0, syn_soft=62.0, rdm_soft=48.0, real=84.0, syn_naug=40.0, rdm_naug=41.0
    )

    def teacher(images):
        assert images.is_floating_point()  # normalised
        return torch.stack([images.mean((1, 2, 3)) + k for k in range(3)], 1)

    soft = {"rounds": 1, "soft_protocol": "dd_ranking+kl", "teacher": teacher}
    dd_ranking(synthetic, real, toy(10), table, protocol="dd_ranking@60ep", **soft)
    assert "dd_ranking_full_data@60ep" in [c[1] for c in table.calls]  # the difference of hard labels: one budget
    table.calls.clear()
    got = dd_ranking(synthetic, real, toy(10), table, **soft, full_data=[0.84])
    assert got.hlr == pytest.approx([0.34]) and got.ior == pytest.approx([0.14]) and got.official is None
    assert got.ars == pytest.approx([ranking._score(0.5 * 0.14 - 0.5 * 0.01)])
    assert [(c[0], c[1]) for c in table.calls] == [
        ("syn", "dd_ranking+kl"),
        ("rdm", "dd_ranking+kl"),
        ("syn", "dd_ranking+kl+noaug"),
        ("rdm", "dd_ranking+kl+noaug"),
        ("syn", "dd_ranking"),
    ]
    random = table.calls[1][2]
    assert random.labels.shape == (6, 3) and torch.equal(random.labels[:, 1] - random.labels[:, 0], torch.ones(6))


def test_full_data_protocol_is_the_published_one():
    p = ranking.full_data_protocol()
    assert (p.epochs, p.batch, p.lr, p.lr_grid, p.optimizer, p.momentum, p.weight_decay) == (
        200,
        512,
        0.01,
        (),
        "sgd",
        0.9,
        5e-4,
    )
    rates = p.learning_rates(5000, 50_000)
    assert len(rates) == 200 and rates[99] == 0.01 and rates[100] == pytest.approx(0.001)


def test_bad_input():
    real = toy()
    synthetic = synthetic_of(real)
    for wrong, message in [
        ({"full_data": [84.8]}, "divide percentages by 100"),
        ({"full_data": [0.8, 0.8, 0.8]}, "3 full-data accuracies for 5 rounds"),
        ({"rounds": 0}, "at least 1"),
        ({"soft_protocol": "dd_ranking+kl"}, "a teacher"),
        ({"soft_protocol": "dd_ranking+kl", "teacher": lambda x: x}, "soft labels"),
    ]:
        with pytest.raises(UserError, match=message):
            dd_ranking(synthetic, real, real, None, **wrong)
    with pytest.raises(UserError, match="at least 10 real images"):
        dd_ranking(synthetic, toy(9), real, None)
    with pytest.raises(UserError, match="only 36 left"):
        dd_ranking(synthetic_of(real, ipc=37), real, real, None)
