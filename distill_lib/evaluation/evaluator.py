"""Train fresh networks on an `ImageSet` under a named protocol and test them. Book page: book/protocols.md

    result = evaluate(synthetic, test, "vico_dsa", network="ConvNet", num_eval=5, seed=0)
    print(result)                        # 62.1 ± 0.4 % (5 networks)
    result.test_accuracy_pct             # one number per network, of the last epoch's weights

The headline never looks at the test set before training has ended. What a paper selected on the test set, and what a
validation set selects instead, are named extras in `metrics`.

Each network has its own initial weights, order of images and augmentation draws, from streams named after its number
and the step. So network 3 is the same network however many there are: bit for bit on a CPU, where one is trained after
the other by default, and to rounding if several are trained at once. An interrupted training goes on as if nothing had
happened: bit for bit on the same CPU, with the same number of threads and of networks at once.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import networks
from ..core import store
from ..core.device import Pieces, describe, pick
from ..core.errors import UserError
from ..core.loop import Diverged, Loop
from ..core.measure import measure
from ..core.rng import stream
from ..core.settings import as_dict
from ..data import ImageSet, augment
from . import protocols
from .protocols import Protocol
from .statistics import calibration_error_pct, mean, per_class_accuracy_pct, std

VERSION = 1  # of what the numbers mean; raised when the same protocol would give other accuracies


@dataclass(frozen=True)
class Evaluation:
    """What training fresh networks on a set gave.

    Attributes:
        test_accuracy_pct: of every network after its last epoch, in percent.
        metrics:  further measurements, each a list with one entry per network: `train_loss` (mean over the last epoch),
                  `ece_pct` (expected calibration error, 15 bins), `per_class_accuracy_pct` (K numbers; None for a class
                  without test images), and if the protocol looks during training `validation_selected_pct` (test
                  accuracy at the look with the best validation accuracy) and `test_selected_pct` (best look at the test
                  set, as some papers report).
        epochs, steps: passes over the set and optimiser steps of one network.
        images_seen:   images one network was trained on, repeats counted.
        lr:       base learning rate used.
        bytes:    what has to be stored to repeat this: images and labels, or the generator that draws them.
        settings: the protocol as applied, with the exceptions for this data set and network.
        notes:    what a reader must know beside the number.
    """

    dataset: str
    network: str
    protocol: str
    seed: int
    test_accuracy_pct: list[float]
    metrics: dict[str, list[Any]]
    epochs: int
    steps: int
    images_seen: int
    lr: float
    bytes: dict[str, int]
    seconds: float
    memory_mb: float
    device: str
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def mean_pct(self) -> float:
        return mean(self.test_accuracy_pct)

    @property
    def std_pct(self) -> float:
        """Standard deviation over the networks, as tables show it and the public codes compute it (ddof 0)."""
        return std(self.test_accuracy_pct)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        n = len(self.test_accuracy_pct)
        return f"{self.mean_pct:.1f} " + (f"± {self.std_pct:.1f} % ({n} networks)" if n > 1 else "% (1 network)")


def evaluate(
    synthetic: ImageSet,
    test: ImageSet,
    protocol: str | Protocol = "vico_dsa",
    network: str = "ConvNet",
    num_eval: int | None = None,
    seed: int = 0,
    loop: Loop | None = None,
    validation: ImageSet | None = None,
    real: ImageSet | None = None,
    device: str | torch.device | None = None,
    together: int | None = None,
) -> Evaluation:
    """Train `num_eval` fresh networks on `synthetic` and test each on all of `test`.

    Args:
        synthetic:  the set to judge: distilled, real (a baseline or the full-data ceiling), or backed by a generator.
                    It is never written to.
        test:       real test set, normalised with the same constants as `synthetic`.
        protocol:   a name such as "vico_dsa@60ep", or a `Protocol`.
        network:    a name of `networks.NETWORKS`.
        num_eval:   networks; by default the protocol's number.
        loop:       how to run: progress, checkpoints, time limit; by default a progress bar and no checkpoint.
        validation: images that choose a learning rate or the weights reported as `validation_selected_pct`.
        real:       the real training set: about 1000 of its images take the place of a `validation` that is needed but
                    not given.
        device:     by default that of `synthetic` if it is on a GPU, else the first GPU, else the CPU.
        together:   networks trained at once; by default all on a GPU, one after another on the CPU. Fewer if memory
                    runs out. The results do not depend on it beyond rounding.
    Returns: an `Evaluation`.
    Raises:  UserError: sets that do not fit together, an unknown protocol or network.  TimeUp: the loop's deadline.
    """
    _check(synthetic, test, validation, real)
    test, validation, real = (None if s is None else s.under(synthetic.whitening) for s in (test, validation, real))
    protocol, network = protocols.protocol(protocol), networks.canonical(network)
    num_eval = protocol.num_eval if num_eval is None else num_eval
    if num_eval < 1 or (together is not None and together < 1):
        raise UserError(f"num_eval {num_eval}, together {together}: at least 1")
    place = pick(str(device)) if device else (synthetic.device if synthetic.device.type == "cuda" else pick())
    job = _Job.prepare(synthetic, test, protocol, network, seed, loop or Loop(), validation, real, place)
    with measure(place) as cost:
        searched = job.protocol.lr_grid and job.validation
        rates = dict.fromkeys([*job.protocol.lr_grid, *([] if searched else [job.base_lr])])
        pieces = Pieces(together or (num_eval if place.type == "cuda" else 1))
        trained = {}
        for lr in rates:
            try:
                groups = pieces(num_eval, lambda part, lr=lr: _train(job, range(num_eval)[part], lr))
            except Diverged:
                if len(rates) == 1:
                    raise
                job.notes.append(f"learning rate {lr} left out: training diverged")
                continue
            trained[lr] = [result for group in groups for result in group]
    if not trained or not (searched or job.base_lr in trained):
        raise Diverged(f"training diverged at learning rate {', '.join(map(str, {*rates} - {*trained}))}")
    lr = _choose(job, trained)
    chosen = trained[lr]
    metrics: dict[str, list[Any]] = {
        "train_loss": [r.train_loss for r in chosen],
        "ece_pct": [r.ece_pct for r in chosen],
        "per_class_accuracy_pct": [r.per_class_pct for r in chosen],
    }
    if job.protocol.checks:
        of_each = zip(*trained.values(), strict=True)  # network after network, its results at every learning rate
        metrics["test_selected_pct"] = [max(x.test for r in results for x in r.looks) for results in of_each]
        if job.validation is not None:
            metrics["validation_selected_pct"] = [max(r.looks, key=lambda look: look.validation).test for r in chosen]
    return Evaluation(
        dataset=test.facts.name,
        network=network,
        protocol=protocol.name,
        seed=seed,
        test_accuracy_pct=[r.accuracy_pct for r in chosen],
        metrics=metrics,
        epochs=job.epochs,
        steps=job.epochs * job.batches,
        images_seen=job.epochs * job.images,
        lr=lr,
        bytes=job.bytes,
        seconds=round(job.seconds, 3),
        memory_mb=round(cost.memory_mb, 1),
        device=describe(place),
        settings=as_dict(job.protocol),
        notes=job.notes,
    )


# --- preparation ----------------------------------------------------------------------------------
@dataclass
class _Job:
    """Everything that is the same for all networks of one evaluation."""

    source: ImageSet  # on the device; if images are fresh every epoch, the set that draws them
    fresh: bool
    test: ImageSet
    validation: ImageSet | None
    protocol: Protocol
    network: str
    seed: int
    loop: Loop
    place: torch.device
    images: int
    epochs: int
    rates: list[float]  # for a base learning rate of 1
    base_lr: float
    bytes: dict[str, int]
    notes: list[str]
    looks: set[int]  # epochs after which a protocol that selects looks at the accuracy; the last is one of them
    restart: int | None  # epoch at which the optimiser forgets its momentum
    digest: str
    seconds: float = 0.0

    @property
    def batches(self) -> int:
        return self.protocol.batches(self.images)

    @staticmethod
    def prepare(
        synthetic: ImageSet,
        test: ImageSet,
        protocol: Protocol,
        network: str,
        seed: int,
        loop: Loop,
        validation: ImageSet | None,
        real: ImageSet | None,
        place: torch.device,
    ) -> _Job:
        notes: list[str] = []
        draws = type(synthetic).epoch is not ImageSet.epoch
        sample = synthetic.epoch(stream(seed, "evaluate", "sample"))  # the set itself, unless a generator is behind it
        fresh = draws and protocol.fresh_images
        if protocol.fresh_images and not draws:
            notes.append("a fixed set: the same images every epoch")
        images, ipc = len(sample), max(1, round(len(sample) / sample.num_classes))
        applied = protocol.settled(test.facts.name, network, ipc, sample.num_classes, sample.labels.ndim == 2)
        lr = applied.lr
        if applied.lr_from_set:
            lr = float(synthetic.facts.extra.get("lr_net", lr))
            if "lr_net" not in synthetic.facts.extra:
                notes.append(f"the set carries no learned step size: learning rate {lr}")
            if not lr > 0:
                raise UserError(
                    f"the set's learned step size is {lr:g}, by which nothing trains: distil again with a smaller "
                    "lr_lr, or evaluate under a protocol with a step size of its own, such as vico_dsa"
                )
        if sample.labels.ndim == 2:
            if not bool(torch.isfinite(sample.labels).all()):
                raise UserError("the set's soft labels hold NaN or infinite values")
            if applied.loss == "ce":
                notes.append("soft labels: networks learn their arg-max; +soft, +kl and +mse protocols use all of them")
        selects = applied.checks or applied.lr_grid
        if selects and validation is None and real is not None and len(synthetic) < len(real):
            each = min(math.ceil(1000 / real.num_classes), min(map(len, real.class_index)))
            validation = real.subset(real.draw_index(each, stream(seed, "evaluate", "validation")).flatten())
            notes.append(f"validation: {len(validation)} images of the real training set")
        epochs, after = applied.num_epochs(ipc, images), applied.restarts_after(ipc, images)
        looks = min(epochs, applied.num_checks(ipc, images))
        targets(applied, sample.labels[:1], sample.num_classes)  # labels the loss cannot use are an error now
        whitening = sample.whitening and sample.whitening.matrix.double().sum().item()
        units = [sample.facts.mean, sample.facts.std, whitening]
        key = [as_dict(applied), network, seed, sample.sha256(), test.sha256(), units]
        if validation is not None:
            key.append(validation.sha256())
        stored = {"images": sample.images.nbytes, "labels": sample.labels.nbytes}
        if fresh:
            stored = {"generator": synthetic.nbytes}
        return _Job(
            source=(synthetic if fresh else sample).to(place),
            fresh=fresh,
            test=test.to(place),
            validation=None if validation is None else validation.to(place),
            protocol=applied,
            network=network,
            seed=seed,
            loop=loop,
            place=place,
            images=images,
            epochs=epochs,
            rates=applied.learning_rates(ipc, images, lr=1.0),
            base_lr=lr,
            bytes=stored,
            notes=notes,
            looks={round(epochs * (i + 1) / looks) - 1 for i in range(looks)},
            restart=None if after is None else after + 1,
            digest=store.digest(key)[:12],
        )


def _check(synthetic: ImageSet, test: ImageSet, validation: ImageSet | None, real: ImageSet | None) -> None:
    for other, role in ((test, "test"), (validation, "validation"), (real, "real")):
        if other is None:
            continue
        if not len(other):
            raise UserError(f"{other.facts.name}: the {role} set has no images")
        if other.shape != synthetic.shape or other.num_classes != synthetic.num_classes:
            raise UserError(
                f"the set to evaluate has {synthetic.num_classes} classes of {synthetic.shape} images, the {role} set "
                f"{other.facts.name} {other.num_classes} of {other.shape}: they must agree"
            )
        if other.facts.class_names != synthetic.facts.class_names:
            pairs = enumerate(zip(synthetic.facts.class_names, other.facts.class_names))
            k, (mine, theirs) = next((k, pair) for k, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"class {k} of the set to evaluate is {mine!r}, of the {role} set {other.facts.name} {theirs!r}: "
                "they must be the same in the same order"
            )
        for what in ("mean", "std", "normalisation"):
            a, b = getattr(synthetic.facts, what), getattr(other.facts, what)
            if a != b:
                raise UserError(
                    f"the set to evaluate has {what} {a}, the {role} set {other.facts.name} {b}: normalise both alike"
                )
    if not len(synthetic):
        raise UserError(f"{synthetic.facts.name}: the set to evaluate has no images")


def _choose(job: _Job, trained: dict[float, list[_Result]]) -> float:
    """The learning rate of the headline: by validation accuracy, else the protocol's own; the test set has no say."""
    if len(trained) == 1:
        return next(iter(trained))
    if job.validation is None:
        job.notes.append(f"no validation images: learning rate {job.base_lr}, not the best of {list(trained)}")
        return job.base_lr
    score = {lr: mean([r.validation_pct for r in results]) for lr, results in trained.items()}
    best = max(score, key=lambda lr: score[lr])
    job.notes.append(f"learning rate {best} chosen from {list(trained)} by validation accuracy")
    return best


