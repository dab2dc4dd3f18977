"""DD-Ranking scores: how much of a set's accuracy comes from its images (Li et al. 2025, arXiv 2505.13300).

    scores = dd_ranking(synthetic, real, test, evaluate)
    print(scores)                 # LRS 25.4 ± 0.6 %, ARS 25.1 ± 0.5 % (5 rounds): HLR 24.2, IOR 17.2 points
    scores.official               # the same from accuracies selected on the test set, as the public code does

| score | from | meaning |
| --- | --- | --- |
| HLR | real-hard - syn-hard | what hard labels lose against all real images; small is good |
| IOR | syn-any - rdm-any | gain over random real images treated alike (labels, loss, augmentation); large is good |
| LRS | alpha = w IOR - (1 - w) HLR | label-robust score |
| ARS | beta = g (syn-aug - rdm-aug) + (1 - g) (syn-naug - rdm-naug) | augmentation-robust score |

A score is (e^x - e^-1) / (e - e^-1) of its alpha or beta: 0 at -1, 1 at 1. Everything here is a fraction: release 0.2.0
of the public code puts percentages into the exponential, which turns an LRS of 0.254 into -0.144.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import replace
from ...data import ImageSet
from .. import statistics
from ..protocols import Protocol
from ..protocols import protocol as rules_of


# --- formulas, all in fractions -------------------------------------------------------------------
def _fractions(**accuracies: float) -> None:
    for name, value in accuracies.items():
        if not 0 <= value <= 1:
            raise UserError(
                f"{name} {value}: DD-Ranking takes accuracies as fractions in [0, 1]; divide percentages by 100"
            )


def hard_label_recovery(real_hard: float, syn_hard: float) -> float:
    """HLR: accuracy of all real images minus that of the synthetic set, both trained with hard labels."""
    _fractions(real_hard=real_hard, syn_hard=syn_hard)
    return real_hard - syn_hard


def improvement_over_random(syn_any: float, rdm_any: float) -> float:
    """IOR: accuracy of the synthetic set minus that of random real images, both under the method's own evaluation."""
    _fractions(syn_any=syn_any, rdm_any=rdm_any)
    return syn_any - rdm_any


def label_robust_score(real_hard: float, syn_hard: float, syn_any: float, rdm_any: float, weight: float = 0.5) -> float:
    """LRS in [0, 1], with `weight` on IOR. For a method with hard labels syn_any is syn_hard."""
    _fractions(weight=weight)
    gain, loss = improvement_over_random(syn_any, rdm_any), hard_label_recovery(real_hard, syn_hard)
    return _score(weight * gain - (1 - weight) * loss)


def augmentation_robust_score(
    syn_aug: float, rdm_aug: float, syn_naug: float, rdm_naug: float, weight: float = 0.5
) -> float:
    """ARS in [0, 1], with `weight` on the gain over random images with augmentation, the rest without."""
    _fractions(weight=weight)
    with_aug, without = improvement_over_random(syn_aug, rdm_aug), improvement_over_random(syn_naug, rdm_naug)
    return _score(weight * with_aug + (1 - weight) * without)


def _score(x: float) -> float:
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


# --- procedure ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Ranking:
    """One entry per round in every list, all fractions.

    accuracies: real_hard, syn_hard, syn_any, rdm_any, syn_naug, rdm_naug (aug is any).
    selection:  how the accuracies were chosen.
    official:   the same scores from accuracies selected on the test set; None if an evaluation did not look at it.
    """

    accuracies: dict[str, list[float]]
    hlr: list[float]
    ior: list[float]
    lrs: list[float]
    ars: list[float]
    selection: str
    official: Ranking | None = None

    def __str__(self) -> str:
        several = len(self.lrs) > 1
        lrs, ars = (
            f"{100 * statistics.mean(v):.1f}{f' ± {100 * statistics.std(v, ddof=1):.1f}' * several} %"
            for v in (self.lrs, self.ars)
        )
        hlr, ior = (f"{100 * statistics.mean(v):.1f}" for v in (self.hlr, self.ior))
        rounds = f"{len(self.lrs)} rounds" if several else "1 round"
        return f"LRS {lrs}, ARS {ars} ({rounds}): HLR {hlr}, IOR {ior} points; {self.selection}"


