"""What matching methods share: the gradient distance of DC and DSA, and the embeddings of DM; GLaD and SLFD use both.

    distance, gradient = match(Derivatives(network), parameters, real, synthetic)

Gradient matching asks that a class's synthetic images give a network the loss gradient that its real images give.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...core.device import send
from ...data import ImageSet
from ...data.augment import Augmentation
from ...networks import fast
from ...networks.gradients import Derivatives, ImageLoss


def row_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Sum over the rows of all weights of one minus the rows' cosine: (K,), from gradients (K, *shape).

    A row is what leads to one output: a filter, or a row of a linear layer. Parameters with one dimension (biases, norm
    layers) do not count. The cosine's denominator is |a| |b| + 1e-6, so equal but small rows are not at distance 0.

    Source: the gradient matching loss of Zhao et al. 2021, with the official code's epsilon.
    """
    total = ours[0].new_zeros(len(ours[0]))
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 2:
            a, b = (g.flatten(2) if g.ndim > 3 else g for g in (a, b))  # (K, rows, entries)
            norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
            total = total + (1 - (a * b).sum(-1) / (norms + 1e-6)).sum(-1)
    return total


def glad_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """`row_distance` without the parameters of three dimensions, which are those of layer norm in a ConvNet: (K,).

    Source: the official code of GLaD, whose distance is otherwise DC's.
    """
    kept = [i for i, g in enumerate(ours) if g.ndim != 4]  # the classes are one more dimension
    return row_distance([ours[i] for i in kept], [theirs[i] for i in kept])


def match(
    derivatives: Derivatives,
    parameters: list[Tensor],
    real: Tensor,
    synthetic: Tensor,
    between: Callable[[list[Tensor], list[Tensor]], Tensor] = row_distance,
    loss: ImageLoss | None = None,
    extra: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Distance of every class's gradients, and its derivative by the synthetic images.

    Real gradients need no graph. All classes go together: they share no image, so the sum of their distances has the
    derivatives of the distances one by one.

    Args:
        parameters: of the network, in its order.
        real:       (K, n, C, H, W), row k all of class k, augmented as the synthetic images are.
        synthetic:  (K, m, C, H, W).
        between:    (K,) distance of two lists of gradients (K, *shape).
        loss:       of the synthetic images in place of the cross-entropy, with `extra` (K, m, ...); see `Derivatives`.
    Returns: (K,) distances, and (K, m, C, H, W); with `extra`, the derivative by it as well.
    """
    classes = torch.arange(len(real), device=real.device)[:, None]
    _, target = derivatives.first(parameters, real, classes.expand(real.shape[:2]))
    labels = classes.expand(synthetic.shape[:2])
    gradient, pull = derivatives.gradient_and_pull(parameters, synthetic, labels, loss, extra)
    leaves = [g.detach().requires_grad_() for g in gradient]
    with torch.enable_grad():
        distance = between(leaves, target)
        direction = torch.autograd.grad(distance.sum(), leaves, allow_unused=True, materialize_grads=True)
    pulled = pull(list(direction))
    return (distance.detach(), *pulled) if extra is not None else (distance.detach(), pulled)


def embeddings(network: nn.Module, images: Tensor) -> Tensor:
    """(K, n, D), at least float32, of images (K, n, C, H, W) in one pass."""
    found = fast.embed(network, images.flatten(0, 1))
    return found.to(torch.promote_types(found.dtype, torch.float32)).unflatten(0, images.shape[:2])


@torch.no_grad()
def mean_embeddings(network: nn.Module, real: Tensor) -> Tensor:
    """(K, D) of real images (K, n, C, H, W): class by class, with batch norm all in one pass."""
    batches = real[None] if batch_norms(network) else real[:, None]  # of one or more classes each
    return torch.cat([embeddings(network, batch).mean(1) for batch in batches])


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The network's batch norms, which make the images of a batch depend on one another."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def freeze_batch_norm(network: nn.Module, real: ImageSet, rng: torch.Generator, per_class: int = 16) -> None:
    """Put batch norm, if the network has it, into eval mode after one pass over real images of all classes.

    Otherwise a class's gradient would depend on the other images in its batch. Source: official code of DC.
    """
    if norms := batch_norms(network):
        network.train()(real.draw_classes(per_class, rng).flatten(0, 1))
        for norm in norms:
            norm.eval()


def train_epoch(
    derivatives: Derivatives,
    parameters: list[Tensor],
    images: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    batch: int,
    lr: float,
    augmentation: Augmentation,
) -> None:
    """An epoch of plain SGD on the synthetic set, in place on `parameters`; the last batch is kept if it is smaller.

    Args:
        images: (N, C, H, W); no gradient flows back to them.
        augmentation: of every batch, with parameters per image.
    """
    derivatives.network.train()
    images = images.detach()
    for index in send(torch.randperm(len(images), generator=rng), images.device).split(batch):
        x = augmentation(images[index], rng)
        _, gradient = derivatives.first(parameters, x[None], labels[index][None])
        torch._foreach_add_(parameters, [g[0] for g in gradient], alpha=-lr)
