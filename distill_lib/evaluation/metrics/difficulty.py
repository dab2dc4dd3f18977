"""Difficulty of images: 1 - p(true class) under a classifier (DGS, eq. 6).

    score = scorer("resnet50", real)            # or mobilenet_v2, trained, held_out
    score.real                                  # (N,) of the real images
    score(pool)                                 # (N,) of any other images of the same classes

Scores of real images are kept in `runs/difficulty`. Pretrained scorers give probabilities over ImageNet's 1000 classes
and need the set's classes to be among them. `trained` is a classifier trained on the real set, which has seen every
image it scores. `held_out` trains one per fold: a real image is scored by the one that has not seen it, any other image
by the mean probability of all.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import networks
from ...core import paths, store, weights
from ...core.device import chunked
from ...core.errors import UserError, unknown
from ...core.files import read_tensors, write_tensors
from ...core.loop import Loop
from ...core.rng import stream
from ...data import ImageSet
from ...data.augment import IMAGENET_MEAN, IMAGENET_STD
from ...networks import reference
from ...networks.reference import Training

Name = Literal["resnet50", "mobilenet_v2", "trained", "held_out"]
Among = Literal["all", "set"]
VERSION = 1  # of the scores kept
DECIMALS = 4  # of stored scores, as the official code rounds them


@dataclass(frozen=True)
class Scorer:
    """Scores images of a set's classes.

    Attributes:
        name:     as a record calls it.
        classify: (B, C, H, W) pixels in [0, 1] -> (B, classes) log-probabilities.
        labels:   (K,) the classifier's output for every class of the set.
        real:     (N,) difficulty of the real images.
    """

    name: str
    classify: Callable[[Tensor], Tensor]
    labels: Tensor
    real: Tensor

    def __call__(self, images: ImageSet) -> Tensor:
        """(N,) float64 in [0, 1], on the CPU. Raises: UserError: images of other classes or channels."""
        if images.num_classes != len(self.labels):
            raise UserError(f"{self.name} scores images of {len(self.labels)} classes; these have {images.num_classes}")
        return _scores(self.classify, self.labels, images)


def difficulty(log_probability: Tensor, rounded: bool = True) -> Tensor:
    """1 - p from log p, without loss if p is close to one; `rounded` to `DECIMALS`."""
    score = -torch.expm1(log_probability.double())
    return score.round(decimals=DECIMALS) if rounded else score


def scorer(
    name: Name,
    real: ImageSet,
    cfg: Training | None = None,
    folds: int = 5,
    seed: int = 0,
    loop: Loop | None = None,
    among: Among = "all",
) -> Scorer:
    """A scorer for the classes of `real`.

    Args:
        cfg:   how "trained" and "held_out" train their classifiers.
        folds: of "held_out".
        among: what a pretrained scorer spreads its probability over: all of ImageNet's classes, or those of the set,
               which is our choice.
    Raises: UserError: missing weights, or classes a pretrained scorer does not know.
    """
    if among not in get_args(Among):
        raise unknown("among", among, get_args(Among))
    if name in ("resnet50", "mobilenet_v2"):
        return _pretrained(name, real, among, loop)
    if name not in get_args(Name):
        raise unknown("scorer", name, get_args(Name))
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: difficulty is of pixels; give the set without whitening")
    cfg, labels = cfg or Training(), torch.arange(real.num_classes)
    if name == "trained":
        one = _of_pixels(reference.on_real(real, cfg, seed, loop).network, real)
        return Scorer(name, one, labels, _scores(one, labels, real))
    every, found = [], torch.zeros(len(real), dtype=torch.float64)
    for held in _folds(real, folds, seed):
        rest = torch.ones(len(real), dtype=torch.bool)
        rest[held] = False
        # a checkpoint folder of its own for every fold: the phase has the same name in each
        folder = loop and loop.folder and loop.folder / f"fold{len(every)}"
        inner = loop and Loop(folder, loop.key, loop.every, deadline=loop.deadline, tell=loop.tell)
        trained = reference.on_real(real.subset(torch.nonzero(rest).flatten()), cfg, seed, inner)
        every.append(_of_pixels(trained.network, real))
        found[held] = _scores(every[-1], labels, real.subset(held))

    def mean(pixels: Tensor) -> Tensor:
        return torch.stack([one(pixels) for one in every]).logsumexp(0) - torch.tensor(float(len(every))).log()

    return Scorer(name, mean, labels, found)


def _pretrained(name: Name, real: ImageSet, among: Among, loop: Loop | None) -> Scorer:
    if not real.facts.imagenet_indices:
        raise UserError(
            f"{real.facts.name}: its classes are not ImageNet's, which {name} knows; score with trained or held_out"
        )
    if real.shape[0] != 3:
        raise UserError(f"{real.facts.name}: {name} needs 3 channels, not {real.shape[0]}")
    network, offset = (resnet50(), 0) if name == "resnet50" else (mobilenet_v2(), 1)
    network.to(real.device)
    labels = torch.tensor(real.facts.imagenet_indices) + offset
    columns = labels.to(real.device)

    def within(pixels: Tensor) -> Tensor:
        return network(pixels)[:, columns].log_softmax(1)

    classify, labels = (network, labels) if among == "all" else (within, torch.arange(real.num_classes))
    return Scorer(name, classify, labels, _of_real(classify, labels, real, f"{name} among {among}", loop))


def _folds(real: ImageSet, folds: int, seed: int) -> list[Tensor]:
    """Positions (n,) of every fold, each class spread evenly."""
    smallest = min(map(len, real.class_index))
    if not 2 <= folds <= smallest:
        raise UserError(f"{folds} folds: give 2 to {smallest}, the size of the smallest class of {real.facts.name}")
    rng = stream(seed, "folds")
    shuffled = [members[torch.randperm(len(members), generator=rng)] for members in real.class_index]
    return [torch.cat([members[i::folds] for members in shuffled]).sort().values for i in range(folds)]


def _of_pixels(network: nn.Module, like: ImageSet) -> Callable[[Tensor], Tensor]:
    facts, side = like.facts, like.shape[1]

    def classify(pixels: Tensor) -> Tensor:
        if pixels.shape[1] != like.shape[0]:
            raise UserError(f"images have {pixels.shape[1]} channels; the scorer was trained on {like.shape[0]}")
        if pixels.shape[-1] != side:  # a pool at another size than the real images
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return networks.logits(network, facts.normalise(pixels)).double().log_softmax(1)

    return classify


def _of_real(
    classify: Callable[[Tensor], Tensor], labels: Tensor, real: ImageSet, name: str, loop: Loop | None
) -> Tensor:
    """`_scores` of the real set, kept in a file and computed in steps, so that a time limit can interrupt them."""
    key = json.dumps({"scorer": name, "data": real.sha256(), "version": VERSION})
    file = paths.runs() / "difficulty" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    loop = loop or Loop()
    with store.once(file, "difficulty scores", loop, real.device) as missing:
        if missing:
            scores, parts = torch.zeros(len(real), dtype=torch.float64), torch.arange(len(real)).split(50)
            for step in loop.steps("difficulty", len(parts), {"scores": scores}):
                scores[parts[step]] = _scores(classify, labels, real.subset(parts[step]))
            write_tensors(file, {"scores": scores})
            store.forget(loop, "difficulty")
    return read_tensors(file)[0]["scores"]


@torch.no_grad()
def _scores(classify: Callable[[Tensor], Tensor], labels: Tensor, images: ImageSet, batch: int = 50) -> Tensor:
    wanted = labels[images.hard_labels.cpu()]

    def part(index: Tensor) -> Tensor:
        answers = classify(images.subset(index).pixels()).cpu()
        return answers.gather(1, wanted[index][:, None]).squeeze(1)

    return difficulty(chunked(part, torch.arange(len(images)), batch))


def centred(pixels: Tensor, resize: int, crop: int) -> Tensor:
    """(B, 3, H, W) squares resized to `resize` pixels (bilinear, antialiased), then the middle `crop`."""
    if pixels.shape[-1] != resize:
        pixels = F.interpolate(pixels, (resize, resize), mode="bilinear", antialias=True)
    start = (resize - crop) // 2
    return pixels[..., start : start + crop, start : start + crop]


class _Pretrained(nn.Module):
    """Pixels in [0, 1] to log-probabilities, with the network's own size and normalisation."""

    def __init__(self, network: nn.Module, resize: int, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network, self.resize = network.eval().requires_grad_(False), resize
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((centred(pixels, self.resize, 224) - self.mean) / self.std).double().log_softmax(1)


@functools.lru_cache(maxsize=1)
def resnet50() -> nn.Module:
    """torchvision's ResNet-50, weights IMAGENET1K_V1: shorter side to 256, centre 224. Raises: UserError: no
    weights."""
    from torchvision.models import resnet50 as build  # here: every `distill plan` would wait a second

    state = torch.load(weights.need("ResNet-50"), map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        network = build()
    network.load_state_dict(state)
    return _Pretrained(network, 256, IMAGENET_MEAN, IMAGENET_STD)


@functools.lru_cache(maxsize=1)
def mobilenet_v2() -> nn.Module:
    """Google's quantised MobileNetV2 1.0/224, in float: 1001 outputs, the first is "background". Raises: UserError: no
    weights."""
    network = mobilenet_of(read_tensors(weights.need("MobileNetV2"))[0])
    return _Pretrained(network, 224, (128 / 255,) * 3, (128 / 255,) * 3)


def mobilenet_of(state: dict[str, Tensor]) -> nn.Module:
    """torchvision's MobileNetV2, (B, 3, 224, 224) -> (B, 1001), with TensorFlow's padding: a strided convolution pads
    right and below alone.

    Args:
        state: of every layer `<name>.weight` (8-bit), `.weight_scale`, `.weight_zero` and `.bias`; the batch norms are
               folded into the convolutions.
    """
    from torchvision.models import MobileNetV2  # here: every `distill plan` would wait a second

    with torch.device("meta"):
        network = MobileNetV2(num_classes=1001, norm_layer=nn.Identity)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight, zero, scale = (state[f"{name}.weight{part}"].float() for part in ("", "_zero", "_scale"))
            layer.weight = nn.Parameter(((weight - zero) * scale).view(layer.weight.shape))
            layer.bias = nn.Parameter(state[f"{name}.bias"].float())
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            layer.padding = (0, 0)
            layer.register_forward_pre_hook(lambda layer, inputs: F.pad(inputs[0], (0, 1, 0, 1)))
    return network
