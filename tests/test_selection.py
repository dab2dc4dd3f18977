"""Herding, K-Center, Forgetting and the feature network they share: known answers by hand, and the rules of
choosing."""

import dataclasses
import shutil
import time

import pytest
import torch
from steps import in_steps

from distill_lib import data, networks
from distill_lib.core import paths
from distill_lib.core.errors import TimeUp, UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.methods import METHODS as ROWS
from distill_lib.methods import selection
from distill_lib.networks import reference

pytestmark = pytest.mark.usefixtures("runs")
TINY = reference.Training(network="ConvNetW32", epochs=2, batch=32, per_class=20)
METHODS = {name: ROWS[name] for name in ("Herding", "K-Center", "Forgetting")}
CHOOSE = {"Herding": selection.herding, "K-Center": selection.k_center}


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


# --- choosing ---------------------------------------------------------------------------------------------------------
def test_herding_by_hand():
    assert column(0, 1, 2, 3, 10)[selection.herding(column(0, 1, 2, 3, 10), 3)].flatten().tolist() == [3, 2, 1]


def test_the_nearest_to_the_mean_by_hand():
    assert column(0, 1, 2, 3, 10)[selection.nearest_to_mean(column(0, 1, 2, 3, 10), 3)].flatten().tolist() == [3, 2, 1]
    far = column(0, 4, 5, 6, 10)  # of equal distances the first; herding's second balances the first
    assert far[selection.nearest_to_mean(far, 3)].flatten().tolist() == [5, 4, 6]
    assert selection.nearest_to_mean(far, 1).tolist() == selection.herding(far, 1).tolist()


def test_k_center_by_hand():
    assert column(0, 1, 2, 3, 10)[selection.k_center(column(0, 1, 2, 3, 10), 3)].flatten().tolist() == [3, 10, 0]


def slow_herding(features, n):
    features, chosen = features.double(), []
    mean = features.mean(0)
    for i in range(n):
        total = sum((features[q] for q in chosen), torch.zeros_like(mean))
        gaps = [
            float(((i + 1) * mean - total - f).norm()) if j not in chosen else float("inf")
            for j, f in enumerate(features)
        ]
        chosen.append(min(range(len(features)), key=gaps.__getitem__))
    return chosen


def slow_k_center(features, n):
    features = features.double()
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < n:
        gaps = [
            min(float((f - features[q]).norm()) for q in chosen) if j not in chosen else -1.0
            for j, f in enumerate(features)
        ]
        chosen.append(max(range(len(features)), key=gaps.__getitem__))
    return chosen


@pytest.mark.parametrize(("fast", "slow"), [(selection.herding, slow_herding), (selection.k_center, slow_k_center)])
def test_the_fast_form_chooses_what_the_definition_chooses(fast, slow):
    features = (
        torch.randn(60, 8, generator=stream(0, "features")) + 100
    )  # far from zero: float32 must not lose the differences
    assert fast(features, 25).tolist() == slow(features, 25)


@pytest.mark.parametrize("choose", CHOOSE.values(), ids=CHOOSE)
def test_choosing_as_many_as_there_are_returns_all(choose):
    features = torch.randn(12, 3, generator=stream(1))
    assert sorted(choose(features, 12).tolist()) == list(range(12))


@pytest.mark.parametrize("choose", CHOOSE.values(), ids=CHOOSE)
def test_equal_images_are_each_chosen_once(choose):
    assert sorted(choose(torch.ones(5, 3), 5).tolist()) == list(range(5))


@pytest.mark.parametrize("choose", CHOOSE.values(), ids=CHOOSE)
def test_permuting_the_data_permutes_the_choice(choose):
    features, order = torch.randn(40, 6, generator=stream(2)), torch.randperm(40, generator=stream(3))
    assert order[choose(features[order], 10)].tolist() == choose(features, 10).tolist()


def test_with_one_image_herding_and_k_center_agree():
    features = torch.randn(50, 5, generator=stream(4))
    assert selection.herding(features, 1).tolist() == selection.k_center(features, 1).tolist()


# --- forgetting -------------------------------------------------------------------------------------------------------
def test_forgetting_events_by_hand():
    histories = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    was_right, learned, forgotten = (
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int64),
    )
    for right in histories.T:
        here = torch.tensor([2, 0, 1])  # visited in an order of its own
        reference.count_forgetting(here, right[here], was_right, learned, forgotten)
    assert forgotten.tolist() == [2, 0, 0] and learned.tolist() == [True, False, True]


