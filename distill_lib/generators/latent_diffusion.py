"""A class-conditional latent diffusion model, from published weights or its own training to a pool of images.

    model = base(real, Base())                                     # stage 1: DiT-XL/2, or a smaller DiT trained on `real`
    model = tuned(real, Base(), Tuning())                          # stage 2: DiffFit with the two losses of Minimax
    images = pool(real, Base(), Tuning(), Sampling(), 50, seed=0)  # an ImageSet, 50 images of every class

Every stage keeps what it made in `runs/`, under a hash of all it depends on; a second process that asks for the same waits. An
image of a pool depends on the seed, its class and its number alone, so a smaller pool is the beginning of a larger one.

Source: Peebles and Xie 2023 (DiT), Xie et al. 2023 (DiffFit), Gu et al. 2024 (Minimax) and their code.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import memory, needs, paths, store
from ..data import ImageSet
from ..device import send
from ..diffusion import discrete
from ..diffusion.discrete import Schedule
from ..errors import UserError
from ..loop import Loop, atomically
from ..rng import generator as stream
from ..settings import Count, as_dict, build, replace, settings
from . import autoencoder, dit
from .autoencoder import Autoencoder
from .dit import Architecture, DiT

VERSION = 1  # of what the stages make: part of every key
Precision = Literal["float32", "bfloat16"]
# channels of the latents (None: those of the images), pixels per latent, channels of the widest maps in the decoder
LATENTS = {"identity": (None, 1, 0), "taef2": (32, 8, 64), "KL": (4, 8, 256)}


# --- settings ----------------------------------------------------------------------------------------------------------
@settings
class Base:
    """Stage 1: which model to start from. The defaults are DiT-XL/2 at 256 pixels as published, with the autoencoders of Minimax's code."""

    weights: str | None = "facebook/DiT-XL-2-256"  # a folder or a name on the hub; None: trained here, by the settings below
    numerics: dit.Numerics = "official"  # of published weights
    autoencoder: str = "stabilityai/sd-vae-ft-ema"  # see generators.autoencoder
    decoder: str | None = "stabilityai/sd-vae-ft-mse"  # another one to decode with; None: the same
    side: Count | None = 256  # pixels of the images it works on; others are resized to it and back; None: those of the set
    flips: bool = True  # half of the training images mirrored
    precision: Precision = "float32"  # of matrix products; residuals, losses and weights stay float32
    # --- a DiT trained here (our values; no paper has one)
    patch: Count | None = None  # None: the smallest that leaves at most 8 x 8 tokens
    width: Count = 384
    depth: Count = 12
    heads: Count = 6
    schedule: discrete.Name = "linear"
    steps: Count = 100_000
    batch: Count = 128
    lr: float = 1e-4  # AdamW
    warm_up: int = 0  # steps of a linear rise
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero
    ema: float = 0.9999  # of the weights that draw; after k steps at most (1 + k) / (10 + k)
    drop: float = 0.1  # share of labels replaced by "no class", for guidance
    seed: int = 0

    def smoke(self) -> Base:
        """In pixels, for seconds."""
        return replace(
            self.in_pixels(), width=32, depth=2, heads=2, steps=12, batch=16, lr=2e-3, ema=0.9, flips=False, precision="float32"
        )  # fmt: skip

    def small(self) -> Base:
        """About half an hour on one CPU core: six blocks of 256; published weights give way to the tiny autoencoder's latents."""
        start = self if self.weights is None else replace(self, weights=None, autoencoder="taef2", decoder=None, side=None, patch=2)
        return replace(start, width=256, depth=6, heads=4, steps=4_000, batch=32, lr=5e-4, warm_up=200, lr_decay=0.4, ema=0.995)

    def in_pixels(self) -> Base:
        return replace(self, weights=None, autoencoder="identity", decoder=None, side=None)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network while it is trained, a backward pass counted as two forward ones."""
        return 0.0 if self.weights else 3.0 * self.steps * self.batch

    def latent(self, size: memory.Size) -> tuple[int, int, int]:
        """Channels and side of the latents, and pixels of a side of the images."""
        side = self.side or size.shape[1]
        channels, factor = LATENTS.get(self.autoencoder, LATENTS["KL"])[:2]
        return channels or size.shape[0], side // factor, side

    def sizes(self, size: memory.Size) -> Architecture:
        """Of the network, published or trained here."""
        channels, side, _ = self.latent(size)
        return Architecture(side=side, channels=channels) if self.weights else _sizes(self, side, channels, size.num_classes)

    def held(self, size: memory.Size) -> float:
        """Bytes a training step keeps alive; encoding the images where that takes an encoder."""
        if self.weights:
            return self.autoencoding(size)
        step = held(self.sizes(size), self.batch, size.gpu, trained=1.0) + memory.COPIES * size.floats(self.batch)
        return max(step, self.autoencoding(size))

    def autoencoding(self, size: memory.Size) -> float:
        """Bytes of 25 images on their way through the autoencoder, at its widest maps."""
        widest = LATENTS.get(self.autoencoder, LATENTS["KL"])[2]
        return 25 * 3 * 4.0 * widest * self.latent(size)[2] ** 2


@settings
class Tuning:
    """Stage 2: fine-tuning with Minimax's losses. The defaults are those of its code; both lambdas at 0 are plain fine-tuning."""

    steps: Count = 12_000  # the checkpoint its code samples from; 8 epochs of a ten-class subset are about 13,000 steps
    batch: Count = 8
    lr: float = 1e-3  # AdamW, constant, no weight decay
    parameters: Literal["difffit", "all"] = "difffit"
    lambda_r: float = 0.002  # representativeness: the least similar remembered real latent
    lambda_d: float = 0.008  # diversity: the most similar remembered prediction
    memory: Count = 64  # latents of each kind and class, first in, first out
    up_to: Count | None = None  # largest timestep whose prediction enters the two losses; None for all, as the code (limits are ours)
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
        """Forward passes that training on an image counts as; frozen matrices need no weight gradient, so a backward pass counts as one."""
        return 2.0 if self.parameters == "difffit" else 3.0

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network."""
        return self.steps * self.batch * self.passes

    def held(self, of: Base, size: memory.Size) -> float:
        """Bytes a step keeps alive, both memories of latents included."""
        sizes = of.sizes(size)
        latents = 2 * 4.0 * size.num_classes * self.memory * sizes.channels * sizes.side**2
        return held(sizes, self.batch, size.gpu, trained=0.01 if self.parameters == "difffit" else 1.0) + latents


@settings
class Sampling:
    """How images are drawn. The defaults are those of Minimax's code."""

    steps: Count = 50
    guidance: float = 4.0
    channels: Literal["official", "all"] = "official"  # guided: the first three, or all as diffusers does
    batch: Count = 100  # images at a time

    def smoke(self) -> Sampling:
        return replace(self, steps=4, guidance=1.5, channels="all", batch=40)

    def small(self) -> Sampling:
        """Half the steps, and twice the guidance: a model trained for half an hour follows labels weakly. On all channels of the other latents.

        Of 60 images of ImageWoof, MobileNetV2 recognised 8 at guidance 2, 13 at 4, 23 at 8 and 24 at 12 (of real ones two thirds).
        """
        return replace(self, steps=25, guidance=8.0, channels="all")

    def work(self, images: int) -> float:
        return images * self.steps * (1.0 if self.guidance == 1 else 2.0)

    def held(self, of: Base, size: memory.Size) -> float:
        """Bytes of the images of a call, doubled by guidance, in one block of the network, or of 25 of them in the decoder."""
        drawn = min(self.batch, max(1, self.batch // size.num_classes) * size.num_classes)
        return max(held(of.sizes(size), drawn * (1 if self.guidance == 1 else 2), size.gpu), of.autoencoding(size))


def has_published(dataset: str) -> bool:
    """Whether published weights know the classes of a data set: subsets of ImageNet."""
    from ..data.catalogue import DATASETS, sized

    found = DATASETS.get(sized(dataset)[0])
    return found is not None and bool(found.imagenet_indices)


# --- latents -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Space:
    """Between pixels and what the network sees: an autoencoder and a shift and a scale of every channel.

    Attributes:
        mean, std: (C, 1, 1): the network sees (latent - mean) / std.
        side:      pixels of the images.
    """

    encoder: Autoencoder
    decoder: Autoencoder
    side: int
    mean: Tensor
    std: Tensor

    def seen(self, latents: Tensor) -> Tensor:
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def pixels(self, z: Tensor) -> Tensor:
        """(B, C', S, S) in [0, 1]."""
        return self.decoder.decode(z * self.std + self.mean)


def resized(pixels: Tensor, side: int) -> Tensor:
    """(B, C, H, W) in [0, 1] at `side` pixels: bicubic, antialiased."""
    if pixels.shape[-2:] == (side, side):
        return pixels
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


class Latents:
    """The latents of a real set, drawn by position; encoded once where that takes an encoder.

    Args:
        kept: mean (V, N, C, h, w) and where there is one log_variance, float16, for V views: as it is, and mirrored. None: pixel space.
    """

    def __init__(self, real: ImageSet, encoder: Autoencoder, side: int, flips: bool, kept: dict[str, Tensor] | None):
        self.real, self.encoder, self.side, self.flips, self.kept = real, encoder, side, flips, kept

    def draw(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C, h, w): a draw from each image's latent distribution, half of them mirrored where `flips`."""
        device = self.real.device
        mirrored = torch.randint(2, (len(index),), generator=rng) if self.flips else torch.zeros(len(index), dtype=torch.int64)
        if self.kept is None:
            pixels = resized(self.real.subset(index).pixels(), self.side)
            pixels = torch.where(mirrored.bool().to(device).view(-1, 1, 1, 1), pixels.flip(3), pixels)
            return self.encoder.encode(pixels).sample(rng)
        parts = [self.kept[k][mirrored, index].to(device).float() if k in self.kept else None for k in ("mean", "log_variance")]
        return autoencoder.Encoded(*parts).sample(rng)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, 1, 1) of every channel over all kept means."""
        mean, n, out = self.kept["mean"], 0, []
        sums = [torch.zeros(mean.shape[2], dtype=torch.float64) for _ in range(2)]
        for part in mean.flatten(0, 1).split(1024):
            x = part.double()
            n += x.numel() // x.shape[1]
            sums[0] += x.sum((0, 2, 3)).cpu()
            sums[1] += x.square().sum((0, 2, 3)).cpu()
        first, second = (s / n for s in sums)
        out = [first, (second - first.square()).clamp_min(1e-12).sqrt()]
        return tuple(v.float().view(-1, 1, 1).to(self.real.device) for v in out)


def latents(real: ImageSet, of: Base, loop: Loop | None = None) -> Latents:
    """The latents of `real`, from `runs/latents` where they are, else encoded and put there.

    Raises: UserError: images the autoencoder does not take, or missing weights.  TimeUp: the loop's deadline passed.
    """
    from safetensors.torch import load_file, save_file

    encoder, side = _encoder(real, of), of.side or real.shape[1]
    if encoder.name == "identity":
        return Latents(real, encoder, side, of.flips, None)
    key = {"data": real.sha256(), "autoencoder": of.autoencoder, "side": side, "flips": of.flips, "version": VERSION}
    file = paths.runs() / "latents" / f"{_plain(real.facts.name)}-{_digest(key)}.safetensors"
    with store.once(file, "latents", loop, real.device) as missing:
        if missing:
            save = _encode(real, encoder, side, of.flips, loop or Loop())
            atomically(file, lambda part: save_file(save, part))
    return Latents(real, encoder, side, of.flips, load_file(file))


@torch.no_grad()
def _encode(real: ImageSet, encoder: Autoencoder, side: int, flips: bool, loop: Loop, batch: int = 25) -> dict[str, Tensor]:
    views, shape = 1 + flips, (encoder.channels, side // encoder.factor, side // encoder.factor)
    kept = {"mean": torch.zeros(views, len(real), *shape, dtype=torch.float16)}
    parts = torch.arange(len(real)).split(batch)
    first = encoder.encode(torch.zeros(1, 3, side, side, device=real.device))
    if first.log_variance is not None:
        kept["log_variance"] = torch.zeros_like(kept["mean"])
    for step in loop.steps("encode", len(parts), kept):
        pixels = resized(real.subset(parts[step]).pixels(), side)
        for view in range(views):
            found = encoder.encode(pixels.flip(3) if view else pixels)
            kept["mean"][view, parts[step]] = found.mean.half().cpu()
            if found.log_variance is not None:
                kept["log_variance"][view, parts[step]] = found.log_variance.half().cpu()
    return kept


def _encoder(real: ImageSet, of: Base) -> Autoencoder:
    found = autoencoder.load(of.autoencoder)
    if found.images is not None and real.shape[0] != found.images:
        raise UserError(f"autoencoder {of.autoencoder}: takes {found.images} channels, {real.facts.name} has {real.shape[0]}; use identity")
    side = of.side or real.shape[1]
    if real.shape[1] != real.shape[2] or side % found.factor:
        given = f"{real.shape[1]} x {real.shape[2]}"
        raise UserError(f"autoencoder {of.autoencoder}: takes squares of a multiple of {found.factor} pixels, not {given}")
    return found.to(real.device)


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
    return Model(network.to(real.device).eval().requires_grad_(False), space, labels, Schedule.named(of.schedule), of.precision)


def trained_file(real: ImageSet, of: Base) -> Path:
    """Where a DiT trained by these settings lies."""
    key = {"base": as_dict(of), "data": real.sha256(), "version": VERSION}
    return paths.runs() / "generators" / f"dit-{_plain(real.facts.name)}-{_digest(key)}" / "dit.safetensors"


def _published(real: ImageSet, of: Base, encoder: Autoencoder, decoder: Autoencoder, side: int) -> Model:
    if not real.facts.imagenet_indices:
        raise UserError(f"{real.facts.name}: its classes are not ImageNet's, which {of.weights} draws; train a DiT instead (weights=None)")
    network = dit.read(needs.folder(of.weights) if not Path(of.weights).is_file() else of.weights, of.numerics)
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


def _sizes(of: Base, side: int, channels: int, num_classes: int) -> Architecture:
    patch = of.patch or next(p for p in range(1, side + 1) if side % p == 0 and side // p <= 8)
    return Architecture(side, channels, patch, of.width, of.depth, of.heads, num_classes=num_classes).check()


def _train(file: Path, real: ImageSet, of: Base, encoder: Autoencoder, side: int, loop: Loop) -> None:
    from safetensors.torch import save_file

    data = latents(real, of, loop)
    channels = encoder.channels or real.shape[0]
    one = torch.ones(channels, 1, 1, device=real.device)
    mean, std = (0 * one, one / encoder.scale) if encoder.scale else data.moments()
    space, rng = Space(encoder, encoder, side, mean, std), stream(of.seed, "DiT")
    network = dit.build(architecture(real, of)).draw_weights(rng).to(real.device).train()
    average = copy.deepcopy(network).requires_grad_(False)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=of.lr, weight_decay=0.0, fused=True)
    steps = _Steps(network, space, Schedule.named(of.schedule), of.precision, of.drop, torch.arange(real.num_classes), rng)
    say(outlook(f"DiT on {real.facts.name}", network, 3.0, of.steps, of.batch))
    order, clock = _order(real, of.batch), {"seconds": 0.0}
    live = {"network": network, "average": average, "optimizer": optimizer, "rng": rng, "order": order, "clock": clock}
    for step in loop.steps("dit", of.steps, live):
        start = time.perf_counter()
        lr = of.lr * min(1.0, (step + 1) / of.warm_up if of.warm_up else 1.0, (1 - step / of.steps) / of.lr_decay if of.lr_decay else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr
        index = _index(step, of.batch, order, rng)
        taken = steps.take(data, index, real.hard_labels.cpu()[index])
        optimizer.zero_grad()
        (taken.error + taken.bound).backward()
        optimizer.step()
        _follow(average, network, min(of.ema, (1 + step) / (10 + step)))
        loop.log(error=taken.error, bound=taken.bound)
        clock["seconds"] += time.perf_counter() - start
    saved = {f"network.{k}": v.cpu().contiguous() for k, v in average.state_dict().items()}
    saved |= {"latent_mean": mean.cpu(), "latent_std": std.cpu()}
    about = {
        "dataset": real.facts.name, "data_sha256": real.sha256(), "settings": as_dict(of), "seconds": round(clock["seconds"], 1),
        "parameters": sum(p.numel() for p in weights), "looks": _thinned(loop.history),
    }  # fmt: skip
    atomically(file.parent / "settings.json", lambda part: part.write_text(json.dumps(about, indent=1) + "\n"))
    atomically(file, lambda part: save_file(saved, part, {"architecture": json.dumps(as_dict(network.of))}))
    _forget(loop, "dit", "encode")


def _read(file: Path) -> tuple[DiT, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as f:
            saved = {k: f.get_tensor(k) for k in f.keys()}
            network = dit.build(build(Architecture, json.loads(f.metadata()["architecture"])))
        network.load_state_dict({k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")})
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as err:
        raise UserError(f"{file}: damaged ({err}); delete it to train the DiT again") from None
    return network, saved


# --- a step of training ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Taken:
    """What one batch gave: the two parts of the loss, the clean latents (B, C, h, w) and what the network takes them to be."""

    error: Tensor
    bound: Tensor
    z: Tensor
    predicted: Tensor
    t: Tensor


@dataclass(frozen=True)
class _Steps:
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


def _order(real: ImageSet, batch: int) -> Tensor:
    if batch > len(real):
        raise UserError(f"a batch of {batch} images, but {real.facts.name} has {len(real)}")
    return torch.empty(len(real), dtype=torch.int64)


def _index(step: int, batch: int, order: Tensor, rng: torch.Generator) -> Tensor:
    """(batch,) positions of a step's images; shuffles `order` in place at the start of an epoch; the last, partial batch is left out."""
    number = step % (len(order) // batch)
    if number == 0:
        order.copy_(torch.randperm(len(order), generator=rng))
    return order[number * batch :][:batch]


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    pairs = [(a, p) for a, p in zip(average.parameters(), network.parameters(), strict=True) if p.requires_grad]
    torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], 1 - decay)


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


