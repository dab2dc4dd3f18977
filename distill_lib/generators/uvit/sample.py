"""Sampling from a U-ViT, also for a number of seconds."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import TimeUp, UserError, unknown
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...data import ImageSet
from ..diffusion.continuous import SAMPLERS, sample
from .network import UViT
from .training import _fast


def to_uint8(images: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1], clipped, to the nearest of 256 levels."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


# --- sampling ----------------------------------------------------------------------------------------------------------
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
        sampler:   one of `SAMPLERS`.
        precision: of the network's multiplications, "float32" or "bfloat16"; the solver works in float32.
        guidance:  how far to go from the noise predicted without label to that with it (Ho and Salimans 2022): 1 is the
        label's own,
                   more needs a network trained with `label_drop` and a second evaluation each.
    Returns: (N, C, H, W) uint8, on the network's device.
    Raises:  UserError: labels that do not fit the network, an unknown sampler.
    """
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if (labels is None) != (model.of.num_classes == 0) or (labels is None) == (count is None):
        raise UserError(
            f"U-ViT of {model.of.num_classes} classes: give labels for a conditional network, count for an unconditional one"
        )
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.of.num_classes:
        raise UserError(f"U-ViT: labels {int(labels.min())}..{int(labels.max())} for {model.of.num_classes} classes")
    network, out = _sampling(model, precision, guidance), []
    for start in range(0, len(labels) if count is None else count, batch):
        here = None if labels is None else labels[start : start + batch].to(model.device)
        n = min(batch, count - start) if here is None else len(here)
        out.append(_draw(network, model, here, n, seed, first + start, steps, sampler))
    return torch.cat(out) if out else torch.empty(0, *model.of.shape, dtype=torch.uint8)


def _sampling(model: UViT, precision: str, guidance: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The network as the samplers use it. Raises: UserError: guidance by a network that knows no label to leave out."""
    if guidance != 1 and not model.of.no_label:
        raise UserError(
            f"U-ViT: guidance {guidance} needs a network trained with label_drop; this one works with guidance 1"
        )
    network = _fast(model.eval(), model.device)

    def eps(x: Tensor, t999: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            if guidance == 1:
                return network(x, t999, y).float()
            both = torch.cat([y, torch.full_like(y, model.of.num_classes)])
            given, without = network(torch.cat([x, x]), torch.cat([t999, t999]), both).float().chunk(2)
            return without + guidance * (given - without)

    return eps


def _draw(
    network: Callable[..., Tensor],
    model: UViT,
    labels: Tensor | None,
    n: int,
    seed: int,
    first: int,
    steps: int,
    sampler: str,
) -> Tensor:
    streams = [stream(seed, "image", first + k) for k in range(n)]

    def noise() -> Tensor:
        return torch.stack([torch.randn(model.of.shape, generator=g) for g in streams]).to(model.device)

    def eps(x: Tensor, t: float) -> Tensor:
        return network(x, torch.full((n,), 999 * t, device=model.device), labels)

    return to_uint8(sample(sampler, eps, noise(), steps, noise))


@dataclass(frozen=True)
class Generated:
    """Images on disk, in files of one batch each.

    Attributes:
        folder:      `batch<i>.safetensors`: images (n, C, H, W) uint8, and the seconds they took.
        num_classes: image k is of class k modulo this.
        images:      how many there are.
        seconds:     of generation and writing, whenever that was; loading and compiling the network are not counted.
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
        from safetensors.torch import load_file

        yield from (load_file(file)["images"] for file in _files(self.folder))

    def load(self, like: ImageSet, **extra: Any) -> ImageSet:
        """As a synthetic set with `like`'s facts, uint8; the last, incomplete round of classes is left out.

        Raises: UserError: not one image of every class.
        """
        each = self.images // self.num_classes
        if not each:
            raise UserError(
                f"{self.images} images of {self.num_classes} classes in {self.seconds:.1f} s: not one of each; give more seconds"
            )
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
    """Generate for a time, or a number of images, in turn of every class, to disk as uint8.

    A batch that would probably end after the time is not begun. Stopped and called again, it goes on: the seconds spent
    are kept with the images. The images of two runs agree; how many they are depends on the machine.

    Args:
        seconds: of generation and writing; None where `images` says how many.
        folder:  where the files go; of this call alone.
        guidance: see `generate`.
    Raises: UserError: neither or both of seconds and images, files of other settings.  TimeUp: the loop's deadline
    passed.
    """
    if (seconds is None) == (images is None):
        raise UserError(f"generate_for: seconds={seconds}, images={images}; give one of the two")
    if num_classes != model.of.num_classes:
        raise UserError(f"generate_for: {num_classes} classes; the network has {model.of.num_classes}")
    folder, loop = Path(folder), loop or Loop()
    folder.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256(
        b"".join(
            model.state_dict()[k].cpu().contiguous().numpy().tobytes() for k in ("pos_embed", "decoder_pred.weight")
        )
    )
    key = {
        "seed": seed,
        "steps": steps,
        "sampler": sampler,
        "batch": batch,
        "precision": precision,
        "guidance": guidance,
        "weights": weights.hexdigest(),
    }
    made, spent, slowest = 0, 0.0, 0.0
    for file in _files(folder):
        n, took = _past(file, key)
        made, spent, slowest = made + n, spent + took, max(slowest, took)
    network, warm = _sampling(model, precision, guidance), False
    while made < images if seconds is None else made == 0 or spent + slowest <= seconds:
        n = batch if seconds is not None else min(batch, images - made)
        labels = (torch.arange(made, made + n) % num_classes).to(model.device)
        if not warm:  # compile, and touch the memory, before the clock starts
            network(torch.zeros(n, *model.of.shape, device=model.device), torch.zeros(n, device=model.device), labels)
            warm = True
        start = time.perf_counter()
        with torch.no_grad():
            drawn = _draw(network, model, labels, n, seed, made, steps, sampler).cpu()
        took = _write(folder / f"batch{made:09d}.safetensors", drawn, key, start)
        made, spent, slowest = made + n, spent + took, max(slowest, took)
        if loop.tell:
            done, total = (made, images) if seconds is None else (round(min(spent, seconds)), round(seconds))
            loop.tell("generate", done, total, {"images_per_second": made / spent})
        if (
            loop.deadline is not None
            and time.monotonic() > loop.deadline
            and (made < images if seconds is None else spent + slowest <= seconds)
        ):
            raise TimeUp(f"generate: stopped at {made} images, which are kept")
    return Generated(folder, num_classes, made, spent)


def _write(file: Path, images: Tensor, key: dict[str, Any], start: float) -> float:
    """Write a batch and the seconds since `start`; returns those."""
    from safetensors.torch import save_file

    took = 0.0

    def write(part: Path) -> None:
        nonlocal took
        took = time.perf_counter() - start
        save_file({"images": images.contiguous()}, part, {"key": json.dumps(key), "seconds": repr(took)})

    atomically(file, write)
    return took


def _past(file: Path, key: dict[str, Any]) -> tuple[int, float]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as f:
            meta = f.metadata() or {}
            if json.loads(meta["key"]) != key:
                raise UserError(f"{file.parent}: holds images of other settings; give another folder, or delete it")
            return f.get_slice("images").get_shape()[0], float(meta["seconds"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as err:
        raise UserError(f"{file}: damaged ({err}); delete it and the later ones to go on from there") from None