def test_the_most_forgotten_come_first_and_the_never_learned_last_or_before_them():
    forgotten, learned = torch.tensor([1, 4, 0, 2]), torch.tensor([True, True, False, True])
    assert selection.most_forgotten(forgotten, learned, 4, stream(0)).tolist() == [1, 3, 0, 2]
    assert selection.most_forgotten(forgotten, learned, 4, stream(0), never_learned="most").tolist() == [2, 1, 3, 0]


def test_ties_are_broken_at_random_by_the_seed():
    forgotten, learned = torch.zeros(50, dtype=torch.int64), torch.ones(50, dtype=torch.bool)
    picks = [selection.most_forgotten(forgotten, learned, 5, stream(seed)).tolist() for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]


# --- the methods ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_the_choice_consists_of_distinct_real_images_of_the_right_class(name, real):
    made = METHODS[name].distill(real, METHODS[name].Config(ipc=4, training=TINY), seed=0)
    index = torch.tensor(made.facts.extra["indices"])
    assert index.shape == (real.num_classes, 4) and len(index.unique()) == index.numel()
    assert torch.equal(real.labels[index.flatten()], made.labels)
    assert torch.equal(made.images, real.take(index.flatten())[0])


def test_the_choice_is_by_features_of_the_trained_network_class_by_class(real):
    made = selection.distill(real, selection.Config(ipc=3, training=TINY), seed=0)
    trained = reference.on_real(real, TINY, seed=0)
    members = trained.index[real.labels[trained.index] == 7]
    chosen = members[selection.herding(trained.network.embed(real.take(members)[0]), 3)]
    assert made.facts.extra["indices"][7] == chosen.tolist()


def test_at_one_image_per_class_herding_and_k_center_choose_alike(real):
    sets = [m.distill(real, m.Config(ipc=1, training=TINY), seed=0) for m in (METHODS["Herding"], METHODS["K-Center"])]
    assert torch.equal(sets[0].images, sets[1].images)


@pytest.mark.parametrize("name", METHODS)
def test_more_images_than_a_class_has_is_a_clear_error(name, real):
    with pytest.raises(UserError, match=r"ipc 21: digits has only 20 images of class .* to choose from"):
        METHODS[name].distill(real, METHODS[name].Config(ipc=21, training=TINY), seed=0)


def test_the_published_settings():
    for method in METHODS.values():
        assert method.paper_config("CIFAR10", 10).training == reference.Training()
        assert method.paper_config("CIFAR10", 10).training.network == "ConvNet"
        assert method.paper_config("ImageWoof", 20).training.network == "ResNetAP-10"
        assert method.paper_config("MNIST", 1).training.per_class is None  # the whole training set


# --- the feature network ----------------------------------------------------------------------------------------------
def test_three_methods_train_one_network(real, monkeypatch):
    trainings, train = [], reference._train
    monkeypatch.setattr(reference, "_train", lambda *args: trainings.append(args[0]) or train(*args))
    for method in METHODS.values():
        method.distill(real, method.Config(ipc=2, training=TINY), seed=0)
    assert len(trainings) == 1
    selection.distill(real, selection.Config(ipc=2, training=replace(TINY, lr=0.02)), seed=0)
    selection.distill(real, selection.Config(ipc=2, training=TINY), seed=1)
    assert len(set(trainings)) == 3  # other settings or another seed: another network


def test_a_network_read_back_is_the_one_that_was_trained(real):
    first, again = reference.on_real(real, TINY, seed=0), reference.on_real(real, TINY, seed=0)
    x = real.take(torch.arange(5))[0]
    assert first.network is not again.network and torch.equal(first.network(x), again.network(x))
    assert torch.equal(first.forgotten, again.forgotten) and torch.equal(first.learned, again.learned)
    assert not again.network.training and not any(p.requires_grad for p in again.network.parameters())


def test_training_learns(real):
    cfg = reference.Training(network="ConvNetW32", epochs=6, batch=32, per_class=60)
    trained = reference.on_real(real, cfg, seed=0)
    right = (trained.network(real.all()[0]).argmax(1) == real.labels).float().mean()
    assert right > 0.9 and trained.learned.float().mean() > 0.9


