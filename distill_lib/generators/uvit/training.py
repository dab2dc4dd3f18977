"""U-ViT: a vision transformer with long skips that predicts the noise of a diffusion in pixel space. Book page:
book/uvit.md

    model = uvit.train(real, Training(), seed=0, loop=loop)        # weights averaged over training
    images = uvit.generate(model, labels, seed=0)                  # (N, C, H, W) uint8
    made = uvit.generate_for(model, 600, num_classes=100, seed=0, folder=folder)     # what ten minutes allow, on disk

Images are in [-1, 1] inside, pixels / 127.5 - 1. Names and shapes of the weights are those of the public checkpoints.

Source: Bao et al. 2023 (U-ViT) and its code; Li et al. 2024, who train it on CIFAR-100 and TinyImageNet.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core import paths, store
from ...core.batches import Batches
from ...core.device import compiled, send
from ...core.errors import UserError
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, as_dict, replace, settings
from ...data import ImageSet
from ..diffusion.continuous import VP
from .network import Architecture, UViT, parameters, sinusoids
from .weights import find, from_state, load, read, save, surgery

VERSION = 1  # of what training makes: part of the key
PIECE_MB = 8192  # of activations


# --- training ----------------------------------------------------------------------------------------------------------
@settings
class Training:
    """How a U-ViT is trained. The defaults are the paper's for CIFAR-100, and its base code's where the paper is
    silent."""

    patch: Count = 2
    width: Count = 512
    depth: Count = 12
    heads: Count = 8
    mlp_ratio: Count = 4
    output: Literal["noise", "v"] = "noise"  # what is learned; "v" learns shapes in fewer steps (ours)
    positions: Literal["random", "sinusoids"] = (
        "random"  # what the patches' learned positions start from (sinusoids: ours)
    )
    label_drop: float = (
        0.0  # share of the images whose label is left out, which guidance needs (ours; U-ViT's on ImageNet: 0.1)
    )
    start: str | None = None  # file of public weights to go on from, see `find`; None: from random ones
    steps: Count = 80_000  # the paper calls them epochs
    batch: Count = 1024  # images a step, over all processes
    lr: float = 2e-4  # AdamW
    betas: tuple[float, float] = (0.99, 0.999)
    weight_decay: float = 0.03
    warm_up: int = 2500  # steps over which lr rises linearly (base code)
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero (ours)
    ema: float = 0.9999  # decay of the averaged weights (base code)
    flip: bool = True  # every second image mirrored, at random (base code)
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the network's multiplications; base code: float16
    checkpointing: bool = False  # of activations: less memory, a third slower; base code: for Mid
    looks: Count = 80  # moments at which weights are kept and samples can be judged

    def smoke(self) -> Training:
        """Seconds on one CPU core."""
        return replace(
            self,
            patch=4,
            width=32,
            depth=2,
            heads=2,
            start=None,
            steps=40,
            batch=32,
            lr=2e-3,
            warm_up=10,
            lr_decay=0.5,
            ema=0.9,
            precision="float32",
            checkpointing=False,
            looks=2,
        )

    def small(self) -> Training:
        """Three quarters of an hour on one CPU core, with three departures that let so short a training show something:
        v, sinusoids, dropped labels."""
        return replace(
            self,
            patch=4,
            width=128,
            depth=4,
            heads=4,
            start=None,
            steps=8000,
            batch=32,
            lr=2e-3,
            betas=(0.9, 0.99),
            warm_up=100,
            lr_decay=0.5,
            ema=0.998,
            precision="float32",
            checkpointing=False,
            looks=8,
            output="v",
            positions="sinusoids",
            label_drop=0.1,
        )

    def architecture(self, real: ImageSet) -> Architecture:
        """Raises: UserError: images this network does not fit."""
        channels, height, side = real.shape
        if height != side:
            raise UserError(f"U-ViT: images of {height} x {side} pixels; works for squares")
        if not 0 <= self.label_drop < 1:
            raise UserError(f"U-ViT: label_drop {self.label_drop}; a share from 0 to below 1")
        sizes = (side, channels, self.patch, self.width, self.depth, self.heads, self.mlp_ratio)
        return Architecture(*sizes, real.num_classes, self.label_drop > 0, self.output).check()

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network, a backward pass counted as two forward ones."""
        return 3.0 * self.steps * self.batch


Monitor = Callable[[int, UViT], dict[str, float]]  # (steps done, averaged weights) -> values by name


