"""Sampling from a U-ViT: a number of images, or as many as a time allows."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...core.errors import TimeUp, UserError, unknown
from ...core.files import undamaged, write_tensors, writing
from ...core.loop import Loop
from ...core.rng import stream
from ...data import ImageSet
from ..diffusion import continuous
from .network import UViT
from .training import fast

Draw = Callable[[Tensor | None, int, int, int], Tensor]  # labels, how many images, seed, number of the first one


def to_uint8(images: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1], clipped, to the nearest of 256 levels."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def generate(
    model: UViT,
    labels: Tensor | None,
    seed: int,
    first: int = 0,
    steps: int = 50,
    sampler: str = "dpm_fast",
    batch: int = 500,
    precision: str = "float32",
    count: int | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Images by solving the diffusion backwards from noise.

    Image k depends on (seed, first + k) and its label, up to rounding in the network, which may change with the batch.

    Args:
        labels:    (N,) classes; None for an unconditional network, with `count` = N.
        steps:     network evaluations per image.
        sampler:   one of `generators.diffusion.continuous.SAMPLERS`.
        precision: of the network's multiplications, "float32" or "bfloat16"; the solver works in float32.
        guidance:  how far to go from the noise predicted without a label towards that with the label (Ho and Salimans
                   2022). 1 is the label's own; other values need a network trained with `label_drop`, and a second
                   evaluation each.
    Returns: (N, C, H, W) uint8, on the network's device.
    Raises:  UserError: labels that do not fit the network, an unknown sampler.
    """
    if batch < 1:
        raise UserError(f"batch {batch}: at least 1")
    classes = model.arch.num_classes
    if (labels is None) != (classes == 0) or (labels is None) == (count is None):
        works = "give labels for a conditional network, count for an unconditional one"
        raise UserError(f"U-ViT of {classes} classes: {works}")
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"U-ViT: labels {int(labels.min())}..{int(labels.max())} for {classes} classes")
    draw, out = _drawing(model, _guided(model, precision, guidance), steps, sampler), []
    for start in range(0, len(labels) if count is None else count, batch):
        here = None if labels is None else labels[start : start + batch].to(model.device)
        out.append(draw(here, min(batch, count - start) if here is None else len(here), seed, first + start))
    return torch.cat(out) if out else torch.empty(0, *model.arch.shape, dtype=torch.uint8)


