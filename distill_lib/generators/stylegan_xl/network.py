"""StyleGAN-XL's generator (the StyleGAN3 family), built from the shapes of a checkpoint, in plain PyTorch.

    g = read("imagenet128.safetensors")              # official weights after `foreign_pickle.convert`
    g = StyleGANXL(*plan(64)).redraw(rng)            # the same architecture with random weights
    w = g.mapping(z, classes)                        # (B, num_ws, 512)
    f = g.to_f(w, n)                                 # features after the n-th layer of `g.layers`
    images = g.from_f(f, w, n)                       # (B, 3, H, W), about -1 to 1

Every layer is a modulated convolution followed by an upsampled, filtered leaky ReLU that is free of aliases. Three
things make it fast without changing what it computes. Styles scale the convolution's input and output, so one
convolution with shared weights serves the batch, and the derivative by a style needs no derivative by a weight.
Separable filters that change the sampling rate are banded matrices, applied as matrix products on rows and columns. 3x3
convolutions on a CPU are Winograd products.

Only first derivatives are needed by GLaD and SLFD, and these are plain autograd. Everything is float32.

Source: Karras et al. 2021 (StyleGAN3) and Sauer et al. 2022 (StyleGAN-XL) with their code, commit 4241ff9.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError

SIDES = (16, 32, 64, 128, 256, 512)  # pixels with official ImageNet weights
MARGIN, GRID_RATE, BANDWIDTH = 10, 16, 2.0  # of the input grid: 16 + 2 x 10 positions
SLOPE, CLAMP = 0.2, 256.0
EMBEDDING = 320  # numbers that describe a class


# --- which layers ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Layer:
    """One synthesis layer. `size` and `channels` are those of its output, as its name says them.

    Attributes:
        up, down: sampling rate of the nonlinearity over that of the input, and over that of the output.
        filters:  (cutoff, width, rate) of the filter before and after the nonlinearity, to design them; None: none
        (toRGB). radial:   the filter after the nonlinearity is a 2-D jinc filter in place of a separable one.
    """

    name: str
    kernel: int
    inputs: int
    channels: int
    in_size: int
    size: int
    up: int = 2
    down: int = 2
    filters: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    radial: bool = False

    @property
    def to_rgb(self) -> bool:
        return self.channels == 3 and self.up == 1

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and after the upsampled signal, negative: samples cut off. Same for rows and columns."""
        if self.to_rgb:
            return 0, 0
        total = (
            (self.size - 1) * self.down
            + 1
            - (self.in_size + self.kernel - 1) * self.up
            + 6 * self.up
            + 6 * self.down
            - 2
        )
        low = (total + self.up) // 2
        return low, total - low


def plan(
    side: int, stem_kernel: int = 1, channel_base: int = 65536, channel_max: int = 1024, classes: int = 1000
) -> tuple[list[Layer], int]:
    """The layers of the published generators, and the number of classes: `StyleGANXL(*plan(128))`.

    A 16-pixel stem of 11 layers; every doubling drops the last three and adds eight.

    Args:
        side:        16, 32, ... 512.
        stem_kernel: of the stem's layers; heads always have 3. The published ImageNet weights have 1, with radial
        filters in the layers
            that are not critically sampled.
        channel_base, channel_max: the width; the authors advise 16384 and 256 for small data.
    Raises: UserError: a side without published layers.
    """
    if side not in SIDES or stem_kernel not in (1, 3):
        sides = ", ".join(map(str, SIDES))
        raise UserError(
            f"StyleGAN-XL at {side} pixels with a stem of {stem_kernel}x{stem_kernel}: sides {sides}, kernels 1 and 3"
        )
    base = channel_base // 2  # of the formula; the published networks have twice the usual width
    kept: list[_Rated] = _rated(16, 10, None, base, channel_max)
    heads, resolution = [0] * len(kept), 32
    while resolution <= side:
        kept, heads = kept[:-3], heads[:-3]
        head = _rated(resolution, 7, kept[-1], base, channel_max, first=len(kept) + 1)
        kept, heads, resolution = kept + head, heads + [1] * len(head), 2 * resolution
    layers, before = (
        [],
        _Rated(-1, 16 + 2 * MARGIN, round(min(base / BANDWIDTH, channel_max)), BANDWIDTH, 2**2.1, GRID_RATE, False),
    )
    for this, head in zip(kept, heads, strict=True):
        rgb = this.channels == 3
        radial = stem_kernel == 1 and not head and not this.critical
        rate = 1 if rgb else 2
        tmp = max(before.rate, this.rate) * rate
        filters = None if rgb else tuple((r.cutoff, 2 * r.half_width, float(tmp)) for r in (before, this))
        kernel = 1 if rgb else 3 if head else stem_kernel
        layers.append(
            Layer(
                f"L{this.number}_{this.size}_{this.channels}",
                kernel,
                before.channels,
                this.channels,
                before.size,
                this.size,
                tmp // before.rate,
                tmp // this.rate,
                filters,
                radial,
            )
        )
        before = this
    return layers, classes


