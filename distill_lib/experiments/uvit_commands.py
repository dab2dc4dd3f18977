"""U-ViT by itself: stage 1 on one process or several, and images of it. The command line's `distill uvit`.

distill uvit train CIFAR10 --profile small
torchrun --nproc-per-node 4 -m distill_lib uvit train CIFAR100
distill uvit generate CIFAR10 --profile small --seconds 600 --folder samples
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .. import data
from ..core import paths
from ..core.device import pick
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.settings import replace
from ..generators import uvit
from ..methods import uvit as method


def train(dataset: str, profile: str = "full", scratch: bool = False) -> uvit.TrainedUViT:
    """Train the U-ViT of a data set. If torch's launcher started this process, it is one of those that train together.

    The result lies in `runs/generators`, where the experiments look for it. Stopped and started again, training goes
    on, also with another number of processes: a step draws the same images, times and noise whatever the number.

    Args:
        profile: whose settings: smoke, small or full.
        scratch: start from random weights, not from the public ones.
    Raises: UserError: an unknown data set, weights or data that are not here.
    """
    cfg = method.of_profile(dataset, profile)
    training = replace(cfg.training, start=None) if scratch else cfg.training
    local = os.environ.get("LOCAL_RANK")
    device = pick(f"cuda:{local}" if local and torch.cuda.is_available() else None)
    if local:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        real = data.load(dataset)[0].to(device)
        found = uvit.place(real, training, cfg.training_seed)
        loop = Loop(paths.runs() / "generators" / "work" / found.folder.name, key=found.folder.name)
        done = uvit.trained(real, training, cfg.training_seed, loop)
        if not int(os.environ.get("RANK", 0)):
            print(f"{done.file}: {done.seconds:.0f} s of training")
        return done
    finally:
        if local:
            torch.distributed.destroy_process_group()


def generate(
    folder: Path,
    dataset: str | None = None,
    weights: Path | None = None,
    profile: str = "full",
    seconds: float | None = None,
    images: int | None = None,
    seed: int = 0,
) -> uvit.Generated:
    """Images of every class in turn, to a folder as uint8: as many as a time allows, or a number of them.

    Stopped and started again, it goes on; the seconds spent are kept with the images.

    Args:
        dataset: whose U-ViT, trained by `train` or by an experiment, at the settings of `profile`.
        weights: a file of weights, in place of a data set.
    Raises: UserError: both or neither of the two, no such training, weights without classes, images of other settings.
    """
    if (dataset is None) == (weights is None):
        raise UserError("give a data set or --weights, one of the two")
    if weights:
        cfg, model = method.Config(), uvit.load(weights)
    else:
        cfg = method.of_profile(dataset, profile)
        found = uvit.place(data.load(dataset)[0], cfg.training, cfg.training_seed)
        if not found.file.exists():
            train_it = f"distill uvit train {dataset} --profile {profile}"
            raise UserError(f"no U-ViT of {dataset} at {profile}; train it: {train_it}")
        model = found.model()
    if not (num_classes := model.arch.num_classes):
        first = f"train them on a data set with classes first, with start={str(weights)!r}"
        raise UserError(f"{weights}: unconditional weights; {first}")
    options = {k: getattr(cfg, k) for k in ("steps", "sampler", "batch", "precision", "guidance")}
    made = uvit.generate_for(model.to(pick()), seconds, num_classes, seed, folder, images=images, **options)
    print(f"{made.folder}: {made.images} images in {made.seconds:.1f} s, {made.images_per_second:.1f} a second")
    return made
