"""Autoencoders behind one interface: pixels in [0, 1] to latents and back.

    autoencoder = load("taef2")                        # or "identity", or an AutoencoderKL: a folder, or a name
    z = autoencoder.encode(pixels).sample(rng)         # (B, C, H / factor, W / factor)
    pixels = autoencoder.decode(z)

`scale` is what published networks multiply latents by; `None` means that there is no such number, so whoever trains on
the latents measures the mean and deviation of each channel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import weights
from ...core.errors import UserError


@dataclass(frozen=True)
class Encoded:
    """An encoder's answer to images: a mean (B, C, h, w), and a log-variance if it is a distribution."""

    mean: Tensor
    log_variance: Tensor | None = None

    def sample(self, rng: torch.Generator) -> Tensor:
        """A draw; the mean itself if there is no variance."""
        if self.log_variance is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=rng, device=rng.device).to(self.mean.device)
        return self.mean + torch.exp(0.5 * self.log_variance.clamp(-30, 20)) * noise


class Autoencoder(nn.Module):
    """Encodes pixels into latents and decodes them.

    Attributes:
        name:     what it was loaded by.
        factor:   pixels per latent, along a side.
        channels: of the latents.
        images:   channels of the images it takes; None for any number, and then latents have as many.
        scale:    see above.
    """

    name: str
    factor: int
    channels: int | None
    images: int | None
    scale: float | None

    def encode(self, pixels: Tensor) -> Encoded:
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


class Identity(Autoencoder):
    """Pixel space: latents are pixels in [-1, 1]."""

    name, factor, channels, images, scale = "identity", 1, None, None, 1.0

    def encode(self, pixels: Tensor) -> Encoded:
        return Encoded(pixels * 2 - 1)

    def decode(self, latents: Tensor) -> Tensor:
        return ((latents + 1) / 2).clamp(0, 1)


# --- TAEF2 ---
class _Block(nn.Module):
    """ReLU(x + three convolutions of x); with `pool`, group norm first adds a context of the whole map to x."""

    def __init__(self, pool: bool = False):
        super().__init__()
        self.conv = nn.Sequential(_conv(64, 64), nn.ReLU(), _conv(64, 64), nn.ReLU(), _conv(64, 64))
        if pool:
            wider, narrower = nn.Conv2d(64, 256, 1, bias=False), nn.Conv2d(256, 64, 1, bias=False)
            self.pool = nn.Sequential(wider, nn.GroupNorm(4, 256), nn.ReLU(), narrower)
        else:
            self.pool = None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)  # (B, 64, H, W)
        return F.relu(x + self.conv(x))  # (B, 64, H, W)


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _conv(inputs: int, outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class TAEF2(Autoencoder):
    """The tiny autoencoder of FLUX.2's latent space: 3 x H x W to 32 x H/8 x W/8, deterministic, 1.34 million numbers
    each way.

    Source: madebyollin/taesd (MIT).
    """

    name, factor, channels, images, scale = "taef2", 8, 32, 3, None

    def __init__(self) -> None:
        super().__init__()

        def blocks(pool: bool = False) -> list[nn.Module]:
            return [_Block(pool) for _ in range(3)]

        def down() -> nn.Module:
            return _conv(64, 64, stride=2, bias=False)

        def up() -> list[nn.Module]:
            return [nn.Upsample(scale_factor=2, mode="nearest"), _conv(64, 64, bias=False)]

        halves = [_conv(3, 64), _Block(), down(), *blocks(), down(), *blocks(), down(), *blocks(pool=True)]
        self.encoder = nn.Sequential(*halves, _conv(64, 32))
        doubles = [*blocks(pool=True), *up(), *blocks(), *up(), *blocks(), *up(), _Block()]
        self.decoder = nn.Sequential(_Clamp(), _conv(32, 64), nn.ReLU(), *doubles, _conv(64, 3))

    def encode(self, pixels: Tensor) -> Encoded:
        return Encoded(self.encoder(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents).clamp(0, 1)


def _taef2() -> TAEF2:
    with torch.random.fork_rng(devices=[]):
        made = TAEF2()
    for part in ("encoder", "decoder"):
        state = load_file(weights.need(f"TAEF2 {part}"))
        getattr(made, part).load_state_dict({k: v.float() for k, v in state.items()})
    return made.eval().requires_grad_(False)


# --- AutoencoderKL ---
class KL(Autoencoder):
    """diffusers' AutoencoderKL. Its pixels are in [-1, 1]."""

    images = 3

    def __init__(self, vae: Any, name: str):
        super().__init__()
        self.vae, self.name = vae.eval().requires_grad_(False), name
        self.channels, self.factor = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
        self.scale = float(vae.config.scaling_factor)

    def encode(self, pixels: Tensor) -> Encoded:
        found = self.vae.encode(pixels * 2 - 1).latent_dist
        return Encoded(found.mean, found.logvar)

    def decode(self, latents: Tensor) -> Tensor:
        return ((self.vae.decode(latents).sample + 1) / 2).clamp(0, 1)


def _kl(name: str) -> KL:
    from diffusers import AutoencoderKL  # here: it takes 2.3 seconds to import, and only these weights need it

    folder = weights.folder(name)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    try:
        return KL(AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False), name)
    except (OSError, ValueError, RuntimeError) as err:
        raise UserError(f"{folder}: not an AutoencoderKL as diffusers writes it ({str(err).splitlines()[0]})") from None


NAMED: dict[str, Callable[[], Autoencoder]] = {"identity": Identity, "taef2": _taef2}


@functools.lru_cache(maxsize=4)
def load(name: str) -> Autoencoder:
    """An autoencoder by its name, on the CPU; loaded once.

    Args:
        name: "identity" (pixel space), "taef2", or an AutoencoderKL: a folder that diffusers wrote, or a name on the
              hub.
    Raises: UserError: weights that are not there (and where to put them), or damaged ones.
    """
    return NAMED[name]() if name in NAMED else _kl(name)
