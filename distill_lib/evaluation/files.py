"""Distilled sets that other code wrote, read safely and evaluated: what `distill evaluate FILE` does.

    synthetic = read("images_best.pt", like=test, values="normalised")
    results = evaluate_file("images_best.pt", "CIFAR10", "vico_dsa", ["ConvNet", "ResNet18"], values="normalised")

A file of tensors does not say whether its numbers are pixels in [0, 1] or were normalised, and a wrong guess costs tens
of percent, so for float images the caller says it. Nothing in a file is ever executed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import data
from ..core.errors import UserError, unknown
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import replace
from ..data import ImageSet, distilled
from ..data.folders import Split
from ..networks import NETWORKS
from . import protocols
from .evaluator import Evaluation, evaluate
from .protocols import Protocol

BASELINE, CEILING = "baseline: ", "ceiling: "  # how the notes begin that say what was trained on


def evaluate_file(
    path: str | Path,
    dataset: str | Path,
    protocol: str | Protocol | Sequence[str | Protocol] = "vico_dsa",
    networks: Sequence[str] = ("ConvNet",),
    num_eval: int | None = None,
    seed: int = 0,
    values: distilled.Values | None = None,
    baseline: bool = False,
    ceiling_epochs: int | None = None,
    resolution: int | None = None,
    normalisation: str | None = None,
    channels: int | None = None,
    split: Split | None = None,
    classes: Sequence[str] | None = None,
    device: str | None = None,
    loop: Loop | None = None,
    **how: Any,
) -> list[Evaluation]:
    """Evaluate a distilled set from a file with each of several architectures.

    Args:
        path:     see `read`.
        dataset:  whose test set judges it, by a name or path that `data.load` knows.
        values:   what float images hold, see `read`.
        protocol: one, or several side by side: ("vico_dsa", "vico_dsa+noaug"), or ("dd_ranking+hard",
                  "dd_ranking+soft").
        baseline: also evaluate as many random real images of every class, under the same protocols.
        ceiling_epochs: also train on all real images for this many epochs, otherwise under the same protocols.
        resolution, normalisation, channels, split, classes: passed on to `data.load`.
        how:      `factor`, `order`, `numbers` of `read`.
        The others as in `evaluate`.
    Returns: one `Evaluation` per protocol and network, then those of the baseline and of the ceiling; `rows` makes a
             table of them. Their notes state every assumption made about the file.
    Raises:  UserError: an unreadable or ambiguous file, or one that does not fit the data set.
    """
    chosen = [protocols.protocol(p) for p in ([protocol] if isinstance(protocol, str | Protocol) else protocol)]
    if not chosen:
        raise unknown("protocol", "", protocols.PROTOCOLS)
    if not networks:
        raise unknown("network", "", NETWORKS)
    choice = {"channels": channels, "split": split, "classes": classes}
    real, test = data.load(dataset, resolution, normalisation=normalisation, **choice)
    given = distilled.read(path, like=test, values=values, **how)
    real = real.under(given.whitening)
    sets = [(given, real, chosen)]
    if baseline:
        ipc = max(1, round(len(given) / given.num_classes))
        real.enough(ipc)
        index = real.draw_index(ipc, stream(seed, "random baseline")).flatten()
        rest = torch.ones(len(real), dtype=torch.bool)
        rest[index.cpu()] = False
        others = real.subset(torch.nonzero(rest).flatten())  # validation images are not among those trained on
        unequal = f", {ipc * given.num_classes} beside the {len(given)} of the set"
        unequal *= len(given) != ipc * given.num_classes
        drawn = real.subset(
            index, notes=(*real.facts.notes, f"{BASELINE}{ipc} random real images of every class{unequal}")
        )
        sets.append((drawn, others if all(map(len, others.class_index)) else None, chosen))
    if ceiling_epochs is not None:
        if ceiling_epochs < 1:
            raise UserError(f"ceiling_epochs {ceiling_epochs}: at least 1")
        budget = [
            replace(p, name=f"{p.name.partition('@')[0]}@{ceiling_epochs}ep", budget=ceiling_epochs) for p in chosen
        ]
        about = dataclasses.replace(real.facts, notes=(*real.facts.notes, f"{CEILING}all {len(real)} real images"))
        sets.append((ImageSet(real.images, real.labels, about, real.whitening), real, budget))
    return [
        dataclasses.replace(result, notes=list(dict.fromkeys([*test.facts.notes, *s.facts.notes, *result.notes])))
        for s, others, judged in sets
        for p in judged
        for name in networks
        for result in [evaluate(s, test, p, name, num_eval, seed, loop=loop, real=others, device=device)]
    ]


def rows(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """One plain row per evaluation, for a table."""
    return [
        {
            "set": _what(e),
            "network": e.network,
            "accuracy %": f"{e.mean_pct:.1f}" + f" ± {e.std_pct:.1f}" * (len(e.test_accuracy_pct) > 1),
            "networks": len(e.test_accuracy_pct),
            "protocol": e.protocol,
            "epochs": e.epochs,
            "lr": e.lr,
            "kB": round(sum(e.bytes.values()) / 1000, 1),
            "seconds": round(e.seconds, 1),
        }
        for e in evaluations
    ]


def _what(e: Evaluation) -> str:
    for start, name in ((BASELINE, "random real images"), (CEILING, "all real images")):
        if any(note.startswith(start) for note in e.notes):
            return name
    return "file"
