"""MTT's experts and students, which GLaD uses too.

Experts are networks trained on the real set, with their weights after every epoch, kept in `runs/` and shared: they
depend on the settings here, the data and their number, not on what is distilled from them. They are large, (epochs + 1)
x parameters x 4 bytes each: 65 MB for a ConvNet on 28 or 32 pixels and 50 epochs, 6.5 GB for the paper's hundred.
`settings.json` beside them says what they are.

A student starts from an expert's weights and is trained on the synthetic images; `student_loss` is the paper's loss.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ... import networks
from ...core import paths, store
from ...core.batches import Batches
from ...core.device import send
from ...core.errors import UserError
from ...core.files import read_tensors, undamaged, write_json, write_tensors
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, as_dict, replace, settings
from ...data import ImageSet, Whitening, augment
from ...networks.gradients import Derivatives

VERSION = 1  # of what an expert is: part of its file's name; raise those of its methods too


@settings
class Experts:
    """How experts are trained: plain SGD with augmentation; no momentum, no weight decay, a constant step size."""

    count: Count = 100
    epochs: Count = 50  # one snapshot after each, and one before
    network: str = "ConvNet"
    lr: float = 0.01
    batch: int = 256
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # parameters per image; also of the student
    zca: bool = False  # whiten the images, with eps 0.1, in place of normalising the channels; the student's too
    per_epoch: Count | None = None  # random real images an epoch passes over; None for all of them
    seed: int = 0

    def smoke(self) -> Experts:
        return replace(self, count=1, epochs=2, batch=32, per_epoch=128)

    def small(self) -> Experts:
        """Few, short experts on part of the set."""
        return replace(self, count=2, epochs=6, batch=64, per_epoch=2_048)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network, a backward pass counted as two forward ones."""
        return 3.0 * self.count * self.epochs * min(self.per_epoch or images, images)


@dataclass(frozen=True)
class Trajectories:
    """Experts on disk.

    Attributes:
        folder: where they are; one safetensors file per expert with `snapshots` (epochs + 1, P).
        real:   the set they were trained on, whitened if the experts ask for it.
    """

    folder: Path
    experts: Experts
    real: ImageSet
    parameters: int  # P

    def file(self, number: int) -> Path:
        return self.folder / f"expert_{number:03d}.safetensors"

    @property
    def expert_bytes(self) -> int:
        """Size of one expert on disk, without the file's header."""
        return 4 * self.parameters * (self.experts.epochs + 1)

    def snapshots(self, number: int, *epochs: int) -> list[Tensor]:
        """(P,) flat weights of an expert after each of these numbers of epochs; reads no others.

        Raises: UserError: a missing or damaged file.
        """
        file = self.file(number)
        with undamaged(file, "delete it to train this expert again"), safe_open(file, "pt") as f:
            part = f.get_slice("snapshots")
            if part.get_shape() != [self.experts.epochs + 1, self.parameters]:
                raise ValueError(f"snapshots of shape {part.get_shape()}")
            return [part[epoch].to(self.real.device) for epoch in epochs]


def train_experts(real: ImageSet, experts: Experts, loop: Loop | None = None) -> Trajectories:
    """The experts of these settings, read from `runs/expert_trajectories`; the missing ones are trained first.

    Several processes may ask at once: they share the work, an expert each.

    Args:
        real: (N, C, H, W) images, on the device to compute on.
        loop: shows progress, keeps checkpoints of the expert in training, stops at the deadline.
    Raises: UserError: not enough disk.  TimeUp.
    """
    loop, shared = loop or Loop(), as_dict(experts) | {"count": None}
    units = [list(real.facts.mean), list(real.facts.std)]
    key = {"experts": shared, "data": real.sha256(), "facts": units, "version": VERSION}
    name = f"{experts.network}-{real.facts.name}-{store.digest(key)}".replace("/", "_").replace(":", "_")
    folder = paths.runs() / "expert_trajectories" / name
    folder.mkdir(parents=True, exist_ok=True)
    network = networks.fresh(experts.network, real, stream(experts.seed, "expert", 0))
    if experts.zca:
        real = real.under(_whitening(folder, real))
    found = Trajectories(folder, experts, real, sum(p.numel() for p in network.parameters()))
    if missing := sum(not found.file(i).exists() for i in range(experts.count)):
        need, free = missing * found.expert_bytes, shutil.disk_usage(folder).free
        if need > free:
            wanted = f"{missing} experts of {found.expert_bytes / 1e6:.0f} MB take {need / 1e9:.1f} GB"
            advice = "Train fewer experts or set DISTILL_RUNS to a larger disk"
            raise UserError(f"{wanted}; {folder} has {free / 1e9:.1f} GB free. {advice}")
        about = {"settings": shared, "dataset": real.facts.name, "data_sha256": real.sha256()}
        about |= {"parameters": {n: list(p.shape) for n, p in network.named_parameters()}}
        write_json(folder / "settings.json", about | {"bytes_per_expert": found.expert_bytes})
    for patience in (0.0, None):  # first what nobody works at, then wait for what others do
        for number in range(experts.count):
            try:
                with store.once(found.file(number), "expert", loop, real.device, patience=patience) as untrained:
                    if untrained:
                        _train_one(found, number, loop)
            except store.Busy:
                if patience is None:
                    raise
    return found


