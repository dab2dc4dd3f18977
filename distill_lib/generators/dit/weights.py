"""Weights of a DiT as other libraries store them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ...core import weights
from ...core.errors import UserError
from ...core.files import undamaged
from .network import DiT, DiTArchitecture, Numerics


def read(path: str | Path, numerics: Numerics | None = None) -> DiT:
    """A network from its official state dict (one file), or from a folder that diffusers wrote.

    A checkpoint of Minimax's fine-tuning is read too, with the scales of DiffFit. Its code calls them `gamma1` and
    `gamma2`: in `attn` they multiply the queries, keys and values, and the projection; in a block the attention's
    branch and the MLP's, before these are added.

    Args:
        path:     a `.safetensors` or `.pt` file of the official names; or a folder with `config.json` and diffusers'
                  weights, or one above it that has it as `transformer`.
        numerics: how it computes; by default as in the library the file is from. The weights of DiT-XL/2 were trained
                  with the official one, whichever file holds them.
    Raises: UserError: missing, damaged or foreign files.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "transformer" if (path / "transformer").is_dir() else path
        with undamaged(path, "give the folder of a DiT as diffusers writes it"):
            arch = from_config(json.loads((path / "config.json").read_text()), numerics or "diffusers")
            network = DiT(arch)
            network.load_state_dict({"pos_embed": network.pos_embed.data, **from_diffusers(tensors(path), arch)})
    else:
        state = from_minimax(tensors(path))
        with undamaged(path, "give the state dict of a DiT"):
            network = DiT(infer(state, numerics or "official"))
            network.load_state_dict(state)
    return network


def tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, or of a folder's files `diffusion_pytorch_model*` or `model*`; nothing is unpickled but
    tensors.

    From a checkpoint that training wrote: the averaged weights, which the official samplers take.
    """
    files = [path]
    if path.is_dir():
        stems = ("diffusion_pytorch_model", "model")
        found = [sorted(path.glob(f"{stem}*.{end}")) for end in ("safetensors", "bin") for stem in stems]
        files = next((f for f in found if f), [])
    if not files:
        raise UserError(f"{path}: no weights here; diffusers writes diffusion_pytorch_model.safetensors")
    out: dict[str, Tensor] = {}
    for file in files:
        state, _ = weights.read(file)
        out |= state.get("ema", state)
    return out


def infer(state: dict[str, Tensor], numerics: Numerics = "official") -> DiTArchitecture:
    """The architecture of an official state dict. It does not say how many heads there are: they are taken to have 72
    numbers, or 64 if 72 do not fit."""
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    head = 72 if width % 72 == 0 else 64 if width % 64 == 0 else width
    return DiTArchitecture(
        side=math.isqrt(state["pos_embed"].shape[1]) * patch,
        channels=channels,
        patch=patch,
        width=width,
        depth=len(blocks),
        heads=width // head,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,
        scaled=sum(f"blocks.{i}.gamma_attn" in state for i in blocks),
        numerics=numerics,
    )


def from_config(config: dict, numerics: Numerics = "diffusers") -> DiTArchitecture:
    """The architecture of a diffusers `config.json` (DiTTransformer2DModel, or Transformer2DModel as older files say).

    Raises: UserError: a network that is no DiT, or one without learned variances.
    """
    kinds = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate"}
    if any(config.get(k, wanted) != wanted for k, wanted in kinds.items()):
        found = ", ".join(str(config.get(k)) for k in kinds)
        raise UserError(f"a transformer with {found}; a DiT has {', '.join(kinds.values())}")
    channels, outputs = config["in_channels"], config.get("out_channels")
    if outputs != 2 * channels:
        wanted = f"one that learns variances has {2 * channels}"
        raise UserError(f"a DiT with {outputs} output channels for {channels}; {wanted}")
    heads = config["num_attention_heads"]
    return DiTArchitecture(
        side=config["sample_size"],
        channels=channels,
        patch=config["patch_size"],
        width=heads * config["attention_head_dim"],
        depth=config["num_layers"],
        heads=heads,
        num_classes=config["num_embeds_ada_norm"],
        numerics=numerics,
    )


_BLOCK = {  # official -> diffusers; qkv is three there
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}


def from_diffusers(state: dict[str, Tensor], arch: DiTArchitecture) -> dict[str, Tensor]:
    """diffusers' state dict by official names, without the fixed positions.

    diffusers keeps a copy of the two embedders in every block; the first is taken.
    """
    out = {}
    for kind in ("weight", "bias"):
        for ours, theirs in _ENDS.items():
            out[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
        for ours, theirs in _EMBEDDERS.items():
            if kind == "weight" or not ours.startswith("y_"):
                out[f"{ours}.{kind}"] = state[f"transformer_blocks.0.norm1.emb.{theirs}.{kind}"]
        for i in range(arch.depth):
            for ours, theirs in _BLOCK.items():
                out[f"blocks.{i}.{ours}.{kind}"] = state[f"transformer_blocks.{i}.{theirs}.{kind}"]
            parts = [state[f"transformer_blocks.{i}.attn1.to_{x}.{kind}"] for x in "qkv"]
            out[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    return out


_SCALES = {  # Minimax -> here
    "attn.gamma1": "attn.gamma_qkv",
    "attn.gamma2": "attn.gamma_proj",
    "gamma1": "gamma_attn",
    "gamma2": "gamma_mlp",
}


def from_minimax(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with DiffFit's scales under the names they have here; without such scales it stays as it is."""
    scale = re.compile(r"(?<=\d\.)(attn\.)?gamma[12]$")
    return {scale.sub(lambda found: _SCALES[found[0]], name): tensor for name, tensor in state.items()}
