"""Official weights of StyleGAN-XL: layers read from a checkpoint's shapes, and its names."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import read_tensors, undamaged
from .layers import GRID_RATE, MARGIN, Layer
from .network import StyleGANXL


def read_layers(tensors: dict[str, Tensor]) -> list[Layer]:
    """The layers that a checkpoint's names and shapes describe: kernels from weights, rates from the lengths of
    filters.

    A filter of two dimensions is radial; only those after the nonlinearity may be.

    Raises: UserError: tensors of something else than a StyleGAN-XL generator.
    """
    found = {m[1] for k in tensors if (m := re.match(r"synthesis\.(L\d+_\d+_\d+)\.weight$", k))}
    names = sorted(found, key=lambda n: int(n[1:].split("_")[0]))
    if not names or "mapping.w_avg" not in tensors or "synthesis.input.freqs" not in tensors:
        wanted = "mapping.w_avg, synthesis.input.freqs and synthesis.L<number>_<size>_<channels>.weight"
        raise UserError(f"not the tensors of a StyleGAN-XL generator: no {wanted}")
    layers, size = [], GRID_RATE + 2 * MARGIN
    for name in names:
        weight = tensors[f"synthesis.{name}.weight"]
        filters = [tensors.get(f"synthesis.{name}.{side}_filter") for side in ("up", "down")]
        up, down = (1 if f is None else f.shape[0] // 6 for f in filters)
        out, radial = int(name.split("_")[1]), filters[1] is not None and filters[1].ndim == 2
        layers.append(Layer(name, weight.shape[2], weight.shape[1], weight.shape[0], size, out, up, down, None, radial))
        size = out
    return layers


def from_tensors(tensors: dict[str, Tensor]) -> StyleGANXL:
    """A generator with the weights of an official checkpoint's `G_ema`, named as there.

    The file of CIFAR-10 knows ten classes and keeps the features of ImageNet's thousand.

    Raises: UserError: tensors missing, left over or of other shapes; a generator without classes.
    """
    layers, w_avg = read_layers(tensors), tensors["mapping.w_avg"]
    if w_avg.ndim != 2 or "mapping.embed.weight" not in tensors:
        raise UserError("a StyleGAN-XL without classes: one that was trained with classes is needed")
    z_dim, rows = tensors["mapping.embed_proj.weight"].shape[0], len(tensors["mapping.embed.weight"])
    with torch.device("meta"):
        made = StyleGANXL(layers, len(w_avg), z_dim, w_avg.shape[1], rows)
    made = made.to_empty(device="cpu")
    places = {layer.name: f"layers.{i}" for i, layer in enumerate(layers)}
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "synthesis":
            inside = ["resampling"] if parts[-1].endswith("_filter") else []
            parts = parts[1:] if parts[1] == "input" else [places[parts[1]], *inside, *parts[2:]]
        renamed[".".join(parts)] = tensor.float()
    try:
        made.load_state_dict(renamed)
    except RuntimeError as err:
        raise UserError("not the tensors of a StyleGAN-XL generator: " + textwrap.shorten(str(err), 400)) from None
    return made.eval().requires_grad_(False)


def read(file: Path | str) -> StyleGANXL:
    """A generator from a safetensors file of the official names, as `unpickle.convert` writes it.

    Raises: UserError: a missing, damaged or foreign file.
    """
    with undamaged(file, "convert the official pickle again"):
        return from_tensors(read_tensors(file)[0])
