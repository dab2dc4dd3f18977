"""The conditional GAN's training, once per data set; the result is kept in `runs/`.

    gan = cgan.train(real, GAN(), loop)              # stage 1 of CGAN, DiM and SKD: trained unless runs/ has it
    images = gan.generator.draw(labels, rng)         # (B, C, H, W) in (-1, 1)

Images are in (-1, 1) here, pixels / 127.5 - 1; `normalised` maps them to a set's units. Beside the weights lie
`settings.json`, which says what they are, and `health.json`, which says how training went: losses, gradient penalty,
how many samples a classifier of real images puts into their class, and the Fréchet distance of its embeddings of
samples from those of real images.

Source: Wang et al. 2023 (DiM) and its code; Mirza and Osindero 2014 for the log loss; Gulrajani et al. 2017 for the
penalty.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ...core import store
from ...core.batches import Batches
from ...core.device import chunked, send
from ...core.errors import UserError
from ...core.files import read_tensors, undamaged, write_json, write_tensors
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, added, as_dict, replace, settings
from ...data import ImageSet
from ...evaluation.metrics.frechet import frechet_distance, moments
from ...networks import fast, reference
from ...networks.reference import Training
from ..training import kept_in, look_steps, lr_share, set_lr
from .losses import Loss, discriminator_loss, generator_loss, gradient_penalty
from .network import Architecture, Discriminator, Generator, normalised, redraw

VERSION = 1  # of what stage 1 makes: part of its file's name; raise those of its methods too


@settings
class GAN:
    """How the conditional GAN is trained. The defaults are DiM's."""

    width: int = 196
    noise: int = 100
    label: Literal["overwrite", "concatenate"] = "overwrite"
    label_scale: float = 1.0
    loss: Loss = "acwgan_gp"  # what DiM's code trains; "vanilla" is SKD's equation 1
    gp_weight: float = 10.0
    # steps from one gradient penalty to the next; the penalty's weight is multiplied by it (lazy regularisation; ours)
    gp_every: Count = 1
    epochs: int = 150
    batch: int = 128  # the last, partial batch of an epoch is left out
    per_epoch: int | None = None  # random real images an epoch passes over; None for all of them
    lr: float = 1e-4  # Adam, both networks
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero (ours)
    betas: tuple[float, float] = (0.0, 0.9)
    looks: Count = 15  # moments at which samples are judged; DiM looks every 10 epochs
    # the classifier of real images that judges samples
    judge: Training = field(default_factory=lambda: Training(network="ConvNetW32", epochs=20))
    samples: Count = 1000  # per look
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = added("float32")  # of multiplications in both networks

    def smoke(self) -> GAN:
        judge = replace(self.judge, epochs=1, batch=64, per_class=60)
        course = dict(epochs=1, batch=32, per_epoch=640, lr=1e-3, gp_every=4, looks=1, samples=100)
        return replace(self, width=16, label_scale=4.0, judge=judge, **course)

    def small(self) -> GAN:
        """Minutes on one CPU core: a narrower GAN, fewer steps at a higher rate, the penalty on every fourth."""
        judge = replace(self.judge, epochs=10, batch=64, per_class=600)
        course = dict(epochs=32, batch=32, per_epoch=2_560, lr=5e-4, lr_decay=0.5, gp_every=4, looks=10)
        return replace(self, width=32, label_scale=3.0, judge=judge, **course)

    def work_per_image(self) -> float:
        """Passes through generator and discriminator per training image; a backward pass counts as two forward ones."""
        return 13 + (6 / self.gp_every if self.loss == "acwgan_gp" else 0)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the networks, the judge's training included."""
        steps = self.epochs * (min(self.per_epoch or images, images) // self.batch)
        return steps * self.batch * self.work_per_image() + self.judge.work(num_classes, images)

    def architecture(self, real: ImageSet) -> Architecture:
        return Architecture(real.shape, real.num_classes, self.width, self.noise, self.label, self.label_scale).check()


class Pair:
    """A generator and a discriminator with their optimisers, and one step of both.

    Attributes:
        steps: how many were taken, as a list of one number.
    """

    def __init__(self, cfg: GAN, real: ImageSet, rng: torch.Generator | None = None):
        """Args: rng: draws the initial weights; None leaves PyTorch's, for weights that are read afterwards."""
        self.settings, arch = cfg, cfg.architecture(real)
        with torch.random.fork_rng(devices=[]):  # building layers draws from the global generator
            self.generator, self.discriminator = Generator(arch), Discriminator(arch)
        for module in self.modules:
            if rng is not None:
                redraw(module, rng)
            module.to(real.device).precision = cfg.precision
        adam = functools.partial(torch.optim.Adam, lr=cfg.lr, betas=cfg.betas, fused=True)
        self.optimizers = [adam(module.parameters()) for module in self.modules]
        self.steps = [0]

    @property
    def modules(self) -> tuple[Generator, Discriminator]:
        return self.generator, self.discriminator

    def set_lr(self, lr: float) -> None:
        for optimizer in self.optimizers:
            set_lr(optimizer, lr)

    def live(self) -> dict[str, Any]:
        """What a step changes, for `Loop.steps`."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        optimizers = dict(zip(("by_generator", "by_discriminator"), self.optimizers, strict=True))
        return networks | optimizers | {"steps": self.steps}

    def step(
        self, images: Tensor, labels: Tensor, rng: torch.Generator, matching: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """One generator step on images of these labels, then one discriminator step.

        Args:
            images:   (B, C, H, W) real, in [-1, 1]; labels (B,).
            matching: a further loss of the generator's images, added to its own.
        Returns: losses, for the log.
        """
        cfg, generator, discriminator = self.settings, self.generator, self.discriminator
        for_generator, for_discriminator = self.optimizers
        generator.train()
        fake = generator(generator.noise(len(labels), rng), labels)
        discriminator.requires_grad_(False)
        adversarial = generator_loss(cfg.loss, *discriminator(fake), labels)
        log = {"loss_generator": adversarial.detach()}
        total = adversarial
        if matching is not None:
            matched = matching(fake)
            total = adversarial + matched
            log["loss_matching"] = matched.detach()
        for_generator.zero_grad()
        total.backward()
        for_generator.step()
        discriminator.requires_grad_(True)

        other = send(torch.randint(generator.arch.num_classes, (len(labels),), generator=rng), labels.device)
        with torch.no_grad():
            fake = generator(generator.noise(len(labels), rng), other)
        scores, classes = discriminator(torch.cat([images, fake]))  # layer norm keeps images apart
        (real_score, fake_score), (real_classes, fake_classes) = scores.chunk(2), classes.chunk(2)
        loss = discriminator_loss(cfg.loss, (real_score, real_classes, labels), (fake_score, fake_classes, other))
        log |= {"loss_discriminator": loss.detach(), "score_gap": (real_score.mean() - fake_score.mean()).detach()}
        if cfg.loss == "acwgan_gp":
            alpha = send(torch.rand(len(labels), generator=rng), labels.device)
            if self.steps[0] % cfg.gp_every == 0:
                penalty = gradient_penalty(discriminator, images, fake, alpha)
                loss = loss + cfg.gp_weight * cfg.gp_every * penalty
                log["gradient_penalty"] = penalty.detach()
        for_discriminator.zero_grad()
        loss.backward()
        for_discriminator.step()
        self.steps[0] += 1
        return log

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimisers' states by name, for one file."""
        out = {}
        for role, module, optimizer in self._roles():
            out |= {f"{role}.{k}": v.detach() for k, v in module.state_dict().items()}
            for i, state in optimizer.state_dict()["state"].items():
                out |= {f"{role}.adam.{i}.{k}": v for k, v in state.items()}
        return out | {"steps": torch.tensor(self.steps)}

    def read(self, tensors: dict[str, Tensor]) -> Self:
        """Put back what `tensors` gave."""
        for role, module, optimizer in self._roles():
            own = {k.removeprefix(f"{role}."): v for k, v in tensors.items() if k.startswith(f"{role}.")}
            module.load_state_dict({k: v for k, v in own.items() if not k.startswith("adam.")})
            state: dict[int, dict[str, Tensor]] = {}
            for k, v in own.items():
                if k.startswith("adam."):
                    _, i, name = k.split(".")
                    state.setdefault(int(i), {})[name] = v.clone()
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.steps[:] = tensors["steps"].tolist()
        return self

    def _roles(self) -> Iterator[tuple[str, Generator | Discriminator, torch.optim.Adam]]:
        return zip(("generator", "discriminator"), self.modules, self.optimizers, strict=True)


def batches_of(real: ImageSet, batch: int, epochs: int, per_epoch: int | None) -> Batches:
    """Shuffled batches without the last, partial one of an epoch.

    Raises: UserError: settings that make no batch.
    """
    images = min(per_epoch or len(real), len(real))
    if not 1 < batch <= images or epochs < 1:
        given = f"conditional GAN: {epochs} epochs of {images} images in batches of {batch}"
        raise UserError(f"{given}; a batch of 2 to {images}, at least 1 epoch")
    return Batches(len(real), batch, last="drop", per_epoch=per_epoch)


@dataclass(frozen=True)
class TrainedGAN:
    """Stage 1 on disk: `pair` gives both networks to go on with, `generator` the generator alone.

    Attributes:
        folder: `gan.safetensors`, `settings.json`, `health.json`.
        health: one entry per look: step, losses, class_accuracy_pct, frechet_distance.
    """

    folder: Path
    settings: GAN
    real: ImageSet

    @property
    def file(self) -> Path:
        return self.folder / "gan.safetensors"

    @property
    def health(self) -> list[dict[str, float]]:
        return json.loads((self.folder / "health.json").read_text())["looks"]

    def pair(self) -> Pair:
        """Raises: UserError: a missing or damaged file."""
        with undamaged(self.file, "delete it to train the GAN again"):
            return Pair(self.settings, self.real).read(read_tensors(self.file)[0])

    @property
    def generator(self) -> Generator:
        return self.pair().generator.eval().requires_grad_(False)


def train(real: ImageSet, cfg: GAN, loop: Loop | None = None) -> TrainedGAN:
    """The conditional GAN of these settings: read from `runs/generators`, or trained and put there if it is missing.

    A second process that asks for the same GAN waits for the first one's.

    Args:
        real: (N, C, H, W) images without whitening, on the device to compute on.
    Raises: UserError: images or settings no GAN here fits.  TimeUp: the loop's deadline passed.
    """
    loop = loop or Loop()
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: a conditional GAN draws pixels; give the set without whitening")
    cfg.architecture(real)
    batches = batches_of(real, cfg.batch, cfg.epochs, cfg.per_epoch)
    key = {"gan": as_dict(cfg), "data": real.sha256(), "version": VERSION, "judge": reference.VERSION}
    found = TrainedGAN(kept_in("cgan", real.facts.name, key), cfg, real)
    with store.once(found.file, "conditional GAN", loop, real.device) as missing:
        if missing:
            _train(found, batches, loop)
    return found


def _train(found: TrainedGAN, batches: Batches, loop: Loop) -> None:
    cfg, real = found.settings, found.real
    judge = HealthCheck(real, cfg, loop)
    rng = stream(cfg.seed, "conditional GAN")
    pair = Pair(cfg, real, rng)
    steps = cfg.epochs * batches.steps_per_epoch
    looks: list[dict[str, float]] = []
    at, clock = look_steps(steps, cfg.looks), {"seconds": 0.0}
    live = pair.live() | {"rng": rng, "order": batches.order, "looks": looks, "clock": clock}
    for step in loop.steps("conditional_gan", steps, live):
        start = time.perf_counter()
        index = send(batches.index(step, rng), real.device)
        pair.set_lr(cfg.lr * lr_share(step, steps, lr_decay=cfg.lr_decay))
        log = pair.step(real.signed(index), real.hard_labels[index], rng)
        if step in at:
            looks.append({"step": step + 1, **{k: float(v) for k, v in log.items()}, **judge(pair.generator)})
        loop.log(**log)
        clock["seconds"] += time.perf_counter() - start
    about = {"family": "cgan", "architecture": as_dict(pair.generator.arch), "settings": as_dict(cfg)}
    about |= {"dataset": real.facts.name, "data_sha256": real.sha256()}
    about |= {"steps": steps, "seconds": round(clock["seconds"], 1)}
    health = {"feature_space": judge.feature_space, "classifier_accuracy_on_real_pct": judge.real_accuracy_pct}
    write_json(found.folder / "settings.json", about)
    write_json(found.folder / "health.json", health | {"looks": looks})
    write_tensors(found.file, pair.tensors())
    store.forget(loop, "conditional_gan")


class HealthCheck:
    """Samples judged by a classifier of real images: the share it puts into their class, and the Fréchet distance of
    its embeddings from those of real images. The noise is the same at every look."""

    def __init__(self, real: ImageSet, cfg: GAN, loop: Loop | None = None):
        self.real, self.cfg = real, cfg
        self.network = reference.on_real(real, cfg.judge, cfg.seed, loop).network
        rng = stream(cfg.seed, "health", "real")
        index = torch.randperm(len(real), generator=rng)[: cfg.samples]
        features, right = self._seen(real.take(index)[0], real.hard_labels[index.to(real.device)])
        self.reference, self.real_accuracy_pct = moments(features), 100 * right
        space = f"embedding ({features.shape[1]} numbers) of {cfg.judge.network} trained on real {real.facts.name}"
        self.feature_space = f"{space}, {cfg.samples} images each"

    def __call__(self, generator: Generator) -> dict[str, float]:
        labels = torch.arange(self.cfg.samples, device=self.real.device) % self.real.num_classes
        images = normalised(generator.draw(labels, stream(self.cfg.seed, "health", "noise")), self.real)
        features, right = self._seen(images, labels)
        distance = frechet_distance(self.reference, moments(features))
        return {"class_accuracy_pct": 100 * right, "frechet_distance": distance}

    @torch.no_grad()
    def _seen(self, images: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """(N, D) embeddings, and the share of images that the classifier gets right."""
        features = chunked(lambda x: fast.embed(self.network, x).float(), images, 256)
        return features, float((self.network.classifier(features).argmax(1) == labels).float().mean())


# --- of a method whose settings hold a `gan` ---
def stage1(cfg: Any) -> dict[str, GAN]:
    """What cells share before their sets differ."""
    return {"conditional GAN": cfg.gan}


def prepare(real: ImageSet, cfg: Any, seed: int, loop: Loop | None = None) -> None:
    """Make stage 1, if it is not there."""
    train(real, cfg.gan, loop)
