"""A real set in the latent space of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core import paths, store
from ...core.errors import UserError
from ...core.files import read_tensors, write_tensors
from ...core.loop import Loop
from ...data import ImageSet
from . import autoencoder
from .autoencoder import Autoencoder, Encoded
from .settings import VERSION, Pretraining


@dataclass(frozen=True)
class LatentSpace:
    """The space in which the network works: an autoencoder's latents, shifted and scaled in every channel.

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


@dataclass(frozen=True)
class EncodedSet:
    """The latents of a real set, drawn by position; encoded once if that takes an encoder.

    Attributes:
        kept: mean (V, N, C, h, w) and, if there is one, log_variance, float16, for V views: as it is, and mirrored.
              None: pixel space.
    """

    real: ImageSet
    encoder: Autoencoder
    side: int
    flips: bool
    kept: dict[str, Tensor] | None

    def draw(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C, h, w): a draw from each image's latent distribution, half of them mirrored if `flips`."""
        device, n = self.real.device, len(index)
        mirrored = torch.randint(2, (n,), generator=rng) if self.flips else torch.zeros(n, dtype=torch.int64)
        if self.kept is None:
            pixels = resized(self.real.pixels(index), self.side)
            pixels = torch.where(mirrored.bool().to(device).view(-1, 1, 1, 1), pixels.flip(3), pixels)
            return self.encoder.encode(pixels).sample(rng)
        return Encoded(**{k: v[mirrored, index].to(device).float() for k, v in self.kept.items()}).sample(rng)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, 1, 1) of every channel over all kept means."""
        mean, n = self.kept["mean"], 0
        sums = [torch.zeros(mean.shape[2], dtype=torch.float64) for _ in range(2)]
        for part in mean.flatten(0, 1).split(1024):
            x = part.double()
            n += x.numel() // x.shape[1]
            sums[0] += x.sum((0, 2, 3)).cpu()
            sums[1] += x.square().sum((0, 2, 3)).cpu()
        first, second = (s / n for s in sums)
        out = (first, (second - first.square()).clamp_min(1e-12).sqrt())
        return tuple(v.float().view(-1, 1, 1).to(self.real.device) for v in out)


def latents(real: ImageSet, cfg: Pretraining, loop: Loop | None = None) -> EncodedSet:
    """The latents of `real`: read from `runs/latents`, or encoded and put there if they are missing.

    Raises: UserError: images the autoencoder does not take, or missing weights.  TimeUp: the loop's deadline passed.
    """
    encoder, side = encoder_of(real, cfg), cfg.side or real.shape[1]
    if encoder.name == "identity":
        return EncodedSet(real, encoder, side, cfg.flips, None)
    key = {"data": real.sha256(), "autoencoder": cfg.autoencoder, "side": side, "flips": cfg.flips, "version": VERSION}
    name = f"{store.plain_name(real.facts.name)}-{store.digest(key)}.safetensors"
    file = paths.runs() / "latents" / name
    with store.once(file, "latents", loop, real.device) as missing:
        if missing:
            write_tensors(file, _encode(real, encoder, side, cfg.flips, loop or Loop()))
    return EncodedSet(real, encoder, side, cfg.flips, read_tensors(file)[0])


@torch.no_grad()
def _encode(
    real: ImageSet, encoder: Autoencoder, side: int, flips: bool, loop: Loop, batch: int = 25
) -> dict[str, Tensor]:
    views, shape = 1 + flips, (encoder.channels, side // encoder.factor, side // encoder.factor)
    kept = {"mean": torch.zeros(views, len(real), *shape, dtype=torch.float16)}
    parts = torch.arange(len(real)).split(batch)
    first = encoder.encode(torch.zeros(1, 3, side, side, device=real.device))
    if first.log_variance is not None:
        kept["log_variance"] = torch.zeros_like(kept["mean"])
    for step in loop.steps("encode", len(parts), kept):
        pixels = resized(real.pixels(parts[step]), side)
        for view in range(views):
            found = encoder.encode(pixels.flip(3) if view else pixels)
            for name, values in kept.items():
                values[view, parts[step]] = getattr(found, name).half().cpu()
    return kept


def encoder_of(real: ImageSet, cfg: Pretraining) -> Autoencoder:
    """The autoencoder that encodes. Raises: UserError: missing weights, or images that it does not take."""
    found = autoencoder.load(cfg.autoencoder)
    takes = f"autoencoder {cfg.autoencoder}: takes"
    if found.images is not None and real.shape[0] != found.images:
        raise UserError(f"{takes} {found.images} channels, {real.facts.name} has {real.shape[0]}; use identity")
    if real.shape[1] != real.shape[2] or (cfg.side or real.shape[1]) % found.factor:
        given = f"{real.shape[1]} x {real.shape[2]}"
        raise UserError(f"{takes} squares of a multiple of {found.factor} pixels, not {given}")
    return found.to(real.device)
