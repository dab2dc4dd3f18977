"""Evaluation protocols: epochs, learning rates and departures from the reference, as the papers' codes have them."""

import json
import math

import pytest
import torch

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.settings import as_dict, from_dict, replace
from distill_lib.evaluation.protocols import (
    PROTOCOLS,
    REASONS,
    SOURCES,
    VARIANTS,
    Case,
    Protocol,
    departures,
    differing_fields,
    protocol,
)


@pytest.mark.parametrize(
    "name, total, last_high", [("vico_noaug", 301, 151), ("vico_dsa", 1001, 501), ("mtt", 1001, 501)]
)
def test_the_reference_protocol_runs_one_epoch_more_and_drops_its_rate_once(name, total, last_high):
    p = protocol(name)
    rates = p.learning_rates(ipc=10, images=100)
    assert len(rates) == p.num_epochs(10, 100) == total
    assert rates[: last_high + 1] == [0.01] * (last_high + 1)
    assert rates[last_high + 1 :] == pytest.approx([0.001] * (total - last_high - 1))
    assert p.restarts_after(10, 100) == last_high


def test_a_budget_moves_the_milestones_and_stays_in_the_name():
    p = protocol("vico_dsa@60ep")
    rates = p.learning_rates(10, 100)
    assert p.name == "vico_dsa@60ep" and len(rates) == 61
    assert rates.count(0.01) == 32 and rates[31] == 0.01 and rates[32] == pytest.approx(0.001)
    idc = protocol("idc_small@60ep").learning_rates(10, 100)
    assert [idc[e] for e in (39, 40, 49, 50, 59)] == pytest.approx([0.01, 0.002, 0.002, 0.0004, 0.0004])
    assert protocol("minimax_imagenet@150ep").num_checks(50, 500) == 10  # 100 looks at 1500 epochs
    assert protocol("dim@60ep").num_checks(10, 100) == 1


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_every_preset_has_a_rate_for_every_epoch_of_the_smallest_budgets(name, budget):
    p = protocol(f"{name}@{budget}ep")
    rates = p.learning_rates(10, 100)
    assert len(rates) == p.num_epochs(10, 100) * (p.batches(100) if p.lr_per_step else 1)
    assert all(0 <= r <= 0.01 for r in rates)


def test_idc_drops_to_a_fifth_at_two_thirds_and_five_sixths():
    rates = protocol("idc_small").learning_rates(10, 100)
    assert len(rates) == 1000
    assert [rates[e] for e in (0, 665, 666, 832, 833, 999)] == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004])


@pytest.mark.parametrize(
    "ipc, epochs", [(1, 3000), (10, 2000), (20, 1500), (50, 1500), (100, 1000), (500, 500), (1300, 300)]
)
def test_minimax_trains_small_sets_longer(ipc, epochs):
    p = protocol("minimax_imagenet")
    assert p.num_epochs(ipc, 10 * ipc) == epochs
    hundred = p.settled("ImageNet-100", "ConvNet", ipc, classes=100)
    assert hundred.num_epochs(ipc, 100 * ipc) == epochs * 2 // 3 // 100 * 100


def test_glad_warms_up_for_half_and_then_follows_a_cosine():
    rates = protocol("glad").learning_rates(1, 10)
    assert len(rates) == 1000
    assert rates[0] == pytest.approx(1e-7 * 1e-3) and rates[500] == rates[501] == pytest.approx(1e-3)
    assert rates[250] == pytest.approx(0.5e-3, rel=1e-6) and rates[751] == pytest.approx(0.5e-3, rel=1e-6)
    assert rates[999] < 1e-7
    assert protocol("glad").settled("ImageNette", "VGG11", 1, 10).lr == 1e-4


