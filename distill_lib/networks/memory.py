"""What a method will keep alive at its peak, in bytes: counted by running parts of its step on a few images.

    size = Size((3, 32, 32), num_classes=10, images=50_000)
    trained("ConvNet", size, 256)                   # one training step: weights, gradients, momenta and what the
    backward pass needs COSTS["DM"].memory(cfg, size)                   # of a method: see
    `distill_lib.experiments.method_costs`

A step's tensors grow evenly with its images, so two small runs say what a large one holds; nothing is computed at full
size. Counted are the tensors torch makes. What the C library and kernels hold besides is no tensor:
`distill_lib.experiments.estimate` learns it from records.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from . import fast, names
from .gradients import Derivatives, pixels_at_once

VERSION = 4  # of the counts, which are kept: raised when one changes
SLACK = 1.3  # on a CPU, bytes for a byte of a network's maps: freed memory that is kept, and what convolutions copy for themselves
COPIES = (
    4  # of a batch of images on its way from the set to the network: drawn, normalised, augmented, and one in between
)


@dataclass(frozen=True)
class Size:
    """What a method's memory depends on beside its settings: images (C, H, W), classes, images of the real set, kind of
    device."""

    shape: tuple[int, int, int]
    num_classes: int
    images: int
    gpu: bool = False

    @property
    def slack(self) -> float:
        """Of the device: torch counts what it allocates on a GPU exactly."""
        return 1.0 if self.gpu else SLACK

    @property
    def device(self) -> torch.device:
        """Where tensors are made to be counted."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return self.images

    @property
    def side(self) -> int:
        return self.shape[1] * self.shape[2]

    def floats(self, images: float) -> float:
        """Bytes of so many images as float32."""
        return 4.0 * images * math.prod(self.shape)

    def learned(self, images: float) -> float:
        """Bytes of images that are learned: themselves, gradient and momentum, and as they are augmented and
        differentiated."""
        return (3 + COPIES) * self.floats(images)


class Live(TorchDispatchMode):
    """Bytes of the tensors made in the block that are alive: `now`, and after every operation that made some, `course`.
    Views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.course = 0, [0]
        self._known: dict[int, int] = {}

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = () if func.is_view else out if isinstance(out, (tuple, list)) else (out,)
        for t in made:
            if isinstance(t, Tensor) and not (args and t is args[0]):  # in place
                storage = t.untyped_storage()
                if storage._cdata not in self._known:
                    self._known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata).atexit = False
        self.course.append(self.now)
        return out


def course(run: Callable[[], Any]) -> list[int]:
    """Bytes alive after every operation of a call, its result included."""
    with Live() as live:
        result = run()  # alive to the end
    del result
    return live.course


@dataclass(frozen=True)
class Growth:
    """Bytes alive after every operation of a run on `few` images and on twice as many; of their peaks alone where the
    operations differ."""

    few: int
    first: list[int]
    second: list[int]

    def at(self, n: float) -> float:
        """The most bytes alive at once in a run on n images, operation by operation."""
        return max(a + (n - self.few) * (b - a) / self.few for a, b in zip(self.first, self.second, strict=True))

    @property
    def each(self) -> float:
        """What every further image adds, where there are many."""
        return max(b - a for a, b in zip(self.first, self.second, strict=True)) / self.few


def growth(run: Callable[[int], Any], few: int = 2) -> Growth:
    """How the bytes of `run(n)` grow with n, from `run(few)` and `run(2 * few)`. One thread computes: there is little
    to do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first, second = (course(lambda k=k: run(k)) for k in (few, 2 * few))
    finally:
        torch.set_num_threads(threads)
    return Growth(few, first, second) if len(first) == len(second) else Growth(few, [max(first)], [max(second)])


def parameter_count(*modules: nn.Module) -> int:
    """How many numbers the weights of modules are."""
    return sum(p.numel() for module in modules for p in module.parameters())


