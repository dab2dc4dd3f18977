"""StyleGAN-XL's generator (the StyleGAN3 family), built from the shapes of a checkpoint, in plain PyTorch.

    g = read("imagenet128.safetensors")              # official weights after `unpickle.convert`
    g = StyleGANXL(*published_layers(64)).redraw(rng)       # the same architecture with random weights
    w = g.mapping(z, classes)                        # (B, num_ws, 512)
    f = g.to_f(w, n)                                 # features after the n-th layer of `g.layers`
    images = g.from_f(f, w, n)                       # (B, 3, H, W), about -1 to 1

Every layer is a modulated convolution followed by an upsampled, filtered leaky ReLU that is free of aliases. GLaD and
SLFD need first derivatives alone, and these are plain autograd. Everything is float32.

Source: Karras et al. 2021 (StyleGAN3) and Sauer et al. 2022 (StyleGAN-XL) with their code, commit 4241ff9.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layered import LayeredGenerator
from .convolution import CLAMP, SLOPE, Forms, Kept, Resampling, convolve, normalised_weight
from .layers import BANDWIDTH, GRID_RATE, MARGIN, Layer, design

EMBEDDING = 320  # numbers that describe a class


class FullyConnected(nn.Module):
    """Linear layer with an equalised learning rate: it multiplies with weight * lr_multiplier / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int, lr_multiplier: float = 1.0, activation: bool = False):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))
        self.gain, self.lr_multiplier, self.activation = lr_multiplier * inputs**-0.5, lr_multiplier, activation

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.gain, self.bias * self.lr_multiplier)
        return F.leaky_relu(x, SLOPE) * 2**0.5 if self.activation else x


def unit(x: Tensor) -> Tensor:
    """(B, n) scaled to a root mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """Noise and class -> style codes. `embed` holds a feature vector of every class, or of the 1,000 of ImageNet of
    which a set with fewer takes the first; `w_avg` the classes' mean codes."""

    def __init__(self, num_ws: int, classes: int, z_dim: int = 64, w_dim: int = 512, rows: int | None = None):
        super().__init__()
        self.num_ws, self.z_dim, self.w_dim = num_ws, z_dim, w_dim
        rows = rows or classes
        self.embed = nn.Embedding(rows, EMBEDDING, _weight=torch.empty(rows, EMBEDDING))
        self.embed_proj = FullyConnected(EMBEDDING, z_dim, activation=True)
        self.fc0 = FullyConnected(2 * z_dim, w_dim, 0.01, activation=True)
        self.fc1 = FullyConnected(w_dim, w_dim, 0.01, activation=True)
        self.register_buffer("w_avg", torch.zeros(classes, w_dim))

    def forward(self, z: Tensor, classes: Tensor, psi: float = 1.0) -> Tensor:
        """(B, z_dim) standard normal and (B,) classes to (B, num_ws, w_dim); psi < 1 pulls towards the class's mean
        code."""
        features = self.embed_proj(self.embed(classes))  # (B, z_dim)
        w = self.fc1(self.fc0(torch.cat([unit(z), unit(features)], 1)))  # (B, w_dim)
        mean = self.w_avg[classes]  # (B, w_dim)
        return (mean + psi * (w - mean))[:, None].expand(-1, self.num_ws, -1)


class Input(nn.Module):
    """Fourier features on a grid, turned and shifted by the first code. Output (B, channels, 36, 36)."""

    def __init__(self, channels: int, w_dim: int = 512):
        super().__init__()
        self.size = GRID_RATE + 2 * MARGIN
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.zeros(channels, 2))
        self.register_buffer("phases", torch.zeros(channels))

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)  # (B, 4): cosine and sine of the turn, and the shift
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        zero, one = torch.zeros_like(t[:, 0]), torch.ones_like(t[:, 0])
        turn = torch.stack([t[:, 0], -t[:, 1], zero, t[:, 1], t[:, 0], zero, zero, zero, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -t[:, 2], zero, one, -t[:, 3], zero, zero, one], 1).view(-1, 3, 3)
        moved = turn @ shift @ self.transform  # (B, 3, 3)
        phases = self.phases + (self.freqs @ moved[:, :2, 2:]).squeeze(2)  # (B, channels)
        freqs = self.freqs @ moved[:, :2, :2]  # (B, channels, 2)
        amplitudes = (1 - (freqs.norm(dim=2) - BANDWIDTH) / (GRID_RATE / 2 - BANDWIDTH)).clamp(0, 1)
        span = (torch.arange(self.size, device=w.device) + 0.5) / self.size * 2 - 1
        at = span * (0.5 * self.size / GRID_RATE)
        grid = torch.stack([at.expand(self.size, -1), at[:, None].expand(-1, self.size)], -1)  # (36, 36, (x, y))
        angles = 2 * math.pi * (grid.view(1, -1, 2) @ freqs.transpose(1, 2) + phases[:, None])
        x = torch.sin(angles) * amplitudes[:, None]  # (B, 36 x 36, channels)
        x = x @ (self.weight * len(self.weight) ** -0.5).T  # (B, 36 x 36, channels)
        return x.transpose(1, 2).view(len(w), -1, self.size, self.size)


