"""A class-conditional latent diffusion model, from published weights or its own training to a pool of images.

    model = base(real, Base())                                     # stage 1: DiT-XL/2, or a smaller DiT trained on
    `real` model = tuned(real, Base(), Tuning())                          # stage 2: DiffFit with the two losses of
    Minimax images = pool(real, Base(), Tuning(), Sampling(), 50, seed=0)  # an ImageSet, 50 images of every class

Every stage keeps what it made in `runs/`, under a hash of all it depends on; a second process that asks for the same
waits. An image of a pool depends on the seed, its class and its number alone, so a smaller pool is the beginning of a
larger one.

Source: Peebles and Xie 2023 (DiT), Xie et al. 2023 (DiffFit), Gu et al. 2024 (Minimax) and their code.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core import paths, store
from ...core import weights as core_weights
from ...core.batches import Batches
from ...core.device import send
from ...core.errors import UserError
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import as_dict, build
from ...core.store import digest, forget, plain_name, thinned
from ...data import ImageSet
from ..diffusion.discrete import Schedule
from . import autoencoder
from . import network as dit_network
from . import weights as dit_weights
from .autoencoder import Autoencoder
from .encoded import Latents, Space, _encoder, latents
from .forecast import outlook, say
from .network import Architecture, DiT
from .settings import VERSION, Base, Precision, _sizes


# --- stage 1 -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Model:
    """A network that draws the classes of a set.

    Attributes:
        network: in eval mode, no gradients.
        labels:  (K,) the network's label of every class.
    """

    network: DiT
    space: Space
    labels: Tensor
    schedule: Schedule
    precision: Precision

    @property
    def latent(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        of = self.network.of
        return of.channels, of.side, of.side


def base(real: ImageSet, of: Base, loop: Loop | None = None) -> Model:
    """The model of stage 1: published weights, or a DiT trained on `real`, from `runs/generators` where it is.

    Args:
        real: (N, C, H, W) images of K classes, without whitening, on the device to compute on.
    Raises: UserError: missing weights, images or settings that do not fit.  TimeUp: the loop's deadline passed.
    """
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: a diffusion model draws pixels; give the set without whitening")
    encoder, side = _encoder(real, of), of.side or real.shape[1]
    decoder = encoder if of.decoder is None else autoencoder.load(of.decoder).to(real.device)
    if of.weights is not None:
        return _published(real, of, encoder, decoder, side)
    found = trained_file(real, of)
    with store.once(found, "DiT", loop, real.device) as missing:
        if missing:
            _train(found, real, of, encoder, side, loop or Loop())
    network, extra = _read(found)
    space = Space(encoder, decoder, side, extra["latent_mean"].to(real.device), extra["latent_std"].to(real.device))
    labels = torch.arange(real.num_classes)
    return Model(
        network.to(real.device).eval().requires_grad_(False), space, labels, Schedule.named(of.schedule), of.precision
    )


def trained_file(real: ImageSet, of: Base) -> Path:
    """Where a DiT trained by these settings lies."""
    key = {"base": as_dict(of), "data": real.sha256(), "version": VERSION}
    return paths.runs() / "generators" / f"dit-{plain_name(real.facts.name)}-{digest(key)}" / "dit.safetensors"


def _published(real: ImageSet, of: Base, encoder: Autoencoder, decoder: Autoencoder, side: int) -> Model:
    if not real.facts.imagenet_indices:
        raise UserError(
            f"{real.facts.name}: its classes are not ImageNet's, which {of.weights} draws; train a DiT instead (weights=None)"
        )
    network = dit_weights.read(
        core_weights.folder(of.weights) if not Path(of.weights).is_file() else of.weights, of.numerics
    )
    if network.of.side * encoder.factor != side or network.of.channels != encoder.channels:
        raise UserError(
            f"{of.weights} draws latents of {network.of.channels} x {network.of.side} x {network.of.side}; {of.autoencoder} makes "
            f"{encoder.channels} x {side // encoder.factor} x {side // encoder.factor} of {side} pixels"
        )
    scale = encoder.scale or 1.0
    ones = torch.ones(encoder.channels, 1, 1, device=real.device)
    space = Space(encoder, decoder, side, 0 * ones, ones / scale)
    labels = torch.tensor(real.facts.imagenet_indices)
    return Model(network.to(real.device).eval().requires_grad_(False), space, labels, Schedule.linear(), of.precision)


def architecture(real: ImageSet, of: Base) -> Architecture:
    """The network that would be trained on `real`."""
    encoder = _encoder(real, of)
    side = (of.side or real.shape[1]) // encoder.factor
    return _sizes(of, side, encoder.channels or real.shape[0], real.num_classes)


def _train(file: Path, real: ImageSet, of: Base, encoder: Autoencoder, side: int, loop: Loop) -> None:
    from safetensors.torch import save_file

    data = latents(real, of, loop)
    channels = encoder.channels or real.shape[0]
    one = torch.ones(channels, 1, 1, device=real.device)
    mean, std = (0 * one, one / encoder.scale) if encoder.scale else data.moments()
    space, rng = Space(encoder, encoder, side, mean, std), stream(of.seed, "DiT")
    network = dit_network.build(architecture(real, of)).draw_weights(rng).to(real.device).train()
    average = copy.deepcopy(network).requires_grad_(False)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=of.lr, weight_decay=0.0, fused=True)
    steps = Steps(
        network, space, Schedule.named(of.schedule), of.precision, of.drop, torch.arange(real.num_classes), rng
    )
    say(outlook(f"DiT on {real.facts.name}", network, 3.0, of.steps, of.batch))
    batches, clock = Batches(len(real), of.batch, last="drop"), {"seconds": 0.0}
    live = {
        "network": network,
        "average": average,
        "optimizer": optimizer,
        "rng": rng,
        "order": batches.order,
        "clock": clock,
    }
    for step in loop.steps("dit", of.steps, live):
        start = time.perf_counter()
        lr = of.lr * min(
            1.0,
            (step + 1) / of.warm_up if of.warm_up else 1.0,
            (1 - step / of.steps) / of.lr_decay if of.lr_decay else 1.0,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        index = batches.index(step, rng)
        taken = steps.take(data, index, real.hard_labels.cpu()[index])
        optimizer.zero_grad()
        (taken.error + taken.bound).backward()
        optimizer.step()
        follow(average, network, min(of.ema, (1 + step) / (10 + step)))
        loop.log(error=taken.error, bound=taken.bound)
        clock["seconds"] += time.perf_counter() - start
    saved = {f"network.{k}": v.cpu().contiguous() for k, v in average.state_dict().items()}
    saved |= {"latent_mean": mean.cpu(), "latent_std": std.cpu()}
    about = {
        "dataset": real.facts.name,
        "data_sha256": real.sha256(),
        "settings": as_dict(of),
        "seconds": round(clock["seconds"], 1),
        "parameters": sum(p.numel() for p in weights),
        "looks": thinned(loop.history),
    }
    atomically(file.parent / "settings.json", lambda part: part.write_text(json.dumps(about, indent=1) + "\n"))
    atomically(file, lambda part: save_file(saved, part, {"architecture": json.dumps(as_dict(network.of))}))
    forget(loop, "dit", "encode")


def _read(file: Path) -> tuple[DiT, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as f:
            saved = {k: f.get_tensor(k) for k in f.keys()}
            network = dit_network.build(build(Architecture, json.loads(f.metadata()["architecture"])))
        network.load_state_dict({k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")})
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as err:
        raise UserError(f"{file}: damaged ({err}); delete it to train the DiT again") from None
    return network, saved


# --- a step of training
# ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Taken:
    """What one batch gave: the two parts of the loss, the clean latents (B, C, h, w) and what the network takes them to
    be."""

    error: Tensor
    bound: Tensor
    z: Tensor
    predicted: Tensor
    t: Tensor


@dataclass(frozen=True)
class Steps:
    """Noised latents of a batch through the network: the same in both stages."""

    network: DiT
    space: Space
    schedule: Schedule
    precision: Precision
    drop: float
    conditions: Tensor  # (K,) the network's label of every class
    rng: torch.Generator

    def take(self, data: Latents, index: Tensor, labels: Tensor) -> Taken:
        """Args: index, labels: (B,) on the CPU."""
        z, rng = self.space.seen(data.draw(index, self.rng)), self.rng
        t = torch.randint(len(self.schedule), (len(index),), generator=rng)
        noise = send(torch.randn(z.shape, generator=rng), z.device)
        dropped = torch.rand(len(index), generator=rng) < self.drop
        given = send(torch.where(dropped, self.network.of.num_classes, self.conditions[labels]), z.device)
        z_t = self.schedule.noised(z, t, noise)
        answer = _answer(self.network, self.precision, z_t, send(self.schedule.timesteps[t], z.device), given)
        error, bound = self.schedule.losses(answer, z, z_t, t, noise)
        return Taken(error.mean(), bound.mean(), z, self.schedule.clean(z_t, t, answer[:, : z.shape[1]]), t)


def _answer(network: nn.Module, precision: Precision, *inputs: Tensor) -> Tensor:
    low = torch.autocast(inputs[0].device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    with low:
        return network(*inputs).float()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    pairs = [(a, p) for a, p in zip(average.parameters(), network.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)
