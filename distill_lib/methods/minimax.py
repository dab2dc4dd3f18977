"""Minimax: a DiT tuned for representativeness and diversity (Gu et al., CVPR 2024). Book page: book/dgs.md

DiffFit tunes biases, labels and scales of a DiT on the classes at hand. Beside the diffusion loss, the predicted clean
latent is pulled to the least similar remembered real latent and pushed from the most similar remembered prediction of
its class: equations 5 to 7, `minimax_loss`. `tune` is the training, whose model DGS shares.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import store
from ..core.batches import Batches
from ..core.device import send
from ..core.files import read_tensors, undamaged, write_json, write_tensors
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, as_dict, replace, settings
from ..data import ImageSet, like
from ..generators import dit
from ..generators.dit import DiT, Model, Pretraining, Sampling, base, drawn_pool, latents
from ..generators.dit.settings import VERSION as STORE_VERSION
from ..generators.training import follow, kept_in

VERSION = 1


@settings
class Tuning:
    """Stage 2, fine-tuning with Minimax's losses; defaults as in its code. Both lambdas at 0 are plain fine-tuning."""

    steps: Count = 12_000  # the checkpoint its code samples from; 8 epochs of a ten-class subset are about 13,000 steps
    batch: Count = 8
    lr: float = 1e-3  # AdamW, constant, no weight decay
    parameters: Literal["difffit", "all"] = "difffit"
    lambda_r: float = 0.002  # representativeness: the least similar remembered real latent
    lambda_d: float = 0.008  # diversity: the most similar remembered prediction
    memory: Count = 64  # latents of each kind and class, first in, first out
    up_to: Count | None = None  # largest timestep whose prediction has the two losses (ours); None: all, as the code
    ema: float = 0.9999  # of the weights that draw, from the first step on
    drop: float = 0.1
    seed: int = 0

    def smoke(self) -> Tuning:
        return replace(self, steps=4, ema=0.5, memory=4)

    def small(self) -> Tuning:
        """Five minutes on one CPU core: fewer steps, whose average forgets sooner."""
        return replace(self, steps=1_500, ema=0.995)

    @property
    def passes(self) -> float:
        """Forward passes an image counts as: a backward pass is two, or one if the matrices are frozen."""
        return 2.0 if self.parameters == "difffit" else 3.0

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network."""
        return self.steps * self.batch * self.passes


@settings
class Config:
    ipc: Count = 10  # images per class: the first of a pool
    base: Pretraining = Pretraining()  # stage 1, shared with DiT and DGS
    tuning: Tuning = Tuning()  # stage 2, shared with DGS
    sampling: Sampling = Sampling()

    def smoke(self) -> Config:
        return replace(self, base=self.base.smoke(), tuning=self.tuning.smoke(), sampling=self.sampling.smoke())

    def small(self) -> Config:
        """A DiT trained for half an hour and tuned for five minutes on one CPU core, at half the denoising steps."""
        return replace(self, base=self.base.small(), tuning=self.tuning.small(), sampling=self.sampling.small())


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting of the official code on subsets of ImageNet; on other sets, ours: a DiT trained in pixels.

    The official code tunes a subset of 100 classes in phases of 20, each from the start; here all classes are tuned
    together, whatever their number.
    """
    if dit.has_published(dataset):
        return Config(ipc=ipc)
    return Config(ipc=ipc, base=Pretraining(flips=like(dataset).mirrors).in_pixels(), sampling=Sampling(channels="all"))


def stage1(cfg: Config) -> dict[str, Pretraining | Tuning]:
    return {"DiT": cfg.base, "Minimax fine-tuning": cfg.tuning}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make both stages, unless they are there already."""
    tuned(real, cfg.base, cfg.tuning, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Fine-tune, and draw the set.

    Returns: K x ipc drawn images, normalised, at the side of `real`.
    Raises:  UserError: missing weights, or images the model does not fit.
    """
    images = draw_pool(real, cfg.base, cfg.tuning, cfg.sampling, cfg.ipc, seed, loop)
    return dit.as_set(images, real, dit.first(images, cfg.ipc), method="Minimax", seed=seed)


def draw_pool(
    real: ImageSet,
    start: Pretraining,
    tuning: Tuning | None,
    sampling: Sampling,
    per_class: int,
    seed: int,
    loop: Loop | None = None,
) -> ImageSet:
    """`per_class` images of every class drawn from stage 1, or from what was tuned from it: see `drawn_pool`.

    Args:
        tuning: None draws from stage 1.
    Raises: see `base`.
    """
    made_by = {"base": as_dict(start), "tuning": None if tuning is None else as_dict(tuning), **start.file_state()}
    return drawn_pool(real, lambda: model(real, start, tuning, loop), made_by, sampling, per_class, seed, loop)


def model(real: ImageSet, start: Pretraining, tuning: Tuning | None, loop: Loop | None = None) -> Model:
    """The model of stage 2 or, without `tuning`, of stage 1. Raises: see `base`."""
    return base(real, start, loop) if tuning is None else tuned(real, start, tuning, loop)


# --- the loss ---------------------------------------------------------------------------------------------------------
class LatentMemory:
    """For every class the last `size` latents, as unit vectors: similarities are cosines, which no scale changes.

    Attributes:
        vectors: (K, size, D).
        count:   (K,) how many were ever added.
    """

    def __init__(self, num_classes: int, size: int, numbers: int, device: torch.device | str):
        self.vectors = torch.zeros(num_classes, size, numbers, device=device)
        self.count = torch.zeros(num_classes, dtype=torch.int64)

    @torch.no_grad()
    def add(self, latents: Tensor, labels: Tensor) -> None:
        """Append (B, ...) latents of classes `labels` (B,) (on the CPU), in order; the oldest make room."""
        for unit, k in zip(F.normalize(latents.flatten(1), dim=1), labels.tolist(), strict=True):
            self.vectors[k, self.count[k] % self.vectors.shape[1]] = unit
            self.count[k] += 1

    def of(self, k: int) -> Tensor:
        """(n, D) the remembered unit vectors of class k."""
        return self.vectors[k, : int(self.count[k])]

    def live(self) -> dict[str, Tensor]:
        return {"vectors": self.vectors, "count": self.count}


