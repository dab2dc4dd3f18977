"""The second stage of DiM and SKD: a GAN goes on training while its images are matched with real ones by classifiers.

Every epoch draws a classifier from a pool, with new weights, and trains it on real images on the way. In every step the
generator's loss is the GAN's plus a matching loss: how differently the classifier answers generated and real images of
the same labels. Which loss that is stands on each method's page.

The GAN's random numbers and the classifiers' come from separate streams: a run with weight 0 is the plain GAN run, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import networks
from ...core.device import send
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, Whole, replace, settings
from ...data import ImageSet, augment, like
from ...generators import cgan
from ...networks import fast

THIN = ("ConvNet", "IDC-ThinResNet10BN", "IDC-ThinResNet18BN")
LARGE = ("ConvNet", "IDC-LargeResNet10BN", "IDC-LargeResNet18BN")


@settings
class Matching:
    """Settings of stage 2. The defaults are DiM's; those from `lr_pool` on are from DiM's evaluation code."""

    epochs: Count = 100  # one network of the pool each
    batch: Count = 64  # real images, generated images, and images of a pool step
    per_epoch: Count | None = None  # random real images an epoch passes over; None for all of them
    lr: float = 5e-6  # Adam, generator and discriminator, whose states go on from stage 1
    # ConvNet3, ResNet10, ResNet18; DiM has two more, which 28 pixels are too small for: `dim.paper_config`
    pool: Annotated[tuple[str, ...], pydantic.Field(min_length=1)] = THIN
    pool_steps: Whole = 16  # SGD steps of the network on real images before every match
    warm_up: Whole = 0  # further steps before the first match of an epoch; DiM's early targets are of random weights
    lr_pool: float = 0.01
    momentum_pool: float = 0.9
    weight_decay_pool: float = 5e-4
    dsa_pool: str = "color_crop"  # of pool steps, parameters per image
    dsa: str = "color_crop_cutout"  # of matching, one draw for all real and generated images of a step
    pairing: Literal["sample", "class_mean"] = (
        "sample"  # of answers by class: real and generated image, as DiM; or class means
    )
    official_norm: bool = False  # normalise pixels in [-1, 1] by statistics of [0, 1], as DiM's code does by mistake

    def smoke(self) -> Matching:
        return self._reduced(epochs=2, per_epoch=96, pool=("ConvNetW32",), warm_up=2)

    def small(self) -> Matching:
        """Minutes on one CPU core: fewer steps at a higher rate, a narrower pool that sees fewer real images."""
        return self._reduced(epochs=10, per_epoch=640, pool=("ConvNetW64", "IDC-ThinResNet10BN"), warm_up=20)

    def _reduced(self, warm_up: int, **changes: Any) -> Matching:
        return replace(self, batch=32, lr=1e-4, pool_steps=2, warm_up=min(self.warm_up, warm_up), **changes)

    def work(self, gan: cgan.GAN, images: int, matched: bool = True) -> float:
        """Images through the networks; a backward pass counts as two forward ones."""
        steps = self.epochs * (min(self.per_epoch or images, images) // self.batch)
        pool = (4 + 3 * self.pool_steps) * steps + 3 * self.warm_up * self.epochs if matched else 0
        return self.batch * (steps * gan.work_per_image() + pool)


def pool_for(dataset: str) -> tuple[str, ...]:
    """SKD's three networks as DiM's code makes them: narrow ResNets on CIFAR, else those with ImageNet's stem."""
    return THIN if like(dataset).family == "cifar" else LARGE


# (network, real images, generated images, labels) -> weighted matching loss; images are normalised and augmented
PoolLoss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


