"""KIP: kernel inducing points (Nguyen et al., ICLR and NeurIPS 2021). Book page: book/kernel_regression.md

An infinitely wide network trained on the synthetic set predicts by ridge regression with its neural tangent kernel, in
closed form (`common.ntk`). So there is no inner training: the squared error of that prediction on real images (equation
7, `loss_and_gradients`) is differentiated by the synthetic images, and by their labels if these are learned too.

Published is the code for fully connected kernels. Of the convolutional ones the paper gives the architecture, and
neither the code nor the step size; `source` says so. They cost thousands of GPU hours at the paper's size, and what a
run will cost here is printed before it starts.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import Tensor

from ..core.device import Pieces, describe
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, Whitening, like
from .common import ntk

VERSION = 1


@settings
class Config:
    ipc: Count = 10  # images per class
    iterations: Count = 50_000  # updates of the images
    kernel: str = "KIPConv"  # see `ntk.kernel_named`
    ridge: float = 1e-6  # share of the kernel's mean diagonal
    lr: float = 0.04  # Adam, of images and labels
    learn_labels: bool = True
    batch_target: int = 5_000  # real images per update, as many of each class
    zca: bool = False  # whiten images freed of their own mean and norm, in place of normalising the channels
    init: Literal["real", "noise"] = "real"
    precision: Literal["float64", "float32"] = "float64"  # of the kernel's entries; the regression is always in float64
    tile_mb: int | None = None  # of a tile of the kernel; None: 256 on a CPU, 4096 on a GPU; changes no result
    source: str = "released code"  # of this setting, or what it was reconstructed from

    def smoke(self) -> Config:
        """The same method with a fully connected kernel, small enough for two CPU cores in seconds."""
        return replace(lowered(self, iterations=40), kernel="FC1", batch_target=200, source="reduced")

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: a fully connected kernel, smaller target batches.

        Few steps: with this kernel more of them raise the accuracy of the regression and lower that of networks trained
        on the set.
        """
        return replace(lowered(self, iterations=100), kernel="FC1", batch_target=2_000, source="reduced")


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the papers' tables: the convolutional kernel with learned labels.

    Source: architecture, ridge, target batch and steps as released. A reconstruction are the step size, which is that
    of the released fully connected code, and the variant: tables quote one of eight (whitening or not, labels learned
    or not, augmentation or not) without saying which; here labels are learned, and colour images of known sets are
    whitened. Augmentation is in no released code and not offered.
    """
    return Config(
        ipc=ipc,
        zca=like(dataset).channels == 3,
        source="reconstruction: step size of the fully connected code, variant with learned labels",
    )


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class.

    Returns: K x ipc float32 images, whitened if cfg.zca says so, with labels (N, K) that are one-hot less 1/K at the
             start, or hard labels if they are not learned.
    Raises:  UserError: an unknown kernel, images too small for it, a target batch smaller than the number of classes.
    Source:  algorithm 1 and equation 7 of the first paper.
    """
    loop, rng = loop or Loop(), stream(seed, "KIP")
    kernel, per_class = kernel_of(cfg), cfg.batch_target // real.num_classes
    kernel.check(real.shape)
    if per_class < 1:
        raise UserError(
            f"batch_target {cfg.batch_target}: at least one image of each of the {real.num_classes} classes"
        )
    if cfg.zca:
        real = real.under(Whitening.fit(real, of="alone"))
    classes = torch.arange(real.num_classes, device=real.device)
    own = classes.repeat_interleave(cfg.ipc)  # (n,)
    images = real.initial_images(cfg.ipc, cfg.init, rng).flatten(0, 1).requires_grad_()  # (n, C, H, W), class by class
    labels = ntk.centred_labels(own, real.num_classes).float().requires_grad_(cfg.learn_labels)  # (n, K)
    wanted = ntk.centred_labels(classes.repeat_interleave(per_class), real.num_classes)  # (m, K)
    optimizer = torch.optim.Adam([images, labels] if cfg.learn_labels else [images], lr=cfg.lr)
    tiles = kernel.tiles(images, cfg.tile_mb)
    if isinstance(kernel, ntk.ConvolutionalKernel):
        print(forecast(kernel, real, tiles, n=len(images), m=len(wanted), iterations=cfg.iterations), flush=True)
    live = {"synthetic": images, "labels": labels, "optimizer": optimizer, "rng": rng}
    for _ in loop.steps("distill", cfg.iterations, live):
        targets = real.draw_classes(per_class, rng).flatten(0, 1)  # (m, C, H, W)
        loss, images.grad, labels.grad = loss_and_gradients(kernel, images, labels, targets, wanted, cfg.ridge, tiles)
        optimizer.step()
        loop.log(loss=loss)
    made = labels.detach() if cfg.learn_labels else own
    return ImageSet(images.detach().float(), made, real.synthetic_facts(method="KIP", seed=seed), real.whitening)