def _guided(model: UViT, precision: str, guidance: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The noise that the samplers use. Raises: UserError: guidance by a network that knows no label to leave out."""
    if guidance != 1 and not model.arch.no_label:
        needs = "needs a network trained with label_drop; this one works with guidance 1"
        raise UserError(f"U-ViT: guidance {guidance} {needs}")
    if precision not in ("float32", "bfloat16"):
        raise unknown("precision", precision, ["float32", "bfloat16"])
    network = fast(model.eval(), model.device)

    def eps(x: Tensor, t999: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            if guidance == 1:
                return network(x, t999, y).float()
            both = torch.cat([y, torch.full_like(y, model.arch.num_classes)])
            given, without = network(torch.cat([x, x]), torch.cat([t999, t999]), both).float().chunk(2)
            return without + guidance * (given - without)

    return eps


def _drawing(model: UViT, network: Callable[..., Tensor], steps: int, sampler: str) -> Draw:
    """A function that draws images (n, C, H, W) uint8 from the noise that `network` predicts."""

    @torch.no_grad()
    def draw(labels: Tensor | None, n: int, seed: int, first: int) -> Tensor:
        streams = [stream(seed, "image", first + k) for k in range(n)]

        def noise() -> Tensor:
            return torch.stack([torch.randn(model.arch.shape, generator=g) for g in streams]).to(model.device)

        def eps(x: Tensor, t: float) -> Tensor:
            return network(x, torch.full((n,), 999 * t, device=model.device), labels)

        return to_uint8(continuous.sample(sampler, eps, noise(), steps, noise))

    return draw


# --- as many as a time allows, on disk ---
@dataclass(frozen=True)
class Generated:
    """Images on disk, in files of one batch each.

    Attributes:
        folder:      `batch<i>.safetensors`: images (n, C, H, W) uint8, and the seconds they took.
        num_classes: image k is of class k modulo this.
        images:      how many there are.
        seconds:     of generation and writing, over all runs; loading and compiling the network are not counted.
    """

    folder: Path
    num_classes: int
    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def pixels(self) -> Iterator[Tensor]:
        """(n, C, H, W) uint8, one file after another."""
        yield from (load_file(file)["images"] for file in _files(self.folder))

    def load(self, like: ImageSet, **extra: Any) -> ImageSet:
        """The images as a synthetic set with `like`'s facts, uint8, without the last, incomplete round of classes.

        Raises: UserError: there is not one image of every class.
        """
        each = self.images // self.num_classes
        if not each:
            given = f"{self.images} images of {self.num_classes} classes in {self.seconds:.1f} s"
            raise UserError(f"{given}: not one of each; give more seconds")
        images = torch.cat(list(self.pixels()))[: each * self.num_classes]
        labels = torch.arange(len(images)) % self.num_classes
        facts = like.synthetic_facts(images=self.images, generation_seconds=round(self.seconds, 3), **extra)
        return ImageSet(images, labels, facts).to(like.device)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("batch*.safetensors"))


def generate_for(
    model: UViT,
    seconds: float | None,
    num_classes: int,
    seed: int,
    folder: str | Path,
    steps: int = 50,
    sampler: str = "dpm_fast",
    batch: int = 500,
    precision: str = "float32",
    images: int | None = None,
    loop: Loop | None = None,
    guidance: float = 1.0,
) -> Generated:
    """Generate for a time, or a number of images, the classes in turn, to disk as uint8.

    A batch that would probably end after the time is not begun. Stopped and called again, it goes on: the seconds spent
    are kept with the images. The images of two runs agree; how many they are depends on the machine.

    Args:
        seconds:  of generation and writing; None if `images` says how many.
        folder:   where the files go; for this call alone.
        guidance: see `generate`.
    Raises: UserError: neither or both of seconds and images, files of other settings.  TimeUp: the loop's deadline
    passed.
    """
    if not (seconds is None or 0 < seconds < math.inf) or not (images is None or images > 0):
        raise UserError(f"generate_for: seconds={seconds}, images={images}; a number above zero")
    if (seconds is None) == (images is None):
        raise UserError(f"generate_for: seconds={seconds}, images={images}; give one of the two")
    if num_classes != model.arch.num_classes:
        raise UserError(f"generate_for: {num_classes} classes; the network has {model.arch.num_classes}")
    folder, loop = Path(folder), loop or Loop()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state, weights = model.state_dict(), hashlib.sha256()
    for name in ("pos_embed", "decoder_pred.weight"):
        weights.update(state[name].cpu().contiguous().numpy().tobytes())
    key = {"seed": seed, "steps": steps, "sampler": sampler, "batch": batch, "precision": precision}
    key |= {"guidance": guidance, "weights": weights.hexdigest()}
    past = [_past(file, key) for file in _files(folder)]
    made, spent = sum(n for n, _ in past), sum(took for _, took in past)
    slowest = max((took for _, took in past), default=0.0)

    def more() -> bool:
        return made < images if seconds is None else made == 0 or spent + slowest <= seconds

    network, warm = _guided(model, precision, guidance), False
    draw = _drawing(model, network, steps, sampler)
    while more():
        n = batch if seconds is not None else min(batch, images - made)
        labels = (torch.arange(made, made + n) % num_classes).to(model.device)
        if not warm:  # compile, and touch the memory, before the clock starts
            network(torch.zeros(n, *model.arch.shape, device=model.device), torch.zeros(n, device=model.device), labels)
            warm = True
        start = time.perf_counter()
        batch_images = {"images": draw(labels, n, seed, made).cpu()}
        took = time.perf_counter() - start
        about = {"key": json.dumps(key), "seconds": repr(took)}
        write_tensors(folder / f"batch{made:09d}.safetensors", batch_images, about)
        made, spent, slowest = made + n, spent + took, max(slowest, took)
        if loop.tell:
            done, total = (made, images) if seconds is None else (round(min(spent, seconds)), round(seconds))
            loop.tell("generate", done, total, {"images_per_second": made / spent})
        if loop.deadline is not None and time.monotonic() > loop.deadline and more():
            raise TimeUp(f"generate: stopped at {made} images, which are kept")
    return Generated(folder, num_classes, made, spent)


def _past(file: Path, key: dict[str, Any]) -> tuple[int, float]:
    """Images of a batch on disk and the seconds they took. Raises: UserError: other settings, or a damaged file."""
    with undamaged(file, "delete it and the later ones to go on from there"), safe_open(file, "pt") as f:
        meta = f.metadata() or {}
        if json.loads(meta["key"]) != key:
            raise UserError(f"{file.parent}: holds images of other settings; give another folder, or delete it")
        return f.get_slice("images").get_shape()[0], float(meta["seconds"])