def minimax_loss(
    predicted: Tensor, labels: Tensor, real: LatentMemory, generated: LatentMemory, lambda_r: float, lambda_d: float
) -> Tensor:
    """Mean over the batch's classes of lambda_r (1 - least cosine to real) + lambda_d (greatest cosine to generated).

    A class whose memories are empty contributes zero.

    Args:
        predicted: (B, ...) clean latents as the network predicts them; labels (B,) on the CPU.
    Source: Gu et al. 2024, eq. 5 to 7, and its code; DGS, eq. 3 and 4.
    """
    unit, total = F.normalize(predicted.flatten(1), dim=1), predicted.new_zeros(())
    present = sorted(set(labels.tolist()))
    for k in present:
        mine = unit[send(torch.nonzero(labels == k).flatten(), unit.device)]
        if real.count[k]:
            total = total + lambda_r * (1 - (mine @ real.of(k).T).min())
        if generated.count[k]:
            total = total + lambda_d * (mine @ generated.of(k).T).max()
    return total / len(present)


# --- stage 2 ----------------------------------------------------------------------------------------------------------
def tuned(real: ImageSet, start: Pretraining, tuning: Tuning, loop: Loop | None = None) -> Model:
    """The model of stage 2, the running average of the tuned weights; tuned unless `runs/generators` already has it.

    Raises: see `base`.
    """
    file, pretrained = tuned_file(real, start, tuning), base(real, start, loop)
    with store.once(file, "Minimax fine-tuning", loop, real.device) as missing:
        if missing:
            tune(file, pretrained, real, start, tuning, loop or Loop())
    network = _tunable(pretrained.network, tuning)
    with undamaged(file, "delete it to tune again"):
        saved, _ = read_tensors(file)
        if extra := set(saved) - {k for k, p in network.named_parameters() if p.requires_grad}:
            raise KeyError(", ".join(sorted(extra)))
        network.load_state_dict(saved, strict=False)
    return dataclasses.replace(pretrained, network=network.eval().requires_grad_(False))


def tuned_file(real: ImageSet, start: Pretraining, tuning: Tuning) -> Path:
    """The file of the parameters tuned by these settings."""
    key = {"base": as_dict(start), "tuning": as_dict(tuning), "data": real.sha256(), "version": STORE_VERSION}
    key |= start.file_state()
    return kept_in("minimax", store.plain_name(real.facts.name), key) / "tuned.safetensors"


def _tunable(network: DiT, tuning: Tuning) -> DiT:
    if tuning.parameters == "difffit":
        return dit.difffit(network)
    network = copy.deepcopy(network).requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    return network


def tune(file: Path, model: Model, real: ImageSet, start: Pretraining, tuning: Tuning, loop: Loop) -> None:
    """Fine-tune the model of stage 1 and write the average of the tuned parameters, with settings beside it."""
    data, rng, labels = latents(real, start, loop), stream(tuning.seed, "Minimax"), real.hard_labels.cpu()
    model = dataclasses.replace(model, network=_tunable(model.network, tuning).train())
    average = copy.deepcopy(model.network).requires_grad_(False)
    weights = {k: p for k, p in model.network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(list(weights.values()), lr=tuning.lr, weight_decay=0.0, fused=True)
    size = real.num_classes, tuning.memory, math.prod(model.latent)
    remembered, generated = LatentMemory(*size, real.device), LatentMemory(*size, real.device)
    lambdas = {"lambda_r": tuning.lambda_r, "lambda_d": tuning.lambda_d}
    last = len(model.schedule) if tuning.up_to is None else tuning.up_to  # timestep with the two losses
    batches = Batches(len(real), tuning.batch, last="drop")
    live = {"network": model.network, "average": average, "optimizer": optimizer, "rng": rng, "order": batches.order}
    live |= {"real": remembered.live(), "generated": generated.live()}
    for curve in ("error", "bound"):
        loop.history.pop(curve, None)  # of stage 1, where one loop made both
    for step in loop.steps("minimax", tuning.steps, live):
        index = batches.index(step, rng)
        classes = labels[index]
        found = model.losses(data, index, classes, tuning.drop, rng)
        loss, log = found.error + found.bound, {"error": found.error, "bound": found.bound}
        chosen = torch.nonzero(found.t <= last).flatten()
        predicted = found.predicted[chosen.to(found.predicted.device)]
        if any(lambdas.values()) and len(chosen):
            log["minimax"] = minimax_loss(predicted, classes[chosen], real=remembered, generated=generated, **lambdas)
            loss = loss + log["minimax"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        remembered.add(found.z, classes)
        generated.add(predicted.detach(), classes[chosen])
        follow(average, model.network, tuning.ema)
        loop.log(**log)
    about = {"dataset": real.facts.name, "data_sha256": real.sha256(), "base": as_dict(start)}
    about |= {"settings": as_dict(tuning), "parameters": sum(p.numel() for p in weights.values())}
    write_json(file.parent / "settings.json", about | {"looks": store.thinned(loop.history)})
    write_tensors(file, {k: v for k, v in average.state_dict().items() if k in weights})
    store.forget(loop, "minimax", "encode")