@dataclass(frozen=True)
class _Rated:
    """A layer's output with its band limits."""

    number: int
    size: int
    channels: int
    cutoff: float
    stopband: float
    rate: int
    critical: bool

    @property
    def half_width(self) -> float:
        return max(self.stopband, self.rate / 2) - self.cutoff


def _rated(side: int, count: int, after: _Rated | None, base: int, most: int, first: int = 0) -> list[_Rated]:
    """`count` layers and toRGB up to `side` pixels, from the input or `after` a kept layer; limits grow
    geometrically."""
    cutoff0, stop0 = (BANDWIDTH, 2**2.1) if after is None else (after.cutoff, after.stopband)
    out = []
    for i in range(count + 1):
        share = min(i / (count - 2), 1)
        cutoff = cutoff0 * (side / 2 / cutoff0) ** share
        stop = stop0 * (side / 2 * 2**0.3 / stop0) ** share
        rate = round(2 ** math.ceil(math.log2(min(2 * stop, side))))
        critical = i >= count - 2
        size, channels = side if i >= count - 1 else rate + 2 * MARGIN, round(min(base / cutoff, most))
        if after is not None and i == 0:
            rate, channels, size = after.rate, after.channels, after.size
        out.append(_Rated(first + i, size, channels if i < count else 3, cutoff, stop, rate, critical))
    return out