def minimax_loss(predicted: Tensor, labels: Tensor, real: Memory, generated: Memory, lambda_r: float, lambda_d: float) -> Tensor:
    """Mean over the batch's classes of lambda_r (1 - least cosine to a real latent) + lambda_d (greatest cosine to a generated one).

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


def tuned(real: ImageSet, of: Base, tuning: Tuning, loop: Loop | None = None) -> Model:
    """The model of stage 2: the running average of the tuned weights, from `runs/generators` where it is, else tuned and put there.

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


def tuned_file(real: ImageSet, of: Base, tuning: Tuning) -> Path:
    """Where the parameters tuned by these settings lie."""
    key = {"base": as_dict(of), "tuning": as_dict(tuning), "data": real.sha256(), "version": VERSION}
    return paths.runs() / "generators" / f"minimax-{_plain(real.facts.name)}-{_digest(key)}" / "tuned.safetensors"


def _tunable(network: DiT, of: Tuning) -> DiT:
    if of.parameters == "difffit":
        return dit.difffit(network)
    network = copy.deepcopy(network).requires_grad_(True)
    network.pos_embed.requires_grad_(False)
    return network


def _tune(file: Path, start: Model, real: ImageSet, of: Base, tuning: Tuning, loop: Loop) -> None:
    from safetensors.torch import save_file

    data, rng = latents(real, of, loop), stream(tuning.seed, "Minimax")
    network = _tunable(start.network, tuning).train()
    average = copy.deepcopy(network).requires_grad_(False)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=tuning.lr, weight_decay=0.0, fused=True)
    steps = _Steps(network, start.space, start.schedule, start.precision, tuning.drop, start.labels, rng)
    say(outlook(f"Minimax on {real.facts.name}", network, tuning.passes, tuning.steps, tuning.batch))
    memories = [Memory(real.num_classes, tuning.memory, math.prod(start.latent), real.device) for _ in range(2)]
    order, clock, every = _order(real, tuning.batch), {"seconds": 0.0}, real.hard_labels.cpu()
    live = {
        "network": network, "average": average, "optimizer": optimizer, "rng": rng, "order": order, "clock": clock,
        "real": memories[0].live(), "generated": memories[1].live(),
    }  # fmt: skip
    for step in loop.steps("minimax", tuning.steps, live):
        began = time.perf_counter()
        index = _index(step, tuning.batch, order, rng)
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
        _follow(average, network, tuning.ema)
        loop.log(**log)
        clock["seconds"] += time.perf_counter() - began
    names = {k for k, p in network.named_parameters() if p.requires_grad}
    about = {
        "dataset": real.facts.name, "data_sha256": real.sha256(), "base": as_dict(of), "settings": as_dict(tuning),
        "seconds": round(clock["seconds"], 1), "parameters": sum(p.numel() for p in weights), "looks": _thinned(loop.history),
    }  # fmt: skip
    atomically(file.parent / "settings.json", lambda part: part.write_text(json.dumps(about, indent=1) + "\n"))
    atomically(file, lambda part: save_file({k: v.cpu().contiguous() for k, v in average.state_dict().items() if k in names}, part))
    _forget(loop, "minimax", "encode")


