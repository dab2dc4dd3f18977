"""Features for FID and a distance, against the loop a reader would write: the network layer by layer with its batch
norms, batches of 50 (pytorch-fid's), features gathered, mean and covariance at the end.

features: mean and covariance of the images' features, which both sides return; by the classifier that takes Inception's
place where its weights are not at hand, by CIFAR-10's ResNet-56, and by Inception. distance: of samples from real
images; the plain side computes the real side again, ours has kept it, as it does over a training's curve or a table's
rows. Weights and images are random: neither side's time depends on what they are.
"""

from __future__ import annotations

import numpy as np
import suite
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import Inception3

from distill_lib import networks
from distill_lib.core.rng import stream
from distill_lib.data import Facts, ImageSet
from distill_lib.evaluation.metrics import features, frechet, pretrained
from distill_lib.evaluation.metrics.features import Extractor
from distill_lib.evaluation.metrics.frechet import frechet_distance
from distill_lib.networks import fast as networks_fast


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new, self.new))
        return F.relu(y + x)


class PlainResNet(nn.Module):
    """A ResNet of CIFAR-10, in the published layers; nine blocks a stage are ResNet-56."""

    def __init__(self, blocks: int = 9):
        super().__init__()
        self.conv1, self.bn1, self.linear, inputs = (
            nn.Conv2d(3, 16, 3, 1, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.Linear(64, 10),
            16,
        )
        for stage, width in enumerate((16, 32, 64), 1):
            row = [Block(inputs, width, 2 if width != inputs else 1)]
            row += [Block(width, width, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*row))
            inputs = width

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def redrawn(state: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """Random weights that keep features finite, on the CPU."""
    out = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        new = torch.rand(value.shape, generator=rng)
        out[name] = new + 0.5 if value.ndim == 1 else (new - 0.5) * 3 * value[0].numel() ** -0.5
    return out


def prepared(side: str, device: str, network: str, images: int, real: int, batch: int):
    """Pixels, and the function from pixels to mean and covariance of their features."""
    rng = stream(0, "benchmark")
    pixels = torch.randint(256, (images + real, 3, 32, 32), generator=rng).byte().to(device)
    facts = Facts("noise", tuple(map(str, range(10))), (0.5,) * 3, (0.25,) * 3)
    like = ImageSet(torch.zeros(10, 3, 32, 32, device=device), torch.arange(10, device=device), facts)
    plain, ours = pair(network, like, torch.device(device), rng)

    @torch.no_grad()
    def reader(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x = np.concatenate([plain(part.float() / 255).cpu().numpy() for part in images.split(batch)]).astype(np.float64)
        return x.mean(0), np.cov(x, rowvar=False)

    def library(images: Tensor) -> tuple[Tensor, Tensor]:
        return frechet.moments(ours.features(images))

    return pixels, reader if side == "plain" else library


def moments(network: str, side: str, device: str, images: int, batch: int) -> suite.Call:
    pixels, run = prepared(side, device, network, images, 0, batch)

    def call() -> Tensor:
        mean, covariance = (torch.as_tensor(v).cpu() for v in run(pixels))
        unit = mean.abs().max()
        return torch.cat([mean / unit, covariance.flatten() / unit**2])

    return call


FEATURES = {"compared": "the published layers in batches of 50", "quick": {"images": 4, "batch": 50}, "tolerance": 1e-5}


@suite.benchmark(
    "fid-features",
    "FID's features of {images} images by ConvNetW32",
    size={"images": 2000, "batch": 50},
    target={"ratio": 3.0},
    **FEATURES,
)
def by_convnet(*args, **size) -> suite.Call:
    return moments("ConvNetW32", *args, **size)


@suite.benchmark(
    "fid-resnet", "FID's features of {images} images by ResNet-56", size={"images": 500, "batch": 50}, **FEATURES
)
def by_resnet(*args, **size) -> suite.Call:
    return moments("ResNet-56", *args, **size)


@suite.benchmark(
    "fid-inception", "FID's features of {images} images by Inception", size={"images": 50, "batch": 50}, **FEATURES
)
def by_inception(*args, **size) -> suite.Call:
    return moments("Inception", *args, **size)


@suite.benchmark(
    "fid-distance",
    "a Fréchet distance of {images} samples from {real} real images, ConvNetW32",
    "features of both sides, matrix root by scipy",
    size={"images": 500, "real": 1000, "batch": 50},
    quick={"images": 600, "real": 600, "batch": 50},
    tolerance=1e-2,
)
def distance(side: str, device: str, images: int, real: int, batch: int) -> suite.Call:
    pixels, run = prepared(side, device, "ConvNetW32", images, real, batch)
    kept = run(pixels[images:]) if side == "ours" else None

    def plain() -> Tensor:
        from scipy import linalg  # here: a machine that only computes need not have scipy

        (m1, c1), (m2, c2) = run(pixels[images:]), run(pixels[:images])
        return torch.tensor(
            [((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(linalg.sqrtm(c1 @ c2).real)]
        )

    return plain if side == "plain" else lambda: torch.tensor([frechet_distance(kept, run(pixels[:images]))])


def pair(name: str, like: ImageSet, device: torch.device, rng: torch.Generator):
    """The same network twice: a plain module, pixels in [0, 1] to features, and the library's extractor."""
    if name == "ConvNetW32":
        network = networks.fresh(name, like, rng).to(device).eval().requires_grad_(False)
        scale = lambda x: (x - 0.5) / 0.25  # noqa: E731
        fast = Extractor(
            name, "", lambda x: networks_fast.embed(network, scale(x)), None, 256 if device.type == "cpu" else 2048, {}
        )
        return lambda x: network.embed(scale(x)), fast
    if name == "ResNet-56":
        plain = PlainResNet()
        state = redrawn(plain.state_dict(), rng)
        plain.load_state_dict(state, strict=False)
        plain.to(device).eval()
        mean, std = (
            torch.tensor(v, device=device).view(-1, 1, 1)
            for v in (pretrained.CIFARResNet.MEAN, pretrained.CIFARResNet.STD)
        )
        return lambda x: plain((x - mean) / std), features.of_resnet(name, pretrained.CIFARResNet.load(state), device)
    with torch.device("meta"):
        shapes = Inception3(1008, aux_logits=False, init_weights=False).state_dict()
    state = redrawn(shapes, rng)
    plain = pretrained.inception(state).to(device)

    def reader(x: Tensor) -> Tensor:
        return plain(F.interpolate(x * 2 - 1, (299, 299), mode="bilinear", align_corners=False))

    return reader, features.of_inception(pretrained.inception(state), device)
