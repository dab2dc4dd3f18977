"""Feature extractors by name: what FID, KID and the neighbours of samples are measured in.

    extractor = features.extractor("auto", real)   # Inception, a ResNet of CIFAR-10, or a classifier trained on `real`
    x = extractor.features(images)                 # (N, D)

A number belongs to its extractor and is called after it: FID-ResNet-56-5000 is the distance of 5000 samples in
ResNet-56's features. Images enter as 8-bit pixels, as they would from image files, whatever units a set stores them in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import networks
from ...core import paths, store, weights
from ...core.device import chunked, keep_memory
from ...core.errors import UserError
from ...core.files import read_tensors, undamaged, write_tensors
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import replace
from ...data import ImageSet
from ...networks import fast
from ...networks import reference as networks_reference
from ...networks.reference import Training
from .frechet import moments
from .pretrained import CIFARResNet, cifar_resnet, folded, inception

VERSION = 1  # of what is kept of a real set
PRETRAINED = ("Inception", "ResNet-56", "ResNet-20")
# The classifier that takes their place: narrow, so that its covariance has full rank.
TRAINED = Training(network="ConvNetW32", epochs=20)


@dataclass(frozen=True)
class Extractor:
    """Images to features.

    Attributes:
        name:     as numbers are called after it.
        about:    what it is, in a sentence.
        embed:    (N, C, H, W) pixels in [0, 1] to (N, D).
        classify: (N, D) to (N, K) logits of the real set's classes; None if it knows other classes.
        batch:    images at a time.
        key:      everything its features depend on, for names of files.
    """

    name: str
    about: str
    embed: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None
    batch: int
    key: dict[str, Any]

    @torch.inference_mode()
    def features(self, images: ImageSet | Tensor) -> Tensor:
        """(N, D) float32 of a set, or of uint8 pixels (N, C, H, W)."""
        pixels = as_bytes(images) if isinstance(images, ImageSet) else images
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise UserError(f"features are of uint8 pixels (N, C, H, W); got {tuple(pixels.shape)} {pixels.dtype}")
        if pixels.device.type == "cpu":
            keep_memory()
        return chunked(lambda part: self.embed(part.float() / 255).float(), pixels, self.batch)

    def class_accuracy_pct(self, features: Tensor, labels: Tensor) -> float | None:
        """Share of images that are put into their class, in percent; None if the extractor knows other classes.

        Args:
            features: (N, D); labels (N,).
        """
        if self.classify is None:
            return None
        with torch.inference_mode():
            return 100 * float((self.classify(features).argmax(1) == labels.to(features.device)).double().mean())


def as_bytes(images: ImageSet) -> Tensor:
    """(N, C, H, W) uint8: the pixels, rounded if the set stores other units."""
    return images.images if images.images.dtype == torch.uint8 else (images.pixels() * 255).round().byte()


# --- choosing one ---------------------------------------------------------------------------------
def extractor(
    name: str, real: ImageSet, trained: Training = TRAINED, seed: int = 0, loop: Loop | None = None
) -> Extractor:
    """The extractor of that name for a real set's images, on the set's device.

    Args:
        name:    "Inception" (any images); "ResNet-56" or "ResNet-20" (CIFAR-10); a network of `networks.NETWORKS`,
                 which is trained on the real set; "auto" for the first of these that is at hand.
        trained: how such a network is trained; `name` may replace its network.
    Raises: UserError: an unknown name, weights that are not here, a network for other images.
    """
    if name == "auto":
        name = next(
            (n for n in PRETRAINED if (n == "Inception" or _is_cifar10(real)) and weights.find(n)), trained.network
        )
    if name == "Inception":
        return _inception(real.device)
    if name in PRETRAINED:
        if not _is_cifar10(real):
            other = f"{real.facts.name} needs Inception or a network such as {trained.network}"
            raise UserError(f"{name} knows the classes of CIFAR10 at 32 pixels; {other}")
        return _cifar(name, real.device)
    return _trained(real, replace(trained, network=networks.canonical(name)), seed, loop)


def recogniser(real: ImageSet, trained: Training = TRAINED, seed: int = 0, loop: Loop | None = None) -> Extractor:
    """The best classifier of the real set's classes at hand: a published one for CIFAR-10, else one trained on the
    set."""
    known = next((n for n in PRETRAINED[1:] if _is_cifar10(real) and weights.find(n)), None)
    return extractor(known or trained.network, real, trained, seed, loop)


def _is_cifar10(real: ImageSet) -> bool:
    return real.facts.name == "CIFAR10" and real.shape == (3, 32, 32)


@functools.lru_cache(maxsize=2)
def _cifar(name: str, device: torch.device) -> Extractor:
    return of_resnet(name, cifar_resnet(name), device)


def of_resnet(name: str, network: CIFARResNet, device: torch.device) -> Extractor:
    """The extractor of a ResNet for CIFAR, which it moves to the device."""
    network = network.to(device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (CIFARResNet.MEAN, CIFARResNet.STD))

    def embed(x: Tensor) -> Tensor:
        return network.embed(((x - mean) / std).contiguous(memory_format=torch.channels_last))

    known = weights.FILES[name]
    return Extractor(
        name, known.about, embed, network.classifier, 32 if device.type == "cpu" else 1024, {"weights": known.sha256}
    )


@functools.lru_cache(maxsize=1)
def _inception(device: torch.device) -> Extractor:
    return of_inception(inception(), device)


def of_inception(network: torch.nn.Module, device: torch.device) -> Extractor:
    """The extractor of FID's Inception, which it moves to the device; its batch norms are folded into the
    convolutions."""
    network = folded(network).to(device, memory_format=torch.channels_last)

    def embed(x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1) * 2 - 1  # grey in three channels
        x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        return network(x.contiguous(memory_format=torch.channels_last))

    known = weights.FILES["Inception"]
    return Extractor(
        "Inception", known.about, embed, None, 16 if device.type == "cpu" else 256, {"weights": known.sha256}
    )


def _trained(real: ImageSet, training: Training, seed: int, loop: Loop | None) -> Extractor:
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: features are of pixels; give the set without whitening")
    network, facts, name = networks_reference.on_real(real, training, seed, loop).network, real.facts, training.network
    each = "all" if training.per_class is None else training.per_class
    return Extractor(
        name,
        f"{name} trained by us for {training.epochs} epochs on {each} real {facts.name} images of every class",
        lambda x: fast.embed(network, facts.normalise(x)),
        network.classifier,
        256 if real.device.type == "cpu" else 2048,
        {"file": networks_reference.weights_file(real, training, seed).name},
    )


# --- the real side, kept --------------------------------------------------------------------------
@dataclass(frozen=True)
class Reference:
    """What samples are compared with: features of real images.

    Attributes:
        n:        images that `moments` come from.
        moments:  mean (D,) and covariance (D, D), float64.
        features: (m, D) of the first m of them.
    """

    n: int
    moments: tuple[Tensor, Tensor]
    features: Tensor


def reference(real: ImageSet, by: Extractor, images: int | None = None, keep: int = 10_000, seed: int = 0) -> Reference:
    """Features of training images without augmentation, computed unless `runs/features` already has them.

    Args:
        images: random ones that the moments come from; None for all.
        keep:   of which the features themselves are kept.
    """
    n = min(images or len(real), len(real))
    key = {"extractor": by.key, "name": by.name, "data": real.sha256(), "images": n, "keep": keep, "seed": seed}
    digest = store.digest({**key, "version": VERSION})
    name = f"{by.name}-{real.facts.name}-{digest}.safetensors".replace("/", "_").replace(":", "_")
    file = paths.runs() / "features" / name
    if not file.exists():
        index = torch.randperm(len(real), generator=stream(seed, "features", "real"))[:n].to(real.device)
        x = by.features(as_bytes(real.subset(index)))
        mean, covariance = moments(x)
        write_tensors(file, {"mean": mean, "covariance": covariance, "features": x[:keep]})
    with undamaged(file, "delete it to compute the features again"):
        saved = {k: v.to(real.device) for k, v in read_tensors(file)[0].items()}
        return Reference(n, (saved["mean"], saved["covariance"]), saved["features"])
