"""Minimax fine-tuning of a DiT (Gu et al. 2024): memories, loss (equations 5 to 7) and training."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core import paths, store
from ...core.batches import Batches
from ...core.errors import UserError
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, as_dict, replace, settings
from ...core.store import digest, forget, plain_name, thinned
from ...data import ImageSet
from ...generators import dit
from ...generators.dit import DiT
from ...generators.dit.drawing import drawn_pool
from ...generators.dit.encoded import latents
from ...generators.dit.forecast import outlook, say
from ...generators.dit.settings import VERSION, Pretraining, Sampling
from ...generators.dit.training import Model, Steps, base
from ...generators.training import follow


@settings
class Tuning:
    """Stage 2: fine-tuning with Minimax's losses. The defaults are those of its code; both lambdas at 0 are plain
    fine-tuning."""

    steps: Count = 12_000  # the checkpoint its code samples from; 8 epochs of a ten-class subset are about 13,000 steps
    batch: Count = 8
    lr: float = 1e-3  # AdamW, constant, no weight decay
    parameters: Literal["difffit", "all"] = "difffit"
    lambda_r: float = 0.002  # representativeness: the least similar remembered real latent
    lambda_d: float = 0.008  # diversity: the most similar remembered prediction
    memory: Count = 64  # latents of each kind and class, first in, first out
    up_to: Count | None = (
        None  # largest timestep whose prediction enters the two losses; None for all, as the code (limits are ours)
    )
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
        """Forward passes that training on an image counts as; frozen matrices need no weight gradient, so a backward
        pass counts as one."""
        return 2.0 if self.parameters == "difffit" else 3.0

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network."""
        return self.steps * self.batch * self.passes


# --- stage 2 -----------------------------------------------------------------------------------------------------------
class Memory:
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
    predicted: Tensor, labels: Tensor, real: Memory, generated: Memory, lambda_r: float, lambda_d: float
) -> Tensor:
    """Mean over the batch's classes of lambda_r (1 - least cosine to a real latent) + lambda_d (greatest cosine to a
    generated one).

    A class whose memories are empty contributes zero.

    Args:
        predicted: (B, ...) clean latents as the network predicts them; labels (B,) on the CPU.
    Source: Gu et al. 2024, eq. 5 to 7, and its code; DGS, eq. 3 and 4.
    """
    unit, total = F.normalize(predicted.flatten(1), dim=1), predicted.new_zeros(())
    present = sorted(set(labels.tolist()))
    for k in present:
        mine = unit[(labels == k).to(unit.device)]
        if real.count[k]:
            total = total + lambda_r * (1 - (mine @ real.of(k).T).min())
        if generated.count[k]:
            total = total + lambda_d * (mine @ generated.of(k).T).max()
    return total / len(present)


