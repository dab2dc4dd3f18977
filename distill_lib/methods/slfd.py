"""SLFD: dataset distillation with probabilistic latent features (Li et al. 2025). Book page: book/slfd.md

GLaD, and a module of three linear layers that makes of an image's codes a normal distribution over class logits: mean,
diagonal, and low-rank factor of the covariance. Samples of it shift the network's prediction for the synthetic image,
and the log of the mean likelihood over them takes the place of the cross-entropy. Codes, features and module are
learned together; the module is dropped at the end.

No code of the paper was published and its formulas are lost. What it states in words is kept; every reconstruction is a
field of `Module` or `Config` whose comment says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
from .common import matching
from .common.latents import SMALL, Latents, Space

VERSION = 1


@settings
class Module:
    """The stochastic module. "Paper" is stated in words there, "SSN" is Monteiro et al. 2020, its model, "ours" a
    reconstruction."""

    rank: Count | None = (
        10  # of the covariance's factor; None: full covariance by its Cholesky factor (paper: "rank=10" and "multi")
    )
    samples: Count = 20  # Monte-Carlo samples; the paper's number is lost (SSN's)
    antithetic: bool = True  # samples in pairs of opposite noise, so that their mean is exact (ours)
    event: Literal["logits", "joint", "codes"] = (
        "logits"  # an image's logits; those of all images; a vector per code (ours)
    )
    inputs: Literal["all", "mean"] = "all"  # of the layers: the codes in a row, or their mean (ours)
    scaled: bool = True  # the inputs divided by the root of their number: else Adam moves 13,824 of them by too much in one step (ours)
    refine: Literal["logits", "probabilities"] = (
        "logits"  # what a sample is added to; the paper says probabilities, and feeds them to a CE
    )
    average: Literal["likelihood", "loss"] = (
        "likelihood"  # over samples: log-sum-exp (paper), or the mean cross-entropy
    )
    mean_weight: float = (
        0.0  # of the squared norm of the means, added to the loss, so that they do not take over the matching (ours)
    )
    reaches_codes: bool = True  # the codes learn from the module too (ours)
    optimizer: Literal["adam", "sgd"] = "adam"  # of the layers (ours)
    lr: float = 1e-3  # (ours)
    start_std: float = 1e-3  # of the layers' weights, so that the start is GLaD's (ours)
    start_log_variance: float = -4.0  # bias of the diagonal (ours)
    eps: float = 1e-5  # added to the diagonal (SSN)

    def check(self) -> None:
        """Raises: UserError: settings that contradict one another."""
        if self.antithetic and self.samples % 2:
            raise UserError(f"{self.samples} samples in pairs: give an even number, or antithetic=False")
        if self.event == "joint" and self.rank is None:
            raise UserError(
                "a joint event of all images shares the noise of a low-rank factor: give a rank; a full covariance is of one image"
            )


@settings
class Config:
    ipc: Count = 1  # images per class
    match: Literal["DC", "DM"] = "DC"
    reading: Literal["logits", "embedding", "loss"] = (
        "logits"  # of SLFD with DM, which the paper only names: see `Distributions` (ours)
    )
    reading_weight: float = 1.0  # of what a reading adds to DM's loss: "logits" and "loss" (ours)
    iterations: int = 1_001  # updates of the latents, one fresh network each
    network: str = "ConvNet"
    batch_real: Count = 256  # real images per class and step
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # one draw per class and step for real and rendered images; "none" for none
    space: Space = field(default_factory=Space)
    module: Module = field(default_factory=Module)

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        return replace(
            self, iterations=min(self.iterations, 10), batch_real=min(self.batch_real, 16), space=self.space.smoke()
        )

    def small(self) -> Config:
        """A budget one CPU core finishes in minutes; a conditional GAN trained on the set itself is the prior."""
        iterations, batch = SMALL[self.match]
        return replace(
            self, iterations=min(self.iterations, iterations), batch_real=batch, space=self.space.small(self.match)
        )


def paper_config(dataset: str, ipc: int, match: str = "DC") -> Config:
    """The setting behind one cell of the paper's tables: GLaD's, which it says it follows, and rank 10."""
    return Config(ipc=ipc, match=match, space=Space.published(dataset, match), dsa=augment.strategy_for(dataset))


def stage1(cfg: Config) -> dict[str, GAN]:
    """What cells share before their sets differ."""
    return prior.stage1(cfg.space.prior)


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    """Make stage 1, if it is not there."""
    prior.prepare(real, cfg.space.prior, loop)


def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[Any]]:
    """How the module changed on the way, for the record: norm of the means, trace of the covariance, correlations."""
    return {f"module, {k}": v for k, v in synthetic.facts.extra["module"].items()}


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into the latents of cfg.ipc images per class, and draw those.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc normalised float32 images with hard labels, after the last update; `facts.extra["module"]` says how
    the module
             changed on the way.
    Raises:  UserError: a generator or layer that does not fit the set; settings of the module that contradict one
    another. Source:  section 3 of the paper, reconstructed.
    """
    loop, of = loop or Loop(), cfg.module
    of.check()
    made = prior.prepare(real, cfg.space.prior, loop)
    rng, noise = stream(seed, "latents"), stream(seed, "module")
    latents = Latents(made, real, cfg.space, cfg.ipc, rng)
    matcher = (Gradients if cfg.match == "DC" else Distributions)(real, cfg, rng)
    heads = Heads(of, latents.w.shape[1:], matcher.event, noise).to(real.device)
    by_module = (torch.optim.Adam if of.optimizer == "adam" else torch.optim.SGD)(heads.parameters(), lr=of.lr)
    seen: list[dict[str, Any]] = []
    live = {**latents.live(), "heads": heads, "by_module": by_module, "rng": rng, "noise": noise, "seen": seen}
    at = {round(cfg.iterations * i / 10) for i in range(10)}
    for step in loop.steps("distill", cfg.iterations, live):
        if step in at:
            seen.append({"step": step, **heads(latents.w.detach()).summary()})
        codes = latents.w.detach().requires_grad_(of.reaches_codes)
        normal = heads(codes)
        samples = normal.sample(of, noise).transpose(0, 1).unflatten(0, (-1, cfg.ipc))  # (K, ipc, M, E)
        loss, by_images, by_samples = matcher(latents.images(), samples.detach())
        latents.pull(by_images)
        penalty = of.mean_weight * normal.mean.square().sum()
        by_module.zero_grad()
        torch.autograd.backward([samples, penalty], [by_samples, torch.ones_like(penalty)])
        if of.reaches_codes:
            latents.w.grad += codes.grad
        latents.optimizer.step()
        by_module.step()
        loop.log(loss=loss, mean_norm=normal.mean.detach().norm(dim=-1).mean())
    seen.append({"step": cfg.iterations, **heads(latents.w.detach()).summary()})
    return latents.distilled(
        "SLFD", seed, match=cfg.match, module=_history(seen), normal=heads(latents.w.detach()).numbers()
    )