# --- a classifier ------------------------------------------------------------------------------------------------------
def _few(size: Size) -> int:
    """Images of a small run: the networks' ways of computing are those of large batches from 4,096 pixels on."""
    return max(2, 4096 // size.side)


def _slack(model: nn.Module, size: Size) -> float:
    """The compiled kernel has its own memory, one piece for all maps."""
    return 1.0 if fast.plan(model) and not size.gpu else size.slack


def _answers(model: nn.Module, x: Tensor, size: Size) -> Tensor:
    return model(x) if size.gpu else names.logits(model, x)


@functools.lru_cache(maxsize=512)
def weights(network: str, size: Size) -> float:
    """Bytes of a network's parameters."""
    return 4.0 * sum(p.numel() for p in names.blank(network, size.shape, size.num_classes).parameters())


@functools.lru_cache(maxsize=512)
def _passed(network: str, size: Size) -> tuple[float, Growth]:
    model = names.blank(network, size.shape, size.num_classes).eval()

    @torch.no_grad()
    def run(k: int) -> Tensor:
        return _answers(model, torch.zeros(k, *size.shape), size)

    return _slack(model, size), growth(run, _few(size))


def passed(network: str, size: Size, n: int) -> float:
    """Images through a network, without derivatives."""
    slack, found = _passed(network, size)
    return weights(network, size) + slack * found.at(n)


@functools.lru_cache(maxsize=512)
def _pulled(network: str, size: Size) -> tuple[float, Growth]:
    model = names.blank(network, size.shape, size.num_classes).eval().requires_grad_(False)

    def run(k: int) -> Any:
        x = torch.zeros(k, *size.shape, requires_grad=True)
        return torch.autograd.grad(_answers(model, x, size).sum(), x)

    return _slack(model, size), growth(run, _few(size))


def pulled(network: str, size: Size, n: int) -> float:
    """The derivative by n images of a function of a fixed network's answers."""
    slack, found = _pulled(network, size)
    return weights(network, size) + slack * found.at(n)


@functools.lru_cache(maxsize=512)
def _trained(network: str, size: Size) -> tuple[float, Growth]:
    model = names.blank(network, size.shape, size.num_classes).train()

    def run(k: int) -> Any:
        loss = F.cross_entropy(_answers(model, torch.zeros(k, *size.shape), size), torch.zeros(k, dtype=torch.int64))
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    return _slack(model, size), growth(run, _few(size))


def trained(network: str, size: Size, n: int, states: int = 1) -> float:
    """A training step on n images: weights, gradients, so many states of the optimiser per weight, and activations."""
    slack, found = _trained(network, size)
    return (1 + states) * weights(network, size) + slack * found.at(n)


@functools.lru_cache(maxsize=512)
def _twice(network: str, size: Size, by_parameter: bool) -> Growth:
    model = names.blank(network, size.shape, size.num_classes).eval().requires_grad_(False)
    derivatives, parameters = Derivatives(model), list(model.parameters())

    def run(k: int) -> Any:
        direction = [torch.zeros_like(p)[None] for p in parameters]
        labels = torch.zeros(1, k, dtype=torch.int64)
        return derivatives.second(parameters, torch.zeros(1, k, *size.shape), labels, direction, by_parameter)

    return growth(run, _few(size))


def twice(network: str, size: Size, n: int, by_parameter: bool = False) -> float:
    """Second derivatives of the cross-entropy of n images of one class, in the pieces `Derivatives` takes."""
    piece = max(1, pixels_at_once(size.gpu) // size.side)
    return weights(network, size) + size.slack * _twice(network, size, by_parameter).at(min(n, piece))


def matched(network: str, size: Size, real: int, synthetic: int) -> float:
    """Gradients of every class's real and synthetic images, their distance, and its derivative by the synthetic
    ones."""
    piece = max(1, pixels_at_once(size.gpu, kernel=not size.gpu) // size.side)
    of_classes = (
        5 * size.num_classes * weights(network, size)
    )  # both gradients, the distance's parts and its derivative
    once = trained(network, size, min(piece, size.num_classes * real), states=0)
    return of_classes + max(once, twice(network, size, size.num_classes * synthetic))


def whitened(size: Size) -> float:
    """Fitting a whitening: covariance, eigenvectors and their workspace, and 4,096 images in float32 and float64."""
    dimensions = min(math.prod(size.shape), size.images)
    return 4.0 * (7 * dimensions**2 + 2 * math.prod(size.shape) ** 2) + 4 * size.floats(min(4096, size.images))
