"""DiM's conditional GAN: generator and discriminator."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.device import chunked, send
from ...core.errors import UserError
from ...core.settings import build, settings
from ...data import ImageSet

DRAWN_MB = 32  # of a layer's maps on a CPU, which convolutions copy several times
SIDES = (8, 16, 28, 32, 64)  # pixels; the paper's are 28 and 32, the others follow the same rule


# --- networks ----------------------------------------------------------------------------------------------------------
@settings
class Architecture:
    """Everything that decides the shapes of a generator's weights."""

    shape: tuple[int, int, int]  # (C, H, W) of the images
    num_classes: int
    width: int = 196  # channels of every layer
    noise: int = 100  # entries of the generator's input
    label: Literal["overwrite", "concatenate"] = (
        "overwrite"  # one-hot in place of the first entries (DiM), or before them (SKD, eq. 2)
    )
    label_scale: float = (
        1.0  # of the one-hot entries; beside 90 random entries of size 1 a larger one is heeded sooner (ours)
    )

    def check(self) -> Self:
        """Raises: UserError: images or sizes no network here fits."""
        channels, height, side = self.shape
        if height != side or side not in SIDES:
            raise UserError(
                f"conditional GAN: images of {height} x {side} pixels; works for squares of {', '.join(map(str, SIDES))}"
            )
        if self.label == "overwrite" and self.noise <= self.num_classes:
            raise UserError(
                f"conditional GAN: {self.noise} noise entries for {self.num_classes} classes leave no noise; give more, or label='concatenate'"
            )
        if min(self.width, self.noise, channels, self.num_classes) < 1:
            raise UserError(
                f"conditional GAN: width {self.width}, noise {self.noise}, {channels} channels, {self.num_classes} classes; at least 1 each"
            )
        return self

    def drawn_at_once(self, gpu: bool) -> int:
        """Images a pass draws without a graph: an image does not depend on the others, but for rounding."""
        return 256 if gpu else min(256, max(1, int(DRAWN_MB * 2**18 / (self.width * self.shape[1] ** 2))))

    @property
    def halvings(self) -> int:
        """Times the side is halved, rounding up, to 4 pixels."""
        return round(math.log2(self.shape[1] / 4) + 0.2)  # 28 counts as 32


class LayerNorm(nn.LayerNorm):
    """Layer norm over channels and pixels that leaves images in channels-last order where they are in it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and order."""
        if x.is_contiguous():
            return super().forward(x)
        weight, bias = (p.permute(1, 2, 0).contiguous() for p in (self.weight, self.bias))  # (H, W, C)
        return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, self.eps).permute(0, 3, 1, 2)


class Network(nn.Module):
    """A network whose multiplications may be in bfloat16; weights, inputs and outputs are float32."""

    precision = "float32"

    def products(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def ordered(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) in the order of memory that convolutions are fastest with."""
        return maps.contiguous(memory_format=torch.channels_last) if self.precision == "bfloat16" else maps


class Generator(Network):
    """Noise and labels -> images.

    Linear layer to 4 x 4, then transposed convolutions that double the side, with three 3x3 convolutions after the
    first and one after each other but the last; all of `width` channels with batch norm and ReLU; a 3x3 convolution and
    tanh. 28 pixels: 4, 7, 14, 28. Batch norm uses running statistics in eval mode, so an image does not depend on its
    batch, but for rounding.
    """

    family = "cgan"

    def __init__(self, of: Architecture):
        super().__init__()
        self.of, w = of.check(), of.width
        inputs = of.noise + (of.num_classes if of.label == "concatenate" else 0)
        self.first = nn.Sequential(nn.Linear(inputs, w * 16), nn.BatchNorm1d(w * 16), nn.ReLU())
        layers: list[nn.Module] = []
        for level in range(of.halvings):
            kernel = 3 if level == 0 and of.shape[1] == 28 else 4  # 4 -> 7 instead of 8
            convolutions = 0 if level == of.halvings - 1 else 3 if level == 0 else 1
            layers += [nn.ConvTranspose2d(w, w, kernel, 2, 1), nn.BatchNorm2d(w), nn.ReLU()]
            for _ in range(convolutions):
                layers += [nn.Conv2d(w, w, 3, 1, 1), nn.BatchNorm2d(w), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.last = nn.Conv2d(w, of.shape[0], 3, 1, 1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """(B, noise) standard normal numbers and (B,) classes to (B, C, H, W) in (-1, 1)."""
        onehot = F.one_hot(labels, self.of.num_classes).to(noise.dtype) * self.of.label_scale
        rest = noise[:, self.of.num_classes :] if self.of.label == "overwrite" else noise
        with self.products(noise.device):
            x = self.first(torch.cat([onehot, rest], 1)).view(len(noise), self.of.width, 4, 4)
            return self.last(self.body(self.ordered(x))).float().tanh()

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, noise) standard normal numbers, on the generator's device."""
        return send(torch.randn(count, self.of.noise, generator=rng, device=rng.device), self.last.weight.device)

    @torch.no_grad()
    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """(B, C, H, W) in (-1, 1): a new image for every label, in eval mode."""
        was, noise = self.training, self.noise(len(labels), rng)
        self.eval()
        at_once = self.of.drawn_at_once(labels.device.type == "cuda")
        images = chunked(
            lambda part: self(noise[part], labels[part]), torch.arange(len(labels), device=labels.device), at_once
        )
        self.train(was)
        return images


class Discriminator(Network):
    """Images -> a score of each, and class logits: eight 3x3 convolutions with layer norm over all channels and pixels
    and LeakyReLU (0.01), 4x4 max pooling, two linear heads. The strides at 28 and 32 pixels are 1, 2, 1, 2, 1, 1, 1,
    2."""

    def __init__(self, of: Architecture):
        super().__init__()
        of, w = of.check(), of.width
        halving = (7, 3, 1, 5)[: of.halvings]
        layers: list[nn.Module] = []
        channels, side = of.shape[0], of.shape[1]
        for i in range(8):
            stride = 2 if i in halving else 1
            side = -(-side // stride)
            layers += [nn.Conv2d(channels, w, 3, stride, 1), LayerNorm([w, side, side]), nn.LeakyReLU(0.01)]
            channels = w
        self.body = nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten())
        self.score, self.classes = nn.Linear(w, 1), nn.Linear(w, of.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [-1, 1] to scores (B,) and class logits (B, K)."""
        with self.products(x.device):
            features = self.body[1:](self.ordered(self.body[0](x)))
            return self.score(features).squeeze(1).float(), self.classes(features).float()


@torch.no_grad()
def redraw(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """PyTorch's default initial weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), from an explicit generator, in place."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            bound = layer.weight[0].numel() ** -0.5  # of a transposed convolution too: its weight is (in, out, k, k)
            for parameter in (layer.weight, layer.bias):
                parameter.copy_(
                    torch.rand(parameter.shape, generator=rng, device=rng.device).mul_(2 * bound).sub_(bound)
                )
    return module


def normalised(images: Tensor, like: ImageSet) -> Tensor:
    """(B, C, H, W) in (-1, 1) to the set's normalised units, differentiable."""
    mean, std = like.facts.units(images.device)
    return torch.addcmul((0.5 - mean) / std, images, 0.5 / std)


def rebuild(architecture: dict[str, Any]) -> Generator:
    """A generator for weights read from a file."""
    with torch.random.fork_rng(devices=[]):
        return Generator(build(Architecture, architecture))