# --- training -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Look:
    """The accuracy of one network at one moment of its training, in percent; NaN without a validation set."""

    validation: float
    test: float


@dataclass(frozen=True)
class _Result:
    accuracy_pct: float
    per_class_pct: list[float | None]
    ece_pct: float
    train_loss: float
    validation_pct: float
    looks: list[_Look]


def _train(job: _Job, members: Sequence[int], lr: float) -> list[_Result]:
    """Train the networks of these numbers together; one result each."""
    p, place = job.protocol, job.place
    fresh = [networks.fresh(job.network, job.source, stream(job.seed, "evaluate", i, "init")) for i in members]
    nets = networks.stack([network.to(place) for network in fresh], p.precision).train()
    optimizer = _optimizer(p, list(nets.params.values()))
    average = {k: v.detach().clone() for k, v in nets.params.items()} if p.ema else {}
    loss_sum = torch.zeros(len(members), device=place)  # over the images of the current epoch
    looks: list[list[list[float]]] = []  # one entry per look: validation accuracies, test accuracies
    clock = {"seconds": 0.0}
    live = {
        "weights": nets.params,
        "buffers": nets.buffers,
        "optimizer": optimizer,
        "average": average,
        "loss": loss_sum,
        "looks": looks,
        "clock": clock,
    }
    aug, cutmix = augment.named(p.augmentation, like=job.test), augment.CutMix(p.cutmix)
    name = f"evaluate-{re.sub(r'[^A-Za-z0-9]+', '-', job.network)}-{members[0]}to{members[-1]}-{lr:g}-{job.digest}"
    data, data_epoch = None, -1
    for step in job.loop.steps(name, job.epochs * job.batches, live):
        start = time.perf_counter()
        epoch, batch = divmod(step, job.batches)
        if epoch != data_epoch:
            data, data_epoch = _Epoch(job, members, epoch), epoch
        if batch == 0:
            loss_sum.zero_()
            if epoch == job.restart:
                optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] = lr * job.rates[step if p.lr_per_step else epoch]
        rngs = [stream(job.seed, "evaluate", i, "step", step) for i in members]
        images, wanted = data.batch(batch)  # (M, B, C, H, W), (M, B) or (M, B, K)
        images = aug(images, rngs)
        if p.cutmix:
            images, wanted = cutmix(images, wanted, rngs, job.test.num_classes)
        losses = loss_per_network(p, nets(images), wanted)  # (M,)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        loss_sum += losses.detach() * images.shape[1]
        if batch == job.batches - 1:
            if p.ema:
                update_average(average, nets.params, p.ema, epoch)
            if epoch in job.looks:
                looks.append([_accuracies(nets, average, job.validation), _accuracies(nets, average, job.test)])
        job.loop.log(loss=losses.detach().mean())
        clock["seconds"] += time.perf_counter() - start
    start = time.perf_counter()
    predictions = zip(*_predict(nets, average, job.test), strict=True)
    tested = [_tested(answers, confidence, job.test) for answers, confidence in predictions]
    validated = _accuracies(nets, average, job.validation)
    job.seconds += clock["seconds"] + time.perf_counter() - start
    train_loss = (loss_sum / job.images).tolist()
    return [
        _Result(*tested[m], train_loss[m], validated[m], [_Look(v[m], t[m]) for v, t in looks])
        for m in range(len(members))
    ]


