"""The U-ViT's training, which is run once for every data set and settings; the result is kept in `runs/`.

    model = uvit.trained(real, UViTTraining(), seed=0).model()         # weights averaged over training
    images = uvit.generate(model, labels, seed=0)                  # (N, C, H, W) uint8
    made = uvit.generate_for(model, 600, num_classes=100, seed=0, folder=folder)     # what ten minutes allow, on disk

Images are in [-1, 1] inside, pixels / 127.5 - 1. Book page: book/uvit.md

Source: Bao et al. 2023 (U-ViT) and its code; Li et al. 2024, who train it on CIFAR-100 and TinyImageNet.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...core import store
from ...core.batches import Batches
from ...core.device import compiled, send
from ...core.errors import UserError
from ...core.files import write_json, writing
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import Count, as_dict, replace, settings
from ...core.weights import need_file
from ...data import ImageSet
from ..diffusion.continuous import VP
from ..training import follow, kept_in, look_steps, lr_share, set_lr
from ..transformer import sinusoids
from . import weights
from .network import UViT, UViTArchitecture
from .weights import from_state, save, surgery

VERSION = 1  # of what training makes: part of its file's name; raise those of its methods too
PIECE_MB = 8192  # of activations


@settings
class UViTTraining:
    """Settings of a U-ViT's training: by default the paper's for CIFAR-100 and, where it is silent, its base code's."""

    patch: Count = 2
    width: Count = 512
    depth: Count = 12
    heads: Count = 8
    mlp_ratio: Count = 4
    output: Literal["noise", "v"] = "noise"  # what is learned; "v" learns shapes in fewer steps (ours)
    positions: Literal["random", "sinusoids"] = "random"  # of the patches where no file is the start (sinusoids: ours)
    # share of images whose label is left out, for guidance (ours; U-ViT's on ImageNet: 0.1)
    label_drop: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    start: str | None = None  # file of public weights to go on from; None: random ones
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

    def smoke(self) -> UViTTraining:
        """Seconds on one CPU core."""
        network = dict(patch=4, width=32, depth=2, heads=2, start=None, precision="float32", checkpointing=False)
        return replace(self, **network, steps=40, batch=32, lr=2e-3, warm_up=10, lr_decay=0.5, ema=0.9, looks=2)

    def small(self) -> UViTTraining:
        """Three quarters of an hour on one CPU core, with three departures that let so short a training show something:
        v, sinusoids, dropped labels."""
        network = dict(patch=4, width=128, depth=4, heads=4, start=None, precision="float32", checkpointing=False)
        ours = dict(output="v", positions="sinusoids", label_drop=0.1)
        course = dict(steps=8000, batch=32, lr=2e-3, betas=(0.9, 0.99), warm_up=100, lr_decay=0.5, ema=0.998, looks=8)
        return replace(self, **network, **ours, **course)

    def architecture(self, real: ImageSet) -> UViTArchitecture:
        """Raises: UserError: images this network does not fit."""
        channels, height, side = real.shape
        if height != side:
            raise UserError(f"U-ViT: images of {height} x {side} pixels; works for squares")
        sizes = (side, channels, self.patch, self.width, self.depth, self.heads, self.mlp_ratio)
        return UViTArchitecture(*sizes, real.num_classes, self.label_drop > 0, self.output).check()

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network, a backward pass counted as two forward ones."""
        return 3.0 * self.steps * self.batch


class Drawn(NamedTuple):
    """Inputs of one step: images (B, C, H, W) in [-1, 1], times (B,) in [0, 1], noise as the images, labels (B,)."""

    images: Tensor
    t: Tensor
    noise: Tensor
    labels: Tensor | None


def noise_loss(
    network: Callable[..., Tensor],
    images: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    output: Literal["noise", "v"] = "noise",
) -> Tensor:
    """Mean squared error of the predicted noise; see `Drawn` for the inputs. It is about 1, the noise's variance, for a
    network that has learned nothing.

    With output "v" it is the error of v, which is that of the noise divided by alpha, so errors in very noisy images
    count more.

    Source: Bao et al. 2023; Salimans and Ho 2022 for v.
    """
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (VP.alpha, VP.sigma))
    error = network(alpha * images + sigma * noise, 999 * t, labels).float() - noise
    return (error if output == "noise" else error / alpha).square().mean()


def initial(real: ImageSet, cfg: UViTTraining, seed: int) -> UViT:
    """The network before training: random weights, or those of `cfg.start` with a new label embedding.

    Raises: UserError: the file is not there, or does not fit.
    """
    arch, rng = cfg.architecture(real), stream(seed, "U-ViT", "weights")
    if cfg.start is None:
        model = UViT(arch, rng, cfg.checkpointing)
        if cfg.positions == "sinusoids":
            if arch.width % 4:
                raise UserError(f"U-ViT: positions from sinusoids need a width that four divides, not {arch.width}")
            model.pos_embed.data[0, arch.extras :] = sinusoids(arch.image_size // arch.patch, arch.width)
        return model
    state, given = weights.read(start_file(cfg.start))
    if replace(given, num_classes=arch.num_classes, no_label=arch.no_label) != arch:
        raise UserError(f"{cfg.start}: its weights are of {given}; these images and settings need {arch}")
    return from_state(surgery(state, arch.labels, rng), arch, cfg.checkpointing)


def start_file(start: str) -> Path:
    """The file of the weights to start from. Raises: UserError: saying where it could lie."""
    return need_file(start, f"U-ViT ({start})", instead="; or train from random weights with start=None")


@dataclass
class StepInputs:
    """Images of shuffled epochs, mirrored at random, with times and noise.

    All processes draw the same numbers and take their share. So a step does not depend on their number, except for
    rounding.
    """

    real: ImageSet
    cfg: UViTTraining
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if self.cfg.batch > len(self.real) or self.cfg.batch % self.world:
            given = f"batches of {self.cfg.batch} from {len(self.real)} images on {self.world} processes"
            raise UserError(f"U-ViT: {given}; at most as many as there are, and a multiple of the processes")
        self.batches = Batches(len(self.real), self.cfg.batch, last="drop")

    def take(self, step: int, rng: torch.Generator) -> Drawn:
        """This process's share of a step's batch."""
        batch, device = self.cfg.batch, self.real.device
        index = self.batches.index(step, rng)
        mirrored = torch.rand(batch, generator=rng) < 0.5
        t = torch.rand(batch, generator=rng)
        noise = torch.randn(batch, *self.real.shape, generator=rng)
        drop = self.cfg.label_drop
        kept = torch.rand(batch, generator=rng) >= drop if drop else torch.ones(batch, dtype=torch.bool)
        drawn = (index, mirrored, t, noise, kept)
        index, mirrored, t, noise, kept = (send(v.chunk(self.world)[self.rank], device) for v in drawn)
        images = self.real.signed(index)
        if self.cfg.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return Drawn(images, t, noise, torch.where(kept, self.real.hard_labels[index], self.real.num_classes))


@dataclass
class Fit:
    """A finished training.

    Attributes:
        model: the averaged weights, in eval mode.
        looks: one entry per look: step, loss (mean since the look before).
        curve: [step, mean loss of the steps since the entry before].
    """

    model: UViT
    looks: list[dict[str, float]]
    curve: list[list[float]]
    seconds: float


def fit(
    real: ImageSet,
    cfg: UViTTraining,
    seed: int,
    loop: Loop | None = None,
    keep: Callable[[int, UViT], Any] | None = None,
) -> Fit:
    """Train without keeping the result; on several processes if torch.distributed was started, a share of every batch
    on each.

    Args:
        real: (N, C, H, W) images without whitening, on the device to compute on.
        keep: called with the steps done and the averaged weights at every look, on the first process.
    Raises: UserError: images or settings no network here fits.  TimeUp, Diverged: see `Loop`.
    """
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: U-ViT draws pixels; give the set without whitening")
    rank, world = _processes()
    loop = loop or Loop()
    if rank:  # the first process saves, and says when to stop
        loop = Loop(loop.folder, loop.key, bar=False, saves=False)
    inputs, device = StepInputs(real, cfg, rank, world), real.device
    model = initial(real, cfg, seed).to(device).train()
    ema = from_state(model.state_dict(), model.arch).to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay, fused=True
    )
    rng = stream(seed, "U-ViT", "batches")
    # losses, and their number, since the last look and since the last entry of the curve
    total, counted = torch.zeros(2, dtype=torch.float64, device=device), [0, 0]
    looks: list[dict[str, float]] = []
    curve: list[list[float]] = []
    clock = {"seconds": 0.0}
    live = {"model": model, "ema": ema, "optimizer": optimizer, "rng": rng, "order": inputs.batches.order}
    live |= {"total": total, "counted": counted, "looks": looks, "curve": curve, "clock": clock}
    shared = DistributedDataParallel(model, [device] if device.type == "cuda" else None) if world > 1 else model
    network, piece = fast(shared, device), piece_size(model.arch, cfg)
    look_at, every = look_steps(cfg.steps, cfg.looks), max(1, cfg.steps // 200)
    for step in loop.steps("uvit", cfg.steps, live):
        start = time.perf_counter()
        drawn = inputs.take(step, rng)
        set_lr(optimizer, cfg.lr * lr_share(step, cfg.steps, cfg.warm_up, cfg.lr_decay))
        optimizer.zero_grad()
        loss = backward(network, drawn, cfg, piece)
        optimizer.step()
        follow(ema, model, cfg.ema)
        total += loss.detach()
        counted[:] = [c + 1 for c in counted]
        if (step + 1) % every == 0:
            curve.append([step + 1, _mean(total[1], world) / counted[1]])
            total[1], counted[1] = 0, 0
        if step in look_at:
            looks.append({"step": step + 1, "loss": _mean(total[0], world) / counted[0]})
            total[0], counted[0] = 0, 0
            if keep and not rank:
                keep(step + 1, ema.eval())
        loop.log(loss=loss)
        clock["seconds"] += time.perf_counter() - start
    return Fit(ema.eval(), looks, curve, clock["seconds"])


def backward(network: Callable[..., Tensor], drawn: Drawn, cfg: UViTTraining, piece: int) -> Tensor:
    """Add the gradients of `noise_loss` to those of the weights, one piece of the batch after the other; returns the
    batch's loss.

    An image's loss does not depend on the others, so the pieces' gradients, weighted by their images, add up to those
    of the batch.
    """
    count, device = len(drawn.images), drawn.images.device
    total = drawn.images.new_zeros(())
    for start in range(0, count, piece):
        some = [values[start : start + piece] for values in drawn]
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bfloat16"):
            loss = noise_loss(network, *some, cfg.output)
        if piece < count:
            loss = loss * (len(some[0]) / count)
        loss.backward()
        total = total + loss.detach()
    return total


def image_bytes(arch: UViTArchitecture, cfg: UViTTraining) -> int:
    """Bytes that the backward pass keeps of one image."""
    size = 2 if cfg.precision == "bfloat16" else 4
    token = arch.width * size
    block = (8 + 2 * arch.mlp_ratio) * token + 4 * arch.width * (4 - size) // 2
    if cfg.checkpointing:
        return arch.tokens * ((arch.depth + 1) * 2 * token + block)
    return arch.tokens * ((arch.depth + 1) * block + arch.depth // 2 * 2 * token)


def piece_size(arch: UViTArchitecture, cfg: UViTTraining) -> int:
    """Images whose activations take `PIECE_MB`: a larger batch goes in pieces, whose gradients are added up."""
    return min(cfg.batch, max(1, PIECE_MB * 2**20 // image_bytes(arch, cfg)))


def fast(network: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """Compiled on a GPU; on a CPU matrix products dominate, and compiling takes minutes to save a few percent."""
    return compiled(network) if device.type == "cuda" else network


def _processes() -> tuple[int, int]:
    """(rank, how many) of the processes that train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _mean(value: Tensor, world: int) -> float:
    """Over the processes."""
    if world > 1:
        value = value.clone()
        dist.all_reduce(value)
    return float(value) / world


