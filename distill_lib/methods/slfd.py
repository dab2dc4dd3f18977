"""SLFD: dataset distillation with probabilistic latent features (Li et al. 2025). Book page: book/slfd.md

GLaD with a stochastic module: three linear layers make of an image's codes a normal distribution over class logits
(`Heads`, equation 3). Samples of it shift the network's prediction for the drawn image, and minus the log of the mean
likelihood over them takes the place of the cross-entropy (`stochastic_loss`, equations 4 to 6). Codes, features and
module are learned together; the module is dropped at the end.

No code of the paper was published and its formulas are lost. What it states in words is kept; every reconstruction is a
field of `StochasticModule` or `Config` whose comment says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.device import send
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, augment
from ..generators import prior
from .common import matching
from .common.latents import SMALL, CodeSpace, Latents
from .glad import GradientMatcher, Matcher

VERSION = 1


@settings
class StochasticModule:
    """(paper): stated in words there. (SSN): as in its model, Monteiro et al. 2020. (ours): a reconstruction."""

    rank: Count | None = 10  # of the covariance's factor (paper); None: full covariance by its Cholesky factor (paper)
    samples: Count = 20  # Monte-Carlo samples; the paper's number is lost (SSN's)
    antithetic: bool = True  # samples in pairs of opposite noise, so that their mean is exact (ours)
    event: Literal["logits", "joint", "codes"] = "logits"  # logits of an image, or of all; a vector per code (ours)
    inputs: Literal["all", "mean"] = "all"  # of the layers: the codes in a row, or their mean (ours)
    scaled: bool = True  # inputs over the root of their number: Adam moves 13,824 of them by too much at once (ours)
    refine: Literal["logits", "probabilities"] = (
        "logits"  # of DC and "loss": what samples are added to; paper: probabilities, into a CE
    )
    average: Literal["likelihood", "loss"] = "likelihood"  # the same: log-sum-exp (paper), or mean cross-entropy
    mean_weight: float = 0.0  # of the squared norm of the means in the loss: they should not do the matching (ours)
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
            raise UserError("event 'joint' shares the noise of a low-rank factor among all images: give a rank")


@settings
class Config:
    ipc: Count = 1  # images per class
    match: Literal["DC", "DM"] = "DC"
    reading: Literal["logits", "embedding", "loss"] = "logits"  # of SLFD with DM: see `StochasticDistributions` (ours)
    reading_weight: float = 1.0  # of what a reading adds to DM's loss: "logits" and "loss" (ours)
    iterations: int = 1_001  # updates of the latents, one fresh network each
    network: str = "ConvNet"
    batch_real: Count = 256  # real images per class and step
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # one draw per class and step, for real and rendered images
    space: CodeSpace = CodeSpace()
    module: StochasticModule = StochasticModule()

    def smoke(self) -> Config:
        return replace(lowered(self, iterations=10, batch_real=16), space=self.space.smoke())

    def small(self) -> Config:
        """A budget one CPU core finishes in minutes; a conditional GAN trained on the set itself is the prior."""
        iterations, batch_real = SMALL[self.match]
        few = lowered(self, iterations=iterations)
        return replace(few, batch_real=batch_real, space=self.space.small(self.match))


def paper_config(dataset: str, ipc: int, match: str = "DC") -> Config:
    """The setting behind one cell of the paper's tables: GLaD's, which it says it follows, and rank 10."""
    return Config(ipc=ipc, match=match, space=CodeSpace.published(dataset, match), dsa=augment.strategy_for(dataset))


def stage1(cfg: Config) -> dict[str, Any]:
    return prior.stage1(cfg.space.prior)


def prepare(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> None:
    prior.prepare(real, cfg.space.prior, loop)


def measure(synthetic: ImageSet, test: ImageSet, cfg: Config) -> dict[str, list[Any]]:
    """The module's course, for the record: norm of the means, trace of the covariance, correlations."""
    return {f"module, {k}": v for k, v in synthetic.facts.extra["module"].items()}


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into the latents of cfg.ipc images per class, and draw those.

    Returns: K x ipc normalised float32 images with hard labels, after the last update; `facts.extra["module"]` says how
             the module changed on the way.
    Raises:  UserError: a generator or layer that does not fit the set; settings of the module that contradict one
             another.
    Source:  section 3 of the paper, reconstructed.
    """
    loop, module = loop or Loop(), cfg.module
    module.check()
    generator = prior.prepare(real, cfg.space.prior, loop)
    rng, noise = stream(seed, "latents"), stream(seed, "module")
    latents = Latents(generator, real, cfg.space, cfg.ipc, rng)
    matcher = (StochasticGradients if cfg.match == "DC" else StochasticDistributions)(real, cfg, rng)
    heads = Heads(module, latents.w.shape[1:], matcher.event, noise).to(real.device)
    optimizer = (torch.optim.Adam if module.optimizer == "adam" else torch.optim.SGD)(heads.parameters(), lr=module.lr)
    seen: list[dict[str, Any]] = []
    live = {**latents.live(), "heads": heads, "by_module": optimizer, "rng": rng, "noise": noise, "seen": seen}
    looks = {round(cfg.iterations * i / 10) for i in range(10)}
    for step in loop.steps("distill", cfg.iterations, live):
        if step in looks:
            seen.append({"step": step, **heads(latents.w.detach()).summary()})
        codes = latents.w.detach().requires_grad_(module.reaches_codes)
        normal = heads(codes)
        samples = normal.sample(module, noise).transpose(0, 1).unflatten(0, (-1, cfg.ipc))  # (K, ipc, M, E)
        loss, by_images, by_samples = matcher(latents.images(), samples.detach())
        latents.pull(by_images)
        penalty = module.mean_weight * normal.mean.square().sum()
        optimizer.zero_grad()
        torch.autograd.backward([samples, penalty], [by_samples, torch.ones_like(penalty)])
        if module.reaches_codes:
            latents.w.grad += codes.grad
        latents.optimizer.step()
        optimizer.step()
        loop.log(loss=loss, mean_norm=normal.mean.detach().norm(dim=-1).mean())
    last = heads(latents.w.detach())
    seen.append({"step": cfg.iterations, **last.summary()})
    history = {k: [look[k] for look in seen] for k in ("step", "mean_norm", "covariance_trace")}
    if "correlation" in seen[0]:
        history["correlation"] = [look["correlation"].tolist() for look in (seen[0], seen[-1])]
    return latents.distilled("SLFD", seed, match=cfg.match, module=history, normal=last.numbers())


# --- the module -------------------------------------------------------------------------------------------------------
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

    def sample(self, module: StochasticModule, rng: torch.Generator) -> Tensor:
        """(M, N, E) samples, differentiable. With a joint event all images share the noise of the factor.

        Of distributions per code (N, L, E) it is the sum over codes, divided by the root of their number.
        """
        count, columns = module.samples // (1 + module.antithetic), self.factor.shape[-1]
        shared = [1] * (self.factor.ndim - 2) if module.event == "joint" else self.factor.shape[:-2]

        def normal(*shape: int) -> Tensor:
            return send(torch.randn(count, *shape, generator=rng, device=rng.device), self.mean.device)

        e1 = normal(*shared, columns)
        e2 = e1 if self.full else normal(*self.d.shape)
        noise = (self.factor @ e1[..., None])[..., 0] + self.d.sqrt() * e2
        found = self.mean + (torch.cat([noise, -noise]) if module.antithetic else noise)
        return found.sum(2) / found.shape[2] ** 0.5 if module.event == "codes" else found

    @torch.no_grad()
    def summary(self) -> dict[str, Any]:
        """Means over the images; the matrix of correlations only of a small event."""
        variance = self.d + self.factor.square().sum(-1)
        out: dict[str, Any] = {
            "mean_norm": float(self.mean.norm(dim=-1).mean()),
            "covariance_trace": float(variance.sum(-1).mean()),
        }
        if self.mean.shape[-1] <= 20:
            scale = variance.rsqrt()
            out["correlation"] = (self.covariance * scale[..., None] * scale[..., None, :]).flatten(0, -3).mean(0).cpu()
        return out

    @torch.no_grad()
    def numbers(self) -> dict[str, Any] | None:
        """The distributions as plain lists, for `final`; None if there is more than one per image, or E > 20."""
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

    def __init__(self, module: StochasticModule, codes: tuple[int, int], event: int, rng: torch.Generator):
        super().__init__()
        self.module, self.event = module, event
        self.columns = event if module.rank is None else module.rank
        inputs = codes[1] if module.event == "codes" or module.inputs == "mean" else codes[0] * codes[1]
        sizes = event, event, event * self.columns
        self.mean, self.diagonal, self.factor = (nn.utils.skip_init(nn.Linear, inputs, n) for n in sizes)
        with torch.no_grad():
            for layer in (self.mean, self.diagonal, self.factor):
                noise = torch.randn(layer.weight.shape, generator=rng, device=rng.device)
                layer.weight.copy_(noise * module.start_std)
                layer.bias.fill_(module.start_log_variance if layer is self.diagonal else 0.0)

    def forward(self, w: Tensor) -> Normal:
        """(N, num_ws, w_dim) to distributions per image, or per code with event "codes"."""
        module, full = self.module, self.module.rank is None
        h = w if module.event == "codes" else w.flatten(1) if module.inputs == "all" else w.mean(1)
        h = h * h.shape[-1] ** -0.5 if module.scaled else h
        factor = self.factor(h).unflatten(-1, (self.event, self.columns))
        d = self.diagonal(h).exp() + module.eps
        return Normal(self.mean(h), d, factor.tril(-1) if full else factor, full)


# --- losses -----------------------------------------------------------------------------------------------------------
def stochastic_loss(
    logits: Tensor, labels: Tensor, samples: Tensor, module: StochasticModule = StochasticModule()
) -> Tensor:
    """(N,) minus the log of the label's mean likelihood over the samples, each added to the prediction.

    Args:
        logits:  (N, K) of the network; labels (N,).
        samples: (N, M, K).
    Source: equations 4 to 6, reconstructed: -(logsumexp over m of -CE(p + eta_m, y)) + log M.
    """
    refined = (logits if module.refine == "logits" else logits.softmax(1))[:, None] + samples
    labels = labels[:, None, None].expand(-1, samples.shape[1], 1)
    likelihood = refined.log_softmax(2).gather(2, labels)[..., 0]  # (N, M), logarithms
    if module.average == "likelihood":
        return math.log(samples.shape[1]) - likelihood.logsumexp(1)
    return -likelihood.mean(1)


class StochasticGradients(GradientMatcher):
    """SLFD with DC: the gradient of the real images' cross-entropy against that of the stochastic loss, class by class.

    The prediction stays in the graph: all that depends on the network's weights comes through it.
    """

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator):
        super().__init__(real, cfg, rng)
        self.event = real.num_classes

    def __call__(self, images: Tensor, samples: Tensor) -> tuple[Tensor, ...]:
        """Loss, and its gradients by images (K, ipc, C, H, W) and samples (K, ipc, M, K)."""
        return super().__call__(images, partial(stochastic_loss, module=self.cfg.module), samples)


class StochasticDistributions(Matcher):
    """SLFD with DM, in three readings of what the paper only names.

    "logits": DM's distance of mean embeddings, and that of mean logits with the samples added to the drawn images'.
    "embedding": samples are of the embedding; the mean over samples of the distance of mean embeddings with them added.
    "loss": DM's distance, and the stochastic loss of the drawn images under the same network with its random weights.
    """

    def __init__(self, real: ImageSet, cfg: Config, rng: torch.Generator):
        super().__init__(real, cfg, rng)
        self.event = self.network.embed_dim if cfg.reading == "embedding" else real.num_classes

    def __call__(self, images: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and its gradients by images (K, ipc, C, H, W) and samples (K, ipc, M, E)."""
        self.network.redraw(self.rng)
        images, samples = images.requires_grad_(), samples.requires_grad_()
        loss = self.loss(self.network, *self.views(images), samples)
        return loss.detach(), *torch.autograd.grad(loss, [images, samples])

    def loss(self, network: nn.Module, real: Tensor, synthetic: Tensor, samples: Tensor) -> Tensor:
        """Scalar, from (K, n, C, H, W) real, (K, m, C, H, W) synthetic images and (K, m, M, E) samples."""
        cfg = self.cfg
        target = matching.mean_embeddings(network, real)  # (K, D)
        e = matching.embeddings(network, synthetic)  # (K, m, D)
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
