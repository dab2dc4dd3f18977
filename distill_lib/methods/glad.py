"""GLaD: generative latent distillation (Cazenavette et al., CVPR 2023). Book page: book/slfd.md

DC, DM or MTT with images that a fixed generator draws: what is learned are the generator's codes w and its features f
after layer n, in `common.latents`, not pixels. It is a prior, not a compression: f has more numbers than the image.

The paper's numbers are the best of ten evaluations, chosen on test data. Here the last set counts.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .. import networks
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, augment
from ..generators import prior
from ..networks.gradients import Derivatives, ImageLoss
from .common import matching
from .common.latents import SMALL, CodeSpace, Latents
from .common.trajectories import Experts, Student, check_students, train_experts
from .dm import dm_loss

VERSION = 1


@settings
class Students:
    """Trajectory matching: see `methods.mtt`."""

    syn_steps: Count = 20  # steps of a student
    expert_epochs: Count = 3  # epochs of the expert that the student should make up for
    max_start_epoch: Count = 5  # students start after 0 .. max_start_epoch - 1 epochs of an expert
    batch_syn: Count | None = None  # synthetic images per step of a student; None for all
    lr_teacher: float = 0.01  # the student's step size at the start
    lr_lr: float = 1e-6  # SGD step size on it
    second_order: Literal["dropped"] | None = None  # terms from step to step: kept, as MTT; dropped, as GLaD's code
    experts: Experts = Experts(epochs=15)

    def smoke(self) -> Students:
        few = {"syn_steps": 3, "expert_epochs": 1, "max_start_epoch": 2, "batch_syn": 10}
        return replace(self, experts=self.experts.smoke(), **few)

    def small(self) -> Students:
        return replace(self, syn_steps=8, expert_epochs=1, max_start_epoch=5, experts=self.experts.small())


@settings
class Config:
    ipc: Count = 1  # images per class
    match: Literal["DC", "DM", "MTT"] = "DC"
    iterations: int = 1_001  # updates of the latents, a fresh network each; the official loop runs 0 to 1,000 inclusive
    network: str = "ConvNet"  # of DC and DM
    batch_real: Count = 256  # real images per class and step, of DC and DM
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # of DC and DM: one draw per class and step
    space: CodeSpace = CodeSpace()
    students: Students = Students()  # of MTT

    def smoke(self) -> Config:
        few = lowered(self, iterations=10, batch_real=16)
        return replace(few, space=self.space.smoke(), students=self.students.smoke())

    def small(self) -> Config:
        """A budget one CPU core finishes in minutes; a conditional GAN trained on the set itself is the prior."""
        iterations, batch_real = SMALL[self.match]
        few = replace(lowered(self, iterations=iterations), batch_real=batch_real)
        return replace(few, space=self.space.small(self.match), students=self.students.small())


def paper_config(dataset: str, ipc: int, match: str = "DC") -> Config:
    """The setting behind one cell of the tables of GLaD and SLFD.

    Source: the official README and defaults; the generator is that of `CodeSpace.published`. MTT drops the terms of
    second order between a student's steps, as the official code does.
    """
    dsa, students = augment.strategy_for(dataset), Students()
    if match == "MTT":
        students = replace(students, second_order="dropped", experts=replace(students.experts, dsa=dsa))
    return Config(ipc=ipc, match=match, space=CodeSpace.published(dataset, match), dsa=dsa, students=students)


def stage1(cfg: Config) -> dict[str, Any]:
    return prior.stage1(cfg.space.prior) | ({"expert trajectories": cfg.students.experts} if cfg.match == "MTT" else {})


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    prior.prepare(real, cfg.space.prior, loop)
    if cfg.match == "MTT":
        train_experts(real, cfg.students.experts, loop)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into the latents of cfg.ipc images per class, and draw those.

    Returns: K x ipc normalised float32 images with hard labels, after the last update; for MTT with the learned step
             size as `facts.extra["lr_net"]`.
    Raises:  UserError: a generator or layer that does not fit the set.
    Source:  section 3 of the paper and its code.
    """
    loop = loop or Loop()
    generator = prior.prepare(real, cfg.space.prior, loop)
    rng = stream(seed, "latents")
    latents = Latents(generator, real, cfg.space, cfg.ipc, rng)
    if cfg.match == "MTT":
        matcher = TrajectoryMatcher(real, cfg, rng, loop)
    else:
        matcher = (GradientMatcher if cfg.match == "DC" else DistributionMatcher)(real, cfg, rng)
    for _ in loop.steps("distill", cfg.iterations, {**latents.live(), **matcher.live, "rng": rng}):
        loss, gradient = matcher(latents.images())
        latents.pull(gradient)
        latents.optimizer.step()
        loop.log(loss=loss)
    return latents.distilled("GLaD", seed, match=cfg.match, **matcher.extra)