def kernel_of(cfg: Config) -> ntk.Kernel:
    """The kernel a configuration names."""
    return ntk.kernel_named(cfg.kernel, torch.float64 if cfg.precision == "float64" else torch.float32)


def loss_and_gradients(
    kernel: ntk.Kernel,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    target_labels: Tensor,
    ridge: float,
    tiles: Pieces | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of the kernel regression on a target batch, and its derivatives by synthetic images and labels.

    With a = (k(S, S) + ridge I)^-1 Y_S, the loss is half the mean of (k(T, S) a - Y_T)² over images and classes. It is
    differentiated by both kernel matrices, and these by the images, tile by tile.

    Args:
        images:  (n, C, H, W); labels (n, K).
        targets: (m, C, H, W); target_labels (m, K).
    Returns: scalar, (n, C, H, W), (n, K).
    Source:  equation 7 of the first paper; mean over classes as in the released code.
    """
    dtype, labels, tiles = images.dtype, labels.detach(), tiles or kernel.tiles(images)
    images, targets = images.detach().to(kernel.dtype), targets.to(kernel.dtype)
    own = kernel.matrix(images, images, tiles).double().requires_grad_()  # (n, n)
    cross = kernel.matrix(images, targets, tiles).double().requires_grad_()  # (n, m)
    values = labels.double().requires_grad_()
    with torch.enable_grad():
        predicted = ntk.regress(own, cross.T, values, ridge)
        loss = (predicted - target_labels).square().mean() / 2
        by_own, by_cross, by_labels = torch.autograd.grad(loss, [own, cross, values])
    by_images = kernel.pull(images, images, by_own + by_own.T, tiles) + kernel.pull(images, targets, by_cross, tiles)
    return loss.detach(), by_images.to(dtype), by_labels.to(labels.dtype)


def forecast(kernel: ntk.ConvolutionalKernel, real: ImageSet, tiles: Pieces, n: int, m: int, iterations: int) -> str:
    """One line on the time and memory of a run, extrapolated from the time of two pairs of images.

    Args:
        n, m: synthetic and real images of a step.
    """
    x = torch.zeros(2, *real.shape, device=real.device)
    x[1] = 1  # any two images: the time does not depend on what they show
    for _ in range(2):  # the first pass warms up
        start = time.perf_counter()
        kernel.matrix(x[:1], x, tiles)
        kernel.pull(x[:1], x, torch.ones(1, 2, device=real.device), tiles).sum().item()  # waits for the device
    pairs, entries = n * (n + m), kernel.entries(real.shape)
    seconds = (time.perf_counter() - start) / 2 * pairs
    memory_mb = tiles.size * kernel.pair_bytes(real.shape) / 2**20
    return (
        f"KIP with {kernel.name}: {pairs:,} pairs of images a step, {entries:,} kernel entries each, in tiles of "
        f"{tiles.size} pairs ({memory_mb:,.0f} MB); about {seconds:,.3g} s a step and "
        f"{seconds * iterations / 3600:,.3g} h for {iterations:,} steps on {describe(real.device)}"
    )


@torch.no_grad()
def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[float]]:
    """Test accuracy of the kernel regression itself, in percent; networks trained on the set have another one."""
    kernel, (support, labels), test = kernel_of(cfg), synthetic.all(), test.under(synthetic.whitening)
    tiles = kernel.tiles(support, cfg.tile_mb)
    values = ntk.centred_labels(labels, synthetic.num_classes) if labels.ndim == 1 else labels
    weights = ntk.solve(kernel.matrix(support, support, tiles), values, cfg.ridge)  # (n, K)
    correct = 0
    for part in torch.arange(len(test), device=test.device).split(2_000):
        predicted = kernel.matrix(support, test.take(part)[0], tiles).double().T @ weights  # (2000, K)
        correct += (predicted.argmax(1) == test.hard_labels[part]).sum().item()
    return {"kernel_accuracy_pct": [100 * correct / len(test)]}
