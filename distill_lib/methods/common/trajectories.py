"""Expert trajectories: the weights of networks along their training on the real set, kept in `runs/` and shared.

What MTT matches, and the matching itself (`matched`). An expert depends on the settings here, the data and its number,
not on what is distilled from it, so one set of experts serves every ipc and seed. They are large: (epochs + 1) x
parameters x 4 bytes each, 65 MB for a ConvNet on 28 or 32 pixels and 50 epochs, 6.5 GB for the paper's hundred.
`settings.json` beside them says what they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import networks
from ...core import paths, store
from ...core.batches import Batches
from ...core.errors import UserError
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import as_dict, settings
from ...data import ImageSet, Whitening, augment
from ...networks.gradients import Derivatives

VERSION = 1  # of what an expert is: part of the key


@settings
class Experts:
    """How experts are trained: plain SGD with augmentation, without momentum, weight decay or decay of the step
    size."""

    count: int = 100
    epochs: int = 50  # one snapshot after each, and one before
    network: str = "ConvNet"
    lr: float = 0.01
    batch: int = 256
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # parameters per image; also of the student
    zca: bool = (
        False  # whiten the images, with eps 0.1, in place of normalising the channels; experts and student alike
    )
    per_epoch: int | None = None  # random real images an epoch passes over; None for all of them
    seed: int = 0

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network, a backward pass counted as two forward ones."""
        return 3.0 * self.count * self.epochs * min(self.per_epoch or images, images)


@dataclass(frozen=True)
class Trajectories:
    """Experts on disk.

    Attributes:
        folder: where they are; one safetensors file per expert with `snapshots` (epochs + 1, P).
        real:   the set they were trained on, whitened where they were.
    """

    folder: Path
    experts: Experts
    real: ImageSet
    parameters: int  # P

    def file(self, number: int) -> Path:
        return self.folder / f"expert_{number:03d}.safetensors"

    @property
    def expert_bytes(self) -> int:
        """Of one expert on disk, apart from the file's header."""
        return 4 * self.parameters * (self.experts.epochs + 1)

    def snapshots(self, number: int, *epochs: int) -> list[Tensor]:
        """(P,) flat weights of an expert after so many epochs each; reads no others.

        Raises: UserError: a missing or damaged file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file(number), "pt") as f:
                part = f.get_slice("snapshots")
                if part.get_shape() != [self.experts.epochs + 1, self.parameters]:
                    raise UserError(
                        f"{self.file(number)}: snapshots of shape {part.get_shape()}; delete it to train this expert again"
                    )
                return [part[epoch].to(self.real.device) for epoch in epochs]
        except (SafetensorError, OSError) as err:
            raise UserError(
                f"{self.file(number)}: cannot be read ({err}); delete it to train this expert again"
            ) from None


def train(real: ImageSet, experts: Experts, loop: Loop | None = None) -> Trajectories:
    """The experts of these settings: from `runs/expert_trajectories` where they are, else trained and put there.

    Several processes may ask at once: they share the work, an expert each.

    Args:
        real: (N, C, H, W) images, on the device to compute on.
        loop: shows progress, keeps checkpoints of the expert in training, stops at the deadline.
    Raises: UserError: not enough disk, or settings that make no experts.  TimeUp.
    """
    loop = loop or Loop()
    if experts.count < 1 or experts.epochs < 1 or (experts.per_epoch is not None and experts.per_epoch < 1):
        raise UserError(
            f"experts: {experts.count} of {experts.epochs} epochs of {experts.per_epoch} images; at least one of each"
        )
    key = json.dumps(
        {
            "experts": as_dict(experts) | {"count": None},
            "data": real.sha256(),
            "facts": _units(real),
            "version": VERSION,
        },
        sort_keys=True,
    )
    name = f"{experts.network}-{real.facts.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = paths.runs() / "expert_trajectories" / name.replace("/", "_").replace(":", "_")
    network = networks.fresh(experts.network, real, stream(experts.seed, "expert", 0))
    parameters = sum(p.numel() for p in network.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    if experts.zca:
        real = real.under(_whitening(folder, real))
    found = Trajectories(folder, experts, real, parameters)
    missing = [i for i in range(experts.count) if not found.file(i).exists()]
    if missing:
        _check_room(found, len(missing))
        about = {
            "settings": as_dict(experts) | {"count": None},
            "dataset": real.facts.name,
            "data_sha256": real.sha256(),
        }
        sizes = {
            "parameters": {n: list(p.shape) for n, p in network.named_parameters()},
            "bytes_per_expert": found.expert_bytes,
        }
        atomically(folder / "settings.json", lambda part: part.write_text(json.dumps(about | sizes, indent=1)))
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
    from safetensors.torch import save_file

    experts, real = trajectories.experts, trajectories.real
    rng = stream(experts.seed, "expert", number)
    network = networks.fresh(experts.network, real, rng).to(real.device).requires_grad_(False).train()
    parameters, derivatives = [p.detach() for p in network.parameters()], Derivatives(network)
    dsa = augment.dsa(experts.dsa)
    batches = Batches(len(real), experts.batch, per_epoch=experts.per_epoch)
    snapshots = torch.empty(experts.epochs + 1, trajectories.parameters)
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
    atomically(trajectories.file(number), lambda part: save_file({"snapshots": snapshots}, part))
    if loop.folder:
        (loop.folder / f"{name}.ckpt").unlink(missing_ok=True)  # as large as the expert itself


def flat(tensors: list[Tensor]) -> Tensor:
    """(P,): all numbers in a row."""
    return torch.cat([t.reshape(-1) for t in tensors])


def unflat(numbers: Tensor, network: nn.Module) -> list[Tensor]:
    """Views of (P,) numbers in the shapes of the network's parameters."""
    shapes = [p.shape for p in network.parameters()]
    return [part.view(shape) for part, shape in zip(numbers.split([s.numel() for s in shapes]), shapes, strict=True)]


