"""DiM's conditional GAN: generator and discriminator."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.device import chunked, send
from ...core.errors import UserError
from ...core.settings import from_dict, settings
from ...data import ImageSet

DRAWN_MB = 32  # of a layer's maps on a CPU, which convolutions copy several times
SIDES = (8, 16, 28, 32, 64)  # pixels; the paper's are 28 and 32, the others follow the same rule


@settings
class Architecture:
    """Everything that decides the shapes of a generator's weights."""

    shape: tuple[int, int, int]  # (C, H, W) of the images
    num_classes: int
    width: int = 196  # channels of every layer
    noise: int = 100  # entries of the generator's input
    # the one-hot label stands in place of the first entries (DiM), or before them (SKD, eq. 2)
    label: Literal["overwrite", "concatenate"] = "overwrite"
    label_scale: float = 1.0  # of the one-hot entries; a larger one is learned sooner beside 90 random entries (ours)

    def check(self) -> Self:
        """Raises: UserError: images or sizes no network here fits."""
        channels, height, side = self.shape
        given = f"conditional GAN: images of {height} x {side} pixels"
        if height != side or side not in SIDES:
            raise UserError(f"{given}; works for squares of {', '.join(map(str, SIDES))}")
        given = f"conditional GAN: {self.noise} noise entries for {self.num_classes} classes"
        if self.label == "overwrite" and self.noise <= self.num_classes:
            raise UserError(f"{given} leave no noise; give more, or label='concatenate'")
        if min(self.width, self.noise, channels, self.num_classes) < 1:
            raise UserError(f"{given}, width {self.width}, {channels} channels; at least 1 each")
        return self

    def drawn_at_once(self, gpu: bool) -> int:
        """Images drawn in one pass without a graph. An image does not depend on the others, except for rounding."""
        return 256 if gpu else min(256, max(1, int(DRAWN_MB * 2**18 / (self.width * self.shape[1] ** 2))))

    @property
    def halvings(self) -> int:
        """How often the side is halved, rounding up, until it is 4 pixels."""
        return round(math.log2(self.shape[1] / 4) + 0.2)  # 28 counts as 32