# --- what is matched: images (K, ipc, C, H, W) -> loss, and its gradient by them --------------------------------------
class Matcher:
    """What DC and DM share: a fresh network for every step, and one augmentation per class for real and drawn images.

    Args:
        cfg: settings of GLaD or SLFD.
    """

    def __init__(self, real: ImageSet, cfg: Any, rng: torch.Generator):
        self.real, self.cfg, self.rng, self.dsa = real, cfg, rng, augment.dsa(cfg.dsa)
        self.network = networks.fresh(cfg.network, real, stream(0, "redrawn")).to(real.device).requires_grad_(False)
        self.live, self.extra = {}, {}

    def views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented real images (K, batch_real, C, H, W), and the images given in the same augmentation."""
        real_batch = self.real.draw_classes(self.cfg.batch_real, self.rng)
        omega = self.dsa.draw(self.rng, groups=self.real.num_classes)
        return self.dsa.apply(real_batch, omega), self.dsa.apply(images, omega)


class GradientMatcher(Matcher):
    """DC with siamese augmentation and GLaD's distance: `common.matching.match`."""

    def __init__(self, real: ImageSet, cfg: Any, rng: torch.Generator):
        super().__init__(real, cfg, rng)
        self.derivatives = Derivatives(self.network)

    def __call__(
        self, images: Tensor, loss: ImageLoss | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Loss and gradient; with another loss of the drawn images, the gradient by its `extra` numbers too."""
        self.network.redraw(self.rng)
        matching.freeze_batch_norm(self.network, self.real, self.rng)
        images = images.requires_grad_()
        real, seen = self.views(images)
        parameters, distance = [p.detach() for p in self.network.parameters()], matching.glad_distance
        total, gradient, *more = matching.match(self.derivatives, parameters, real, seen, distance, loss, extra)
        return total.sum(), torch.autograd.grad(seen, images, gradient)[0], *more


class DistributionMatcher(Matcher):
    """DM: `dm.dm_loss`."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.network.redraw(self.rng)
        images = images.requires_grad_()
        loss = dm_loss(self.network, *self.views(images))
        return loss.detach(), torch.autograd.grad(loss, images)[0]


class TrajectoryMatcher:
    """MTT: where students on the images end, against experts; the students' step size is learned beside the latents.

    The official code counts the weights before a step as fixed: it drops the terms of second order that lead from one
    step to the next. `Students.second_order` has both ways.
    """

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator, loop: Loop):
        students = cfg.students
        check_students(students)
        if students.experts.zca:
            raise UserError("GLaD's experts must be without ZCA, because a generator draws pixels")
        self.student = Student(train_experts(real, students.experts, loop), students, rng)
        self.optimizer = torch.optim.SGD([self.student.step_size], lr=students.lr_lr, momentum=cfg.space.momentum)
        self.live = self.student.live | {"by_step_size": self.optimizer}

    @property
    def extra(self) -> dict[str, float]:
        return {"lr_net": self.student.step_size.item()}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        exact = self.student.cfg.second_order is None
        loss, gradient = self.student.match(images, between_steps=exact)
        self.optimizer.step()
        return loss, gradient
