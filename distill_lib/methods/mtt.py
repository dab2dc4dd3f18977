"""MTT: dataset distillation by matching training trajectories (Cazenavette et al., CVPR 2022). Book page: book/mtt.md

Experts are networks trained on the real set, their weights kept after every epoch. A student starts from an expert's
weights, takes a few steps on the synthetic images, and shall land where the expert was some epochs later. The
derivative goes back through all the student's steps, to the images and to their step size.

Going back, only the weights before every step are kept; each step is computed again when its turn comes. So the memory
is that of one step on a few images plus one set of weights per step, whatever the number of steps, and nothing is
neglected.

The paper's numbers are the best of an evaluation every 100 iterations, chosen on test data. Here the last set counts.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import torch

from .. import networks
from ..core.device import send
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, replace, settings
from ..data import ImageSet, augment, like
from ..networks.gradients import Derivatives
from .common import trajectories
from .common.trajectories import Experts, draw_batches, matched

VERSION = 1


@settings
class Config:
    ipc: Count = 10  # images per class
    iterations: int = 5_001  # updates of the images, one student each; the official loop runs 0 to 5,000 inclusive
    syn_steps: int = 30  # steps of a student
    expert_epochs: int = 2  # epochs of the expert that the student shall make up for
    max_start_epoch: int = 20  # students start after 0 .. max_start_epoch - 1 epochs of an expert
    batch_syn: Count | None = None  # synthetic images per step of a student; None for all
    lr_img: float = 100.0  # SGD step size on the pixels; large, because a pixel's derivative is tiny
    momentum_img: float = 0.5  # of images and step size
    lr_lr: float = 1e-5  # SGD step size on the student's step size
    lr_teacher: float = 0.001  # the student's step size at the start
    init: Literal["real", "noise"] = "real"
    experts: Experts = field(default_factory=Experts)
    source: str = "published"  # of this setting: published by the authors, or what it was reconstructed from

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        experts = replace(self.experts, count=1, epochs=2, batch=32, per_epoch=128)
        return replace(
            self,
            iterations=min(self.iterations, 10),
            syn_steps=4,
            expert_epochs=1,
            max_start_epoch=2,
            batch_syn=10,
            lr_teacher=0.01,
            experts=experts,
        )

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: few, short experts on part of the set, and students of few
        steps."""
        experts = replace(self.experts, count=2, epochs=6, batch=64, per_epoch=2_048)
        return replace(
            self,
            iterations=min(self.iterations, 100),
            syn_steps=min(self.syn_steps, 8),
            expert_epochs=1,
            max_start_epoch=5,
            batch_syn=20,
            lr_teacher=0.01,
            experts=experts,
        )