def noise_loss(
    network: Callable[..., Tensor],
    images: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    output: Literal["noise", "v"] = "noise",
) -> Tensor:
    """Mean squared error of the predicted noise at times t in [0, 1]; images (B, C, H, W), t (B,), noise like images,
    labels (B,).

    With output "v" the error of v, which is that of the noise divided by alpha: errors where there is much noise count
    more.

    Source: Bao et al. 2023; about 1 for a network that has learned nothing, which is the noise's variance. v: Salimans
    and Ho 2022.
    """
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (VP.alpha, VP.sigma))
    error = network(alpha * images + sigma * noise, 999 * t, labels).float() - noise
    return (error if output == "noise" else error / alpha).square().mean()


def initial(real: ImageSet, cfg: Training, seed: int) -> UViT:
    """The network before training: random weights, or those of `cfg.start` with a new label embedding.

    Raises: UserError: the file is not there, or does not fit.
    """
    of, rng = cfg.architecture(real), stream(seed, "U-ViT", "weights")
    if cfg.start is None:
        model = UViT(of, rng, cfg.checkpointing)
        if cfg.positions == "sinusoids":
            model.pos_embed.data[0, of.extras :] = sinusoids(of.image_size // of.patch, of.width)
        return model
    state, given = read(find(cfg.start))
    if replace(given, num_classes=of.num_classes, no_label=of.no_label) != of:
        raise UserError(f"{cfg.start}: its weights are of {given}; these images and settings need {of}")
    return from_state(surgery(state, of.labels, rng), of, cfg.checkpointing)


@dataclass
class StepInputs:
    """What every step sees: shuffled epochs without the last, partial batch, mirrored at random, times and noise.

    All processes draw the same numbers and take their share, so that the step does not depend on how many they are, but
    for rounding.
    """

    real: ImageSet
    cfg: Training
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if self.cfg.batch > len(self.real) or self.cfg.batch % self.world:
            raise UserError(
                f"U-ViT: batches of {self.cfg.batch} from {len(self.real)} images on {self.world} processes; at most as many as there "
                "are, and a multiple of the processes"
            )
        self.batches = Batches(len(self.real), self.cfg.batch, last="drop")

    def take(self, step: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (b, C, H, W) in [-1, 1], times (b,), noise and labels of this process's share."""
        batch, device = self.cfg.batch, self.real.device
        index = self.batches.index(step, rng)
        mirrored = torch.rand(batch, generator=rng) < 0.5
        t = torch.rand(batch, generator=rng)
        noise = torch.randn(batch, *self.real.shape, generator=rng)
        kept = (
            torch.rand(batch, generator=rng) >= self.cfg.label_drop
            if self.cfg.label_drop
            else torch.ones(batch, dtype=torch.bool)
        )
        index, mirrored, t, noise, kept = (
            send(v.chunk(self.world)[self.rank], device) for v in (index, mirrored, t, noise, kept)
        )
        images = self.real.signed(index)
        if self.cfg.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return images, t, noise, torch.where(kept, self.real.hard_labels[index], self.real.num_classes)


@dataclass
class Fit:
    """A finished training.

    Attributes:
        model: the averaged weights, in eval mode.
        looks: one entry per look: step, loss (mean since the look before), what the monitor said.
        curve: [step, mean loss of the steps since the entry before].
    """

    model: UViT
    looks: list[dict[str, float]]
    curve: list[list[float]]
    seconds: float


def fit(real: ImageSet, cfg: Training, seed: int, loop: Loop | None = None, monitor: Monitor | None = None) -> Fit:
    """Train, wherever the result is to be kept; on several processes where torch.distributed was started, a share of a
    batch on each.

    Args:
        real:    (N, C, H, W) images without whitening, on the device to compute on.
        monitor: called at every look, on the first process.
    Raises: UserError: images or settings no network here fits.  TimeUp, Diverged: see `Loop`.
    """
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: U-ViT draws pixels; give the set without whitening")
    rank, world = _processes()
    loop = loop or Loop()
    if rank:  # the first process saves, and says when to stop
        loop = Loop(loop.folder, loop.key, every=math.inf, bar=False)
    inputs, device = StepInputs(real, cfg, rank, world), real.device
    model = initial(real, cfg, seed).to(device).train()
    ema = from_state(model.state_dict(), model.of).to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay, fused=True
    )
    rng = stream(seed, "U-ViT", "batches")
    total, counted = (
        torch.zeros(2, dtype=torch.float64, device=device),
        [0, 0],
    )  # losses since the last look, and entry of the curve
    looks: list[dict[str, float]] = []
    curve: list[list[float]] = []
    clock = {"seconds": 0.0}
    live = {
        "model": model,
        "ema": ema,
        "optimizer": optimizer,
        "rng": rng,
        "order": inputs.batches.order,
        "total": total,
        "counted": counted,
        "looks": looks,
        "curve": curve,
        "clock": clock,
    }
    network = _fast(_parallel(model) if world > 1 else model, device)
    ours, averaged, piece = list(model.parameters()), list(ema.parameters()), at_once(model.of, cfg)
    look_at = {round(cfg.steps * (i + 1) / cfg.looks) - 1 for i in range(cfg.looks)}
    every = max(1, cfg.steps // 200)
    for step in loop.steps("uvit", cfg.steps, live):
        start = time.perf_counter()
        images, t, noise, labels = inputs.take(step, rng)
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * rate(step, cfg)
        optimizer.zero_grad()
        loss = backward(network, images, t, noise, labels, cfg, piece)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, ours, 1 - cfg.ema)
        total += loss.detach()
        counted[:] = [c + 1 for c in counted]
        if (step + 1) % every == 0:
            curve.append([step + 1, _mean(total[1], world) / counted[1]])
            total[1], counted[1] = 0, 0
        if step in look_at:
            looks.append({"step": step + 1, "loss": _mean(total[0], world) / counted[0]})
            total[0], counted[0] = 0, 0
            if monitor and not rank:
                looks[-1] |= monitor(step + 1, ema.eval())
        loop.log(loss=loss)
        clock["seconds"] += time.perf_counter() - start
    return Fit(ema.eval(), looks, curve, clock["seconds"])


def backward(
    network: Callable[..., Tensor], images: Tensor, t: Tensor, noise: Tensor, labels: Tensor, cfg: Training, piece: int
) -> Tensor:
    """Add the gradients of `noise_loss` to the weights', a piece of the batch after the other; returns the batch's
    loss.

    An image's loss concerns no other, so the pieces' gradients, weighted by their images, add up to the batch's.
    """
    total = images.new_zeros(())
    for i in range(0, len(images), piece):
        i = slice(i, i + piece)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=cfg.precision == "bfloat16"):
            loss = noise_loss(network, images[i], t[i], noise[i], labels[i], cfg.output)
        if piece < len(images):
            loss = loss * (len(images[i]) / len(images))
        loss.backward()
        total = total + loss.detach()
    return total


