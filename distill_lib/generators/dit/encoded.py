"""A real set in the latent space of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core import paths, store
from ...core.errors import UserError
from ...core.files import atomically
from ...core.loop import Loop
from ...core.store import digest, plain_name
from ...data import ImageSet
from . import autoencoder
from .autoencoder import Autoencoder
from .settings import VERSION, Base


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
        kept: mean (V, N, C, h, w) and where there is one log_variance, float16, for V views: as it is, and mirrored.
        None: pixel space.
    """

    def __init__(self, real: ImageSet, encoder: Autoencoder, side: int, flips: bool, kept: dict[str, Tensor] | None):
        self.real, self.encoder, self.side, self.flips, self.kept = real, encoder, side, flips, kept

    def draw(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C, h, w): a draw from each image's latent distribution, half of them mirrored where `flips`."""
        device = self.real.device
        mirrored = (
            torch.randint(2, (len(index),), generator=rng) if self.flips else torch.zeros(len(index), dtype=torch.int64)
        )
        if self.kept is None:
            pixels = resized(self.real.subset(index).pixels(), self.side)
            pixels = torch.where(mirrored.bool().to(device).view(-1, 1, 1, 1), pixels.flip(3), pixels)
            return self.encoder.encode(pixels).sample(rng)
        parts = [
            self.kept[k][mirrored, index].to(device).float() if k in self.kept else None
            for k in ("mean", "log_variance")
        ]
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
    file = paths.runs() / "latents" / f"{plain_name(real.facts.name)}-{digest(key)}.safetensors"
    with store.once(file, "latents", loop, real.device) as missing:
        if missing:
            save = _encode(real, encoder, side, of.flips, loop or Loop())
            atomically(file, lambda part: save_file(save, part))
    return Latents(real, encoder, side, of.flips, load_file(file))


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
        raise UserError(
            f"autoencoder {of.autoencoder}: takes {found.images} channels, {real.facts.name} has {real.shape[0]}; use identity"
        )
    side = of.side or real.shape[1]
    if real.shape[1] != real.shape[2] or side % found.factor:
        given = f"{real.shape[1]} x {real.shape[2]}"
        raise UserError(
            f"autoencoder {of.autoencoder}: takes squares of a multiple of {found.factor} pixels, not {given}"
        )
    return found.to(real.device)