class _Epoch:
    """The images of one epoch in the order each network sees them."""

    def __init__(self, job: _Job, members: Sequence[int], epoch: int):
        self.size, self.place = job.protocol.batch, job.place
        if job.fresh:
            draws = [job.source.epoch(stream(job.seed, "evaluate", i, "images", epoch)).to(job.place) for i in members]
            if other := {len(s) for s in draws} - {job.images}:
                raise UserError(
                    f"{job.source.facts.name}: an epoch of {job.images} images was followed by one of {other.pop()}"
                )
        else:
            draws = [job.source]
        self.sets = [(s, targets(job.protocol, s.labels, s.num_classes)) for s in draws]
        order = [torch.randperm(job.images, generator=stream(job.seed, "evaluate", i, "order", epoch)) for i in members]
        self.order = torch.stack(order).to(job.place)  # (M, N)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Images (M, B, C, H, W), normalised, and targets (M, B) or (M, B, K), of M networks; the last batch may be
        smaller."""
        index = self.order[:, number * self.size : (number + 1) * self.size]
        if len(self.sets) == 1:
            ((source, wanted),) = self.sets
            return source.take(index.flatten())[0].unflatten(0, index.shape), wanted[index]
        parts = [(s.take(i)[0], wanted[i]) for (s, wanted), i in zip(self.sets, index, strict=True)]
        return torch.stack([x for x, _ in parts]), torch.stack([t for _, t in parts])


def _optimizer(p: Protocol, weights: list[Tensor]) -> torch.optim.Optimizer:
    """One optimiser over the stacked weights: it works element by element, so every network is stepped as if alone."""
    if p.optimizer == "adam":
        return torch.optim.Adam(weights, lr=p.lr, weight_decay=p.weight_decay, fused=True)
    return torch.optim.SGD(weights, lr=p.lr, momentum=p.momentum, weight_decay=p.weight_decay, fused=True)


@torch.no_grad()
def update_average(average: dict[str, Tensor], weights: dict[str, Tensor], decay: float, updates: int) -> None:
    """One step of an exponential moving average of weights, in place.

    After k updates the decay is min(decay, 1 - 1/(1 + k)). Source: GLaD's evaluation, one update per epoch.
    """
    keep = min(decay, 1 - 1 / (1 + updates))
    for name, value in average.items():
        value.lerp_(weights[name].detach(), 1 - keep)


# --- labels and losses ----------------------------------------------------------------------------
def targets(p: Protocol, labels: Tensor, num_classes: int) -> Tensor:
    """What the loss compares logits with: classes (N,) for "ce", else (N, K) values.

    Hard labels under "mse" are FRePo's: one-hot vectors less 1/K, divided by sqrt(K / 10).
    Raises: UserError: soft labels that are no probabilities, if the loss needs probabilities.
    """
    if p.loss == "ce":
        return labels if labels.ndim == 1 else labels.argmax(1)
    if labels.ndim == 1:
        onehot = F.one_hot(labels, num_classes).float()
        return (onehot - 1 / num_classes) / math.sqrt(num_classes / 10) if p.loss == "mse" else onehot
    labels = labels.float()
    if p.loss != "mse" and len(labels) and (labels.min() < 0 or (labels.sum(1) - 1).abs().max() > 1e-3):
        raise UserError(
            f"protocol {p.name}: loss {p.loss} needs soft labels that are probabilities, and these are not; "
            "use the loss mse (such as vico_dsa+mse), or ce for the arg-max"
        )
    return labels


def loss_per_network(p: Protocol, logits: Tensor, target: Tensor) -> Tensor:
    """(M,) mean loss of each network over its batch.

    Args:
        logits: (M, B, K).
        target: (M, B) classes or (M, B, K) values.
    """
    if p.loss == "mse":
        return (logits - target).square().sum(2).mean(1) / 2
    if p.loss == "kl":
        t = p.temperature
        wanted = (target.log() / t).softmax(2)  # probabilities softened to temperature t
        return t * t * F.kl_div((logits / t).log_softmax(2), wanted, reduction="none").sum(2).mean(1)
    flat = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), reduction="none")
    return flat.view(logits.shape[:2]).mean(1)


# --- testing --------------------------------------------------------------------------------------
def tested_at_once(shape: tuple[int, int, int], gpu: bool) -> int:
    """Test images of (C, H, W) that go through the networks in one piece."""
    most = 512 if gpu else 128  # at 32 px
    return max(16, min(most, most * 1024 // (shape[1] * shape[2])))


@torch.no_grad()
def _predict(nets: networks.Stack, average: dict[str, Tensor], images: ImageSet) -> tuple[Tensor, Tensor]:
    """Every network's answer to every image (M, N), and the probability it gives that answer (M, N); no
    augmentation."""
    nets.eval()
    pieces = Pieces(tested_at_once(images.shape, images.device.type == "cuda"))

    def run(part: slice) -> Tensor:
        logits = nets.forward(average or nets.params, images.normalise(images.images[part]))  # (M, B, K)
        return torch.stack(logits.softmax(2).max(2))

    confidence, answers = torch.cat(pieces(len(images), run), 2)
    nets.train()
    return answers.long(), confidence


def _accuracies(nets: networks.Stack, average: dict[str, Tensor], images: ImageSet | None) -> list[float]:
    """Percent right of each network; NaN without images."""
    if images is None:
        return [math.nan] * len(nets)
    answers, _ = _predict(nets, average, images)
    return [100 * hits / len(images) for hits in (answers == images.hard_labels).sum(1).tolist()]


def _tested(answers: Tensor, confidence: Tensor, images: ImageSet) -> tuple[float, list[float | None], float]:
    """(accuracy, accuracy of every class, expected calibration error) of one network, in percent."""
    right = answers == images.hard_labels
    per_class = per_class_accuracy_pct(answers, images.hard_labels, images.num_classes)
    return 100 * int(right.sum()) / len(right), per_class, calibration_error_pct(confidence, right)