def test_candidates_are_the_same_number_of_every_class(real):
    index = reference.candidates(real, 20, seed=0)
    assert torch.bincount(real.labels[index]).tolist() == [20] * 10 and len(index.unique()) == 200
    assert torch.equal(reference.candidates(real, None, seed=0), torch.arange(len(real)))


def test_an_interrupted_training_goes_on_and_ends_as_an_unbroken_one(real, tmp_path, monkeypatch):
    whole = reference.on_real(real, TINY, seed=0)
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "other"))
    resumed, stops = in_steps(lambda loop: reference.on_real(real, TINY, 0, loop), tmp_path / "ckpt")
    assert stops > 5
    assert all(
        torch.equal(a, b) for a, b in zip(whole.network.state_dict().values(), resumed.network.state_dict().values())
    )
    assert torch.equal(whole.forgotten, resumed.forgotten) and torch.equal(whole.learned, resumed.learned)


def test_networks_of_other_settings_in_one_checkpoint_folder_are_those_made_alone(real, tmp_path, monkeypatch):
    """Such as the judge of a GAN and the scorer of its pool, which one set needs; also where one was interrupted, and
    another run made it since."""
    settings = [(TINY, 0), (TINY, 1), (replace(TINY, lr=TINY.lr / 2), 0)]
    alone = [reference.on_real(real, cfg, seed).network.state_dict() for cfg, seed in settings]
    shutil.rmtree(paths.runs() / "feature_networks")
    with pytest.raises(TimeUp):
        reference.on_real(real, *settings[0], Loop(tmp_path / "ckpt", deadline=time.monotonic()))
    reference.on_real(real, *settings[0])
    loop = Loop(tmp_path / "ckpt", key="of the set")
    for (cfg, seed), wanted in zip(settings, alone, strict=True):
        found = reference.on_real(real, cfg, seed, loop).network.state_dict()
        assert all(torch.equal(found[k], v) for k, v in wanted.items())
    assert loop.key == "of the set" and alone[0].keys() == alone[1].keys()


def test_a_damaged_network_file_is_a_clear_error(real):
    reference.on_real(real, TINY, seed=0)
    file = reference.weights_file(real, TINY, 0)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"damaged feature network .* delete it to train it again"):
        reference.on_real(real, TINY, seed=0)


def test_features_do_not_depend_on_the_batch(real):
    net = networks.fresh("ConvNetW32", real, stream(0)).eval()
    whole, parts = (reference.features(net, real, torch.arange(50), batch=b) for b in (50, 7))
    assert whole.shape == (50, net.embed_dim) and torch.allclose(whole, parts, atol=1e-5)


def test_running_out_of_memory_halves_the_slices_and_changes_nothing():
    from distill_lib.core.device import chunked

    sizes = []

    def square(x):
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("not enough")
        return x.square()

    with pytest.warns(UserWarning, match="out of memory: going on with"):
        assert torch.equal(chunked(square, torch.arange(20.0), 16), torch.arange(20.0).square())
    assert max(sizes[-4:]) <= 3
    with pytest.raises(RuntimeError, match="broken"):  # any other error is not swallowed
        chunked(lambda x: (_ for _ in ()).throw(RuntimeError("broken")), torch.arange(4.0), 2)


def test_a_network_half_trained_for_one_goes_on_for_whoever_asks_next(real, tmp_path):
    cfg = replace(TINY, epochs=3)
    file = reference.weights_file(real, cfg, 0)
    with pytest.raises(TimeUp, match="stopped at step 1 of"):
        reference.on_real(real, cfg, 0, Loop(tmp_path / "herding", "herding", deadline=time.monotonic()))
    (left,) = file.parent.glob("*.unfinished/*.ckpt")
    assert torch.load(left, weights_only=True)["step"] == 1 and not (tmp_path / "herding").exists()
    steps = []
    watching = Loop(tmp_path / "kcenter", "kcenter", watch=lambda name, step, live: steps.append(step))
    found = reference.on_real(real, cfg, 0, watching)
    assert steps[0] == 1 and watching.folder == tmp_path / "kcenter" and watching.key == "kcenter"
    assert not list(file.parent.glob("*.unfinished"))
    file.unlink()
    alone = reference.on_real(real, cfg, 0)
    for a, b in zip(found.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_set_in_other_units_has_a_network_of_its_own(real):
    other = data.ImageSet(real.images, real.labels, dataclasses.replace(real.facts, mean=(0.3,)))
    assert reference.weights_file(real, TINY, 0) != reference.weights_file(other, TINY, 0)