def _train_one(trajectories: Trajectories, number: int, loop: Loop) -> None:
    experts, real = trajectories.experts, trajectories.real
    rng = stream(experts.seed, "expert", number)
    network = networks.fresh(experts.network, real, rng).to(real.device).requires_grad_(False).train()
    parameters, derivatives = [p.detach() for p in network.parameters()], Derivatives(network)
    dsa = augment.dsa(experts.dsa)
    batches = Batches(len(real), experts.batch, per_epoch=experts.per_epoch)
    snapshots = torch.zeros(experts.epochs + 1, trajectories.parameters)
    snapshots[0] = flat(parameters)
    live = {"network": network, "rng": rng, "order": batches.order, "snapshots": snapshots}
    name = f"expert_{number:03d}"
    for step in loop.steps(name, experts.epochs * batches.steps_per_epoch, live):
        index = batches.index(step, rng)
        images, labels = real.take(index)[0], real.hard_labels[index.to(real.device)]
        loss, gradient = derivatives.first(parameters, dsa(images, rng)[None], labels[None])
        torch._foreach_add_(parameters, [g[0] for g in gradient], alpha=-experts.lr)
        done, rest = divmod(step + 1, batches.steps_per_epoch)
        if not rest:
            snapshots[done] = flat(parameters)  # a copy: the parameters go on changing
        loop.log(loss=loss[0])
    write_tensors(trajectories.file(number), {"snapshots": snapshots})
    store.forget(loop, name)  # the checkpoint is as large as the expert itself


def _whitening(folder: Path, real: ImageSet) -> Whitening:
    """Fitted once per set of experts, then read."""
    file = folder / "whitening.safetensors"
    if not file.exists():
        fitted = Whitening.fit(real, eps=0.1)
        write_tensors(file, {"mean": fitted.mean, "matrix": fitted.matrix})
    with undamaged(file, "delete it to fit it again"):
        return Whitening(**read_tensors(file)[0]).to(real.device)


# --- students ---------------------------------------------------------------------------------------------------------
def check_students(cfg: Any) -> None:
    """Raises: UserError: students (MTT's settings, or GLaD's `Students`) of epochs that the experts do not have."""
    most = cfg.experts.epochs
    if cfg.max_start_epoch - 1 + cfg.expert_epochs > most:
        ways = f"students start before epoch {cfg.max_start_epoch} and aim {cfg.expert_epochs} epochs ahead"
        needs = f"max_start_epoch - 1 + expert_epochs must be at most {most}"
        raise UserError(f"{ways}; experts have {most} epochs: {needs}")


class Student:
    """Students that follow experts on the synthetic images, and their common step size, which is learned.

    Args:
        cfg: MTT's settings, or GLaD's `Students`, which have the same names.
        rng: draws experts, epochs, batches and augmentations.
    Attributes:
        step_size: a scalar that an optimiser changes.
        live:      what steps change, for `Loop.steps`, apart from that optimiser and `rng`.
    """

    def __init__(self, trajectories: Trajectories, cfg: Any, rng: torch.Generator):
        self.trajectories, self.cfg, self.rng = trajectories, cfg, rng
        real = trajectories.real
        network = networks.fresh(cfg.experts.network, real, rng).to(real.device)
        self.derivatives = Derivatives(network.requires_grad_(False).train())
        self.dsa = augment.dsa(cfg.experts.dsa)
        self.step_size = torch.tensor(cfg.lr_teacher, device=real.device, requires_grad=True)
        self.queue: list[int] = []  # experts whose turn comes before any has a second one
        self.live = {"step_size": self.step_size, "queue": self.queue}

    def match(self, images: Tensor, between_steps: bool = True) -> tuple[Tensor, Tensor]:
        """Loss of one student on images (K, ipc, C, H, W), and its gradient by them; that of the step size is written.

        Args:
            between_steps: see `student_loss`.
        """
        cfg, rng, (classes, ipc) = self.cfg, self.rng, images.shape[:2]
        if not self.queue:
            self.queue[:] = torch.randperm(cfg.experts.count, generator=rng).tolist()
        epoch = int(torch.randint(cfg.max_start_epoch, (), generator=rng))
        start, target = self.trajectories.snapshots(self.queue.pop(), epoch, epoch + cfg.expert_epochs)
        labels = torch.arange(classes, device=images.device).repeat_interleave(ipc)
        indices = [send(i, images.device) for i in draw_batches(len(labels), cfg.batch_syn, cfg.syn_steps, rng)]
        draws = [self.dsa.draw(rng, images=len(i)) for i in indices]
        given = start, target, images.flatten(0, 1), labels, self.step_size, indices, draws, self.dsa
        loss, by_images, self.step_size.grad = student_loss(self.derivatives, *given, between_steps=between_steps)
        return loss, by_images.view_as(images)