def _history(seen: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Numbers by moment; correlation matrices of the first and the last."""
    out = {k: [moment[k] for moment in seen] for k in ("step", "mean_norm", "covariance_trace")}
    if "correlation" in seen[0]:
        out["correlation"] = [seen[0]["correlation"].tolist(), seen[-1]["correlation"].tolist()]
    return out


# --- the module --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Normal:
    """Normal distributions N(mean, F F' + diag d); `full`: N(mean, L L') with L = F + diag(sqrt d), F strictly lower
    triangular.

    Shapes: mean, d (..., E); F (..., E, R).
    Source: equation 3 of the paper; Monteiro et al. 2020.
    """

    mean: Tensor
    d: Tensor
    factor: Tensor
    full: bool = False

    @property
    def covariance(self) -> Tensor:
        """(..., E, E)."""
        factor = self.factor + torch.diag_embed(self.d.sqrt()) if self.full else self.factor
        return factor @ factor.mT + (0 if self.full else torch.diag_embed(self.d))

    def sample(self, of: Module, rng: torch.Generator) -> Tensor:
        """(M, N, E) samples, differentiable; of distributions per code (N, L, E), the sum over codes divided by the
        root of their number.

        With a joint event all images share the noise of the factor.
        """
        count = of.samples // 2 if of.antithetic else of.samples
        first = self.factor.shape[:-2] if of.event != "joint" else (1,) * len(self.factor.shape[:-2])
        e1 = send(torch.randn(count, *first, self.factor.shape[-1], generator=rng, device=rng.device), self.mean.device)
        e2 = (
            e1
            if self.full
            else send(torch.randn(count, *self.d.shape, generator=rng, device=rng.device), self.mean.device)
        )
        noise = (self.factor @ e1[..., None])[..., 0] + self.d.sqrt() * e2
        found = self.mean + (torch.cat([noise, -noise]) if of.antithetic else noise)
        return found.sum(2) / found.shape[2] ** 0.5 if of.event == "codes" else found

    @torch.no_grad()
    def summary(self) -> dict[str, Any]:
        """Means over the images; the matrix of correlations only where it is small."""
        covariance = self.covariance if self.mean.shape[-1] <= 100 else None
        variance = self.d + self.factor.square().sum(-1)
        out: dict[str, Any] = {
            "mean_norm": float(self.mean.norm(dim=-1).mean()),
            "covariance_trace": float(variance.sum(-1).mean()),
        }
        if covariance is not None and self.mean.shape[-1] <= 20:
            scale = variance.rsqrt()
            out["correlation"] = (covariance * scale[..., None] * scale[..., None, :]).flatten(0, -3).mean(0).cpu()
        return out

    @torch.no_grad()
    def numbers(self) -> dict[str, Any] | None:
        """Plain numbers of a small event, from which `final` makes the distributions again; None for a large one."""
        if self.mean.shape[-1] > 20 or self.mean.ndim > 2:
            return None
        return {"mean": self.mean.tolist(), "d": self.d.tolist(), "factor": self.factor.tolist(), "full": self.full}


def final(synthetic: ImageSet) -> Normal:
    """The distributions of a set's images at the end of its distillation, (K x ipc, ...).

    Raises: UserError: a set of another method, or of an event that is not an image's logits.
    """
    kept = synthetic.facts.extra.get("normal")
    if not kept:
        which = "SLFD's do, with event='logits' and up to 20 classes"
        raise UserError(f"{synthetic.facts.name}: this set carries no distributions of logits; {which}")
    return Normal(*(torch.tensor(kept[k]) for k in ("mean", "d", "factor")), full=kept["full"])


class Heads(nn.Module):
    """Three linear layers: codes -> mean, logarithm of the diagonal, factor.

    Args:
        codes: (num_ws, w_dim).
        event: E, the numbers that are jointly normal.
    """

    def __init__(self, of: Module, codes: tuple[int, int], event: int, rng: torch.Generator):
        super().__init__()
        self.of, self.event = of, event
        self.columns = event if of.rank is None else of.rank
        inputs = codes[1] if of.event == "codes" or of.inputs == "mean" else codes[0] * codes[1]
        self.mean, self.diagonal, self.factor = (
            torch.nn.utils.skip_init(nn.Linear, inputs, outputs) for outputs in (event, event, event * self.columns)
        )
        with torch.no_grad():
            for layer, bias in ((self.mean, 0.0), (self.diagonal, of.start_log_variance), (self.factor, 0.0)):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng, device=rng.device) * of.start_std)
                layer.bias.fill_(bias)

    def forward(self, w: Tensor) -> Normal:
        """(N, num_ws, w_dim) to distributions per image, or per code where the event is "codes"."""
        of = self.of
        h = w if of.event == "codes" else w.flatten(1) if of.inputs == "all" else w.mean(1)
        h = h * h.shape[-1] ** -0.5 if of.scaled else h
        factor = self.factor(h).unflatten(-1, (self.event, self.columns))
        d = self.diagonal(h).exp() + of.eps
        return (
            Normal(self.mean(h), d, factor.tril(-1), full=True) if of.rank is None else Normal(self.mean(h), d, factor)
        )


# --- losses ------------------------------------------------------------------------------------------------------------
def stochastic_loss(logits: Tensor, labels: Tensor, samples: Tensor, of: Module = Module()) -> Tensor:
    """(N,) minus the log of the label's mean likelihood over the samples, each added to the prediction.

    Args:
        logits:  (N, K) of the network; labels (N,).
        samples: (N, M, K).
    Source: equations 4 to 6, reconstructed: -(logsumexp over m of -CE(p + eta_m, y)) + log M.
    """
    refined = (logits if of.refine == "logits" else logits.softmax(1))[:, None] + samples
    likelihood = refined.log_softmax(2).gather(2, labels[:, None, None].expand(-1, samples.shape[1], 1))[
        ..., 0
    ]  # (N, M), logarithms
    return math.log(samples.shape[1]) - likelihood.logsumexp(1) if of.average == "likelihood" else -likelihood.mean(1)


class Gradients:
    """SLFD with DC: the gradient of the real images' cross-entropy against that of the stochastic loss, class by class.

    The prediction stays in the graph: all that depends on the network's weights comes through it.
    The distance is GLaD's.
    """

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator):
        self.real, self.cfg, self.rng, self.dsa, self.event = real, cfg, rng, augment.dsa(cfg.dsa), real.num_classes
        self.network = networks.fresh(cfg.network, real, stream(0, "redrawn")).to(real.device).requires_grad_(False)
        self.derivatives = Derivatives(self.network)

    def __call__(self, images: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and its gradients by images (K, ipc, C, H, W) and samples (K, ipc, M, K)."""
        self.network.redraw(self.rng)
        matching.freeze_batch_norm(self.network, self.real, self.rng)
        real_batch = self.real.draw_classes(self.cfg.batch_real, self.rng)
        omega = self.dsa.draw(self.rng, groups=self.real.num_classes)
        images = images.requires_grad_()
        seen = self.dsa.apply(images, omega)
        distance, gradient, by_samples = matching.match(
            self.derivatives,
            [p.detach() for p in self.network.parameters()],
            self.dsa.apply(real_batch, omega),
            seen,
            between=matching.glad_distance,
            extra=samples,
            loss=lambda logits, labels, extra: stochastic_loss(logits, labels, extra, self.cfg.module),
        )
        return distance.sum(), torch.autograd.grad(seen, images, gradient)[0], by_samples


class Distributions:
    """SLFD with DM, in three readings of what the paper only names.

    "logits": DM's distance of mean embeddings, and that of mean logits with the samples added to the synthetic ones.
    "embedding": samples are of the embedding; the mean over samples of the distance of mean embeddings with them added.
    "loss": DM's distance, and the stochastic loss of the synthetic images under the same network with its random
    weights.
    """

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator):
        self.real, self.cfg, self.rng, self.dsa, self.event = real, cfg, rng, augment.dsa(cfg.dsa), real.num_classes
        self.network = networks.blank(cfg.network, real.shape, real.num_classes).to(real.device).requires_grad_(False)
        if cfg.reading == "embedding":
            self.event = self.network.embed_dim

    def __call__(self, images: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and its gradients by images (K, ipc, C, H, W) and samples (K, ipc, M, E)."""
        self.network.redraw(self.rng)
        real_batch = self.real.draw_classes(self.cfg.batch_real, self.rng)
        omega = self.dsa.draw(self.rng, groups=self.real.num_classes)
        images, samples = images.requires_grad_(), samples.requires_grad_()
        loss = self.loss(self.network, self.dsa.apply(real_batch, omega), self.dsa.apply(images, omega), samples)
        return loss.detach(), *torch.autograd.grad(loss, [images, samples])

    def loss(self, network: nn.Module, real: Tensor, synthetic: Tensor, samples: Tensor) -> Tensor:
        """Scalar, from (K, n, C, H, W) real, (K, m, C, H, W) synthetic images and (K, m, M, E) samples."""
        cfg = self.cfg
        target, e = matching.real_means(network, real), matching.embeddings(network, synthetic)  # (K, D), (K, m, D)
        if cfg.reading == "embedding":
            shifted = (e[:, :, None] + samples).mean(1)  # (K, M, D)
            return (target[:, None] - shifted).square().sum((0, 2)).mean()
        loss = (target - e.mean(1)).square().sum()
        p = network.classifier(e)  # (K, m, K)
        if cfg.reading == "logits":
            wanted, found = network.classifier(target), (p[:, :, None] + samples).mean((1, 2))
            return loss + cfg.reading_weight * (wanted - found).square().sum()
        labels = torch.arange(len(p), device=p.device).repeat_interleave(p.shape[1])
        each = stochastic_loss(p.flatten(0, 1), labels, samples.flatten(0, 1), cfg.module)
        return loss + cfg.reading_weight * each.unflatten(0, p.shape[:2]).mean(1).sum()
