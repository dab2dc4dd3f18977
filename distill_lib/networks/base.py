"""What every network here is: images -> embedding -> logits, with initial weights drawn from an explicit generator."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..core.device import send
from ..core.errors import UserError, unknown

Shape = tuple[int, int, int]  # (C, H, W) of one image


class Network(nn.Module):
    """A classifier in two parts: `forward(x) = classifier(embed(x))`.

    Attributes:
        name:        the name `networks.fresh` knows it by.
        shape:       (C, H, W) of the images it takes.
        num_classes: K, the number of logits.
        classifier:  the last layer, linear, (N, D) -> (N, K).
    """

    name: str = ""
    classifier: nn.Linear

    def __init__(self, shape: Shape, num_classes: int):
        super().__init__()
        self.shape, self.num_classes = shape, num_classes

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to their (N, D) embedding, the input of the last linear layer."""
        raise TypeError(f"{type(self).__name__} has no embedding")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        return self.classifier(self.embed(x))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `nn.Module.to`; with a GPU as the only argument, the copies do not wait for what it is doing."""
        alone = len(args) == 1 and not kwargs and isinstance(args[0], (str, torch.device))
        if alone and torch.device(args[0]).type == "cuda":
            return self._apply(lambda t: send(t, args[0]))
        return super().to(*args, **kwargs)

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.classifier.in_features

    def law(self, module: nn.Module, name: str) -> tuple[str, float]:
        """Distribution of one initial parameter: ("uniform", bound), ("normal", std), ("truncated", std) or
        ("constant", value).

        PyTorch's defaults: weights and biases of convolutions and linear layers are U(-1/sqrt(fan_in), 1/sqrt(fan_in)),
        norm layers start at 1 and 0. "truncated" is a normal cut at two of its own standard deviations, `std` being
        that of the uncut one.
        """
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return "uniform", fan_in(module) ** -0.5
        return "constant", 1.0 if name == "weight" else 0.0

    @torch.no_grad()
    def redraw(self, rng: torch.Generator) -> Self:
        """Give the network new initial weights, in place; the numbers are those `fresh` would give it with the same
        generator.

        One draw for the whole network and no new modules, so it is cheap enough for a fresh network per step.

        Args:
            rng: the only source of randomness; on the CPU for numbers that are equal on every device.
        """
        drawn: dict[str, list[tuple[Tensor, float]]] = {"uniform": [], "truncated": [], "normal": []}
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                kind, scale = self.law(module, name)
                if kind == "constant":
                    parameter.fill_(scale)
                else:
                    drawn[kind].append((parameter, scale))
            if hasattr(module, "reset_running_stats"):
                module.reset_running_stats()
        for kind, pairs in drawn.items():
            if pairs:
                _draw(kind, pairs, rng)
        return self


def fan_in(module: nn.Conv2d | nn.Linear) -> int:
    """Inputs that one output of the layer sees."""
    return module.weight[0].numel()


def _draw(kind: str, pairs: list[tuple[Tensor, float]], rng: torch.Generator) -> None:
    """Write scaled random numbers of one kind into (parameter, scale) pairs, from one flat draw."""
    sizes = [parameter.numel() for parameter, _ in pairs]
    if kind == "normal":
        flat = torch.randn(sum(sizes), generator=rng, device=rng.device)
    else:
        flat = torch.rand(sum(sizes), generator=rng, device=rng.device).mul_(2).sub_(1)  # U(-1, 1)
    if kind == "truncated":  # inverse of the normal distribution function between -2 and 2
        flat = flat.mul_(math.erf(2**0.5)).erfinv_().mul_(2**0.5)
    flat = send(flat, pairs[0][0].device)
    for (parameter, scale), values in zip(pairs, flat.split(sizes), strict=True):
        torch.mul(values.view_as(parameter), scale, out=parameter)


class Seeded(Network):
    """A network that draws random numbers while it trains (dropout): from its own seed, never from torch's global
    generator.

    The seed and the number of passes drawn so far are buffers, so that a checkpoint holds them and a resumed run goes
    on as it would have.
    """

    def __init__(self, shape: Shape, num_classes: int):
        super().__init__(shape, num_classes)
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def redraw(self, rng: torch.Generator) -> Self:
        self.seed.fill_(int(torch.randint(2**40, (), generator=rng, device=rng.device)))
        self.passes.zero_()
        return super().redraw(rng)

    @contextlib.contextmanager
    def dropout_stream(self, x: Tensor) -> Iterator[None]:
        """While training: torch's global generator, on loan, seeded for this pass and put back afterwards."""
        if not self.training:
            yield
            return
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed((int(self.seed) + 2_654_435_761 * int(self.passes)) % 2**32)
            self.passes.add_(1)
            yield


# --- pieces that several families share ------------------------------------------------------------------------------
def norm(kind: str, channels: int, height: int = 0, width: int = 0) -> nn.Module:
    """Instance norm "IN" (a GroupNorm with one group per channel, so it has a scale and a shift), batch norm "BN",
    layer norm "LN", group norm "GN" of 4 groups, or none "NN"."""
    makers = {
        "IN": lambda: nn.GroupNorm(channels, channels),
        "BN": lambda: nn.BatchNorm2d(channels),
        "LN": lambda: nn.LayerNorm([channels, height, width]),
        "GN": lambda: nn.GroupNorm(4, channels),
        "NN": nn.Identity,
    }
    if kind not in makers:
        raise unknown("norm", kind, makers)
    return makers[kind]()


def activation(kind: str) -> nn.Module:
    """ReLU "AR", sigmoid "AS", LeakyReLU "AL" or Swish "ASwish"."""
    return {"AR": nn.ReLU, "AS": nn.Sigmoid, "AL": nn.LeakyReLU, "ASwish": nn.SiLU}[kind]()


def pooling(kind: str) -> nn.Module:
    """A 2 x 2 pooling: average "AP", max "MP" or none "NP"."""
    return {"AP": nn.AvgPool2d, "MP": nn.MaxPool2d, "NP": lambda _: nn.Identity()}[kind](2)


def lift(side_padding: int, shape: Shape) -> int:
    """Padding of a network's first convolution: 28-pixel images get 2 pixels more on every side, so that their maps are
    those of 32-pixel images. (The public code does so for any image with one channel; the papers' one-channel images
    all have 28 pixels.)"""
    return side_padding + 2 if shape[1:] == (28, 28) else side_padding


def lifted(shape: Shape) -> tuple[int, int]:
    """(H, W) of the first convolution's map when it keeps the size, after `lift`."""
    return (32, 32) if shape[1:] == (28, 28) else shape[1:]


def need_side(name: str, image: Shape, sides: tuple[int, int], least: int, why: str) -> None:
    """Raise a `UserError` when `sides`, those of the first map, are too small for a network."""
    if min(sides) < least:
        works = "28, or at least 32" if least == 32 and sides == lifted(image) else f"at least {least}"
        raise UserError(f"{name} cannot take {image[1]}x{image[2]} images: {why}, so both sides must be {works} pixels")
