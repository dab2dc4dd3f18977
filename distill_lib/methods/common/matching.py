"""What matching methods share: distances of gradients (DC, DSA, GLaD, SLFD) and of mean embeddings (DM, GLaD, SLFD).

Gradient matching: the images of a class shall give a network the same loss gradient as real images of that class,
weight row by weight row. Distribution matching: the same mean embedding.
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

# images per class: (image updates per network, epochs on the synthetic set between two of them); DC, official code
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


def loops(ipc: int) -> tuple[int, int]:
    """Image updates per network and epochs between them: the published pair, or that of the next smaller published
    ipc."""
    return LOOPS[max(known for known in LOOPS if known <= max(ipc, 1))]


def row_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Sum over the rows of all weights of one minus the rows' cosine: (K,), from gradients (K, *shape).

    A row is what leads to one output: a filter, or a row of a linear layer. Parameters with one dimension (biases, norm
    layers) do not count. The cosine's denominator is |a| |b| + 1e-6, so equal but small rows are not at distance 0.

    Source: the gradient matching loss of Zhao et al. 2021, with the official code's epsilon.
    """
    total = ours[0].new_zeros(len(ours[0]))
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 2:
            a, b = a.flatten(2) if a.ndim > 3 else a, b.flatten(2) if b.ndim > 3 else b  # (K, rows, entries)
            cosine = (a * b).sum(-1) / (
                torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1) + 1e-6
            )
            total = total + (1 - cosine).sum(-1)
    return total


def glad_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """`row_distance` without the parameters of three dimensions, which are those of layer norm in a ConvNet: (K,).

    Source: the official code of GLaD, whose distance is DC's but for these.
    """
    counted = [i for i, g in enumerate(ours) if g.ndim != 4]  # one more for the classes
    return row_distance([ours[i] for i in counted], [theirs[i] for i in counted])


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
    gradient, pull = derivatives.gradient_and_pull(
        parameters, synthetic, classes.expand(synthetic.shape[:2]), loss, extra
    )
    leaves = [g.detach().requires_grad_() for g in gradient]
    with torch.enable_grad():
        distance = between(leaves, target)
        direction = torch.autograd.grad(distance.sum(), leaves, allow_unused=True, materialize_grads=True)
    pulled = pull(list(direction))
    return (distance.detach(), *pulled) if extra is not None else (distance.detach(), pulled)


def embedding_distance(network: nn.Module, real: Tensor, synthetic: Tensor, precision: str = "float32") -> Tensor:
    """Sum over classes of the squared distance between mean embeddings.

    All synthetic images go through the network in one pass. Without batch norm images do not depend on one another,
    so this equals a loop over the classes. With batch norm the statistics are those of all classes together, of real
    and of synthetic images apart, as in the official code.

    Args:
        real:      (K, n, C, H, W) augmented real images; no gradient flows into them.
        synthetic: (K, m, C, H, W) augmented synthetic images.
    Returns: scalar; gradient with respect to `synthetic`.
    Source:  equation 4 of Zhao and Bilen 2023, with sums in place of means over features.
    """
    with torch.autocast(real.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        target, mean = real_means(network, real), embeddings(network, synthetic).mean(1)  # (K, D)
    return (target - mean).square().sum()


def embeddings(network: nn.Module, images: Tensor) -> Tensor:
    """(K, n, D), at least float32, of images (K, n, C, H, W) in one pass."""
    found = fast.embed(network, images.flatten(0, 1))
    return found.to(torch.promote_types(found.dtype, torch.float32)).unflatten(0, images.shape[:2])


@torch.no_grad()
def real_means(network: nn.Module, real: Tensor) -> Tensor:
    """(K, D) mean embeddings of real images (K, n, C, H, W): class by class, with batch norm all in one pass."""
    batches = real[None] if batch_norms(network) else real[:, None]  # of one or more classes each
    return torch.cat([embeddings(network, batch).mean(1) for batch in batches])


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The network's batch norms, by which the images of a batch depend on one another."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def freeze_batch_norm(network: nn.Module, real: ImageSet, rng: torch.Generator, per_class: int = 16) -> None:
    """Put batch norm, where a network has it, into eval mode after one pass over real images of all classes.

    So a class's gradient does not hang on the other images of its batch, of which there may be one.
    Source: official code of DC.
    """
    if norms := batch_norms(network):
        network.train()(real.draw_classes(per_class, rng).flatten(0, 1))
        for norm in norms:
            norm.eval()


def train(
    derivatives: Derivatives,
    parameters: list[Tensor],
    images: Tensor,
    labels: Tensor,
    rng: torch.Generator,
    epochs: int,
    batch: int,
    lr: float,
    augmentation: Augmentation,
) -> None:
    """Plain SGD on the synthetic set, in place on `parameters`: shuffled batches, the last one kept if smaller.

    Args:
        images: (N, C, H, W); no gradient flows back to them.
        augmentation: of every batch, with parameters per image.
    """
    derivatives.network.train()
    images = images.detach()
    for _ in range(epochs):
        for index in send(torch.randperm(len(images), generator=rng), images.device).split(batch):
            x = augmentation(images[index], rng)
            _, gradient = derivatives.first(parameters, x[None], labels[index][None])
            torch._foreach_add_(parameters, [g[0] for g in gradient], alpha=-lr)