# --- kept in runs/ ---
@dataclass(frozen=True)
class TrainedUViT:
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
        """Seconds that training took."""
        return json.loads((self.folder / "settings.json").read_text())["seconds"]

    def model(self, step: int | None = None) -> UViT:
        """The averaged weights at the end, or at a look. Raises: UserError: no such look, or a damaged file."""
        if step is not None and step not in self.steps:
            raise UserError(f"{self.folder}: no weights of step {step}; there are {', '.join(map(str, self.steps))}")
        return weights.load(self.file if step is None else self.folder / f"step{step}.safetensors")

    @property
    def steps(self) -> list[int]:
        """Steps whose weights were kept."""
        return sorted(int(f.stem.removeprefix("step")) for f in self.folder.glob("step*.safetensors"))


def place(real: ImageSet, cfg: UViTTraining, seed: int) -> TrainedUViT:
    """The training of these settings on disk, whether or not it was run."""
    start = hashlib.sha256(start_file(cfg.start).read_bytes()).hexdigest() if cfg.start else None
    key = {"training": as_dict(cfg), "start": start, "data": real.sha256(), "seed": seed, "version": VERSION}
    return TrainedUViT(kept_in("uvit", real.facts.name, key))


def trained(real: ImageSet, cfg: UViTTraining, seed: int = 0, loop: Loop | None = None) -> TrainedUViT:
    """The training of these settings: read from `runs/generators`, or run and put there if it is missing.

    A second program that asks for the same training waits for the first one's. Weights are kept at every look.

    Raises: UserError: images or settings no network here fits.  TimeUp: the loop's deadline passed.
    """
    loop, found, (rank, _) = loop or Loop(), place(real, cfg, seed), _processes()
    cfg.architecture(real)
    with writing(found.folder):
        found.folder.mkdir(parents=True, exist_ok=True)
    if rank:  # of the processes that train together, the first holds the lock
        if not found.file.exists():
            loop = Loop(loop.folder)
            store.lend(loop, found.file)
            fit(real, cfg, seed, loop)
        return found
    with store.once(found.file, "U-ViT", loop, real.device) as missing:
        if missing:
            _train(found, real, cfg, seed, loop)
    return found


def _train(found: TrainedUViT, real: ImageSet, cfg: UViTTraining, seed: int, loop: Loop) -> None:
    made = fit(real, cfg, seed, loop, lambda step, model: save(model, found.folder / f"step{step}.safetensors"))
    about = {"family": "uvit", "architecture": as_dict(made.model.arch), "settings": as_dict(cfg)}
    about |= {"dataset": real.facts.name, "data_sha256": real.sha256(), "seed": seed}
    about |= {"processes": _processes()[1], "seconds": round(made.seconds, 1)}
    write_json(found.folder / "settings.json", about)
    write_json(found.folder / "health.json", {"looks": made.looks, "curve": made.curve})
    save(made.model, found.file)
    store.forget(loop, "uvit")