def design(taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor:
    """Kaiser low-pass filter (taps,), or for `radial` the jinc filter (taps, taps), of sum 1.

    Args: cutoff, width: of the transition band, both in the units of the sampling `rate`.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95  # dB; Kaiser's formulas
    beta = 0.0
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
    x = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2  # samples
    if not radial:
        f = torch.sinc(2 * cutoff / rate * x) * window
    else:
        r = torch.hypot(*torch.meshgrid(x, x, indexing="ij")) / rate
        f = torch.special.bessel_j1(2 * math.pi * cutoff * r) / (math.pi * r) * torch.outer(window, window)
    return (f / f.sum()).float()


# --- changing the sampling rate
# ----------------------------------------------------------------------------------------
class Resampling(nn.Module):
    """Up: zeros between samples, padding, FIR filter of gain up². Down: FIR filter, every `down`-th sample.

    A separable filter is a matrix (out, in), applied to rows and columns. The one of `up` always is; a radial one of
    `down` is (taps, taps) and a convolution.
    """

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer
        self.register_buffer("up_filter", torch.zeros(6 * layer.up))
        self.register_buffer("down_filter", torch.zeros(*[6 * layer.down] * (2 if layer.radial else 1)))
        self._made: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def matrices(self) -> tuple[Tensor, Tensor | None]:
        """(tmp, in + kernel - 1) and (size, tmp): the separable filters as matrices, None for a radial one; made anew
        where they change."""
        key = tuple((f.data_ptr(), f._version, f.device) for f in (self.up_filter, self.down_filter))
        if key not in self._made:
            layer, (low, _), device = self.layer, self.layer.padding, self.up_filter.device
            inputs, tmp = layer.in_size + layer.kernel - 1, (layer.size - 1) * layer.down + 6 * layer.down
            up, down = torch.zeros(tmp, inputs), None
            f = self.up_filter.detach().cpu().flip(0) * layer.up
            for i in range(inputs):  # sample i stands at i up + low of the padded signal
                at = i * layer.up + low
                for j in range(len(f)):
                    if 0 <= at - j < tmp:
                        up[at - j, i] = f[j]
            if not layer.radial:
                down, g = torch.zeros(layer.size, tmp), self.down_filter.detach().cpu().flip(0)
                for o in range(layer.size):
                    down[o, o * layer.down : o * layer.down + len(g)] = g
                down = down.to(device)
            self._made = {key: (up.to(device), down)}
        return self._made[key]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, C, in + kernel - 1, same) to (B, C, size, size): bias, up, leaky ReLU times sqrt 2, clamp, down."""
        up, down = self.matrices()
        x = _lrelu(_apply(x + bias[:, None, None], up))
        return self._radial(x) if down is None else _apply(x, down)

    def _radial(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        f = self.down_filter.flip(0, 1)[None, None]
        return F.conv2d(x.reshape(b * c, 1, h, w), f, stride=self.layer.down).view(
            b, c, self.layer.size, self.layer.size
        )


def _lrelu(x: Tensor) -> Tensor:
    return (F.leaky_relu(x, SLOPE) * 2**0.5).clamp(-CLAMP, CLAMP)


def _apply(x: Tensor, matrix: Tensor) -> Tensor:
    """(B, C, n, n) with a matrix (m, n) on columns and rows: (B, C, m, m)."""
    b, c, h, w = x.shape
    rows = (x.reshape(-1, w) @ matrix.T).view(b * c, h, -1)  # (B C, n, m)
    return torch.matmul(matrix, rows).view(b, c, len(matrix), len(matrix))


# --- convolutions ------------------------------------------------------------------------------------------------------
# F(4x4, 3x3) of Lavin and Gray 2016: transforms of input (6, 6), output (4, 6) and weight (6, 3)
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_WEIGHT = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


@functools.lru_cache(maxsize=8)
def _winograd(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Two-dimensional transforms: (36, 36), (16, 36), (36, 9)."""
    return tuple(
        torch.kron(a, a).to(device) for a in (torch.tensor(m, dtype=torch.float32) for m in (_INPUT, _OUTPUT, _WEIGHT))
    )


class _Full3x3(torch.autograd.Function):
    """Full 3x3 convolution (two zeros on every side) of (B, I, H, W) with fixed weights: (B, O, H + 2, W + 2), by
    Winograd products."""

    @staticmethod
    def forward(ctx, x: Tensor, forwards: Tensor, backwards: Tensor) -> Tensor:
        ctx.backwards = backwards
        return _products(x, forwards, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _products(grad, ctx.backwards, 0), None, None


def _products(x: Tensor, weight: Tensor, pad: int) -> Tensor:
    """(B, I, H, W) and transformed weights (36, O, I) to (B, O, H + 2 pad - 2, W + 2 pad - 2)."""
    into, out, _ = _winograd(x.device)
    b, c, h, w = x.shape
    rows, columns = (-(-(n + 2 * pad - 2) // 4) for n in (h, w))  # tiles of 4
    x = F.pad(x, (pad, 4 * columns + 2 - w - pad, pad, 4 * rows + 2 - h - pad))
    i, j, k = x.stride()[1:]
    tiles = x.as_strided((6, 6, c, b, rows, columns), (j, k, i, x.stride(0), 4 * j, 4 * k)).reshape(36, -1)
    seen = (into @ tiles).view(36, c, -1)  # one product for every channel and tile
    found = torch.bmm(weight, seen)  # (36, O, tiles)
    found = (out @ found.view(36, -1)).view(4, 4, -1, b, rows, columns)
    return found.permute(3, 2, 4, 0, 5, 1).reshape(b, -1, 4 * rows, 4 * columns)[
        :, :, : h + 2 * pad - 2, : w + 2 * pad - 2
    ]


def _winograd_pays(channels: int, inputs: int, kernel: int, gpu: bool) -> bool:
    return kernel == 3 and min(channels, inputs) >= 64 and not gpu


class _Weights:
    """The normalised weights of a convolution in the forms its products want, made again when the weights change."""

    def __init__(self):
        self.key, self.value = None, None

    def __call__(self, weight: Tensor, demodulated: bool) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Normalised weight (O, I, k, k), its squares summed over k x k (O, I), and the Winograd forms where they
        pay."""
        if torch.is_grad_enabled() and weight.requires_grad:
            return self.make(weight, demodulated)
        key = (weight.data_ptr(), weight._version, weight.device)
        if key != self.key:
            self.key, self.value = key, self.make(weight.detach(), demodulated)
        return self.value

    @staticmethod
    def make(weight: Tensor, demodulated: bool) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        if demodulated:
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        forms = None
        if _winograd_pays(*weight.shape[:3], weight.device.type != "cpu") and not weight.requires_grad:
            change = _winograd(weight.device)[2]
            turned = weight.flip(2, 3).transpose(0, 1)  # of the derivative by the input
            flat = ((w.flatten(2).permute(2, 0, 1).reshape(9, -1), w.shape[:2]) for w in (weight, turned))
            forms = tuple((change @ nine).view(36, *channels).contiguous() for nine, channels in flat)
        return weight, weight.square().sum((2, 3)), forms


# --- modules -----------------------------------------------------------------------------------------------------------
class FullyConnected(nn.Module):
    """Linear layer whose stored weights are larger by 1 / `lr_multiplier` and a root of the inputs than those it
    multiplies with."""

    def __init__(self, inputs: int, outputs: int, lr_multiplier: float = 1.0, activation: bool = False):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))
        self.gain, self.lr_multiplier, self.activation = lr_multiplier * inputs**-0.5, lr_multiplier, activation

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.gain, self.bias * self.lr_multiplier)
        return F.leaky_relu(x, SLOPE) * 2**0.5 if self.activation else x


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """Noise and class -> style codes. The table `embed` holds a feature vector of every class; `w_avg` their mean
    codes."""

    def __init__(self, num_ws: int, classes: int, z_dim: int = 64, w_dim: int = 512):
        super().__init__()
        self.num_ws, self.z_dim, self.w_dim = num_ws, z_dim, w_dim
        self.embed = nn.Embedding(classes, EMBEDDING, _weight=torch.empty(classes, EMBEDDING))
        self.embed_proj = FullyConnected(EMBEDDING, z_dim, activation=True)
        self.fc0 = FullyConnected(2 * z_dim, w_dim, 0.01, activation=True)
        self.fc1 = FullyConnected(w_dim, w_dim, 0.01, activation=True)
        self.register_buffer("w_avg", torch.zeros(classes, w_dim))

    def forward(self, z: Tensor, classes: Tensor, psi: float = 1.0) -> Tensor:
        """(B, z_dim) standard normal and (B,) classes to (B, num_ws, w_dim); psi < 1 pulls towards the class's mean
        code."""
        w = self.fc1(self.fc0(torch.cat([_unit(z), _unit(self.embed_proj(self.embed(classes)))], 1)))
        mean = self.w_avg[classes]
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
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        zero, one = torch.zeros_like(t[:, 0]), torch.ones_like(t[:, 0])
        turn = torch.stack([t[:, 0], -t[:, 1], zero, t[:, 1], t[:, 0], zero, zero, zero, one], 1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -t[:, 2], zero, one, -t[:, 3], zero, zero, one], 1).view(-1, 3, 3)
        moved = turn @ shift @ self.transform
        phases = self.phases + (self.freqs @ moved[:, :2, 2:]).squeeze(2)  # (B, channels)
        freqs = self.freqs @ moved[:, :2, :2]  # (B, channels, 2)
        amplitudes = (1 - (freqs.norm(dim=2) - BANDWIDTH) / (GRID_RATE / 2 - BANDWIDTH)).clamp(0, 1)
        span = (torch.arange(self.size, device=w.device) + 0.5) / self.size * 2 - 1
        at = span * (0.5 * self.size / GRID_RATE)
        grid = torch.stack([at.expand(self.size, -1), at[:, None].expand(-1, self.size)], -1).view(
            1, -1, 2
        )  # (1, 36 x 36, (x, y))
        x = torch.sin(2 * math.pi * (grid @ freqs.transpose(1, 2) + phases[:, None])) * amplitudes[:, None]
        x = x @ (self.weight * len(self.weight) ** -0.5).T
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
        self._weights = _Weights()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, in_size, in_size) and one code (B, w_dim) to (B, channels, size, size)."""
        layer, s = self.layer, self.affine(w)
        gain = self.magnitude_ema.rsqrt()
        if layer.to_rgb:
            x = convolve(x, s * (gain * layer.inputs**-0.5 / layer.kernel), self._weights(self.weight, False), None)
            return (x + self.bias[:, None, None]).clamp(-CLAMP, CLAMP)
        s = (
            s * s.square().mean(1, keepdim=True).rsqrt()
        )  # cancels but for the 1e-8 below; per image, so that images keep apart
        weights = self._weights(self.weight, True)
        out = (s.square() @ weights[1].T + 1e-8).rsqrt()
        return self.resampling(convolve(x, gain * s, weights, out), self.bias)


def convolve(x: Tensor, s: Tensor, weights: tuple, out: Tensor | None) -> Tensor:
    """Full convolution with input channels scaled by `s` (B, I) and output channels by `out` (B, O)."""
    weight, _, forms = weights
    x = x * s[:, :, None, None]
    x = _Full3x3.apply(x, *forms) if forms else F.conv2d(x, weight, padding=weight.shape[-1] - 1)
    return x if out is None else x * out[:, :, None, None]


class StyleGANXL(nn.Module):
    """The generator: `mapping`, `input`, and a list of layers. n counts the layers of the list, not the numbers in
    their names.

    Args:
        layers:  in order; the last is toRGB.
        classes: rows of the table of class features.
    """

    family = "StyleGAN-XL"

    def __init__(self, layers: Sequence[Layer], classes: int = 1000, z_dim: int = 64, w_dim: int = 512):
        super().__init__()
        self.plan, self.z_dim, self.w_dim, self.num_ws, self.num_classes = (
            list(layers),
            z_dim,
            w_dim,
            len(layers) + 1,
            classes,
        )
        self.mapping = Mapping(self.num_ws, classes, z_dim, w_dim)
        self.input = Input(layers[0].inputs, w_dim)
        self.layers = nn.ModuleList(Synthesis(layer, w_dim) for layer in layers)

    @property
    def layer_names(self) -> list[str]:
        return [layer.name for layer in self.plan]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.plan[-1].size, self.plan[-1].size

    def to_f(self, w: Tensor, n: int) -> Tensor:
        """Features after the first n layers; codes w[:, : n + 1] are used. n = 0: the Fourier features."""
        x = self.input(w[:, 0])
        for i, layer in enumerate(self.layers[:n]):
            x = layer(x, w[:, 1 + i])
        return x if n < len(self.layers) else x * 0.25

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor:
        """Images from features after n layers; codes w[:, n + 1 :] are used."""
        for i, layer in enumerate(self.layers[n:], n):
            f = layer(f, w[:, 1 + i])
        return f if n == len(self.layers) else f * 0.25

    def forward(self, w: Tensor) -> Tensor:
        """(B, num_ws, w_dim) to (B, 3, H, W), about -1 to 1, not clamped."""
        return self.from_f(self.to_f(w, 0), w, 0)

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
                layer.affine.bias.fill_(1.0)
                if layer.resampling is not None:
                    of, made = layer.layer, layer.resampling
                    made.up_filter.copy_(design(6 * of.up, *of.filters[0]))
                    made.down_filter.copy_(design(6 * of.down, *of.filters[1], radial=of.radial))
        self.input.affine.weight.zero_()
        self.input.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        normal(self.input.weight)
        direction = draw(self.input.freqs.shape)
        r = direction.norm(dim=1, keepdim=True)
        self.input.freqs.copy_(direction / r * (-(r.square()) / 4).exp() * BANDWIDTH)
        self.input.phases.copy_(torch.rand(self.input.phases.shape, generator=rng, device=rng.device) - 0.5)
        return self


# --- official weights
# --------------------------------------------------------------------------------------------------
def read_plan(tensors: dict[str, Tensor]) -> list[Layer]:
    """The layers that a checkpoint's names and shapes describe: kernels from weights, rates from the lengths of
    filters.

    A filter of two dimensions is radial; only those after the nonlinearity may be.

    Raises: UserError: tensors that are none of a StyleGAN-XL generator.
    """
    found = {m[1] for k in tensors if (m := re.match(r"synthesis\.(L\d+_\d+_\d+)\.weight$", k))}
    names = sorted(found, key=lambda n: int(n[1:].split("_")[0]))
    if not names or "mapping.w_avg" not in tensors or "synthesis.input.freqs" not in tensors:
        wanted = "mapping.w_avg, synthesis.input.freqs and synthesis.L<number>_<size>_<channels>.weight"
        raise UserError(f"not the tensors of a StyleGAN-XL generator: no {wanted}")
    layers, size = [], GRID_RATE + 2 * MARGIN
    for name in names:
        weight = tensors[f"synthesis.{name}.weight"]
        filters = [tensors.get(f"synthesis.{name}.{side}_filter") for side in ("up", "down")]
        up, down = (1 if f is None else f.shape[0] // 6 for f in filters)
        out, radial = int(name.split("_")[1]), filters[1] is not None and filters[1].ndim == 2
        layers.append(Layer(name, weight.shape[2], weight.shape[1], weight.shape[0], size, out, up, down, None, radial))
        size = out
    return layers


def from_tensors(tensors: dict[str, Tensor]) -> StyleGANXL:
    """A generator with the weights of an official checkpoint's `G_ema`, named as there.

    Raises: UserError: tensors missing, left over or of other shapes.
    """
    layers, w_avg = read_plan(tensors), tensors["mapping.w_avg"]
    with torch.device("meta"):
        made = StyleGANXL(layers, len(w_avg), tensors["mapping.embed_proj.weight"].shape[0], w_avg.shape[1])
    made = made.to_empty(device="cpu")
    places = {layer.name: f"layers.{i}" for i, layer in enumerate(layers)}
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "synthesis":
            inside = ["resampling"] if parts[-1].endswith("_filter") else []
            parts = parts[1:] if parts[1] == "input" else [places[parts[1]], *inside, *parts[2:]]
        renamed[".".join(parts)] = tensor.float()
    try:
        made.load_state_dict(renamed)
    except RuntimeError as err:
        raise UserError("not the tensors of a StyleGAN-XL generator: " + " ".join(str(err).split())) from None
    return made.eval().requires_grad_(False)


def to_tensors(generator: StyleGANXL) -> dict[str, Tensor]:
    """The weights under the official names: what `from_tensors` reads."""
    out = {}
    for name, tensor in generator.state_dict().items():
        parts = name.split(".")
        if parts[0] == "layers":
            parts = ["synthesis", generator.plan[int(parts[1])].name, *(p for p in parts[2:] if p != "resampling")]
        elif parts[0] == "input":
            parts = ["synthesis", *parts]
        out[".".join(parts)] = tensor.detach().cpu().contiguous()
    return out


def read(file: Path | str) -> StyleGANXL:
    """A generator from a safetensors file of the official names, as `foreign_pickle.convert` writes it.

    Raises: UserError: a missing, damaged or foreign file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return from_tensors(load_file(file))
    except (SafetensorError, OSError) as err:
        raise UserError(f"{file}: cannot be read ({err})") from None