class Evaluated(Interface):
    """What is read of an evaluation's result."""

    test_accuracy_pct: list[float]
    metrics: dict[str, list[Any]]


LAST, BEST = "last epoch, learning rate by validation images", "best look at the test set over all learning rates"


def dd_ranking(
    synthetic: ImageSet,
    real: ImageSet,
    test: ImageSet,
    evaluate: Callable[..., Evaluated],
    network: str = "ConvNet",
    rounds: int = 5,
    seed: int = 0,
    protocol: str = "dd_ranking",
    soft_protocol: str | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
    full_data: float | Sequence[float] | None = None,
    real_protocol: Protocol | str | None = None,
    lrs_weight: float = 0.5,
    ars_weight: float = 0.5,
    loop: Loop | None = None,
) -> Ranking:
    """Score a synthetic set by the procedure of DD-Ranking, without its selection on the test set.

    Every round trains one network on the synthetic set, one on fresh random real images of the same number per class,
    each with and without augmentation, and one on all real images. The protocol searches the learning rate of the
    synthetic and the random images alike, on the same real validation images, which are never among the random ones. (A
    synthetic set may have been distilled from them: a published set does not say what it has seen.)

    Args:
        synthetic:     the set to score.
        real, test:    the real training and test sets.
        evaluate:      `distill_lib.evaluation.evaluate`.
        rounds:        independent repetitions.
        protocol:      hard-label evaluation by name; budgets as in "dd_ranking@60ep".
        soft_protocol: the method's own evaluation if it uses soft labels, such as "dd_ranking+kl"; None: `protocol`.
        teacher:       with `soft_protocol`: maps (N, C, H, W) normalised images to the (N, K) labels of the random
                       ones, from the model that made the synthetic set's.
        full_data:     accuracies of all real images as fractions, one or one per round, instead of training on them.
        real_protocol: training on all real images; by default `full_data_protocol()`, with the budget of `protocol`.
        lrs_weight, ars_weight: of IOR in LRS, of augmented training in ARS.
    Raises: UserError: percentages, soft labels without a teacher, or too few real images.
    Source: the paper's definitions; procedure of release 0.2.0 of its code, whose own selection is `official`.
    """
    if isinstance(protocol, Protocol):
        raise UserError(f"protocol {protocol.name!r}: give a name, such as 'dd_ranking@60ep'")
    if isinstance(full_data, (int, float)):
        full_data = [full_data]
    if rounds < 1:
        raise UserError(f"rounds {rounds}: at least 1")
    if soft_protocol and (teacher is None or synthetic.labels.ndim == 1):
        missing = "a teacher that labels the random images" if teacher is None else "a synthetic set with soft labels"
        raise UserError(f"soft_protocol {soft_protocol!r} needs {missing}: both sets must be trained alike")
    if full_data is not None and len(full_data) not in (1, rounds):
        raise UserError(f"{len(full_data)} full-data accuracies for {rounds} rounds: give one, or one per round")
    for value in full_data or ():
        _fractions(full_data=value)
    real = real.under(synthetic.whitening)
    validation, pools = _split(real, seed)
    ipc = max(1, round(len(synthetic) / synthetic.num_classes))
    own = soft_protocol or protocol
    last: dict[str, list[float]] = {}  # accuracies of every round, as fractions
    best: dict[str, list[float | None]] = {}  # the same at the best look at the test set

    def note(name: str, accuracy: float, selected: float | None) -> None:
        last.setdefault(name, []).append(accuracy)
        best.setdefault(name, []).append(selected)

    for r in range(rounds):
        rng = stream(seed, "dd_ranking", "random", r)
        random = _random_images(real, pools, ipc, rng, teacher if soft_protocol else None)
        given = {"validation": validation}
        todo: dict[str, tuple[ImageSet, Protocol | str, dict[str, ImageSet]]] = {
            "syn_any": (synthetic, own, given),
            "rdm_any": (random, own, given),
            "syn_naug": (synthetic, _without_augmentation(own), given),
            "rdm_naug": (random, _without_augmentation(own), given),
        }
        if soft_protocol:
            todo["syn_hard"] = (synthetic, protocol, given)
        if full_data is None:
            todo["real_hard"] = (real, real_protocol or full_data_protocol(rules_of(protocol).budget), {})
        for name, (images, rules, more) in todo.items():
            result = evaluate(images, test, rules, network=network, num_eval=1, seed=1000 * seed + r, loop=loop, **more)
            selected = result.metrics.get("test_selected_pct")
            note(name, result.test_accuracy_pct[0] / 100, selected and selected[0] / 100)
        if not soft_protocol:
            note("syn_hard", last["syn_any"][r], best["syn_any"][r])
        if full_data is not None:
            note("real_hard", *[full_data[r % len(full_data)]] * 2)
    official = None
    if all(value is not None for values in best.values() for value in values):
        official = _scores(best, BEST, lrs_weight, ars_weight)
    selection = LAST if rules_of(own).lr_grid else "last epoch"
    return _scores(last, selection, lrs_weight, ars_weight, official)


