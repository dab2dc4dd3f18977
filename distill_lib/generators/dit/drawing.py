"""Pools of images drawn from a DiT."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core import paths, store
from ...core.files import read_tensors, write_tensors
from ...core.loop import Loop
from ...core.rng import stream
from ...core.settings import as_dict
from ...data import ImageSet
from ..diffusion import discrete
from .encoded import resized
from .network import guided
from .settings import VERSION, Sampling
from .training import Model


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

    An image depends on the seed, its class and its number alone, so a smaller pool is the beginning of a larger one.

    Args:
        model:   called if images are missing.
        made_by: the settings that decide the model; the images are kept under these, the sampling's and the seed.
    """
    loop = loop or Loop()
    key = {**made_by, "sampling": as_dict(sampling), "seed": seed, "data": real.sha256(), "version": VERSION}
    folder = paths.runs() / "pools" / f"{store.plain_name(real.facts.name)}-{store.digest(key)}"
    each = max(1, sampling.batch // real.num_classes)  # images of every class in a file
    files = [folder / f"{i:05d}.safetensors" for i in range(-(-per_class // each))]
    incomplete = not all(f.exists() for f in files)
    with store.once(folder / "pool", "pool of images", loop, real.device, missing=incomplete) as missing:
        if missing:
            network = model()
            todo = [i for i, f in enumerate(files) if not f.exists()]
            phase = f"pool-{folder.name}"
            store.forget(loop, phase)  # of a stopped run with other files to draw: those on disk are what is kept
            for step in loop.steps(phase, len(todo), {}):
                i = todo[step]
                write_tensors(files[i], {"images": _drawn(network, sampling, range(i * each, (i + 1) * each), seed)})
            store.forget(loop, phase)
    images = torch.cat([read_tensors(f)[0]["images"] for f in files], 1)[:, :per_class]  # (K, n, C, S, S)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(per_class)
    facts = dataclasses.replace(real.facts, split="pool", extra={"seed": seed})
    return ImageSet(images.to(real.device).flatten(0, 1).contiguous(), labels, facts)


def _drawn(model: Model, sampling: Sampling, numbers: range, seed: int) -> Tensor:
    """(K, n, C, S, S) uint8: the images of these numbers of every class."""
    which = [(k, j) for k in range(len(model.labels)) for j in numbers]
    schedule, device, out = model.schedule.respaced(sampling.steps), model.network.pos_embed.device, []
    for part in (which[i : i + sampling.batch] for i in range(0, len(which), sampling.batch)):
        streams = [stream(seed, "pool", k, j) for k, j in part]

        def noise(streams: list[torch.Generator] = streams) -> Tensor:
            return torch.stack([torch.randn(model.latent, generator=g) for g in streams]).to(device)

        labels = model.labels[torch.tensor([k for k, _ in part])].to(device)
        none = model.network.arch.num_classes
        predict = guided(model.answer, labels, none, sampling.guidance, sampling.channels)
        z = discrete.sample(predict, schedule, noise)
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