def second_stage(
    trained: cgan.TrainedGAN, cfg: Matching, loss: PoolLoss | None, seed: int, loop: Loop | None = None
) -> cgan.Generator:
    """Go on training a GAN, with a matching loss beside its own.

    Args:
        trained: stage 1.
        loss:    None goes on without matching, for as many steps.
    Returns: the generator after the last step, in eval mode.
    Raises:  UserError: settings that make no step.  TimeUp, Diverged: see `Loop`.
    """
    loop, real = loop or Loop(), trained.real
    batches, pair = cgan.batches_of(real, cfg.batch, cfg.epochs, cfg.per_epoch), trained.pair()
    pair.set_lr(cfg.lr)
    rng, classifier, dsa = stream(seed, "matching", "gan"), EpochNetwork(real, cfg, seed), augment.idc(cfg.dsa)
    live = pair.live() | {"rng": rng, "order": batches.order, "pool": classifier}
    for step in loop.steps("match", cfg.epochs * batches.steps_per_epoch, live):
        index = send(batches.index(step, rng), real.device)
        images, labels = real.signed(index), real.hard_labels[index]

        def matching(fake: Tensor) -> Tensor:
            omega = dsa.draw(classifier.rng)  # the same for every image
            seen = [dsa.apply(classifier.units(x), omega) for x in (images, fake)]
            return loss(classifier.frozen(), *seen, labels)

        if loss is not None:
            classifier.prepare(step // batches.steps_per_epoch)
        loop.log(**pair.step(images, labels, rng, None if loss is None else matching))
    return pair.generator.eval().requires_grad_(False)


class EpochNetwork:
    """The network of the current epoch, in training on real images.

    Attributes:
        rng: all random numbers of an epoch: which network, its weights, its batches, the augmentations of matching.
    """

    def __init__(self, real: ImageSet, cfg: Matching, seed: int):
        self.real, self.cfg, self.seed, self.epoch = real, cfg, seed, -1
        self.augmentation = augment.idc(cfg.dsa_pool)

    def _fresh(self, epoch: int) -> None:
        cfg, self.epoch, self.rng = self.cfg, epoch, stream(self.seed, "pool", epoch)
        name = cfg.pool[int(torch.randint(len(cfg.pool), (), generator=self.rng))]
        self.network = networks.fresh(name, self.real, self.rng).to(self.real.device).train()
        options = {"lr": cfg.lr_pool, "momentum": cfg.momentum_pool, "weight_decay": cfg.weight_decay_pool}
        self.optimizer = torch.optim.SGD(self.network.parameters(), **options)

    def prepare(self, epoch: int) -> None:
        """Be in this epoch, and train the network by the steps that come before a match."""
        new = epoch != self.epoch
        if new:
            self._fresh(epoch)
        self.network.requires_grad_(True)
        for _ in range(self.cfg.pool_steps + (self.cfg.warm_up if new else 0)):
            index = send(torch.randint(len(self.real), (self.cfg.batch,), generator=self.rng), self.real.device)
            x = self.augmentation(self.units(self.real.signed(index)), self.rng)
            loss = F.cross_entropy(networks.logits(self.network, x), self.real.hard_labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def frozen(self) -> nn.Module:
        """The network without gradients of its weights; in train mode, as in DiM: batch norm sees each batch alone."""
        return self.network.requires_grad_(False)

    def units(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as the network sees them."""
        if not self.cfg.official_norm:
            return cgan.normalised(images, self.real)
        return self.real.facts.normalise(images)  # as if they were pixels in [0, 1]

    def state_dict(self) -> dict[str, Any]:
        if self.epoch < 0:
            return {"epoch": -1}
        parts = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"epoch": self.epoch, "rng": self.rng.get_state(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["epoch"] < 0:
            self.epoch = -1
            return
        self._fresh(state["epoch"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])


def pair_up(answers: Tensor, labels: Tensor, cfg: Matching, num_classes: int) -> Tensor:
    """(B, D) answers as they are compared: one by one, or the mean (P, D) of every class present in `labels` (B,)."""
    if cfg.pairing == "sample":
        return answers
    members = F.one_hot(labels, num_classes).to(answers.dtype)  # (B, K)
    count = members.sum(0)
    return (members.T @ answers)[count > 0] / count[count > 0, None]


def answers(network: nn.Module, real: Tensor, fake: Tensor, embedding: bool = False) -> tuple[Tensor, Tensor]:
    """Class logits (B, K), or embeddings (B, D), of real images (without gradient) and of generated ones."""
    answer = fast.embed if embedding else networks.logits
    with torch.no_grad():
        target = answer(network, real)
    return target, answer(network, fake)
