"""Conditional GAN as in DiM: generator, discriminator, losses, and its training once per data set, kept in `runs/`.

    gan = cgan.train(real, GAN(), loop)              # stage 1 of CGAN, DiM and SKD: trained where runs/ has it not
    images = gan.generator.draw(labels, rng)         # (B, C, H, W) in (-1, 1)

Images are in (-1, 1) here, pixels / 127.5 - 1; `normalised` maps them to a set's units. `settings.json` beside the
weights says what they are, and `health.json` how training went: losses, gradient penalty, how many samples a classifier
trained on real images puts into their class, and the Fréchet distance of its embeddings of samples to those of real
images.

Source: Wang et al. 2023 (DiM) and its code; Mirza and Osindero 2014 for the log loss; Gulrajani et al. 2017 for the
penalty.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ...core import paths, store
from ...core.batches import Batches
from ...core.device import chunked, send
from ...core.errors import UserError
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, added, as_dict, replace, settings
from ...data import ImageSet
from ...evaluation.metrics.frechet import frechet_distance, moments
from ...networks import fast, memory, reference
from ...networks.reference import Training
from .losses import Loss, discriminator_loss, generator_loss, gradient_penalty
from .network import Architecture, Discriminator, Generator, normalised, redraw

VERSION = 1  # of what stage 1 makes: part of the key


# --- training ----------------------------------------------------------------------------------------------------------
@settings
class GAN:
    """How the conditional GAN is trained. The defaults are DiM's."""

    width: int = 196
    noise: int = 100
    label: Literal["overwrite", "concatenate"] = "overwrite"
    label_scale: float = 1.0
    loss: Loss = "acwgan_gp"  # what DiM's code trains; "vanilla" is SKD's equation 1
    gp_weight: float = 10.0
    gp_every: Count = (
        1  # steps from one gradient penalty to the next, whose weight is multiplied by it (lazy regularisation; ours)
    )
    epochs: int = 150
    batch: int = 128  # the last, partial batch of an epoch is left out
    per_epoch: int | None = None  # random real images an epoch passes over; None for all of them
    lr: float = 1e-4  # Adam, both networks
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero (ours)
    betas: tuple[float, float] = (0.0, 0.9)
    looks: Count = 15  # moments at which samples are judged; DiM looks every 10 epochs
    judge: Training = field(
        default_factory=lambda: Training(network="ConvNetW32", epochs=20)
    )  # classifier of real images that judges
    samples: Count = 1000  # per look
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = added("float32")  # of multiplications in both networks

    def smoke(self) -> GAN:
        return replace(
            self,
            width=16,
            label_scale=4.0,
            epochs=1,
            batch=32,
            per_epoch=640,
            lr=1e-3,
            looks=1,
            samples=100,
            gp_every=4,
            judge=replace(self.judge, epochs=1, batch=64, per_class=60),
        )

    def small(self) -> GAN:
        """Minutes on one CPU core: a narrower GAN, fewer steps at a higher rate, the penalty on every fourth."""
        return replace(
            self,
            width=32,
            label_scale=3.0,
            epochs=32,
            batch=32,
            per_epoch=2_560,
            lr=5e-4,
            lr_decay=0.5,
            looks=10,
            gp_every=4,
            judge=replace(self.judge, epochs=10, batch=64, per_class=600),
        )

    def work_per_image(self) -> float:
        """Passes of one training image's worth through generator and discriminator; a backward pass counts as two
        forward ones."""
        return 13 + (6 / self.gp_every if self.loss == "acwgan_gp" else 0)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the networks, the judge's training included."""
        steps = self.epochs * (min(self.per_epoch or images, images) // self.batch)
        return steps * self.batch * self.work_per_image() + self.judge.work(num_classes, images)

    def held(self, size: memory.Size, batch: int | None = None) -> float:
        """Bytes kept alive by a step of both networks; without another batch than stage 1's also by the judge's
        training."""
        step = _step_held(replace(self, epochs=1, seed=0), size, batch or self.batch)
        return step if batch else max(step, self.judge.held(size))

    def architecture(self, real: ImageSet | memory.Size) -> Architecture:
        return Architecture(real.shape, real.num_classes, self.width, self.noise, self.label, self.label_scale).check()


class Pair:
    """A generator and a discriminator with their optimisers, and one step of both.

    Attributes:
        steps: how many were taken, as a list of one number.
    """

    def __init__(self, of: GAN, real: ImageSet | memory.Size, rng: torch.Generator | None = None):
        """Args: rng: draws the initial weights; None leaves PyTorch's, for weights that are read afterwards."""
        self.settings, shapes = of, of.architecture(real)
        with torch.random.fork_rng(devices=[]):  # building layers draws from the global generator
            self.generator, self.discriminator = Generator(shapes), Discriminator(shapes)
        if rng is not None:
            redraw(self.generator, rng)
            redraw(self.discriminator, rng)
        for module in self.modules:
            module.to(real.device).precision = of.precision
        self.optimizers = [torch.optim.Adam(m.parameters(), lr=of.lr, betas=of.betas, fused=True) for m in self.modules]
        self.steps = [0]

    @property
    def modules(self) -> tuple[Generator, Discriminator]:
        return self.generator, self.discriminator

    def set_lr(self, lr: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def live(self) -> dict[str, Any]:
        """What a step changes, for `Loop.steps`."""
        by_generator, by_discriminator = self.optimizers
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "by_generator": by_generator,
            "by_discriminator": by_discriminator,
            "steps": self.steps,
        }

    def step(
        self, images: Tensor, labels: Tensor, rng: torch.Generator, matching: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """One generator step on images of these labels, then one discriminator step.

        Args:
            images:   (B, C, H, W) real, in [-1, 1]; labels (B,).
            matching: a further loss of the generator's images, added to its own.
        Returns: losses, for the log.
        """
        of, generator, discriminator = self.settings, self.generator, self.discriminator
        for_generator, for_discriminator = self.optimizers
        generator.train()
        fake = generator(generator.noise(len(labels), rng), labels)
        discriminator.requires_grad_(False)
        adversarial = generator_loss(of.loss, *discriminator(fake), labels)
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

        other = send(torch.randint(generator.of.num_classes, (len(labels),), generator=rng), labels.device)
        with torch.no_grad():
            fake = generator(generator.noise(len(labels), rng), other)
        scores, classes = discriminator(torch.cat([images, fake]))  # layer norm keeps images apart
        (real_score, fake_score), (real_classes, fake_classes) = scores.chunk(2), classes.chunk(2)
        loss = discriminator_loss(of.loss, (real_score, real_classes, labels), (fake_score, fake_classes, other))
        log |= {"loss_discriminator": loss.detach(), "score_gap": (real_score.mean() - fake_score.mean()).detach()}
        if of.loss == "acwgan_gp":
            alpha = send(torch.rand(len(labels), generator=rng), labels.device)
            if self.steps[0] % of.gp_every == 0:
                penalty = gradient_penalty(discriminator, images, fake, alpha)
                loss = loss + of.gp_weight * of.gp_every * penalty
                log["gradient_penalty"] = penalty.detach()
        for_discriminator.zero_grad()
        loss.backward()
        for_discriminator.step()
        self.steps[0] += 1
        return log

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimisers' states by name, for one file."""
        out = {}
        for role, module, optimizer in zip(("generator", "discriminator"), self.modules, self.optimizers, strict=True):
            out |= {f"{role}.{k}": v for k, v in module.state_dict().items()}
            out |= {
                f"{role}.adam.{i}.{k}": v
                for i, state in optimizer.state_dict()["state"].items()
                for k, v in state.items()
            }
        return {k: v.detach().cpu().contiguous() for k, v in out.items()} | {"steps": torch.tensor(self.steps)}

    def read(self, tensors: dict[str, Tensor]) -> Self:
        """Put back what `tensors` gave."""
        for role, module, optimizer in zip(("generator", "discriminator"), self.modules, self.optimizers, strict=True):
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


@functools.lru_cache(maxsize=64)
def _step_held(of: GAN, size: memory.Size, batch: int) -> float:
    """Bytes of a step with the gradient penalty: weights, gradients and two moments, and activations, which grow evenly
    with the width."""
    with torch.device("meta"):
        shapes = of.architecture(size)
        weights = memory.numbers(Generator(shapes), Discriminator(shapes))
    narrow = replace(of, width=max(8, of.width // 8))
    pair, rng = Pair(narrow, size, stream(0, "memory")), stream(0, "memory")

    def run(n: int) -> None:
        pair.steps[0] = 0
        pair.step(torch.zeros(n, *size.shape), torch.zeros(n, dtype=torch.int64), rng)

    run(2)  # makes the optimisers' states
    return (
        4 * 4.0 * weights
        + size.slack * batch * memory.growth(run).each * of.width / narrow.width
        + memory.COPIES * size.floats(batch)
    )


def batches_of(real: ImageSet, batch: int, epochs: int, per_epoch: int | None) -> Batches:
    """Shuffled batches without the last, partial one of an epoch.

    Raises: UserError: settings that make no batch.
    """
    images = min(per_epoch or len(real), len(real))
    if not 1 < batch <= images or epochs < 1:
        raise UserError(
            f"conditional GAN: {epochs} epochs of {images} images in batches of {batch}; a batch of 2 to {images}, at least 1 epoch"
        )
    return Batches(len(real), batch, last="drop", per_epoch=per_epoch)


@dataclass(frozen=True)
class Trained:
    """Stage 1 on disk: `read` gives a pair to go on with, `generator` the generator alone.

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
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return Pair(self.settings, self.real).read(load_file(self.file))
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as err:
            raise UserError(f"{self.file}: damaged ({err}); delete it to train the GAN again") from None

    @property
    def generator(self) -> Generator:
        return self.pair().generator.eval().requires_grad_(False)


def train(real: ImageSet, of: GAN, loop: Loop | None = None) -> Trained:
    """The conditional GAN of these settings: from `runs/generators` where it is, else trained and put there.

    A second process that asks for the same GAN waits for the first one's.

    Args:
        real: (N, C, H, W) images without whitening, on the device to compute on.
    Raises: UserError: images or settings no GAN here fits.  TimeUp: the loop's deadline passed.
    """
    loop = loop or Loop()
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: a conditional GAN draws pixels; give the set without whitening")
    of.architecture(real)
    batches = batches_of(real, of.batch, of.epochs, of.per_epoch)
    key = json.dumps(
        {"gan": as_dict(of), "data": real.sha256(), "version": VERSION, "judge": reference.VERSION}, sort_keys=True
    )
    name = f"cgan-{real.facts.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    found = Trained(paths.runs() / "generators" / name.replace("/", "_").replace(":", "_"), of, real)
    with store.once(found.file, "conditional GAN", loop, real.device) as missing:
        if missing:
            _train(found, batches, loop)
    return found


def _train(found: Trained, batches: Batches, loop: Loop) -> None:
    from safetensors.torch import save_file

    of, real = found.settings, found.real
    judge = Judge(real, of, loop)
    rng = stream(of.seed, "conditional GAN")
    pair = Pair(of, real, rng)
    steps = of.epochs * batches.steps_per_epoch
    looks: list[dict[str, float]] = []
    at = {round(steps * (i + 1) / of.looks) - 1 for i in range(of.looks)}
    clock = {"seconds": 0.0}
    live = pair.live() | {"rng": rng, "order": batches.order, "looks": looks, "clock": clock}
    for step in loop.steps("conditional_gan", steps, live):
        start = time.perf_counter()
        index = send(batches.index(step, rng), real.device)
        pair.set_lr(of.lr * min(1.0, (1 - step / steps) / of.lr_decay if of.lr_decay else 1.0))
        log = pair.step(real.signed(index), real.hard_labels[index], rng)
        if step in at:
            looks.append({"step": step + 1, **{k: float(v) for k, v in log.items()}, **judge(pair.generator)})
        loop.log(**log)
        clock["seconds"] += time.perf_counter() - start
    about = {
        "family": "cgan",
        "architecture": as_dict(pair.generator.of),
        "settings": as_dict(of),
        "dataset": real.facts.name,
        "data_sha256": real.sha256(),
        "steps": steps,
        "seconds": round(clock["seconds"], 1),
    }
    health = {
        "feature_space": judge.feature_space,
        "classifier_accuracy_on_real_pct": judge.real_accuracy_pct,
        "looks": looks,
    }
    for file, body in (("settings.json", about), ("health.json", health)):
        atomically(found.folder / file, lambda part, body=body: part.write_text(json.dumps(body, indent=1) + "\n"))
    atomically(found.file, lambda part: save_file(pair.tensors(), part))
    if loop.folder:
        (loop.folder / "conditional_gan.ckpt").unlink(missing_ok=True)


class Judge:
    """What a classifier trained on real images says about samples: the share it puts into their class, and the Fréchet
    distance.

    The noise is the same at every look.
    """

    def __init__(self, real: ImageSet, of: GAN, loop: Loop | None = None):
        self.real, self.of = real, of
        trained = reference.on_real(real, of.judge, of.seed, loop)
        self.network = trained.network
        rng = stream(of.seed, "health", "real")
        index = torch.randperm(len(real), generator=rng)[: of.samples]
        features, right = self._seen(real.take(index)[0], real.hard_labels[index.to(real.device)])
        self.reference, self.real_accuracy_pct = moments(features), 100 * right
        self.feature_space = f"embedding ({features.shape[1]} numbers) of {of.judge.network} trained on real {real.facts.name}, {of.samples} images each"

    def __call__(self, generator: Generator) -> dict[str, float]:
        labels = torch.arange(self.of.samples, device=self.real.device) % self.real.num_classes
        images = normalised(generator.draw(labels, stream(self.of.seed, "health", "noise")), self.real)
        features, right = self._seen(images, labels)
        return {
            "class_accuracy_pct": 100 * right,
            "frechet_distance": frechet_distance(self.reference, moments(features)),
        }

    @torch.no_grad()
    def _seen(self, images: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        features = chunked(lambda x: fast.embed(self.network, x).float(), images, 256)
        return features, float((self.network.classifier(features).argmax(1) == labels).float().mean())


# --- of a method whose settings hold a `gan`
# -------------------------------------------------------------------------------
def stage1(cfg: Any) -> dict[str, GAN]:
    """What cells share before their sets differ."""
    return {"conditional GAN": cfg.gan}


def prepare(real: ImageSet, cfg: Any, seed: int, loop: Loop | None = None) -> None:
    """Make stage 1, if it is not there."""
    train(real, cfg.gan, loop)