class Synthesis(nn.Module):
    """One layer: modulated convolution, then the filtered nonlinearity; toRGB has neither filters nor nonlinearity."""

    def __init__(self, layer: Layer, w_dim: int = 512):
        super().__init__()
        self.layer = layer
        self.affine = FullyConnected(w_dim, layer.inputs)
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.inputs, layer.kernel, layer.kernel))
        self.bias = nn.Parameter(torch.empty(layer.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        self.resampling = None if layer.to_rgb else Resampling(layer)
        self._kept = Kept()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, in_size, in_size) and one code (B, w_dim) to (B, channels, size, size)."""
        layer, s = self.layer, self.affine(w)
        gain = self.magnitude_ema.rsqrt()
        if layer.to_rgb:
            x = convolve(x, s * (gain * layer.inputs**-0.5 / layer.kernel), self._weights(), None)
            return (x + self.bias[:, None, None]).clamp(-CLAMP, CLAMP)
        # cancels except for the 1e-8 below; per image, so that an image does not depend on the others
        s = s * s.square().mean(1, keepdim=True).rsqrt()  # (B, inputs)
        weights = self._weights()
        out = (s.square() @ weights[1].T + 1e-8).rsqrt()  # (B, channels)
        x = convolve(x, gain * s, weights, out)  # (B, channels, in_size + kernel - 1, same)
        return self.resampling(x, self.bias)  # (B, channels, size, size)

    def _weights(self) -> tuple[Tensor, Tensor, Forms | None]:
        demodulated = not self.layer.to_rgb
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return normalised_weight(self.weight, demodulated)
        return self._kept(lambda: normalised_weight(self.weight.detach(), demodulated), self.weight)


class StyleGANXL(LayeredGenerator):
    """The generator: `mapping`, `input`, and a list of layers. n counts the layers of the list, not the numbers in
    their names.

    Args:
        layers:  in order; the last is toRGB.
        classes: that it draws.
        rows:    of the table of class features, if those are more.
    """

    def __init__(
        self, layers: Sequence[Layer], classes: int = 1000, z_dim: int = 64, w_dim: int = 512, rows: int | None = None
    ):
        super().__init__()
        self.plan, self.num_ws, self.num_classes = list(layers), len(layers) + 1, classes
        self.z_dim, self.w_dim = z_dim, w_dim
        self.mapping = Mapping(self.num_ws, classes, z_dim, w_dim, rows)
        self.input = Input(layers[0].inputs, w_dim)
        self.layers = nn.ModuleList(Synthesis(layer, w_dim) for layer in layers)

    @property
    def layer_names(self) -> list[str]:
        return [layer.name for layer in self.plan]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.plan[-1].size, self.plan[-1].size

    def start(self, w: Tensor) -> Tensor:
        """The Fourier features (B, channels, 36, 36)."""
        return self.input(w[:, 0])

    def run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            x = self.layers[i](x, w[:, 1 + i])  # (B, channels, size, size)
        return x * 0.25 if first < last == len(self.layers) else x

    @torch.no_grad()
    def redraw(self, rng: torch.Generator) -> Self:
        """Random weights of the law that training starts from, and designed filters, in place."""
        draw = functools.partial(torch.randn, generator=rng, device=rng.device)

        def normal(parameter: Tensor, scale: float = 1.0) -> None:
            parameter.copy_(draw(parameter.shape) * scale)

        normal(self.mapping.embed.weight)
        for layer in self.modules():
            if isinstance(layer, FullyConnected):
                normal(layer.weight, 1 / layer.lr_multiplier)
                layer.bias.zero_()
            if isinstance(layer, Synthesis):
                normal(layer.weight)
                layer.bias.zero_()
                if layer.resampling is not None:
                    known, made = layer.layer, layer.resampling
                    made.up_filter.copy_(design(6 * known.up, *known.filters[0]))
                    made.down_filter.copy_(design(6 * known.down, *known.filters[1], radial=known.radial))
        for layer in self.layers:
            layer.affine.bias.fill_(1.0)
        self.input.affine.weight.zero_()
        self.input.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        normal(self.input.weight)
        direction = draw(self.input.freqs.shape)
        r = direction.norm(dim=1, keepdim=True)
        self.input.freqs.copy_(direction / r * (-(r.square()) / 4).exp() * BANDWIDTH)
        self.input.phases.copy_(torch.rand(self.input.phases.shape, generator=rng, device=rng.device) - 0.5)
        return self