@pytest.mark.parametrize("name, epochs", [("glad", 1000), ("glad@60ep", 60), ("glad@7ep", 7), ("glad@1ep", 1)])
def test_glads_rates_are_those_of_its_two_schedulers(name, epochs):
    """Its loop steps the linear rise once more after the middle epoch, then goes over to the cosine."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.001)
    half, wanted = epochs // 2, []
    now = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-7, 1.0, total_iters=max(half, 1))
    then = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(half, 1))
    for epoch in range(epochs):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        now.step()
        if epoch == half:
            now = then
    assert protocol(name).learning_rates(1, 10) == pytest.approx(wanted, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("images, steps", [(10, 1000), (100, 2000), (500, 5000), (1000, 10000)])
def test_frepo_counts_steps(images, steps):
    p = protocol("frepo_mse")
    rates = p.learning_rates(images // 10, images)
    assert len(rates) == steps == p.num_epochs(images // 10, images) * p.batches(images)
    assert rates[0] == 0 and rates[250] == pytest.approx(1.5e-4) and max(rates) == rates[500] == pytest.approx(3e-4)
    middle = 500 + (steps - 500) // 2
    assert rates[middle] == pytest.approx(3e-4 * (1 + 0.01) / 2, rel=1e-3)
    assert rates[-1] == pytest.approx(3e-6, rel=0.05)


def test_frepos_warm_up_keeps_its_share_in_a_budget():
    rates = protocol("frepo_mse@20ep").learning_rates(10, 100)
    assert len(rates) == 20 and rates.index(max(rates)) == 5  # 500 of 2000 steps


def test_dim_keeps_its_rate():
    assert protocol("dim").learning_rates(10, 100) == [0.01] * 1000
    assert protocol("dim").fresh_images and not protocol("dim_fixed").fresh_images
    assert differing_fields("dim").keys() - differing_fields("dim_fixed").keys() == {"fresh_images"}


def test_the_challenge_trains_as_its_public_script_and_its_variant_by_steps():
    p, steps = protocol("challenge"), protocol("challenge_steps")
    rates = p.learning_rates(ipc=10, images=1000)  # of 100 classes
    assert len(rates) == 1001 and rates.count(0.01) == 502 and p.num_eval == 3 and p.batch == 256
    assert differing_fields("challenge_steps").keys() - differing_fields("challenge").keys() == {"steps_of_ipc"}
    assert steps.learning_rates(10, 1000) == rates  # at ten images per class they are the same
    epochs = steps.num_epochs(400, 40_000)
    assert epochs == round(1000 * 4 / 157) + 1 and steps.restarts_after(400, 40_000) == 25 // 2 + 1
    assert steps.num_epochs(1, 100) == 4001  # one batch instead of four: four times the epochs
    assert protocol("challenge_steps@60ep").num_epochs(400, 40_000) == round(60 * 4 / 157) + 1
    assert protocol("challenge@60ep").num_epochs(400, 40_000) == 61
    assert steps.num_epochs(5000, 500_000) == 3  # 1954 batches


def test_dd_ranking_steps_once_in_the_middle():
    rates = protocol("dd_ranking").learning_rates(10, 100, lr=0.05)
    assert rates == pytest.approx([0.05] * 500 + [0.005] * 500)


def test_digits_follow_their_own_augmentation_rules():
    def settled(name, dataset, network="ConvNet"):
        return protocol(name).settled(dataset, network, ipc=10, classes=10)

    mnist = settled("vico_noaug", "MNIST")
    assert mnist.augmentation == "dc:crop_scale_rotate" and mnist.num_epochs(10, 100) == 1001
    assert settled("vico_noaug", "FashionMNIST").augmentation == "none"
    assert settled("vico_noaug", "FashionMNIST").num_epochs(10, 100) == 301
    assert settled("vico_noaug", "CIFAR10", "ConvNetBN").augmentation == "dc:crop_noise"
    for dataset in data.DATASETS:
        assert ("flip" in settled("vico_dsa", dataset).augmentation) == data.like(dataset).mirrors, dataset
    assert "flip" not in settled("frepo_mse", "FashionMNIST-mini").augmentation
    assert protocol("idc_small").settled("SVHN", "ConvNet", 1, 10).cutmix == 0
    assert protocol("idc_small").settled("SVHN", "ConvNet", 10, 10).cutmix == 0.5
    assert protocol("dd_ranking").settled("CIFAR10", "ConvNet", 10, 10, soft=True).checks == 50


def test_what_the_name_says_outranks_the_data_sets_rule():
    p = protocol("vico_dsa+noaug@60ep").settled("MNIST", "ConvNet", 1, 10)
    assert p.augmentation == "none" and p.num_epochs(1, 10) == 61
    assert protocol("vico_noaug@60ep").settled("MNIST", "ConvNet", 1, 10).num_epochs(1, 10) == 61


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_departure_from_the_reference_is_listed_and_only_those_have_reasons(name):
    rows = departures(name)
    assert REASONS.get(name, {}).keys() <= differing_fields(name).keys()
    assert all(row["here"] and row["here"] != row["vico_noaug"] for row in rows)
    assert protocol(f"{name}@7ep").about == SOURCES[name] and protocol("vico_dsa+noaug").about == SOURCES["vico_dsa"]


def test_the_page_prints_values_and_reasons():
    assert [row["field"] for row in departures("vico_dsa")] == ["epochs", "augmentation", "cases"]
    fields = ["epochs", "lr_from_set", "augmentation", "num_eval", "cases"]
    assert [row["field"] for row in departures("mtt")] == fields and departures("vico_noaug") == []
    rows = {row["field"]: row for row in departures("minimax_imagenet")}
    assert rows["epochs_by_ipc"]["here"].startswith("up to 1: 3000, up to 10: 2000,")
    assert rows["cases"]["here"].startswith("100 classes or more: epochs_by_ipc up to 1: 2000")
    assert "every hundredth" in rows["checks"]["why"] and rows["checks"]["here"] == "100"
    assert departures("vico_dsa")[-1]["here"] == "MNIST, SVHN: augmentation dsa:color_crop_cutout_scale_rotate"


@pytest.mark.parametrize("name", [*PROTOCOLS, "vico_dsa+soft@60ep"])
def test_a_protocol_survives_json(name):
    p = protocol(name)
    back = from_dict(Protocol, json.loads(json.dumps(as_dict(p))))
    assert as_dict(back) == as_dict(p)
    assert back.settled("MNIST", "VGG11", 1, 100) == p.settled("MNIST", "VGG11", 1, 100)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_change_what_they_name(variant):
    p = protocol(f"idc_small+{variant}")
    assert p.name == f"idc_small+{variant}"
    assert all(getattr(p, k) == v for k, v in VARIANTS[variant].items())


@pytest.mark.parametrize(
    "name, says",
    [
        ("vico_das", "did you mean vico_dsa"),
        ("vico", "choose one of vico_noaug, vico_dsa"),
        ("vico_dsa@60", "such as vico_dsa@60ep"),
        ("vico_dsa@0ep", "such as vico_dsa@60ep"),
        ("vico_dsa@", "such as vico_dsa@60ep"),
        ("vico_dsa+augless", "unknown variant of vico_dsa"),
    ],
)
def test_unknown_names_say_what_would_work(name, says):
    with pytest.raises(UserError, match="(?i)" + says.replace("+", r"\+")):
        protocol(name)


def test_your_own_protocol_passes_through_and_bad_fields_are_named():
    mine = replace(protocol("vico_dsa"), name="mine", batch=32)
    assert protocol(mine) is mine and mine.about == "your own"
    with pytest.raises(UserError, match="optimizer"):
        from_dict(Protocol, {"name": "mine", "optimizer": "lion"})


def test_the_budget_is_a_whole_number_of_epochs_however_the_set_is_cut():
    p = protocol("frepo_mse")
    assert p.num_epochs(70, 700) == math.ceil(10000 / 2)
    assert p.batches(501) == 2 and p.batches(500) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"mixup": 0.5},
        {"batch": 0},
        {"epochs": -1},
        {"checks": -1},
        {"num_eval": 0},
        {"budget": -3},
        {"lr": -1.0},
        {"momentum": 2.0},
        {"ema": 2.0},
        {"milestones": (50.0, 75.0)},
        {"warmup_steps": -5},
        {"lr": math.inf},
        {"lr_grid": (-0.1,)},
        {"gamma": math.nan},
        {"cutmix": 7.0},
        {"final_lr": -2.0},
        {"epochs_by_ipc": ((1, -5),)},
        {"steps_by_images": ((10, -3),)},
    ],
)
def test_a_protocol_that_cannot_be_run_is_refused(change):
    with pytest.raises(UserError, match=f"bad Protocol: {next(iter(change))}"):
        replace(protocol("vico_dsa"), name="mine", **change)


OWN = (Case({"epochs": 2}, datasets=("MNIST",)),)


def test_an_own_protocol_does_not_bear_the_name_of_a_preset_that_it_is_not():
    with pytest.raises(UserError, match="'vico_dsa': differs from the preset of that name"):
        protocol(Protocol(name="vico_dsa", epochs=2, lr=0.5))
    for name, change in (
        ("vico_dsa@60ep", {"lr": 0.5}),
        ("vico_dsa+noaug", {"batch": 8}),
        ("vico_dsa", {"cases": OWN}),
    ):
        with pytest.raises(UserError, match="differs from the preset of that name"):
            protocol(replace(protocol(name), **change))
    for own in (protocol("vico_dsa@60ep"), protocol("vico_dsa").settled("MNIST", "ConvNet", 1, 10)):
        assert protocol(own) is own  # with its cases, or with one applied


def test_an_own_protocol_may_have_any_name():
    own = replace(protocol("vico_dsa"), name="mine+smooth", epochs=7).settled("CIFAR10", "ConvNet", 1, 10)
    assert (own.epochs, own.augmentation) == (7, protocol("vico_dsa").augmentation)
