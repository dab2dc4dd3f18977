"""Pools of images drawn from a DiT."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core import paths, store
from ...core.files import atomically
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import as_dict
from ...core.store import digest, forget, plain_name
from ...data import ImageSet
from ..diffusion import discrete
from . import network as dit_network
from .encoded import resized
from .forecast import outlook, say
from .settings import VERSION, Sampling
from .training import Model, _answer


def drawn_pool(
    real: ImageSet,
    model: Callable[[], Model],
    made_by: dict[str, Any],
    sampling: Sampling,
    per_class: int,
    seed: int,
    loop: Loop | None = None,
) -> ImageSet:
    """`per_class` drawn images of every class, as 8-bit pixels at the model's side, class after class.

    Args:
        model:   called where images are missing.
        made_by: settings that decide the model; with those of the sampling and the seed, what the images are kept
        under.
    """
    from safetensors.torch import load_file, save_file

    key = {**made_by, "sampling": as_dict(sampling), "seed": seed, "data": real.sha256(), "version": VERSION}
    folder = paths.runs() / "pools" / f"{plain_name(real.facts.name)}-{digest(key)}"
    each = max(1, sampling.batch // real.num_classes)  # images of every class in a file
    files = [folder / f"{i:05d}.safetensors" for i in range(-(-per_class // each))]
    with store.once(
        folder / "pool", "pool of images", loop, real.device, missing=not all(f.exists() for f in files)
    ) as missing:
        if missing:
            network = model()
            todo = [i for i, f in enumerate(files) if not f.exists()]
            say(outlook("images drawn", network.network, sampling.work(1), len(todo), each * real.num_classes))
            for step in (loop or Loop()).steps(f"pool-{folder.name}-{len(todo)}", len(todo), {}):
                i = todo[step]
                drawn = _drawn(network, sampling, range(i * each, (i + 1) * each), seed)
                atomically(files[i], lambda part, drawn=drawn: save_file({"images": drawn}, part))
            if loop:
                forget(loop, f"pool-{folder.name}-{len(todo)}")
    images = torch.cat([load_file(f)["images"] for f in files], 1)[:, :per_class].to(real.device)  # (K, n, C, S, S)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(per_class)
    return ImageSet(
        images.flatten(0, 1).contiguous(), labels, dataclasses.replace(real.facts, split="pool", extra={"seed": seed})
    )


def _drawn(model: Model, sampling: Sampling, numbers: range, seed: int) -> Tensor:
    """(K, n, C, S, S) uint8: the images of these numbers of every class."""
    which = [(k, j) for k in range(len(model.labels)) for j in numbers]
    schedule, out = model.schedule.respaced(sampling.steps), []
    for part in (which[i : i + sampling.batch] for i in range(0, len(which), sampling.batch)):
        rngs = [stream(seed, "pool", k, j) for k, j in part]
        device = model.network.pos_embed.device

        def draw(rngs: list[torch.Generator] = rngs, device: torch.device = device) -> Tensor:
            return torch.stack([torch.randn(model.latent, generator=g) for g in rngs]).to(device)

        labels = model.labels[torch.tensor([k for k, _ in part])].to(device)
        network: Callable[..., Tensor] = lambda *inputs: _answer(model.network, model.precision, *inputs)  # noqa: E731
        predict = dit_network.guided(
            network, labels, model.network.of.num_classes, sampling.guidance, sampling.channels
        )
        z = discrete.sample(predict, schedule, draw)
        out += [(model.space.pixels(some) * 255).round().byte().cpu() for some in z.split(25)]
    return torch.cat(out).contiguous().unflatten(0, (len(model.labels), len(numbers)))


def as_set(images: ImageSet, real: ImageSet, index: Tensor, **extra: Any) -> ImageSet:
    """The images of a pool at positions `index` (K, ipc) as a synthetic set: at the side of `real`, normalised.

    Args:
        extra: provenance, such as the method's name.
    """
    pixels = resized(images.subset(index.flatten()).pixels(), real.shape[1])
    return ImageSet.from_classes(real.facts.normalise(pixels).unflatten(0, index.shape), like=real, **extra)


def first(images: ImageSet, per_class: int) -> Tensor:
    """(K, per_class) positions of the first images of every class of a pool."""
    return torch.stack([members[:per_class] for members in images.class_index])
