"""The evaluator: the numbers of a plain loop, whoever is trained beside whom, interrupted or not, and nothing peeked
at."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Diverged, Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import Facts, ImageSet, augment
from distill_lib.evaluation import evaluate, evaluator, loss_per_network, targets, update_average
from distill_lib.evaluation.protocols import PROTOCOLS, protocol
from distill_lib.generators import cgan
from distill_lib.generators.generated import GeneratedSet

NET = "ConvNetD2W16"


def toy(n=30, classes=10, shape=(1, 8, 8), seed=0, noise=1.0, name="toy", **facts):
    """Class-balanced images: a fixed pattern per class plus noise."""
    rng = stream(seed, "toy")
    patterns = torch.randn(classes, *shape, generator=stream(0, "patterns"))
    labels = torch.arange(n) % classes
    images = patterns[labels] + noise * torch.randn(n, *shape, generator=rng)
    zero, one = (0.0,) * shape[0], (1.0,) * shape[0]
    return ImageSet(images, labels, Facts(name, tuple(map(str, range(classes))), zero, one, **facts))


class Drawn(ImageSet):
    """A set behind which a generator stands: every epoch is drawn anew."""

    def epoch(self, rng):
        images = self.images + 0.5 * torch.randn(self.images.shape, generator=rng)
        self.__dict__.setdefault("drawn", []).append(images)
        return ImageSet(images, self.labels, self.facts)

    def to(self, device):
        return self


@pytest.fixture(scope="module")
def test_set():
    return toy(200, seed=1)


# --- against a plain loop -------------------------------------------------------------------------
def plain(synthetic, test, p, network, number, seed):
    """What a reader would write: one network, its own optimiser, epoch after epoch. Returns accuracy in percent, last
    epoch's loss."""
    net = networks.fresh(network, synthetic, stream(seed, "evaluate", number, "init"))
    n, aug = len(synthetic), augment.named(p.augmentation, like=synthetic)
    epochs = p.num_epochs(n // synthetic.num_classes, n)
    rates, lr, optimizer = p.learning_rates(n // synthetic.num_classes, n), None, None
    for epoch in range(epochs):
        if rates[epoch] != lr:
            lr = rates[epoch]
            optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        order = torch.randperm(n, generator=stream(seed, "evaluate", number, "order", epoch))
        total, steps = 0.0, math.ceil(n / p.batch)
        for b in range(steps):
            index = order[b * p.batch : (b + 1) * p.batch]
            images = aug(synthetic.take(index)[0], stream(seed, "evaluate", number, "step", epoch * steps + b))
            loss = F.cross_entropy(net.train()(images), synthetic.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
    with torch.no_grad():
        answers = net.eval()(test.all()[0]).argmax(1)
    return 100 * (answers == test.labels).double().mean().item(), total / n


@pytest.mark.parametrize("network", [NET, "ConvNetD2W16BN", "MLP"])
@pytest.mark.parametrize("together", [1, 3])
def test_several_networks_at_once_equal_the_plain_loop_network_after_network(network, together, test_set):
    p = replace(protocol("vico_dsa@5ep"), name="mine", batch=12)  # 30 images: two whole batches and a partial one
    synthetic = toy(30)
    result = evaluate(synthetic, test_set, p, network, num_eval=3, seed=4, together=together)
    assert result.steps == 6 * 3 and result.images_seen == 6 * 30
    for i in range(3):
        accuracy, loss = plain(synthetic, test_set, p, network, i, seed=4)
        assert result.metrics["train_loss"][i] == pytest.approx(loss, rel=1e-3)
        assert abs(result.test_accuracy_pct[i] - accuracy) <= 1.0  # two images of 200


def test_the_restart_forgets_the_momentum(test_set):
    def loss(p):
        return evaluate(toy(30), test_set, p, NET, num_eval=1).metrics["train_loss"][0]

    p = protocol("vico_noaug@6ep")
    kept = replace(
        p, name="mine", schedule="multistep", milestones=(5 / 7,), budget=7, extra_epoch=False
    )  # same rates, momentum kept
    assert kept.learning_rates(3, 30) == pytest.approx(p.learning_rates(3, 30))
    assert loss(p) != pytest.approx(loss(kept), rel=1e-4)


def test_in_bfloat16_networks_learn_as_in_float32_and_only_then_the_settings_say_so(test_set):
    exact, rounded = (
        evaluate(toy(30), test_set, f"vico_noaug{variant}@30ep", NET, num_eval=2, loop=Loop(bar=False))
        for variant in ("", "+bfloat16")
    )
    assert rounded.settings["precision"] == "bfloat16" and "precision" not in exact.settings
    losses = torch.tensor([exact.metrics["train_loss"], rounded.metrics["train_loss"]])
    assert not torch.equal(*losses) and torch.allclose(*losses, rtol=0.01)
    assert losses.max() < 2 and exact.mean_pct > 20  # both have learned; chance is 10
    assert abs(exact.mean_pct - rounded.mean_pct) < 10


def test_a_network_does_not_depend_on_the_others_and_the_seed_decides_everything(test_set):
    synthetic = toy(30)
    two, three, again, other = (
        evaluate(synthetic, test_set, "vico_dsa@3ep", NET, num_eval=n, seed=s)
        for n, s in ((2, 0), (3, 0), (3, 0), (3, 1))
    )
    assert (
        three.test_accuracy_pct[:2] == two.test_accuracy_pct
        and three.metrics["train_loss"][:2] == two.metrics["train_loss"]
    )
    assert again.metrics == three.metrics and again.test_accuracy_pct == three.test_accuracy_pct
    assert other.metrics["train_loss"] != three.metrics["train_loss"]
    assert len(set(three.metrics["train_loss"])) == 3


def test_running_out_of_memory_means_fewer_at_a_time_and_the_same_numbers_to_rounding(test_set, monkeypatch):
    synthetic = toy(30)
    reference = evaluate(synthetic, test_set, "vico_dsa@2ep", NET, num_eval=3, together=3)
    stack, sizes = networks.stack, []

    def small_memory(nets, *how):
        sizes.append(len(nets))
        if len(nets) > 1:
            raise torch.OutOfMemoryError("no room for two")
        return stack(nets, *how)

    monkeypatch.setattr(networks, "stack", small_memory)
    with pytest.warns(UserWarning, match="out of memory"):
        halved = evaluate(synthetic, test_set, "vico_dsa@2ep", NET, num_eval=3, together=3)
    assert sizes == [3, 1, 1, 1]
    assert halved.test_accuracy_pct == pytest.approx(reference.test_accuracy_pct, abs=0.6)  # one image of 200
    assert halved.metrics["train_loss"] == pytest.approx(reference.metrics["train_loss"], rel=1e-5)


# --- known answers --------------------------------------------------------------------------------
def test_a_set_of_one_class_gives_exactly_one_class(test_set):
    images = toy(10, seed=2).images
    alone = ImageSet(images, torch.full((10,), 3), test_set.facts)
    result = evaluate(alone, test_set, "vico_noaug@12ep", NET, num_eval=2)
    assert result.test_accuracy_pct == [10.0, 10.0]
    assert result.metrics["per_class_accuracy_pct"] == [[100.0 if k == 3 else 0.0 for k in range(10)]] * 2


def test_labels_that_say_nothing_give_chance():
    """10,000 test labels independent of what the network answers: one standard deviation is 0.3 percent."""
    rng = stream(5)
    facts = toy().facts
    noise = [
        ImageSet(torch.randn(n, 1, 8, 8, generator=rng), torch.randperm(n, generator=rng) % 10, facts)
        for n in (100, 10_000)
    ]
    result = evaluate(*noise, "vico_noaug@200ep", "MLP", num_eval=3)
    assert all(abs(a - 10) < 1 for a in result.test_accuracy_pct)
    assert all(loss < 1.5 for loss in result.metrics["train_loss"])  # it did learn the labels by heart


def test_a_set_like_the_test_set_is_learned(test_set):
    result = evaluate(toy(100), test_set, "vico_noaug@60ep", NET, num_eval=2)
    assert result.mean_pct > 70
    for accuracy, per_class in zip(result.test_accuracy_pct, result.metrics["per_class_accuracy_pct"], strict=True):
        assert sum(per_class) / 10 == pytest.approx(accuracy)  # as many test images of every class


def test_a_class_without_test_images_has_no_accuracy():
    test = toy(100, seed=1)
    some = test.subset(torch.nonzero(test.labels != 7).flatten())
    result = evaluate(toy(30), some, "vico_noaug@1ep", NET, num_eval=1)
    assert result.metrics["per_class_accuracy_pct"][0][7] is None


# --- every preset ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_preset_runs_and_leaves_the_set_as_it_was(name):
    facts = {"n": 20, "classes": 5, "shape": (3, 16, 16)}
    synthetic, test, real = toy(**facts), toy(**{**facts, "n": 25}, seed=1), toy(**{**facts, "n": 60}, seed=2)
    before = synthetic.images.clone(), synthetic.labels.clone(), test.images.clone()
    result = evaluate(synthetic, test, f"{name}@2ep", NET, num_eval=2, real=real)
    assert (
        torch.equal(synthetic.images, before[0])
        and torch.equal(synthetic.labels, before[1])
        and torch.equal(test.images, before[2])
    )
    assert len(result.test_accuracy_pct) == 2 and all(0 <= a <= 100 for a in result.test_accuracy_pct)
    assert result.protocol == f"{name}@2ep" and result.epochs == 2 + protocol(name).extra_epoch
    assert all(len(v) == 2 for v in result.metrics.values())
    assert (
        ("test_selected_pct" in result.metrics)
        == (protocol(name).checks > 0)
        == ("validation_selected_pct" in result.metrics)
    )
    assert json.loads(json.dumps(result.as_dict()))["settings"]["name"] == f"{name}@2ep"


def test_digits_under_the_plain_protocol_are_augmented(test_set):
    mnist, other = (dataclasses.replace(test_set.facts, name=name) for name in ("MNIST", "FashionMNIST"))
    runs = [
        evaluate(
            ImageSet(toy(30).images, toy(30).labels, f),
            ImageSet(test_set.images, test_set.labels, f),
            "vico_noaug@2ep",
            NET,
            1,
        )
        for f in (mnist, other)
    ]
    assert [r.settings["augmentation"] for r in runs] == ["dc:crop_scale_rotate", "none"]
    assert runs[0].metrics["train_loss"] != runs[1].metrics["train_loss"]


# --- selection ------------------------------------------------------------------------------------
def test_what_is_selected_is_an_extra_and_never_the_headline(test_set):
    p = replace(protocol("idc_small"), name="mine", epochs=6, checks=6)
    seen = []
    accuracies = evaluator._accuracies

    def spy(nets, average, images):
        values = accuracies(nets, average, images)
        seen.append((None if images is None else images.facts.name, values))
        return values

    evaluator._accuracies = spy
    try:
        result = evaluate(toy(30), test_set, p, NET, num_eval=1, validation=toy(50, seed=3, name="val"))
    finally:
        evaluator._accuracies = accuracies
    tests = [v[0] for name, v in seen if name == "toy"]
    validations = [v[0] for name, v in seen if name == "val"][:6]
    assert len(tests) == 6
    assert result.test_accuracy_pct == [tests[-1]]
    assert result.metrics["test_selected_pct"] == [max(tests)]
    assert result.metrics["validation_selected_pct"] == [tests[validations.index(max(validations))]]


def test_without_checks_the_test_set_is_seen_once(test_set, monkeypatch):
    looks = []
    monkeypatch.setattr(
        evaluator, "_predict", lambda *a, _f=evaluator._predict: looks.append(a[2].facts.name) or _f(*a)
    )
    result = evaluate(toy(30), test_set, "vico_dsa@3ep", NET, num_eval=1, validation=toy(50, seed=3, name="val"))
    assert looks.count("toy") == 1
    assert "test_selected_pct" not in result.metrics


def test_a_learning_rate_at_which_training_diverges_is_left_out(test_set):
    p = replace(protocol("dd_ranking"), name="mine", epochs=3, checks=1, lr_grid=(0.01, 1e30), augmentation="none")
    found = evaluate(toy(50), test_set, p, NET, num_eval=1, validation=toy(100, seed=3))
    assert found.lr == 0.01 and any("1e+30 left out: training diverged" in note for note in found.notes)
    with pytest.raises(Diverged, match="diverged at learning rate 1e"):
        evaluate(toy(50), test_set, replace(p, lr_grid=(1e30, 1e31)), NET, num_eval=1, validation=toy(100, seed=3))


def test_the_learning_rate_is_chosen_by_validation_or_not_at_all(test_set):
    p = replace(
        protocol("dd_ranking"), name="mine", epochs=3, checks=1, lr_grid=(1e-6, 0.01, 0.05), augmentation="none"
    )
    blind = evaluate(toy(50), test_set, p, NET, num_eval=2)
    assert blind.lr == 0.01 and "no validation images" in blind.notes[-1]
    chosen = evaluate(toy(50), test_set, p, NET, num_eval=2, validation=toy(100, seed=3))
    assert chosen.lr in (0.01, 0.05) and "by validation accuracy" in chosen.notes[-1]
    assert all(
        best >= last for best, last in zip(chosen.metrics["test_selected_pct"], chosen.test_accuracy_pct, strict=True)
    )


def test_a_learned_step_size_travels_with_the_set(test_set):
    plain_set, learned = toy(30), toy(30)
    learned.facts = learned.synthetic_facts(lr_net=0.002)
    assert evaluate(learned, test_set, "mtt@1ep", NET, 1).lr == 0.002
    without = evaluate(plain_set, test_set, "mtt@1ep", NET, 1)
    assert without.lr == 0.01 and "no learned step size" in without.notes[0]
    assert evaluate(learned, test_set, "vico_dsa@1ep", NET, 1).lr == 0.01
    for bad in (-0.001, 0.0, float("nan")):
        learned.facts = learned.synthetic_facts(lr_net=bad)
        with pytest.raises(UserError, match="learned step size is .* vico_dsa"):
            evaluate(learned, test_set, "mtt@1ep", NET, 1)


# --- labels ---------------------------------------------------------------------------------------
def test_losses_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # one network, two images, two classes
    hard, soft = torch.tensor([0, 0]), torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    log_p = logits.log_softmax(2)[0]

    def loss(name, labels):
        p = replace(protocol("vico_dsa"), name="mine", loss=name, temperature=1.0)
        return loss_per_network(p, logits, targets(p, labels, 2)[None]).item()

    assert loss("ce", hard) == pytest.approx(-log_p[:, 0].mean().item())
    assert loss("ce", soft) == pytest.approx(
        -log_p[:, 0].mean().item()
    )  # the arg-max of soft labels; ties go to the first
    assert loss("soft_ce", soft) == pytest.approx(-(soft * log_p).sum(1).mean().item())
    entropy = -(soft * soft.log()).sum(1).mean().item()
    assert loss("kl", soft) == pytest.approx(loss("soft_ce", soft) - entropy, rel=1e-5)
    assert loss("kl", hard) == pytest.approx(loss("ce", hard), rel=1e-5)
    centred = (F.one_hot(hard, 2) - 0.5) / math.sqrt(0.2)
    assert loss("mse", hard) == pytest.approx((logits[0] - centred).square().sum(1).mean().item() / 2)
    warm = replace(protocol("vico_dsa"), name="mine", loss="kl", temperature=2.0)
    q = soft.sqrt() / soft.sqrt().sum(1, keepdim=True)  # softened to temperature 2
    expected = 4 * (q * (q.log() - (logits[0] / 2).log_softmax(1))).sum(1).mean().item()
    assert loss_per_network(warm, logits, targets(warm, soft, 2)[None]).item() == pytest.approx(expected, rel=1e-5)


def test_soft_labels_are_used_by_the_variants_that_say_so(test_set):
    hard = toy(30)
    uniform = ImageSet(hard.images, torch.full((30, 10), 0.1), hard.facts)
    soft = evaluate(uniform, test_set, "vico_dsa+soft@20ep", NET, num_eval=1)
    assert soft.metrics["train_loss"][0] == pytest.approx(math.log(10), abs=0.1)
    onehot = ImageSet(hard.images, F.one_hot(hard.labels, 10).float(), hard.facts)
    given = ((hard, ""), (onehot, ""), (onehot, "+soft"), (hard, "+soft"))
    runs = [evaluate(s, test_set, f"vico_dsa{variant}@3ep", NET, num_eval=1) for s, variant in given]
    assert [r.metrics["train_loss"][0] for r in runs] == pytest.approx([runs[0].metrics["train_loss"][0]] * 4, rel=1e-4)


def test_scores_that_are_no_probabilities_need_the_squared_loss(test_set):
    scores = ImageSet(toy(30).images, F.one_hot(toy(30).labels, 10).float() - 0.1, test_set.facts)
    evaluate(scores, test_set, "frepo_mse@2ep", NET, num_eval=1)
    evaluate(scores, test_set, "vico_dsa@1ep", NET, num_eval=1)  # hard labels: the arg-max
    with pytest.raises(UserError, match="probabilities"):
        evaluate(scores, test_set, "vico_dsa+soft@1ep", NET, num_eval=1)


# --- averages, generators, networks with state ----------------------------------------------------
def test_the_average_follows_its_decay():
    average, truth = {"w": torch.zeros(1)}, 0.0
    for k in range(300):
        decay = min(0.995, 1 - 1 / (1 + k))
        truth = decay * truth + (1 - decay) * math.sin(k)
        update_average(average, {"w": torch.tensor([math.sin(k)])}, 0.995, k)
        if k == 9:
            assert truth == pytest.approx(sum(map(math.sin, range(10))) / 10)  # a plain mean until the decay is reached
    assert average["w"].item() == pytest.approx(truth, abs=1e-5)


def test_glad_tests_the_average_and_not_the_last_weights(test_set):
    p = replace(protocol("vico_noaug@6ep"), name="mine", lr=0.1)
    last, averaged, copied = (evaluate(toy(30), test_set, replace(p, ema=e), NET, num_eval=2) for e in (0.0, 0.9, 1e-9))
    assert averaged.metrics["train_loss"] == last.metrics["train_loss"]  # training is the same
    assert averaged.metrics["ece_pct"] != last.metrics["ece_pct"]
    assert copied.metrics["ece_pct"] == pytest.approx(last.metrics["ece_pct"], rel=1e-5)


def test_a_generator_draws_every_epoch_or_once_as_the_protocol_says(test_set):
    base = toy(20)
    fresh, fixed = (Drawn(base.images, base.labels, base.facts) for _ in range(2))
    unlimited = evaluate(fresh, test_set, "dim@3ep", NET, num_eval=2)
    once = evaluate(fixed, test_set, "dim_fixed@3ep", NET, num_eval=2)
    assert (
        len({d.sum().item() for d in fresh.drawn}) == 1 + 2 * 3
    )  # a sample for the size, then one per network and epoch
    assert len(fixed.drawn) == 1
    assert list(unlimited.bytes) == ["generator"] and once.bytes == {
        "images": base.images.nbytes,
        "labels": base.labels.nbytes,
    }
    again = evaluate(Drawn(base.images, base.labels, base.facts), test_set, "dim@3ep", NET, num_eval=2)
    assert again.metrics == unlimited.metrics
    sampled = ImageSet(fixed.drawn[0], base.labels, base.facts)
    assert (
        evaluate(sampled, test_set, "dim_fixed@3ep", NET, num_eval=2).metrics["train_loss"]
        == once.metrics["train_loss"]
    )
    assert "a fixed set" in evaluate(base, test_set, "dim@1ep", NET, num_eval=1).notes[0]


def test_a_generator_under_a_fixed_protocol_is_one_sample_of_ipc_images_per_class(monkeypatch):
    real, test_set = data.load("digits")
    of = cgan.Architecture(real.shape, real.num_classes, width=8)
    gan = cgan.redraw(cgan.Generator(of), stream(0, "weights"))

    def judge(protocol, seed=0, num_eval=2):
        """(images, labels) of every epoch that any network was trained on."""
        seen, made, keep = [], GeneratedSet.made("CGAN", real, gan, 3, seed=7), evaluator._Epoch.__init__

        def watched(self, *args):
            keep(self, *args)
            seen.extend((s.all()[0], s.labels) for s, _ in self.sets)

        with monkeypatch.context() as patch:
            patch.setattr(evaluator._Epoch, "__init__", watched)
            return seen, evaluate(made, test_set, protocol, NET, num_eval=num_eval, seed=seed)

    seen, result = judge("vico_dsa@2ep")
    assert len(seen) == 2 * 3 and all(
        torch.equal(x, seen[0][0]) for x, _ in seen
    )  # two networks, three epochs each, the same images
    assert torch.bincount(seen[0][1]).tolist() == [3] * 10 and result.images_seen == 3 * 30
    assert result.bytes["images"] == seen[0][0].nbytes
    for same in (judge("vico_dsa@1ep", num_eval=1), judge("dim_fixed@1ep", num_eval=1)):  # of the seed alone
        assert torch.equal(same[0][0][0], seen[0][0])
    assert not torch.equal(judge("vico_dsa@1ep", seed=1, num_eval=1)[0][0][0], seen[0][0])


def test_uint8_images_are_normalised_batch_by_batch(test_set):
    rng = stream(0, "pixels")
    facts = Facts("pixels", tuple("0123456789"), (0.3,), (0.5,))
    real = ImageSet(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=rng), torch.arange(40) % 10, facts)
    as_float = ImageSet(real.all()[0], real.labels, facts)
    a, b = (
        evaluate(s, real, replace(protocol("vico_dsa@2ep"), name="mine", batch=16), NET, num_eval=1)
        for s in (real, as_float)
    )
    assert a.metrics["train_loss"] == pytest.approx(b.metrics["train_loss"], rel=1e-5)
    assert a.test_accuracy_pct == pytest.approx(b.test_accuracy_pct, abs=2.6)  # one image of 40
    assert a.bytes["images"] == 40 * 64 and b.bytes["images"] == 4 * 40 * 64


def test_a_finished_evaluation_without_validation_images_is_not_taken_for_one_with_them(test_set, tmp_path):
    rules = replace(protocol("dd_ranking@2ep"), name="mine", lr_grid=(0.01,), checks=2)

    def selected(folder, validation):
        found = evaluate(toy(30), test_set, rules, NET, num_eval=2, validation=validation, loop=Loop(folder))
        return found.metrics.get("validation_selected_pct")

    selected(tmp_path, None)
    assert selected(tmp_path, toy(40, seed=3)) == selected(None, toy(40, seed=3)) is not None
    assert selected(tmp_path, toy(40, seed=4)) == selected(None, toy(40, seed=4))


def test_validation_images_are_each_another_one(test_set):
    """Even where a class has fewer than a tenth of a thousand."""
    found = evaluate(toy(10), test_set, "dd_ranking@1ep", NET, num_eval=1, real=toy(30))
    assert any(note == "validation: 30 images of the real training set" for note in found.notes)


def test_soft_labels_that_are_not_used_are_named_and_broken_ones_refused(test_set):
    soft = toy(10)
    soft = ImageSet(soft.images, torch.nn.functional.one_hot(soft.labels, soft.num_classes).float(), soft.facts)
    found = evaluate(soft, test_set, "vico_dsa@1ep", NET, num_eval=1)
    assert any("learn their arg-max" in note for note in found.notes)
    assert not any("arg-max" in n for n in evaluate(soft, test_set, "vico_dsa+soft@1ep", NET, num_eval=1).notes)
    soft.labels[0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        evaluate(soft, test_set, "vico_dsa@1ep", NET, num_eval=1)


def test_sets_of_other_classes_or_sizes_are_refused(test_set):
    names = list(test_set.facts.class_names)
    names[-1], names[-2] = names[-2], names[-1]
    other = ImageSet(test_set.images, test_set.labels, dataclasses.replace(test_set.facts, class_names=tuple(names)))
    said = f"class {len(names) - 2} of the set to evaluate is '{names[-1]}', of the test set .* '{names[-2]}': .* order"
    with pytest.raises(UserError, match=said):
        evaluate(toy(10), other, "vico_dsa@1ep", NET, num_eval=1)
    larger = ImageSet(test_set.images.repeat(1, 1, 2, 2), test_set.labels, test_set.facts)
    with pytest.raises(UserError, match="the real set"):
        evaluate(toy(10), test_set, "dd_ranking@1ep", NET, num_eval=1, real=larger)


# --- interruption ---------------------------------------------------------------------------------
KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_evaluate import NET, toy
from distill_lib.evaluation import evaluate
from distill_lib.core.loop import Loop

def watch(name, step, live):
    if "{kill}" in name and step == {at}:
        os.kill(os.getpid(), signal.SIGKILL)

loop = Loop(Path({folder!r}), every=0.0, watch=watch)
result = evaluate(toy(30), toy(200, seed=1), {protocol!r}, NET, num_eval=2, loop=loop, validation=toy(50, seed=3))
print(json.dumps([result.test_accuracy_pct, result.metrics]))
"""


def test_killed_and_run_again_gives_the_numbers_of_an_unbroken_run(test_set, tmp_path):
    name = "idc_small@6ep"  # CutMix, looks during training, two rate changes

    def run(kill, at):
        code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), kill=kill, at=at, protocol=name)
        env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "DISTILL_COMPILE": "0"}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)

    killed = run("-1to1-", 4)  # in the middle of the second network
    assert killed.returncode == -9 and len(list(tmp_path.glob("*.ckpt"))) == 2, killed.stderr
    finished = run("never", 0)
    assert finished.returncode == 0, finished.stderr
    whole = evaluate(toy(30), test_set, name, NET, num_eval=2, validation=toy(50, seed=3))
    assert json.loads(finished.stdout) == [whole.test_accuracy_pct, json.loads(json.dumps(whole.metrics))]


@pytest.mark.parametrize("name", ["vico_dsa@5ep", "glad@6ep", "frepo_mse@6ep"])
@pytest.mark.parametrize("network", [NET, "ConvNetD2W16BN"])
def test_resumed_from_any_step_it_goes_on_as_if_nothing_had_happened(name, network, test_set, tmp_path):
    p = replace(protocol(name), name="mine", batch=20)
    whole = evaluate(toy(30), test_set, p, network, num_eval=2, together=2)

    class Pulled(Exception):
        pass

    for stop in (1, 5, 8):  # inside an epoch, at its end, and after the restart

        def watch(phase, step, live, stop=stop):
            if step == stop:
                raise Pulled

        with pytest.raises(Pulled):
            evaluate(toy(30), test_set, p, network, num_eval=2, together=2, loop=Loop(tmp_path, every=0.0, watch=watch))
    resumed = evaluate(toy(30), test_set, p, network, num_eval=2, together=2, loop=Loop(tmp_path))
    assert resumed.test_accuracy_pct == whole.test_accuracy_pct and resumed.metrics == whole.metrics


def test_a_checkpoint_of_another_evaluation_is_not_taken_up(test_set, tmp_path):
    given = [(toy(30, seed=seed), name) for seed in (0, 9) for name in ("vico_dsa@2ep", "vico_noaug@2ep")]
    runs = [evaluate(s, test_set, name, NET, num_eval=1, loop=Loop(tmp_path)) for s, name in given]
    assert len({r.metrics["train_loss"][0] for r in runs}) == 4
    again = evaluate(toy(30), test_set, "vico_dsa@2ep", NET, num_eval=1, loop=Loop(tmp_path))
    assert again.metrics == runs[0].metrics


# --- bad input ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change, says",
    [
        ({"test": toy(20, shape=(3, 8, 8))}, "must agree"),
        ({"test": toy(20, classes=5)}, "must agree"),
        ({"test": toy(20, normalisation="zca")}, "normalise both alike"),
        ({"test": toy(0)}, "has no images"),
        ({"synthetic": toy(0)}, "has no images"),
        ({"validation": toy(20, classes=5)}, "validation set"),
        ({"protocol": "vico"}, "hoose one of vico_noaug"),
        ({"network": "ConvNat"}, "ConvNet"),
        ({"num_eval": 0}, "at least 1"),
        ({"together": 0}, "at least 1"),
        ({"device": "tpu9"}, "device"),
        ({"protocol": "idc_imagenet@1ep"}, "colour"),
    ],
)
def test_bad_input_is_one_clear_error(change, says, test_set):
    given = {
        "synthetic": toy(20),
        "test": test_set,
        "protocol": "vico_dsa@1ep",
        "network": NET,
        "num_eval": 1,
        **change,
    }
    with pytest.raises(UserError, match=says):
        evaluate(**given)


def test_the_summary_states_its_spread():
    result = evaluate(toy(30), toy(100, seed=1), "vico_dsa@1ep", NET, num_eval=2)
    a, b = result.test_accuracy_pct
    assert result.mean_pct == (a + b) / 2 and result.std_pct == pytest.approx(abs(a - b) / 2)
    assert str(result) == f"{result.mean_pct:.1f} ± {result.std_pct:.1f} % (2 networks)"