def train(
    real: ImageSet, cfg: Training, seed: int = 0, loop: Loop | None = None, monitor: Monitor | None = None
) -> UViT:
    """The averaged weights of a training, which is run whether or not `runs/` holds it: see `trained` for that."""
    return fit(real, cfg, seed, loop, monitor).model


def rate(step: int, cfg: Training) -> float:
    """The learning rate of a step, as a share of the highest. It rises from 1 / warm_up; the base code is one step
    behind and starts at 0."""
    rise = min(1.0, (step + 1) / cfg.warm_up) if cfg.warm_up else 1.0
    return rise * (min(1.0, (1 - step / cfg.steps) / cfg.lr_decay) if cfg.lr_decay else 1.0)


def memory_mb(of: Architecture, cfg: Training, world: int = 1, images: int | None = None) -> float:
    """What training will need on a device, estimated: weights, gradients, moments and average, and what the backward
    pass keeps.

    Args:
        images: at once on a process; by default those that `fit` takes.
    """
    return (
        5 * 4 * parameters(of) + (images or min(cfg.batch // world, at_once(of, cfg))) * image_bytes(of, cfg)
    ) / 2**20


def image_bytes(of: Architecture, cfg: Training) -> int:
    """What the backward pass keeps of one image."""
    size = 2 if cfg.precision == "bfloat16" else 4
    token = of.width * size
    block = (8 + 2 * of.mlp_ratio) * token + 4 * of.width * (4 - size) // 2
    kept = (
        ((of.depth + 1) * 2 * token + block)
        if cfg.checkpointing
        else (of.depth + 1) * block + of.depth // 2 * 2 * token
    )
    return of.tokens * kept


def at_once(of: Architecture, cfg: Training) -> int:
    """Images whose activations take `PIECE_MB`: a larger batch goes in pieces, whose gradients are added up."""
    return min(cfg.batch, max(1, PIECE_MB * 2**20 // image_bytes(of, cfg)))


def _fast(network: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """Compiled on a GPU; on a CPU matrix products dominate, and compiling takes minutes to save a few percent."""
    return compiled(network) if device.type == "cuda" else network


def _processes() -> tuple[int, int]:
    """(rank, how many) of the processes that train together."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _mean(value: Tensor, world: int) -> float:
    """Over the processes."""
    if world > 1:
        value = value.clone()
        torch.distributed.all_reduce(value)
    return float(value) / world


def _parallel(model: UViT) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, device_ids=[model.device] if model.device.type == "cuda" else None)


# --- kept in runs/ -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trained:
    """A training on disk: `uvit.safetensors`, `settings.json`, `health.json` (looks and loss curve),
    `step<n>.safetensors`."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "uvit.safetensors"

    @property
    def health(self) -> dict[str, Any]:
        """looks and curve as in `Fit`."""
        return json.loads((self.folder / "health.json").read_text())

    @property
    def seconds(self) -> float:
        """What training took."""
        return json.loads((self.folder / "settings.json").read_text())["seconds"]

    def model(self, step: int | None = None) -> UViT:
        """The averaged weights at the end, or at a look. Raises: UserError: no such look, or a damaged file."""
        if step is not None and step not in self.steps:
            raise UserError(f"{self.folder}: no weights of step {step}; there are {', '.join(map(str, self.steps))}")
        return load(self.file if step is None else self.folder / f"step{step}.safetensors")

    @property
    def steps(self) -> list[int]:
        """Steps whose weights were kept."""
        return sorted(int(f.stem.removeprefix("step")) for f in self.folder.glob("step*.safetensors"))


def place(real: ImageSet, cfg: Training, seed: int) -> Trained:
    """Where the training of these settings lies, whether or not it was run."""
    start = hashlib.sha256(find(cfg.start).read_bytes()).hexdigest() if cfg.start else None
    key = json.dumps(
        {"training": as_dict(cfg), "start": start, "data": real.sha256(), "seed": seed, "version": VERSION},
        sort_keys=True,
    )
    name = f"uvit-{real.facts.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return Trained(paths.runs() / "generators" / name.replace("/", "_").replace(":", "_"))


def trained(
    real: ImageSet, cfg: Training, seed: int = 0, loop: Loop | None = None, monitor: Monitor | None = None
) -> Trained:
    """The training of these settings: from `runs/generators` where it is, else run and put there.

    A second program that asks for the same training waits for the first one's. Weights are kept at every look.

    Raises: UserError: images or settings no network here fits.  TimeUp: the loop's deadline passed.
    """
    loop, found, (rank, _) = loop or Loop(), place(real, cfg, seed), _processes()
    cfg.architecture(real)
    found.folder.mkdir(parents=True, exist_ok=True)
    if rank:  # of the processes that train together, the first holds the lock
        if not found.file.exists():
            fit(real, cfg, seed, loop)
        return found
    with store.once(found.file, "U-ViT", loop, real.device) as missing:
        if missing:
            _train(found, real, cfg, seed, loop, monitor)
    return found


def _train(found: Trained, real: ImageSet, cfg: Training, seed: int, loop: Loop, monitor: Monitor | None) -> None:
    of, world = cfg.architecture(real), _processes()[1]
    print(
        f"U-ViT: {parameters(of):,} parameters, {of.tokens} tokens, batches of {cfg.batch}: about {memory_mb(of, cfg, world):,.0f} MB",
        file=sys.stderr,
    )

    def look(step: int, model: UViT) -> dict[str, float]:
        save(model, found.folder / f"step{step}.safetensors")
        return monitor(step, model) if monitor else {}

    made = fit(real, cfg, seed, loop, look)
    about = {
        "family": "uvit",
        "architecture": as_dict(of),
        "settings": as_dict(cfg),
        "dataset": real.facts.name,
        "data_sha256": real.sha256(),
        "seed": seed,
        "processes": world,
        "seconds": round(made.seconds, 1),
    }
    for file, body in (("settings.json", about), ("health.json", {"looks": made.looks, "curve": made.curve})):
        atomically(found.folder / file, lambda part, body=body: part.write_text(json.dumps(body, indent=1) + "\n"))
    save(made.model, found.file)
    if loop.folder:
        (loop.folder / "uvit.ckpt").unlink(missing_ok=True)