def student_loss(
    derivatives: Derivatives,
    start: Tensor,
    target: Tensor,
    synthetic: Tensor,
    labels: Tensor,
    step_size: Tensor,
    batches: list[Tensor],
    draws: list[augment.Params],
    augmentation: augment.Augmentation,
    between_steps: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distance of a student's end from the expert's, over that of the expert's own way, and its derivatives.

    With theta_n the student's weights, g_n its gradient in step n and a the step size, theta_{n+1} = theta_n - a g_n
    and L = |theta_N - target|² / |start - target|². Let l_n be the derivative of L by theta_n. Backwards,
    dL/da -= <l_{n+1}, g_n>, dL/dimages -= a d<g_n, l_{n+1}>/dimages and l_n = l_{n+1} - a d<g_n, l_{n+1}>/dtheta_n.
    Without `between_steps` the weights before a step count as fixed, so l_n = l_{n+1} = l_N.

    Args:
        start, target: (P,) flat weights.
        synthetic: (N, C, H, W); labels (N,).
        batches:   indices of the images of every step; `draws` is the augmentation's record for each.
        between_steps: keep the terms of second order that lead from a step to the one before; GLaD's code drops them.
    Returns: L, its derivative by the images (N, C, H, W), and that by the step size, a scalar. L is 1 for a student
             that stays where it is.
    Source:  equations 1 and 2 of MTT.
    """
    network, a = derivatives.network, step_size.detach()
    weights = [start]
    for index, draw in zip(batches, draws, strict=True):
        x = augmentation.apply(synthetic[index], draw)
        _, gradient = derivatives.first(unflat(weights[-1], network), x[None], labels[index][None])
        weights.append(weights[-1] - a * flat(gradient))
    way = (start - target).square().sum()
    by_weights = 2 * (weights.pop() - target) / way  # l_N
    loss = by_weights.square().sum() * way / 4
    by_images, by_step_size = torch.zeros_like(synthetic), torch.zeros_like(a)
    for n in reversed(range(len(batches))):
        seen = synthetic[batches[n]].requires_grad_()
        with torch.enable_grad():
            x = augmentation.apply(seen, draws[n])
        direction = [v[None] for v in unflat(by_weights, network)]
        along, by_x, by_theta = derivatives.second(
            unflat(weights.pop(), network),
            x.detach()[None],
            labels[batches[n]][None],
            direction,
            by_parameter=between_steps and n > 0,
        )
        by_step_size -= along
        by_images.index_add_(0, batches[n], -a * torch.autograd.grad(x, seen, by_x[0])[0])
        if between_steps and n:
            by_weights = by_weights - a * flat(by_theta)
    return loss, by_images, by_step_size


def draw_batches(count: int, batch: int | None, steps: int, rng: torch.Generator) -> list[Tensor]:
    """Indices of the images of every step: a shuffled pass over all of them in parts of `batch`, last part first."""
    batches: list[Tensor] = []
    parts: list[Tensor] = []
    while len(batches) < steps:
        if not parts:
            parts = list(torch.randperm(count, generator=rng).split(batch or count))
        batches.append(parts.pop())
    return batches


def flat(tensors: list[Tensor]) -> Tensor:
    """(P,): all numbers in a row."""
    return torch.cat([t.reshape(-1) for t in tensors])


def unflat(numbers: Tensor, network: nn.Module) -> list[Tensor]:
    """Views of (P,) numbers in the shapes of the network's parameters."""
    shapes = [p.shape for p in network.parameters()]
    return [part.view(shape) for part, shape in zip(numbers.split([s.numel() for s in shapes]), shapes, strict=True)]