def full_data_protocol(budget: int | None = None) -> Protocol:
    """DD-Ranking's training of a ConvNet on all real images: 200 epochs at batch 512, learning rate 0.01, a tenth from
    the middle on.

    The augmentation is that of `dd_ranking`: the public code augments here in its hard-label evaluator only.
    """
    name = "dd_ranking_full_data" + (f"@{budget}ep" if budget else "")
    changes = {"epochs": 200, "batch": 512, "lr": 0.01, "lr_grid": (), "checks": 20, "budget": budget}
    return replace(rules_of("dd_ranking"), name=name, **changes)


def _scores(
    accuracies: dict[str, list[float]], selection: str, w: float, g: float, official: Ranking | None = None
) -> Ranking:
    rounds = [dict(zip(accuracies, row, strict=True)) for row in zip(*accuracies.values(), strict=True)]
    return Ranking(
        accuracies=accuracies,
        hlr=[hard_label_recovery(a["real_hard"], a["syn_hard"]) for a in rounds],
        ior=[improvement_over_random(a["syn_any"], a["rdm_any"]) for a in rounds],
        lrs=[label_robust_score(a["real_hard"], a["syn_hard"], a["syn_any"], a["rdm_any"], w) for a in rounds],
        ars=[augmentation_robust_score(a["syn_any"], a["rdm_any"], a["syn_naug"], a["rdm_naug"], g) for a in rounds],
        selection=selection,
        official=official,
    )


def _without_augmentation(protocol: str) -> str:
    base, at, budget = protocol.partition("@")
    return f"{base}+noaug{at}{budget}"


def _split(real: ImageSet, seed: int) -> tuple[ImageSet, list[Tensor]]:
    """Validation images, a tenth of every class up to 100, and the positions of all others, class by class."""
    rng = stream(seed, "dd_ranking", "validation")
    size = min(100, min(map(len, real.class_index)) // 10)
    if not size:
        raise UserError(
            f"{real.facts.name}: DD-Ranking needs at least 10 real images of every class to choose learning rates"
        )
    mixed = [members[torch.randperm(len(members), generator=rng)] for members in real.class_index]
    return real.subset(torch.cat([m[:size] for m in mixed])), [m[size:] for m in mixed]


def _random_images(
    real: ImageSet, pools: list[Tensor], ipc: int, rng: torch.Generator, teacher: Callable[[Tensor], Tensor] | None
) -> ImageSet:
    """`ipc` random images of every class, with hard labels or the teacher's."""
    smallest = min(map(len, pools))
    if smallest < ipc:
        raise UserError(
            f"{real.facts.name}: {ipc} images per class to compare with, but a class has only {smallest} left"
        )
    index = torch.cat([pool[torch.randperm(len(pool), generator=rng)[:ipc]] for pool in pools])
    if teacher is None:
        return real.subset(index)
    images, _ = real.take(index)
    with torch.no_grad():
        return ImageSet(images, teacher(images).float(), real.facts, real.whitening)
