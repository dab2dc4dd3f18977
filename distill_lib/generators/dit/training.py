"""A class-conditional latent diffusion model: published weights, or a DiT trained here.

    model = base(real, Pretraining())                # stage 1: DiT-XL/2, or a smaller DiT trained on `real`
    losses = model.losses(data, index, labels, drop, rng)      # of one batch of the encoded set `data`

Every stage keeps what it made in `runs/`, under a hash of all it depends on; a second process that asks for the same
waits. Stage 2, DiffFit with the two losses of Minimax, is in `methods.minimax`.

Source: Peebles and Xie 2023 (DiT) and its code; Gu et al. 2024 (Minimax) and its code.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...core import store
from ...core import weights as core_weights
from ...core.batches import Batches
from ...core.device import send
from ...core.errors import UserError
from ...core.files import read_tensors, undamaged, write_json, write_tensors
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import as_dict, from_dict
from ...data import ImageSet
from ..diffusion.discrete import Schedule
from ..training import follow, kept_in, lr_share, set_lr
from . import autoencoder
from . import weights as dit_weights
from .encoded import EncodedSet, LatentSpace, encoder_of, latents
from .network import DiT, DiTArchitecture
from .settings import VERSION, Precision, Pretraining


@dataclass(frozen=True)
class StepLosses:
    """The losses of one batch, and what Minimax needs of it.

    Attributes:
        error, bound: the two parts of the loss.
        z, predicted: the clean latents (B, C, h, w), and what the network takes them to be.
        t:            (B,) steps of the schedule.
    """

    error: Tensor
    bound: Tensor
    z: Tensor
    predicted: Tensor
    t: Tensor


@dataclass(frozen=True)
class Model:
    """A network that draws the classes of a set.

    Attributes:
        network: in eval mode and without gradients, unless it is in training.
        labels:  (K,) the network's label of every class.
    """

    network: DiT
    space: LatentSpace
    labels: Tensor
    schedule: Schedule
    precision: Precision

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        arch = self.network.arch
        return arch.channels, arch.side, arch.side

    def answer(self, *inputs: Tensor) -> Tensor:
        """The network's answer in float32, with products in the precision asked for."""
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.network(*inputs).float()

    def losses(self, data: EncodedSet, index: Tensor, labels: Tensor, drop: float, rng: torch.Generator) -> StepLosses:
        """Both losses of the images `index` (B,) of classes `labels` (B,), noised to random steps.

        Args:
            index, labels: on the CPU.
            drop: share of the labels that are replaced by "no class".
        """
        z = self.space.seen(data.draw(index, rng))
        t = torch.randint(len(self.schedule), (len(index),), generator=rng)
        noise = send(torch.randn(z.shape, generator=rng), z.device)
        dropped = torch.rand(len(index), generator=rng) < drop
        given = send(torch.where(dropped, self.network.arch.num_classes, self.labels[labels]), z.device)
        z_t = self.schedule.noised(z, t, noise)
        found = self.answer(z_t, send(self.schedule.timesteps[t], z.device), given)
        error, bound = self.schedule.losses(found, z, z_t, t, noise)
        predicted = self.schedule.clean(z_t, t, found[:, : z.shape[1]])
        return StepLosses(error.mean(), bound.mean(), z, predicted, t)