# --- pools -------------------------------------------------------------------------------------------------------------
def pool(
    real: ImageSet, of: Base, tuning: Tuning | None, sampling: Sampling, per_class: int, seed: int, loop: Loop | None = None
) -> ImageSet:
    """Images drawn from stage 1, or from what was tuned from it: see `drawn_pool`.

    Args:
        tuning: None draws from stage 1.
    Raises: see `base`.
    """
    made_by = {"base": as_dict(of), "tuning": None if tuning is None else as_dict(tuning)}
    return drawn_pool(real, lambda: base(real, of, loop) if tuning is None else tuned(real, of, tuning, loop), made_by, sampling, per_class, seed, loop)


def drawn_pool(
    real: ImageSet, model: Callable[[], Model], made_by: dict[str, Any], sampling: Sampling, per_class: int, seed: int, loop: Loop | None = None
) -> ImageSet:
    """`per_class` drawn images of every class, as 8-bit pixels at the model's side, class after class.

    Args:
        model:   called where images are missing.
        made_by: settings that decide the model; with those of the sampling and the seed, what the images are kept under.
    """
    from safetensors.torch import load_file, save_file

    key = {**made_by, "sampling": as_dict(sampling), "seed": seed, "data": real.sha256(), "version": VERSION}
    folder = paths.runs() / "pools" / f"{_plain(real.facts.name)}-{_digest(key)}"
    each = max(1, sampling.batch // real.num_classes)  # images of every class in a file
    files = [folder / f"{i:05d}.safetensors" for i in range(-(-per_class // each))]
    with store.once(folder / "pool", "pool of images", loop, real.device, missing=not all(f.exists() for f in files)) as missing:
        if missing:
            network = model()
            todo = [i for i, f in enumerate(files) if not f.exists()]
            say(outlook("images drawn", network.network, sampling.work(1), len(todo), each * real.num_classes))
            for step in (loop or Loop()).steps(f"pool-{folder.name}-{len(todo)}", len(todo), {}):
                i = todo[step]
                drawn = _drawn(network, sampling, range(i * each, (i + 1) * each), seed)
                atomically(files[i], lambda part, drawn=drawn: save_file({"images": drawn}, part))
            if loop:
                _forget(loop, f"pool-{folder.name}-{len(todo)}")
    images = torch.cat([load_file(f)["images"] for f in files], 1)[:, :per_class].to(real.device)  # (K, n, C, S, S)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(per_class)
    return ImageSet(images.flatten(0, 1).contiguous(), labels, dataclasses.replace(real.facts, split="pool", extra={"seed": seed}))


def _drawn(model: Model, sampling: Sampling, numbers: range, seed: int) -> Tensor:
    """(K, n, C, S, S) uint8: the images of these numbers of every class."""
    which = [(k, j) for k in range(len(model.labels)) for j in numbers]
    schedule, out = model.schedule.respaced(sampling.steps), []
    for part in (which[i : i + sampling.batch] for i in range(0, len(which), sampling.batch)):
        rngs = [stream(seed, "pool", k, j) for k, j in part]
        device = model.network.pos_embed.device

        def draw(rngs: list[torch.Generator] = rngs, device: torch.device = device) -> Tensor:
            return torch.stack([torch.randn(model.latent, generator=g) for g in rngs]).to(device)

        labels = model.labels[torch.tensor([k for k, _ in part])].to(device)
        network: Callable[..., Tensor] = lambda *inputs: _answer(model.network, model.precision, *inputs)  # noqa: E731
        predict = dit.guided(network, labels, model.network.of.num_classes, sampling.guidance, sampling.channels)
        z = discrete.sample(predict, schedule, draw)
        out += [(model.space.pixels(some) * 255).round().byte().cpu() for some in z.split(25)]
    return torch.cat(out).contiguous().unflatten(0, (len(model.labels), len(numbers)))


def as_set(images: ImageSet, real: ImageSet, index: Tensor, **extra: Any) -> ImageSet:
    """The images of a pool at positions `index` (K, ipc) as a synthetic set: at the side of `real`, normalised.

    Args:
        extra: provenance, such as the method's name.
    """
    pixels = resized(images.subset(index.flatten()).pixels(), real.shape[1])
    mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (real.facts.mean, real.facts.std))
    return ImageSet.from_classes(((pixels - mean) / std).unflatten(0, index.shape), like=real, **extra)


def first(images: ImageSet, per_class: int) -> Tensor:
    """(K, per_class) positions of the first images of every class of a pool."""
    return torch.stack([members[:per_class] for members in images.class_index])


# --- cost --------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outlook:
    """What a stage will take, from counted operations and a short measurement of matrix products on the device at hand."""

    what: str
    steps: int
    batch: int
    flops: float
    rate: float  # operations per second
    memory_gb: float

    @property
    def seconds(self) -> float:
        return self.flops / self.rate

    def __str__(self) -> str:
        for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
            if self.seconds >= size or unit == "s":
                took = f"{self.seconds / size:.1f} {unit}"
                break
        return (
            f"{self.what}: {self.steps:,} steps of {self.batch} images, {self.flops / 1e12:,.1f} TFLOP: about {took} at the "
            f"{self.rate / 1e9:,.0f} GFLOP/s of matrix products here, {self.memory_gb:.1f} GB"
        )


def outlook(what: str, network: DiT, passes: float, steps: int, batch: int) -> Outlook:
    """Time and memory of a stage before it starts.

    Args:
        passes: forward passes an image counts as.
    """
    of, device = network.of, network.pos_embed.device
    share = sum(p.numel() for p in network.parameters() if p.requires_grad) / sum(p.numel() for p in network.parameters())
    return Outlook(what, steps, batch, passes * of.flops() * steps * batch, _rate(device), held(of, batch, device.type == "cuda", share) / 2**30)


def held(of: Architecture, images: int, gpu: bool, trained: float = 0.0) -> float:
    """Bytes a step keeps alive: weights, and of the trained share of them average, gradients and moments; activations of every block, or of one.

    Args:
        trained: share of the weights; 0 draws images.
    """
    weights = dit.parameters(of) * ((2 if trained else 1) + 3 * trained)
    if trained:
        return 4.0 * weights + images * dit.image_bytes(of)
    per_block = of.tokens * (14 * of.width + 2 * int(of.width * of.mlp_ratio)) + (0 if gpu else of.tokens**2 * of.heads)
    return 4.0 * (weights + images * per_block)


def _rate(device: torch.device) -> float:
    a = torch.ones(768, 768, device=device)
    for _ in range(2):
        a @ a
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, count = time.perf_counter(), 4
    for _ in range(count):
        b = a @ a
    float(b[0, 0])
    return count * 2 * 768**3 / (time.perf_counter() - start)


def say(found: Outlook) -> None:
    """Print what a stage will take, where that is more than a minute."""
    if found.seconds > 60:
        print(found, flush=True)


# --- files -------------------------------------------------------------------------------------------------------------
def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _plain(name: str) -> str:
    return name.replace("/", "_").replace(":", "_").replace("@", "-")


def _thinned(history: dict[str, list[tuple[int, float]]], most: int = 60) -> dict[str, list[tuple[int, float]]]:
    """At most so many looks of the curves of this stage."""
    return {k: v[:: max(1, -(-len(v) // most))] for k, v in history.items() if k in ("error", "bound", "minimax")}


def _forget(loop: Loop, *names: str) -> None:
    if loop.folder:
        for name in names:
            (loop.folder / f"{name}.ckpt").unlink(missing_ok=True)