def tuned(real: ImageSet, of: Pretraining, tuning: Tuning, loop: Loop | None = None) -> Model:
    """The model of stage 2: the running average of the tuned weights, from `runs/generators` where it is, else tuned
    and put there.

    Raises: see `base`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file, start = tuned_file(real, of, tuning), base(real, of, loop)
    with store.once(file, "Minimax fine-tuning", loop, real.device) as missing:
        if missing:
            _tune(file, start, real, of, tuning, loop or Loop())
    network = _tunable(start.network, tuning)
    try:
        saved = load_file(file)
        if extra := set(saved) - {k for k, p in network.named_parameters() if p.requires_grad}:
            raise KeyError(", ".join(sorted(extra)))
        network.load_state_dict(saved, strict=False)
    except (SafetensorError, OSError, KeyError, RuntimeError) as err:
        raise UserError(f"{file}: damaged ({err}); delete it to tune again") from None
    return dataclasses.replace(start, network=network.eval().requires_grad_(False))


def tuned_file(real: ImageSet, of: Pretraining, tuning: Tuning) -> Path:
    """Where the parameters tuned by these settings lie."""
    key = {"base": as_dict(of), "tuning": as_dict(tuning), "data": real.sha256(), "version": VERSION}
    return paths.runs() / "generators" / f"minimax-{plain_name(real.facts.name)}-{digest(key)}" / "tuned.safetensors"


def _tunable(network: DiT, of: Tuning) -> DiT:
    if of.parameters == "difffit":
        return dit.difffit(network)
    network = copy.deepcopy(network).requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    return network


def _tune(file: Path, start: Model, real: ImageSet, of: Pretraining, tuning: Tuning, loop: Loop) -> None:
    from safetensors.torch import save_file

    data, rng = latents(real, of, loop), stream(tuning.seed, "Minimax")
    network = _tunable(start.network, tuning).train()
    average = copy.deepcopy(network).requires_grad_(False)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=tuning.lr, weight_decay=0.0, fused=True)
    steps = Steps(network, start.space, start.schedule, start.precision, tuning.drop, start.labels, rng)
    say(outlook(f"Minimax on {real.facts.name}", network, tuning.passes, tuning.steps, tuning.batch))
    memories = [Memory(real.num_classes, tuning.memory, math.prod(start.latent), real.device) for _ in range(2)]
    batches, clock, every = Batches(len(real), tuning.batch, last="drop"), {"seconds": 0.0}, real.hard_labels.cpu()
    live = {
        "network": network,
        "average": average,
        "optimizer": optimizer,
        "rng": rng,
        "order": batches.order,
        "clock": clock,
        "real": memories[0].live(),
        "generated": memories[1].live(),
    }
    for step in loop.steps("minimax", tuning.steps, live):
        began = time.perf_counter()
        index = batches.index(step, rng)
        labels = every[index]
        taken = steps.take(data, index, labels)
        loss, log = taken.error + taken.bound, {"error": taken.error, "bound": taken.bound}
        chosen = torch.nonzero(taken.t <= (len(start.schedule) if tuning.up_to is None else tuning.up_to)).flatten()
        near = taken.predicted[chosen.to(taken.predicted.device)]
        if (tuning.lambda_r or tuning.lambda_d) and len(chosen):
            log["minimax"] = minimax_loss(near, labels[chosen], *memories, tuning.lambda_r, tuning.lambda_d)
            loss = loss + log["minimax"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        memories[0].add(taken.z, labels)
        memories[1].add(near.detach(), labels[chosen])
        follow(average, network, tuning.ema)
        loop.log(**log)
        clock["seconds"] += time.perf_counter() - began
    names = {k for k, p in network.named_parameters() if p.requires_grad}
    about = {
        "dataset": real.facts.name,
        "data_sha256": real.sha256(),
        "base": as_dict(of),
        "settings": as_dict(tuning),
        "seconds": round(clock["seconds"], 1),
        "parameters": sum(p.numel() for p in weights),
        "looks": thinned(loop.history),
    }
    atomically(file.parent / "settings.json", lambda part: part.write_text(json.dumps(about, indent=1) + "\n"))
    atomically(
        file,
        lambda part: save_file({k: v.cpu().contiguous() for k, v in average.state_dict().items() if k in names}, part),
    )
    forget(loop, "minimax", "encode")


# --- pools -------------------------------------------------------------------------------------------------------------
def pool(
    real: ImageSet,
    of: Pretraining,
    tuning: Tuning | None,
    sampling: Sampling,
    per_class: int,
    seed: int,
    loop: Loop | None = None,
) -> ImageSet:
    """Images drawn from stage 1, or from what was tuned from it: see `drawn_pool`.

    Args:
        tuning: None draws from stage 1.
    Raises: see `base`.
    """
    made_by = {"base": as_dict(of), "tuning": None if tuning is None else as_dict(tuning)}
    return drawn_pool(
        real,
        lambda: base(real, of, loop) if tuning is None else tuned(real, of, tuning, loop),
        made_by,
        sampling,
        per_class,
        seed,
        loop,
    )
