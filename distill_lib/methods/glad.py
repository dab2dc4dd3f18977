"""GLaD: generative latent distillation (Cazenavette et al., CVPR 2023). Book page: book/slfd.md

Any method that matches something, DC, DM or MTT, with images that a fixed generator draws: what is learned are the
generator's codes w and its features f after layer n, not pixels. A prior, not a compression: f has more numbers than
the image.

The paper's numbers are the best of ten evaluations, chosen on test data. Here the last set counts.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import torch
from torch import Tensor

from .. import networks
from ..core.device import send
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, replace, settings
from ..data import ImageSet, augment
from ..generators import prior
from ..generators.cgan import GAN
from ..networks.gradients import Derivatives
from .common import matching, trajectories
from .common.latents import SMALL, Latents, Space
from .common.trajectories import Experts

VERSION = 1


@settings
class Students:
    """Trajectory matching: see `methods.mtt`."""

    syn_steps: Count = 20  # steps of a student
    expert_epochs: Count = 3  # epochs of the expert that the student shall make up for
    max_start_epoch: Count = 5  # students start after 0 .. max_start_epoch - 1 epochs of an expert
    batch_syn: Count | None = None  # synthetic images per step of a student; None for all
    lr_teacher: float = 0.01  # the student's step size at the start
    lr_lr: float = 1e-6  # SGD step size on it
    second_order: Literal["dropped"] | None = (
        None  # terms from step to step: kept, as in MTT; "dropped", as in GLaD's code
    )
    experts: Experts = field(default_factory=lambda: Experts(epochs=15))

    def check(self) -> None:
        """Raises: UserError: epochs the experts do not have."""
        if self.max_start_epoch - 1 + self.expert_epochs > self.experts.epochs or self.experts.zca:
            raise UserError(
                f"students start before epoch {self.max_start_epoch} and aim {self.expert_epochs} epochs ahead; "
                f"experts have {self.experts.epochs}. max_start_epoch - 1 + expert_epochs must be at most that, and the experts without ZCA, because a generator draws pixels"
            )


@settings
class Config:
    ipc: Count = 1  # images per class
    match: Literal["DC", "DM", "MTT"] = "DC"
    iterations: int = (
        1_001  # updates of the latents, one fresh network each; the official loop runs 0 to 1,000 inclusive
    )
    network: str = "ConvNet"  # of DC and DM
    batch_real: Count = 256  # real images per class and step, of DC and DM
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # one draw per class and step for real and rendered images; "none" for none
    space: Space = field(default_factory=Space)
    students: Students = field(default_factory=Students)  # of MTT

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        experts = replace(self.students.experts, count=1, epochs=2, batch=32, per_epoch=128)
        students = replace(
            self.students, syn_steps=3, expert_epochs=1, max_start_epoch=2, batch_syn=10, experts=experts
        )
        few = min(self.iterations, 10), min(self.batch_real, 16)
        return replace(self, iterations=few[0], batch_real=few[1], space=self.space.smoke(), students=students)

    def small(self) -> Config:
        """A budget one CPU core finishes in minutes; a conditional GAN trained on the set itself is the prior."""
        experts = replace(self.students.experts, count=2, epochs=6, batch=64, per_epoch=2_048)
        students = replace(self.students, syn_steps=8, expert_epochs=1, max_start_epoch=5, experts=experts)
        iterations, batch = SMALL[self.match]
        iterations = min(self.iterations, iterations)
        return replace(
            self, iterations=iterations, batch_real=batch, space=self.space.small(self.match), students=students
        )


def paper_config(dataset: str, ipc: int, match: str = "DC") -> Config:
    """The setting behind one cell of the tables of GLaD and SLFD.

    Source: the official README and defaults. For the ImageNet subsets, CIFAR10 and PathMNIST the generator is
    StyleGAN-XL with the official ImageNet weights; on any other set, for which neither paper has a generator, a
    conditional GAN trained on it. MTT drops the terms of second order between a student's steps, as the official code
    does.
    """
    students, dsa = Students(second_order="dropped" if match == "MTT" else None), augment.strategy_for(dataset)
    return Config(ipc=ipc, match=match, space=Space.published(dataset, match), dsa=dsa, students=students)


def stage1(cfg: Config) -> dict[str, GAN | Experts]:
    """What cells share before their sets differ."""
    return prior.stage1(cfg.space.prior) | ({"expert trajectories": cfg.students.experts} if cfg.match == "MTT" else {})


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make stage 1, if it is not there."""
    prior.prepare(real, cfg.space.prior, loop)
    if cfg.match == "MTT":
        trajectories.train(real, cfg.students.experts, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into the latents of cfg.ipc images per class, and draw those.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc normalised float32 images with hard labels, after the last update; for MTT with the learned step
    size as
             `facts.extra["lr_net"]`.
    Raises:  UserError: a generator or layer that does not fit the set.
    Source:  section 3 of the paper and its code.
    """
    loop = loop or Loop()
    made = prior.prepare(real, cfg.space.prior, loop)
    rng = stream(seed, "latents")
    latents = Latents(made, real, cfg.space, cfg.ipc, rng)
    matcher = {"DC": Gradients, "DM": Distributions, "MTT": Trajectories}[cfg.match](real, cfg, rng, loop)
    for _ in loop.steps("distill", cfg.iterations, {**latents.live(), **matcher.live, "rng": rng}):
        loss, gradient = matcher(latents.images())
        latents.pull(gradient)
        latents.optimizer.step()
        loop.log(loss=loss)
    return latents.distilled("GLaD", seed, match=cfg.match, **matcher.extra)


# --- what is matched: images (K, ipc, C, H, W) -> loss, and its gradient by them
# -----------------------------------------
class Gradients:
    """DC with siamese augmentation: distances of the classes' gradients under a fresh network."""

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator, loop: Loop):
        self.real, self.cfg, self.rng, self.dsa = real, cfg, rng, augment.dsa(cfg.dsa)
        self.network = networks.fresh(cfg.network, real, stream(0, "redrawn")).to(real.device).requires_grad_(False)
        self.derivatives = Derivatives(self.network)
        self.live, self.extra = {}, {}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.network.redraw(self.rng)
        matching.freeze_batch_norm(self.network, self.real, self.rng)
        real_batch = self.real.draw_classes(self.cfg.batch_real, self.rng)  # (K, batch_real, C, H, W)
        omega = self.dsa.draw(self.rng, groups=self.real.num_classes)
        images = images.requires_grad_()
        seen = self.dsa.apply(images, omega)
        parameters = [p.detach() for p in self.network.parameters()]
        real_batch = self.dsa.apply(real_batch, omega)
        distance, gradient = matching.match(self.derivatives, parameters, real_batch, seen, matching.glad_distance)
        return distance.sum(), torch.autograd.grad(seen, images, gradient)[0]