def base(real: ImageSet, cfg: Pretraining, loop: Loop | None = None) -> Model:
    """The model of stage 1: published weights, or a DiT trained on `real`, which is read from `runs/generators` if it
    is there.

    Args:
        real: (N, C, H, W) images of K classes, without whitening, on the device to compute on.
    Raises: UserError: missing weights, images or settings that do not fit.  TimeUp: the loop's deadline passed.
    """
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: a diffusion model draws pixels; give the set without whitening")
    encoder, side = encoder_of(real, cfg), cfg.side or real.shape[1]
    decoder = encoder if cfg.decoder is None else autoencoder.load(cfg.decoder).to(real.device)
    if cfg.weights is not None:
        network = _published(real, cfg, encoder.channels, side // encoder.factor, side)
        ones = torch.ones(encoder.channels, 1, 1, device=real.device)
        mean, std = 0 * ones, ones / (encoder.scale or 1.0)
        labels, schedule = torch.tensor(real.facts.imagenet_indices), Schedule.linear()
    else:
        file = trained_file(real, cfg)
        with store.once(file, "DiT", loop, real.device) as missing:
            if missing:
                _train(file, real, cfg, side, loop or Loop())
        network, mean, std = _read(file)
        labels, schedule = torch.arange(real.num_classes), Schedule.named(cfg.schedule)
    space = LatentSpace(encoder, decoder, side, mean.to(real.device), std.to(real.device))
    return Model(network.to(real.device).eval().requires_grad_(False), space, labels, schedule, cfg.precision)


def trained_file(real: ImageSet, cfg: Pretraining) -> Path:
    """The file of a DiT trained by these settings."""
    key = {"base": as_dict(cfg), "data": real.sha256(), "version": VERSION}
    return kept_in("dit", store.plain_name(real.facts.name), key) / "dit.safetensors"


def _published(real: ImageSet, cfg: Pretraining, channels: int, latent: int, side: int) -> DiT:
    """The published network. Raises: UserError: other classes, or latents other than (channels, latent, latent)."""
    if not real.facts.imagenet_indices:
        given = f"{real.facts.name}: its classes are not ImageNet's, which {cfg.weights} draws"
        raise UserError(f"{given}; train a DiT instead (weights=None)")
    place = cfg.weights if Path(cfg.weights).is_file() else core_weights.folder(cfg.weights)
    network = dit_weights.read(place, cfg.numerics)
    arch = network.arch
    if (arch.channels, arch.side) != (channels, latent):
        drawn = f"{cfg.weights} draws latents of {arch.channels} x {arch.side} x {arch.side}"
        raise UserError(f"{drawn}; {cfg.autoencoder} makes {channels} x {latent} x {latent} of {side} pixels")
    return network


def architecture(real: ImageSet, cfg: Pretraining) -> DiTArchitecture:
    """The network that would be trained on `real`."""
    encoder = encoder_of(real, cfg)
    side = (cfg.side or real.shape[1]) // encoder.factor
    patch = cfg.patch or next(p for p in range(1, side + 1) if side % p == 0 and side // p <= 8)
    sizes = (side, encoder.channels or real.shape[0], patch, cfg.width, cfg.depth, cfg.heads)
    return DiTArchitecture(*sizes, num_classes=real.num_classes).check()


def _train(file: Path, real: ImageSet, cfg: Pretraining, side: int, loop: Loop) -> None:
    data, rng = latents(real, cfg, loop), stream(cfg.seed, "DiT")
    network = DiT(architecture(real, cfg)).draw_weights(rng).to(real.device).train()
    one = torch.ones(network.arch.channels, 1, 1, device=real.device)
    scale = data.encoder.scale
    mean, std = (0 * one, one / scale) if scale else data.moments()
    space = LatentSpace(data.encoder, data.encoder, side, mean, std)
    average = copy.deepcopy(network).requires_grad_(False)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=cfg.lr, weight_decay=0.0, fused=True)
    model = Model(network, space, torch.arange(real.num_classes), Schedule.named(cfg.schedule), cfg.precision)
    labels = real.hard_labels.cpu()
    batches = Batches(len(real), cfg.batch, last="drop")
    live = {"network": network, "average": average, "optimizer": optimizer, "rng": rng, "order": batches.order}
    for step in loop.steps("dit", cfg.steps, live):
        set_lr(optimizer, cfg.lr * lr_share(step, cfg.steps, cfg.warm_up, cfg.lr_decay))
        index = batches.index(step, rng)
        found = model.losses(data, index, labels[index], cfg.drop, rng)
        optimizer.zero_grad()
        (found.error + found.bound).backward()
        optimizer.step()
        follow(average, network, min(cfg.ema, (1 + step) / (10 + step)))
        loop.log(error=found.error, bound=found.bound)
    about = {"dataset": real.facts.name, "data_sha256": real.sha256(), "settings": as_dict(cfg)}
    about |= {"parameters": sum(p.numel() for p in weights), "looks": store.thinned(loop.history)}
    write_json(file.parent / "settings.json", about)
    saved = {f"network.{k}": v for k, v in average.state_dict().items()} | {"latent_mean": mean, "latent_std": std}
    write_tensors(file, saved, {"architecture": json.dumps(as_dict(network.arch))})
    store.forget(loop, "dit", "encode")


def _read(file: Path) -> tuple[DiT, Tensor, Tensor]:
    """A network that was trained here, and mean and deviation of its latents."""
    with undamaged(file, "delete it to train the DiT again"):
        saved, about = read_tensors(file)
        network = DiT(from_dict(DiTArchitecture, json.loads(about["architecture"])))
        network.load_state_dict({k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")})
        return network, saved["latent_mean"], saved["latent_std"]