def matched(
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
    """How far a student ends from the expert, as a share of the way, and the derivatives by images and step size.

    With theta_n the student's weights, g_n its gradient in step n and a the step size, theta_{n+1} = theta_n - a g_n
    and L = |theta_N - target|² / |start - target|². Let l_n be the derivative of L by theta_n. Backwards,
    dL/da -= <l_{n+1}, g_n>, dL/dimages -= a d<g_n, l_{n+1}>/dimages and l_n = l_{n+1} - a d<g_n, l_{n+1}>/dtheta_n.
    Without `between_steps` the weights before a step count as fixed, so l_n = l_{n+1} = l_N.

    Args:
        start, target: (P,) flat weights.
        synthetic: (N, C, H, W); labels (N,).
        batches:   indices of the images of every step; `draws` is the augmentation's record for each.
        between_steps: keep the terms of second order that lead from a step to the one before; GLaD's code drops them.
    Returns: L, (N, C, H, W), and a scalar. L is 1 for a student that stays where it is.
    Source:  equations 1 and 2 of the paper.
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
    """Indices of the images of every step: a shuffled pass over all of them in parts of `batch`, last part first, then
    another."""
    batches: list[Tensor] = []
    parts: list[Tensor] = []
    while len(batches) < steps:
        if not parts:
            parts = list(torch.randperm(count, generator=rng).split(batch or count))
        batches.append(parts.pop())
    return batches


def _units(real: ImageSet) -> list:
    return [list(real.facts.mean), list(real.facts.std)]


def _whitening(folder: Path, real: ImageSet) -> Whitening:
    """Fitted once per set of experts, then read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    file = folder / "whitening.safetensors"
    if not file.exists():
        fitted = Whitening.fit(real, eps=0.1)
        atomically(
            file, lambda part: save_file({"mean": fitted.mean.cpu(), "matrix": fitted.matrix.cpu().contiguous()}, part)
        )
    try:
        return Whitening(**load_file(file)).to(real.device)
    except (SafetensorError, OSError, TypeError) as err:
        raise UserError(f"{file}: cannot be read ({err}); delete it to fit it again") from None


def _check_room(trajectories: Trajectories, missing: int) -> None:
    need, free = missing * trajectories.expert_bytes, shutil.disk_usage(trajectories.folder).free
    if need > free:
        raise UserError(
            f"{missing} experts of {trajectories.expert_bytes / 1e6:.0f} MB take {need / 1e9:.1f} GB; {trajectories.folder} has "
            f"{free / 1e9:.1f} GB free. Train fewer experts or set DISTILL_RUNS to a larger disk"
        )
