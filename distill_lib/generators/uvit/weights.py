"""Weights of a U-ViT: reading, saving, and changing them for other classes."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core import weights
from ...core.errors import UserError
from ...core.files import write_tensors
from ...core.settings import as_dict, from_dict
from .network import UViT, UViTArchitecture


def read(file: str | Path) -> tuple[dict[str, Tensor], UViTArchitecture]:
    """The weights in a `.safetensors` or `.pth` file, a plain dictionary of tensors, and the sizes they have.

    A file that does not say how many heads there are has one for 64 entries of a token, as the public ones.

    Raises: UserError: missing, damaged, or not a U-ViT.
    """
    state, about = weights.read(Path(file))
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        works = "give the averaged weights of a U-ViT, such as nnet_ema.pth"
        raise UserError(f"{file}: not a plain dictionary of tensors; {works}")
    said = about.get("architecture")
    return state, from_dict(UViTArchitecture, json.loads(said)) if said else architecture_of(state, str(file))


def architecture_of(state: dict[str, Tensor], name: str = "weights") -> UViTArchitecture:
    """The sizes of these weights. Raises: UserError: they are not a U-ViT's."""
    try:
        _, tokens, width = state["pos_embed"].shape
        _, channels, patch, _ = state["patch_embed.proj.weight"].shape
        mlp = state["mid_block.mlp.fc1.weight"].shape[0] // width
    except (KeyError, ValueError):
        needed = "pos_embed, patch_embed.proj.weight or mid_block.mlp.fc1.weight"
        raise UserError(f"{name}: not a U-ViT: {needed} is missing") from None
    blocks = len({k.split(".")[1] for k in state if k.startswith("in_blocks.")})
    classes = len(state["label_emb.weight"]) if "label_emb.weight" in state else 0
    side = math.isqrt(tokens - (2 if classes else 1))
    return UViTArchitecture(side * patch, channels, patch, width, 2 * blocks, max(1, width // 64), mlp, classes).check()


def surgery(state: dict[str, Tensor], labels: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Weights for other classes: a new label embedding of `labels` rows. Unconditional weights also get a position for
    the label, in front of all others."""
    width, unconditional = state["pos_embed"].shape[2], "label_emb.weight" not in state
    state = state | {"label_emb.weight": torch.randn(labels, width, generator=rng)}
    if unconditional:
        position = nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02, generator=rng)
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    return state


def from_state(state: dict[str, Tensor], arch: UViTArchitecture, checkpointing: bool = False) -> UViT:
    """A network with these weights. Raises: UserError: naming what is missing, unknown or of another shape."""
    model = UViT(arch, checkpointing=checkpointing)
    try:
        model.load_state_dict(state)
    except RuntimeError as err:
        raise UserError(f"weights do not fit this U-ViT: {textwrap.shorten(str(err), 400)}") from None
    return model


def load(file: str | Path) -> UViT:
    """The network in a file, in eval mode. Raises: UserError: see `read` and `from_state`."""
    return from_state(*read(file)).eval().requires_grad_(False)


def save(model: UViT, file: Path) -> Path:
    """Write weights and sizes to a `.safetensors` file."""
    return write_tensors(file, model.state_dict(), {"architecture": json.dumps(as_dict(model.arch))})