class LayerNorm(nn.LayerNorm):
    """Layer norm over channels and pixels that keeps images in channels-last order if they are in it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and order."""
        if x.is_contiguous():
            return super().forward(x)
        weight, bias = (p.permute(1, 2, 0).contiguous() for p in (self.weight, self.bias))  # (H, W, C)
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class MixedPrecisionNetwork(nn.Module):
    """A network whose multiplications may be in bfloat16; weights, inputs and outputs are float32.

    On a core with AVX-512 and its bfloat16, a step of both networks takes 0.7 of its time in float32 at width 32, 0.6
    at 64, 0.5 to 0.57 at 196. Float32 has little more to give there: convolutions take three quarters of a step (width
    64) to nine tenths (196) and run at 85 % of the core's peak. Tried and left out, as each gained less than a tenth:
    channels last, layer norm and activation in one pass, and second derivatives by hand.
    """

    precision = "float32"

    def products(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def ordered(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) in the order of memory that convolutions are fastest with."""
        return maps.contiguous(memory_format=torch.channels_last) if self.precision == "bfloat16" else maps


class Generator(MixedPrecisionNetwork):
    """Noise and labels -> images.

    A linear layer to 4 x 4, then transposed convolutions that double the side, three 3x3 convolutions after the first
    of them and one after each other but the last, all of `width` channels with batch norm and ReLU; then a 3x3
    convolution and tanh. 28 pixels: 4, 7, 14, 28. Batch norm uses running statistics in eval mode, so an image does
    not depend on its batch, except for rounding.
    """

    family = "cgan"

    def __init__(self, arch: Architecture):
        super().__init__()
        self.arch, w = arch.check(), arch.width
        inputs = arch.noise + (arch.num_classes if arch.label == "concatenate" else 0)
        self.first = nn.Sequential(nn.Linear(inputs, w * 16), nn.BatchNorm1d(w * 16), nn.ReLU())
        layers: list[nn.Module] = []
        for level in range(arch.halvings):
            kernel = 3 if level == 0 and arch.shape[1] == 28 else 4  # 4 -> 7 instead of 8
            convolutions = 0 if level == arch.halvings - 1 else 3 if level == 0 else 1
            layers += [nn.ConvTranspose2d(w, w, kernel, 2, 1), nn.BatchNorm2d(w), nn.ReLU()]
            for _ in range(convolutions):
                layers += [nn.Conv2d(w, w, 3, 1, 1), nn.BatchNorm2d(w), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(w, arch.shape[0], 3, 1, 1)

    def labelled(self, noise: Tensor, labels: Tensor) -> Tensor:
        """(B, inputs): standard normal numbers (B, noise) with the one-hot labels (B,)."""
        onehot = F.one_hot(labels, self.arch.num_classes).to(noise.dtype) * self.arch.label_scale
        return torch.cat([onehot, noise[:, self.arch.num_classes :] if self.arch.label == "overwrite" else noise], 1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """(B, noise) standard normal numbers and (B,) classes to (B, C, H, W) in (-1, 1)."""
        x = self.labelled(noise, labels)  # (B, inputs)
        with self.products(noise.device):
            x = self.first(x).view(len(noise), self.arch.width, 4, 4)
            x = self.body(self.ordered(x))  # (B, width, H, W)
            return self.last(x).float().tanh()  # (B, C, H, W)

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, noise) standard normal numbers, on the generator's device."""
        return send(torch.randn(count, self.arch.noise, generator=rng, device=rng.device), self.last.weight.device)

    @torch.no_grad()
    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C, H, W) in (-1, 1): a new image for every label (B,) int64, in eval mode.

        Raises: UserError: labels of other classes.
        """
        classes = self.arch.num_classes
        if labels.dtype != torch.int64 or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
            raise UserError(f"GAN: labels must be int64 from 0 to {classes - 1}; got {labels.dtype}, {labels.unique()}")
        was, noise = self.training, self.noise(len(labels), rng)
        self.eval()
        index, at_once = torch.arange(len(labels), device=labels.device), self.arch.drawn_at_once(labels.is_cuda)
        images = chunked(lambda part: self(noise[part], labels[part]), index, at_once)
        self.train(was)
        return images


class Discriminator(MixedPrecisionNetwork):
    """Images -> a score and class logits: eight 3x3 convolutions, each with layer norm over all channels and pixels and
    LeakyReLU (0.01), then 4x4 max pooling and two linear heads. At 28 and 32 pixels the strides are 1, 2, 1, 2, 1, 1,
    1, 2."""

    def __init__(self, arch: Architecture):
        super().__init__()
        arch, w = arch.check(), arch.width
        halving = (7, 3, 1, 5)[: arch.halvings]
        layers: list[nn.Module] = []
        channels, side = arch.shape[0], arch.shape[1]
        for i in range(8):
            stride = 2 if i in halving else 1
            side = -(-side // stride)
            layers += [nn.Conv2d(channels, w, 3, stride, 1), LayerNorm([w, side, side]), nn.LeakyReLU(0.01)]
            channels = w
        self.body = nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten())
        self.score, self.classes = nn.Linear(w, 1), nn.Linear(w, arch.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [-1, 1] to scores (B,) and class logits (B, K)."""
        with self.products(x.device):
            x = self.ordered(self.body[0](x))  # (B, width, H, W)
            x = self.body[1:](x)  # (B, width)
            return self.score(x).squeeze(1).float(), self.classes(x).float()


@torch.no_grad()
def redraw(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """PyTorch's default initial weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from an explicit stream, in place."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            bound = layer.weight[0].numel() ** -0.5  # of a transposed convolution too: its weight is (in, out, k, k)
            for p in (layer.weight, layer.bias):
                p.copy_(torch.rand(p.shape, generator=rng, device=rng.device).mul_(2 * bound).sub_(bound))
    return module


def normalised(images: Tensor, like: ImageSet) -> Tensor:
    """(B, C, H, W) in (-1, 1) to the set's normalised units, differentiable."""
    mean, std = like.facts.units(images.device)
    return torch.addcmul((0.5 - mean) / std, images, 0.5 / std)


def rebuild(architecture: dict[str, Any]) -> Generator:
    """A generator for weights read from a file."""
    with torch.random.fork_rng(devices=[]):
        return Generator(from_dict(Architecture, architecture))