class Distributions:
    """DM: distances of the classes' mean embeddings under a fresh network."""

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator, loop: Loop):
        self.real, self.cfg, self.rng, self.dsa = real, cfg, rng, augment.dsa(cfg.dsa)
        self.network = networks.blank(cfg.network, real.shape, real.num_classes).to(real.device).requires_grad_(False)
        self.live, self.extra = {}, {}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.network.redraw(self.rng)
        real_batch = self.real.draw_classes(self.cfg.batch_real, self.rng)
        omega = self.dsa.draw(self.rng, groups=self.real.num_classes)
        images = images.requires_grad_()
        loss = matching.embedding_distance(
            self.network, self.dsa.apply(real_batch, omega), self.dsa.apply(images, omega)
        )
        return loss.detach(), torch.autograd.grad(loss, images)[0]


class Trajectories:
    """MTT: where students on the images end, against experts; the students' step size is learned beside the latents.

    The official code counts the weights before a step as fixed: it drops the terms of second order that lead from one
    step to the next. `Students.second_order` has both ways.
    """

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator, loop: Loop):
        cfg.students.check()
        self.of, self.rng = cfg.students, rng
        self.experts = trajectories.train(real, self.of.experts, loop)
        self.step_size = torch.tensor(self.of.lr_teacher, device=real.device, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.step_size], lr=self.of.lr_lr, momentum=cfg.space.momentum)
        self.derivatives = Derivatives(
            networks.fresh(self.of.experts.network, real, rng).to(real.device).requires_grad_(False).train()
        )
        self.dsa, self.queue = (
            augment.dsa(self.of.experts.dsa),
            [],
        )  # experts whose turn comes before any has a second one
        self.live = {"step_size": self.step_size, "by_step_size": self.optimizer, "queue": self.queue}

    @property
    def extra(self) -> dict[str, float]:
        return {"lr_net": self.step_size.item()}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        of, rng, classes, ipc = self.of, self.rng, *images.shape[:2]
        if not self.queue:
            self.queue[:] = torch.randperm(of.experts.count, generator=rng).tolist()
        epoch = int(torch.randint(of.max_start_epoch, (), generator=rng))
        start, target = self.experts.snapshots(self.queue.pop(), epoch, epoch + of.expert_epochs)
        labels = torch.arange(classes, device=images.device).repeat_interleave(ipc)
        batches = [
            send(i, images.device) for i in trajectories.draw_batches(len(labels), of.batch_syn, of.syn_steps, rng)
        ]
        draws = [self.dsa.draw(rng, images=len(i)) for i in batches]
        loss, gradient, self.step_size.grad = trajectories.matched(
            self.derivatives,
            start,
            target,
            images.flatten(0, 1),
            labels,
            self.step_size,
            batches,
            draws,
            self.dsa,
            between_steps=of.second_order is None,
        )
        self.optimizer.step()
        return loss, gradient.view_as(images)
