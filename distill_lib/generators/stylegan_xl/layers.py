"""Which layers a StyleGAN-XL generator has: sizes, channels, sampling rates and filters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import UserError

SIDES = (16, 32, 64, 128, 256, 512)  # pixels with official ImageNet weights
MARGIN, GRID_RATE, BANDWIDTH = 10, 16, 2.0  # of the input grid: 16 + 2 x 10 positions
STOPBAND = 2**2.1  # of the input


@dataclass(frozen=True)
class Layer:
    """One synthesis layer. `size` and `channels` are those of its output, as its name says them.

    Attributes:
        up, down: sampling rate of the nonlinearity over that of the input, and over that of the output.
        filters:  (cutoff, width, rate) of the filter before and after the nonlinearity, to design them; None: none
                  (toRGB).
        radial:   the filter after the nonlinearity is a 2-D jinc filter in place of a separable one.
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
        """Zeros before and after the upsampled signal; if negative, samples that are cut off. Same for rows and
        columns."""
        if self.to_rgb:
            return 0, 0
        kept, given = (self.size - 1) * self.down + 1, (self.in_size + self.kernel - 1) * self.up
        total = kept - given + 6 * self.up + 6 * self.down - 2
        low = (total + self.up) // 2
        return low, total - low


def published_layers(
    side: int, stem_kernel: int = 1, channel_base: int = 65536, channel_max: int = 1024, classes: int = 1000
) -> tuple[list[Layer], int]:
    """The layers of the published generators, and the number of classes: `StyleGANXL(*published_layers(128))`.

    A 16-pixel stem of 11 layers; every doubling drops the last three and adds eight.

    Args:
        side:        16, 32, ... 512.
        stem_kernel: of the stem's layers; heads always have 3. The published ImageNet weights have 1, with radial
                     filters in the layers that are not critically sampled.
        channel_base, channel_max: the width; the authors advise 16384 and 256 for small data.
    Raises: UserError: a side without published layers.
    """
    if side not in SIDES or stem_kernel not in (1, 3):
        given = f"StyleGAN-XL at {side} pixels with a stem of {stem_kernel}x{stem_kernel}"
        raise UserError(f"{given}: sides {', '.join(map(str, SIDES))}, kernels 1 and 3")
    base = channel_base // 2  # of the formula; the published networks have twice the usual width
    kept: list[_Rated] = _rated(16, 10, None, base, channel_max)
    heads, resolution = [0] * len(kept), 32
    while resolution <= side:
        kept, heads = kept[:-3], heads[:-3]
        head = _rated(resolution, 7, kept[-1], base, channel_max, first=len(kept) + 1)
        kept, heads, resolution = kept + head, heads + [1] * len(head), 2 * resolution
    channels, size = round(min(base / BANDWIDTH, channel_max)), GRID_RATE + 2 * MARGIN
    layers, before = [], _Rated(-1, size, channels, BANDWIDTH, STOPBAND, GRID_RATE, False)
    for this, head in zip(kept, heads, strict=True):
        rgb = this.channels == 3
        radial = stem_kernel == 1 and not head and not this.critical
        tmp = max(before.rate, this.rate) * (1 if rgb else 2)
        filters = None if rgb else tuple((r.cutoff, 2 * r.half_width, float(tmp)) for r in (before, this))
        kernel = 1 if rgb else 3 if head else stem_kernel
        name = f"L{this.number}_{this.size}_{this.channels}"
        sizes = (kernel, before.channels, this.channels, before.size, this.size)
        layers.append(Layer(name, *sizes, tmp // before.rate, tmp // this.rate, filters, radial))
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
    cutoff0, stop0 = (BANDWIDTH, STOPBAND) if after is None else (after.cutoff, after.stopband)
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
