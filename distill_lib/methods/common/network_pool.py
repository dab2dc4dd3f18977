"""Matching with a pool of networks: the second stage of DiM and SKD.

The generator of stage 1 goes on against its discriminator, while its images shall have the same effect on a classifier
as real images of the same class. The classifier is drawn from a pool at the start of every epoch, with new weights, and
trained on real images on the way. What "the same effect" means is each method's own; nothing here depends on it.

The GAN's random numbers and the pool's come from separate streams: a run with weight 0 is the plain GAN run, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import networks
from ...core.device import send
from ...core.errors import UserError
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import replace, settings
from ...data import ImageSet, augment, like
from ...generators import cgan
from ...networks import fast

THIN = ("ConvNet", "IDC-ThinResNet10BN", "IDC-ThinResNet18BN")
LARGE = ("ConvNet", "IDC-LargeResNet10BN", "IDC-LargeResNet18BN")


@settings
class Matching:
    """How stage 2 runs. The defaults are DiM's; lr_pool and what follows it, DiM's evaluation."""

    epochs: int = 100  # one network of the pool each
    batch: int = 64  # real images, generated images, and images of a pool step
    per_epoch: int | None = None  # random real images an epoch passes over; None for all of them
    lr: float = 5e-6  # Adam, generator and discriminator, whose states go on from stage 1
    pool: tuple[str, ...] = (
        THIN  # SKD names ConvNet3, ResNet10, ResNet18; DiM adds two that 28 pixels are too small for
    )
    pool_steps: int = 16  # SGD steps of the network on real images before every match
    warm_up: int = (
        0  # further steps before the first match of an epoch; 0 as DiM, whose early targets are those of random weights
    )
    lr_pool: float = 0.01
    momentum_pool: float = 0.9
    weight_decay_pool: float = 5e-4
    dsa_pool: str = "color_crop"  # of pool steps, parameters per image
    dsa: str = "color_crop_cutout"  # of matching, one draw for all real and generated images of a step
    pairing: Literal["sample", "class_mean"] = (
        "sample"  # i-th real and i-th generated image, of equal class, as DiM; or class means
    )
    official_norm: bool = False  # normalise pixels in [-1, 1] by statistics of [0, 1], as DiM's code does by mistake

    def smoke(self) -> Matching:
        return replace(
            self,
            epochs=2,
            batch=32,
            per_epoch=96,
            lr=1e-4,
            pool=("ConvNetW32",),
            pool_steps=2,
            warm_up=min(self.warm_up, 2),
        )

    def small(self) -> Matching:
        """Minutes on one CPU core: fewer steps at a higher rate, a narrower pool that sees fewer real images."""
        return replace(
            self,
            epochs=10,
            batch=32,
            per_epoch=640,
            lr=1e-4,
            pool=("ConvNetW64", "IDC-ThinResNet10BN"),
            pool_steps=2,
            warm_up=min(self.warm_up, 20),
        )

    def work(self, gan: cgan.GAN, images: int, matched: bool = True) -> float:
        """Images through the networks; a backward pass counts as two forward ones."""
        steps = self.epochs * (min(self.per_epoch or images, images) // self.batch)
        pool = (4 + 3 * self.pool_steps) * steps + 3 * self.warm_up * self.epochs if matched else 0
        return self.batch * (steps * gan.work_per_image() + pool)


def pool_for(dataset: str) -> tuple[str, ...]:
    """The pool DiM's code makes of its three common names: narrow ResNets on CIFAR, on other sets those with ImageNet's
    stem."""
    return THIN if like(dataset).family == "cifar" else LARGE


# what a method compares: (network, real images, generated images, labels) -> weighted loss; images normalised and
# augmented
Between = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def match(
    trained: cgan.TrainedGAN, of: Matching, between: Between | None, seed: int, loop: Loop | None = None
) -> cgan.Generator:
    """Stage 2: go on training a GAN, with a matching loss beside its own.

    Args:
        trained: stage 1.
        between: None goes on without matching, for as many steps.
    Returns: the generator after the last step, in eval mode.
    Raises:  UserError: settings that make no step.  TimeUp, Diverged: see `Loop`.
    """
    loop, real = loop or Loop(), trained.real
    if not of.pool or of.pool_steps < 0 or of.warm_up < 0:
        raise UserError(
            f"matching: a pool of {len(of.pool)} networks, {of.pool_steps} pool steps, {of.warm_up} to warm up; at least one network, no negative number"
        )
    batches = cgan.batches_of(real, of.batch, of.epochs, of.per_epoch)
    pair = trained.pair()
    pair.set_lr(of.lr)
    rng = stream(seed, "matching", "gan")
    pool = Pool(real, of, seed)
    dsa = augment.idc(of.dsa)

    def matching(index: Tensor, labels: Tensor, fake: Tensor) -> Tensor:
        shared = dsa.draw(pool.rng)  # the same for every image
        theirs = dsa.apply(pool.units(real.signed(index)), shared)
        return between(pool.frozen(), theirs, dsa.apply(pool.units(fake), shared), labels)

    for step in loop.steps(
        "match", of.epochs * batches.steps_per_epoch, pair.live() | {"rng": rng, "order": batches.order, "pool": pool}
    ):
        index = send(batches.index(step, rng), real.device)
        labels = real.hard_labels[index]
        if between is not None:
            pool.prepare(step // batches.steps_per_epoch)
        loss = None if between is None else lambda fake, index=index, labels=labels: matching(index, labels, fake)
        loop.log(**pair.step(real.signed(index), labels, rng, loss))
    return pair.generator.eval().requires_grad_(False)


class Pool:
    """The network of the current epoch, in training on real images.

    Attributes:
        rng: all random numbers of an epoch: which network, its weights, its batches, the augmentations of matching.
    """

    def __init__(self, real: ImageSet, of: Matching, seed: int):
        self.real, self.of, self.seed, self.epoch = real, of, seed, -1
        self.augmentation = augment.idc(of.dsa_pool)

    def _fresh(self, epoch: int) -> None:
        self.epoch, self.rng = epoch, stream(self.seed, "pool", epoch)
        name = self.of.pool[int(torch.randint(len(self.of.pool), (), generator=self.rng))]
        self.network = networks.fresh(name, self.real, self.rng).to(self.real.device).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.of.lr_pool,
            momentum=self.of.momentum_pool,
            weight_decay=self.of.weight_decay_pool,
        )

    def prepare(self, epoch: int) -> None:
        """Be in this epoch, and train the network by the steps that come before a match."""
        new = epoch != self.epoch
        if new:
            self._fresh(epoch)
        self.network.requires_grad_(True)
        for _ in range(self.of.pool_steps + (self.of.warm_up if new else 0)):
            index = send(torch.randint(len(self.real), (self.of.batch,), generator=self.rng), self.real.device)
            x = self.augmentation(self.units(self.real.signed(index)), self.rng)
            loss = F.cross_entropy(networks.logits(self.network, x), self.real.hard_labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def frozen(self) -> nn.Module:
        """The network without gradients of its weights; in train mode, as in DiM, so batch norm sees each batch
        alone."""
        return self.network.requires_grad_(False)

    def units(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the network sees them."""
        if not self.of.official_norm:
            return cgan.normalised(images, self.real)
        return self.real.facts.normalise(images)  # as if they were pixels in [0, 1]

    def state_dict(self) -> dict[str, Any]:
        if self.epoch < 0:
            return {"epoch": -1}
        return {
            "epoch": self.epoch,
            "rng": self.rng.get_state(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["epoch"] < 0:
            self.epoch = -1
            return
        self._fresh(state["epoch"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])


def paired(answers: Tensor, labels: Tensor, of: Matching, num_classes: int) -> Tensor:
    """(B, D) answers as they are compared: each on its own, or the mean (P, D) of every class present in `labels`
    (B,)."""
    if of.pairing == "sample":
        return answers
    members = F.one_hot(labels, num_classes).to(answers.dtype)  # (B, K)
    count = members.sum(0)
    return (members.T @ answers)[count > 0] / count[count > 0, None]


def answers(network: nn.Module, real: Tensor, fake: Tensor, embedding: bool = False) -> tuple[Tensor, Tensor]:
    """Class logits (B, K), or embeddings (B, D), of real images (no gradient) and of generated ones, each in a pass of
    its own."""
    answer = fast.embed if embedding else networks.logits
    with torch.no_grad():
        target = answer(network, real)
    return target, answer(network, fake)
