"""First and second derivatives of a network's cross-entropy: what gradient and trajectory matching are made of.

    d = Derivatives(network)
    loss, g = d.first(parameters, images, labels)                  # every class's loss and its gradient, no graph
    value, by_image, by_parameter = d.second(parameters, images, labels, v)   # <g, v> and its derivatives

Images come in groups (K classes of n), and everything is computed in pieces: small enough for the processor's cache,
and for the memory. Sums over images make that exact. The papers' ConvNet has shorter ways: first derivatives by the
compiled kernel of `networks.fast`, second ones by the matrix products of `networks.winograd`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..core.device import out_of_memory
from ..core.errors import UserError
from ..core.native import convnet
from . import fast
from .base import Seeded, lifted
from .winograd import Products

Pull = Callable[[list[Tensor]], Any]  # direction -> derivative by the images; with `extra`, by the images and by it
ImageLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits (N, K), labels (N,), extra (N, ...) -> (N,)
Form: TypeAlias = "Products | _Layers"  # the network as a function of weights


class Derivatives:
    """Derivatives of the mean cross-entropy of groups of images, as functions of a network's parameters.

    `parameters` is a list in the order of `network.parameters()`; the network's own values are not looked at. In all
    methods images are (G, n, C, H, W), labels (G, n), and the loss of a group is the mean over its n images.

    Another loss than the cross-entropy may take its place: `loss` with one tensor `extra` (G, n, ...) of numbers per
    image, by which there are derivatives too.

    Args:
        network: gives the architecture, train or eval mode, and the buffers.
        piece:   images at once; by default as many as keep the widest maps in the cache of a CPU, or use a GPU well.
                 Halved when memory runs out. Batch norm in train mode couples the images of a group, which stay
                 together then.
        plain:   use the network's own layers only.
    Raises: UserError: a network with dropout.
    """

    def __init__(self, network: nn.Module, piece: int | None = None, plain: bool = False):
        if isinstance(network, Seeded):
            raise UserError(
                f"{network.name} draws random numbers while it trains (dropout), "
                "but its derivatives need the same pass twice; choose another network"
            )
        self.network, self.piece = network, piece
        self.layers = _Layers(network)
        self.blocks = None if plain else fast.blocks_of(network)
        self.kernel = _Kernel(network, self.blocks) if self.blocks else None
        self.products = Products(network) if not plain and Products.fits(network) else None

    def _once(self, images: Tensor) -> Form:
        """The form to differentiate once."""
        return self.kernel if self.kernel and convnet.usable(self.blocks, images[0], []) else self._twice(images)

    def _twice(self, images: Tensor) -> Form:
        """The form to differentiate twice. `Products` has four times the weights: on a CPU a group of few small images
        is faster without."""
        few = images.shape[1] * _pixels(images) < 2**12 and not images.is_cuda
        return self.layers if few or self.products is None else self.products

    def _size(self, form: Form, images: Tensor) -> int:
        """Images at once: 16 of 32 x 32 pixels on a CPU, 128 in the kernel, which looks after the cache itself, 2048 on
        a GPU."""
        pixels = pixels_at_once(images.is_cuda, form is self.kernel)
        return min(self.piece or len(images) * images.shape[1], max(1, pixels // _pixels(images)))

    def first(
        self,
        parameters: list[Tensor],
        images: Tensor,
        labels: Tensor,
        loss: ImageLoss | None = None,
        extra: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Every group's loss (G,), and its gradient, one (G, *shape) tensor per parameter; without a graph."""
        groups, n = images.shape[:2]
        form = self._once(images)
        weights = _leaves(form, parameters)
        losses, gradients = images.new_zeros(groups), [p.new_empty(groups, *p.shape) for p in parameters]
        total: list[Tensor] = []

        def piece(g: slice, i: slice) -> tuple[Tensor, list[Tensor]]:
            more = None if extra is None else extra[g, i]
            return _gradient(form, weights(g), images[g, i], labels[g, i], n, loss=loss, extra=more)

        for g, i, (part_loss, found) in self._pieces(form, images, piece):
            losses[g] += part_loss
            total = [a.add_(b) for a, b in zip(total, found, strict=True)] if i.start else found
            if i.stop == n:
                for gradient, part in zip(gradients, form.parameters(total), strict=True):
                    gradient[g] = part
        return losses, gradients

    def second(
        self,
        parameters: list[Tensor],
        images: Tensor,
        labels: Tensor,
        direction: list[Tensor],
        by_parameter: bool = True,
        loss: ImageLoss | None = None,
        extra: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The number sum_g <gradient of group g, direction of group g>, and its derivatives.

        Args:
            direction: (G, *shape) per parameter.
        Returns: the number; its derivatives by images (G, n, C, H, W) and by parameters (*shape) (empty unless
            `by_parameter`); where `extra` is given, by it as well.
        """
        n = images.shape[1]
        form, by_image = self._twice(images), torch.empty_like(images)
        by_extra = None if extra is None else torch.empty_like(extra)
        weights, value = _leaves(form, parameters), images.new_zeros(())
        by_parameters = [torch.zeros_like(p) for p in parameters] if by_parameter else []
        towards: list[Tensor] = []

        def piece(g: slice, i: slice) -> tuple[Tensor, list[Tensor]]:
            x = images[g, i].detach().requires_grad_()
            more = None if extra is None else extra[g, i].detach().requires_grad_()
            _, gradient = _gradient(form, weights(g), x, labels[g, i], n, create_graph=True, loss=loss, extra=more)
            if i.start == 0:
                towards[:] = form.weights([v[g] for v in direction])
            sources = [x, *([] if more is None else [more]), *(weights(g) if by_parameter else [])]
            by = torch.autograd.grad(gradient, sources, towards, allow_unused=True, materialize_grads=True)
            return sum((a.detach() * b).sum() for a, b in zip(gradient, towards, strict=True)), list(by)

        total: list[Tensor] = []
        for g, i, (along, (image, *found)) in self._pieces(form, images, piece):
            value += along
            by_image[g, i] = image
            if by_extra is not None:
                by_extra[g, i] = found.pop(0)
            total = [a.add_(b) for a, b in zip(total, found, strict=True)] if i.start else found
            if by_parameter and i.stop == n:
                for by, part in zip(by_parameters, form.parameters(total), strict=True):
                    by += part.sum(0)
        return (value, by_image, by_parameters) if by_extra is None else (value, by_image, by_parameters, by_extra)

    def gradient_and_pull(
        self,
        parameters: list[Tensor],
        images: Tensor,
        labels: Tensor,
        loss: ImageLoss | None = None,
        extra: Tensor | None = None,
    ) -> tuple[list[Tensor], Pull]:
        """The gradients of `first`, and the function from a direction to the derivative of <gradients, direction> by
        the images.

        What fits one piece keeps its graph; what does not is computed again by `second`.
        """
        groups, n = images.shape[:2]

        def again(direction: list[Tensor]) -> Any:
            found = self.second(parameters, images, labels, direction, by_parameter=False, loss=loss, extra=extra)
            _, by_image, _, *by_extra = found
            return (by_image, *by_extra) if by_extra else by_image

        form = self._twice(images)
        if groups * n > self._size(form, images):
            return self.first(parameters, images, labels, loss, extra)[1], again
        x = images.detach().requires_grad_()
        sources = [x] if extra is None else [x, extra.detach().requires_grad_()]
        try:
            weights = _leaves(form, parameters)(slice(0, groups))
            _, gradient = _gradient(form, weights, x, labels, n, create_graph=True, loss=loss, extra=sources[-1])
        except (RuntimeError, MemoryError) as err:
            if not out_of_memory(err) or groups * n == 1:
                raise
            self.piece = groups * n // 2
            return self.gradient_and_pull(parameters, images, labels, loss, extra)

        def pull(direction: list[Tensor]) -> Any:
            found = torch.autograd.grad(gradient, sources, form.weights(direction))
            return found[0] if extra is None else found

        return form.parameters([g.detach() for g in gradient]), pull

    def _pieces(
        self, form: Form, images: Tensor, run: Callable[[slice, slice], Any]
    ) -> Iterator[tuple[slice, slice, Any]]:
        """(groups, images, run(groups, images)) over pieces in order: several whole groups, or a part of one."""
        groups, n = images.shape[:2]
        size = self._size(form, images)
        coupled = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self.network.modules())
        g = i = 0
        while g < groups:
            whole = coupled or (i == 0 and n <= size)
            gs = slice(g, min(groups, g + max(1, size // n)) if whole else g + 1)
            part = slice(0, n) if whole else slice(i, min(n, i + size))
            try:
                found = run(gs, part)
            except (RuntimeError, MemoryError) as err:
                held = (gs.stop - gs.start) * (part.stop - part.start)
                if not out_of_memory(err) or held == 1 or (coupled and gs.stop - gs.start == 1):
                    raise
                size = self.piece = held // 2
                said = f"out of memory: going on with {size} images at a time (same result to rounding, slower)"
                warnings.warn(said, stacklevel=3)
            else:
                yield gs, part, found
                g, i = (gs.stop, 0) if part.stop == n else (g, part.stop)
                continue
            if images.is_cuda:  # outside the handler, whose traceback keeps the failed piece's tensors alive
                torch.cuda.empty_cache()


def pixels_at_once(gpu: bool, kernel: bool = False) -> int:
    """Of the first map, over all images of a piece."""
    return 2**21 if gpu else 2**17 if kernel else 2**14


def _pixels(images: Tensor) -> int:
    """Of the first map a ConvNet makes of an image."""
    height, width = lifted(images.shape[-3:])
    return height * width


def _leaves(form: Form, parameters: list[Tensor]) -> Callable[[slice], list[Tensor]]:
    """A function from the groups of a piece to their weights, as leaves; made once per number of groups."""
    shared = form.weights([p.detach()[None] for p in parameters])
    made: dict[int, list[Tensor]] = {}

    def weights(g: slice) -> list[Tensor]:
        groups = g.stop - g.start
        if groups not in made:
            made.clear()
            repeated = shared if groups == 1 else form.repeat(shared, groups)
            made[groups] = [w.detach().requires_grad_() for w in repeated]
        return made[groups]

    return weights


def _gradient(
    form: Form,
    weights: list[Tensor],
    x: Tensor,
    labels: Tensor,
    n: int,
    create_graph: bool = False,
    loss: ImageLoss | None = None,
    extra: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Every group's summed cross-entropy, or other `loss`, over n, and the gradient of their sum by the weights."""
    with torch.enable_grad():
        logits = form.logits(weights, x.flatten(0, 1))
        if loss is None:
            each = F.cross_entropy(logits, labels.flatten(), reduction="none")
        else:
            each = loss(logits, labels.flatten(), extra.flatten(0, 1))
        mean = each.unflatten(0, labels.shape).sum(1) / n
        return mean.detach(), list(torch.autograd.grad(mean.sum(), weights, create_graph=create_graph))


class _Layers:
    """The network's own layers in the shape of `Products`: weights are the parameters, groups run one after another."""

    def __init__(self, network: nn.Module):
        self.network, self.names = network, [name for name, _ in network.named_parameters()]

    def weights(self, parameters: list[Tensor]) -> list[Tensor]:
        return parameters

    def parameters(self, weights: list[Tensor]) -> list[Tensor]:
        return weights

    def repeat(self, weights: list[Tensor], groups: int) -> list[Tensor]:
        return [w.expand(groups, *w.shape[1:]).contiguous() for w in weights]

    def logits(self, weights: list[Tensor], images: Tensor) -> Tensor:
        runs = images.unflatten(0, (len(weights[0]), -1))
        each = zip(runs, *(w.unbind() for w in weights), strict=True)
        return torch.cat([functional_call(self.network, dict(zip(self.names, w, strict=True)), (x,)) for x, *w in each])


class _Kernel(_Layers):
    """The same with the compiled kernel for everything before the classifier."""

    def __init__(self, network: nn.Module, blocks: convnet.Blocks):
        super().__init__(network)
        self.blocks = blocks

    def logits(self, weights: list[Tensor], images: Tensor) -> Tensor:
        rows = []
        for x, *row in zip(images.unflatten(0, (len(weights[0]), -1)), *(w.unbind() for w in weights), strict=True):
            named = dict(zip(self.names, row, strict=True))
            features = convnet.run(self.blocks, x, self.blocks.parameters(named))
            rows.append(F.linear(features, named["classifier.weight"], named["classifier.bias"]))
        return torch.cat(rows)
