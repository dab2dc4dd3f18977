"""What Table 2 of U-ViT measures besides accuracy: scores of samples, at the end and during training."""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from ..core.errors import TimeUp
from ..core.files import atomically
from ..core.loop import Loop
from ..core.settings import Count, replace, settings
from ..data import ImageSet
from ..evaluation.metrics.generative import Judge, Scores
from ..generators import uvit
from ..methods import METHODS
from .definition import Task


@settings
class Quality:
    """What is measured of the samples, and of those at every moment of training whose weights were kept."""

    scores: Scores
    looks: Count = 10_000  # samples a moment
    version: int = 1


def score_samples(task: Task, synthetic: ImageSet, real: ImageSet, test: ImageSet, loop: Loop) -> dict[str, list[Any]]:
    """Scores of the set by name, and `curve`: those of samples at every kept moment of training, from the same noise.

    Interrupted, it goes on with the moment it was at.
    """
    quality, config = task.scores, task.config
    judge = Judge(real, test, quality.scores, task.seed, loop)
    out: dict[str, list[Any]] = {"features": [judge.about()]}
    out |= {name: [value] for name, value in judge(synthetic).items()}
    trained = METHODS[task.maker].prepare(real, config, task.seed, loop)
    file = loop.folder / "curve.json" if loop.folder else None
    curve = json.loads(file.read_text()) if file and file.exists() else []
    few = Judge(real, None, replace(quality.scores, samples=quality.looks), task.seed, loop)
    steps, labels = trained.steps, torch.arange(quality.looks) % real.num_classes
    for step in steps[len(curve) :]:
        if loop.deadline is not None and time.monotonic() > loop.deadline:
            raise TimeUp(f"scores: stopped at {len(curve)} of {len(steps)} moments of training, which are kept")
        images = uvit.generate(
            trained.model(step).to(real.device),
            labels,
            task.seed,
            0,
            config.steps,
            config.sampler,
            config.batch,
            config.precision,
            guidance=config.guidance,
        )
        curve.append({"step": step, **few.distances(ImageSet(images, labels.to(real.device), real.facts))})
        if file:
            atomically(file, lambda part: part.write_text(json.dumps(curve)))
        if loop.tell:
            loop.tell("curve", len(curve), len(steps), {"step": step})
    return out | {"curve": [curve]}