# (data set, ipc): syn_steps, expert_epochs, max_start_epoch, batch_syn, zca, lr_img, lr_lr, lr_teacher
_PUBLISHED = {
    ("CIFAR10", 1): (50, 2, 2, None, True, 100.0, 1e-7, 0.01),
    ("CIFAR10", 10): (30, 2, 20, None, True, 100.0, 1e-5, 0.001),
    ("CIFAR10", 50): (30, 2, 40, None, False, 1000.0, 1e-5, 0.001),
    ("CIFAR100", 1): (20, 3, 20, None, True, 1000.0, 1e-5, 0.01),
    ("CIFAR100", 10): (20, 2, 20, None, False, 1000.0, 1e-5, 0.01),
    ("CIFAR100", 50): (80, 2, 40, 125, True, 1000.0, 1e-5, 0.01),
    ("TinyImageNet", 1): (10, 2, 10, None, False, 1e4, 1e-4, 0.01),
    ("TinyImageNet", 10): (20, 2, 40, 200, False, 1e4, 1e-4, 0.01),
    ("TinyImageNet", 50): (20, 2, 40, 300, False, 1e4, 1e-4, 0.01),
    ("ImageNet subsets", 1): (20, 2, 10, None, False, 1000.0, 1e-6, 0.01),  # ten classes, 128 pixels
}


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the paper's tables; `source` says where it is none.

    Source: the settings shipped as the authors' with DC-BENCH, and the official README for the ImageNet subsets. The
    README's table gives CIFAR10 at 10 images per class other step sizes; its author confirms a typing error.
    The official code has no MNIST or FashionMNIST, so their setting is a reconstruction: that of CIFAR10 at 10 images
    per class without whitening, without flips on digits; as is that of any other set. An ipc without published setting
    takes that of the nearest one of its data set.
    """
    known = "ImageNet subsets" if like(dataset).is_imagenet_subset else dataset
    published = [count for name, count in _PUBLISHED if name == known]
    row = (known, min(published, key=lambda count: abs(count - ipc))) if published else ("CIFAR10", 10)
    steps, epochs, start, batch, zca, lr_img, lr_lr, lr_teacher = _PUBLISHED[row]
    own = row == (known, ipc) and (known == dataset or dataset in ("ImageNette", "ImageWoof"))
    source = "published" if own else f"reconstruction: {row[0]}, ipc {row[1]}"
    if not published:
        zca, source = False, source + ", without whitening"
    return Config(
        ipc=ipc,
        syn_steps=steps,
        expert_epochs=epochs,
        max_start_epoch=start,
        batch_syn=batch,
        lr_img=lr_img,
        lr_lr=lr_lr,
        lr_teacher=lr_teacher,
        experts=Experts(zca=zca, dsa=augment.strategy_for(dataset)),
        source=source,
    )


def stage1(cfg: Config) -> dict[str, Experts]:
    """What cells share before their sets differ."""
    return {"expert trajectories": cfg.experts}


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make stage 1, if it is not there."""
    trajectories.train(real, cfg.experts, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class and a step size.

    Trains the experts first where `runs/` does not have them; see `trajectories`.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc float32 images with hard labels, after the last update, normalised or whitened as the experts'
    images
             were, with the learned step size as `facts.extra["lr_net"]`.
    Raises:  UserError: settings that ask for epochs the experts do not have.
    Source:  algorithm 1 of the paper.
    """
    loop, experts = loop or Loop(), cfg.experts
    if (
        min(cfg.syn_steps, cfg.max_start_epoch, cfg.expert_epochs) < 1
        or cfg.max_start_epoch - 1 + cfg.expert_epochs > experts.epochs
    ):
        raise UserError(
            f"students of {cfg.syn_steps} steps start before epoch {cfg.max_start_epoch} and aim {cfg.expert_epochs} epochs ahead; "
            f"experts have {experts.epochs} epochs. Each number must be at least 1, and max_start_epoch - 1 + expert_epochs at most {experts.epochs}"
        )
    paths = trajectories.train(real, experts, loop)
    real = paths.real
    rng = stream(seed, "MTT")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).requires_grad_()  # (K, ipc, C, H, W)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(cfg.ipc)
    step_size = torch.tensor(cfg.lr_teacher, device=real.device, requires_grad=True)
    groups = [{"params": [synthetic], "lr": cfg.lr_img}, {"params": [step_size], "lr": cfg.lr_lr}]
    optimizer = torch.optim.SGD(groups, momentum=cfg.momentum_img)
    derivatives = Derivatives(networks.fresh(experts.network, real, rng).to(real.device).requires_grad_(False).train())
    dsa = augment.dsa(experts.dsa)
    queue: list[int] = []  # experts whose turn comes before any has a second one
    live = {"synthetic": synthetic, "step_size": step_size, "optimizer": optimizer, "rng": rng, "queue": queue}
    for _ in loop.steps("distill", cfg.iterations, live):
        if not queue:
            queue[:] = torch.randperm(experts.count, generator=rng).tolist()
        epoch = int(torch.randint(cfg.max_start_epoch, (), generator=rng))
        start, target = paths.snapshots(queue.pop(), epoch, epoch + cfg.expert_epochs)
        batches = [send(index, real.device) for index in draw_batches(len(labels), cfg.batch_syn, cfg.syn_steps, rng)]
        draws = [dsa.draw(rng, images=len(index)) for index in batches]
        images = synthetic.detach().flatten(0, 1)
        loss, by_images, step_size.grad = matched(
            derivatives, start, target, images, labels, step_size, batches, draws, dsa
        )
        synthetic.grad = by_images.view_as(synthetic)
        optimizer.step()
        loop.log(loss=loss, step_size=step_size.detach())
    return ImageSet.from_classes(synthetic, like=real, method="MTT", seed=seed, lr_net=step_size.item())
