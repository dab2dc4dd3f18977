"""Weights of a U-ViT: reading, surgery, saving."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core import paths
from ...core.errors import UserError
from ...core.files import atomically
from ...core.settings import as_dict, build
from .network import Architecture, UViT


# --- weights -----------------------------------------------------------------------------------------------------------
def read(file: str | Path) -> tuple[dict[str, Tensor], Architecture]:
    """The weights in a `.safetensors` or `.pth` file, a plain dictionary of tensors, and the sizes they have.

    A file that does not say how many heads there are has one for 64 entries of a token, as the public ones.

    Raises: UserError: missing, damaged, or not a U-ViT.
    """
    from safetensors import SafetensorError, safe_open

    file, said = Path(file), None
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as f:
                state, said = {k: f.get_tensor(k) for k in f.keys()}, (f.metadata() or {}).get("architecture")
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:
        if (
            not isinstance(err, (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError))
            and type(err).__name__ != "UnpicklingError"
        ):
            raise
        raise UserError(
            f"{file}: cannot be read as weights ({str(err).splitlines()[0]}); a .safetensors or .pth file of tensors works"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            f"{file}: not a plain dictionary of tensors; give the averaged weights of a U-ViT, such as nnet_ema.pth"
        )
    return state, build(Architecture, json.loads(said)) if said else architecture_of(state, str(file))


def architecture_of(state: dict[str, Tensor], name: str = "weights") -> Architecture:
    """The sizes of these weights. Raises: UserError: they are not a U-ViT's."""
    try:
        _, tokens, width = state["pos_embed"].shape
        _, channels, patch, _ = state["patch_embed.proj.weight"].shape
        mlp = state["mid_block.mlp.fc1.weight"].shape[0] // width
    except (KeyError, ValueError):
        raise UserError(
            f"{name}: not a U-ViT: pos_embed, patch_embed.proj.weight or mid_block.mlp.fc1.weight is missing"
        ) from None
    blocks = len({k.split(".")[1] for k in state if k.startswith("in_blocks.")})
    classes = len(state["label_emb.weight"]) if "label_emb.weight" in state else 0
    side = math.isqrt(tokens - (2 if classes else 1))
    return Architecture(side * patch, channels, patch, width, 2 * blocks, max(1, width // 64), mlp, classes).check()


def surgery(
    state: dict[str, Tensor], labels: int, rng: torch.Generator, rows: dict[int, int] | None = None
) -> dict[str, Tensor]:
    """Weights for other classes: a new label embedding; unconditional weights also get a position for it, before all
    others.

    Args:
        labels: rows of the new embedding.
        rows:   new class -> old class whose embedding it takes over.
    Raises: UserError: `rows` where there was no embedding.
    """
    width, state = state["pos_embed"].shape[2], dict(state)
    old = state.get("label_emb.weight")
    if rows and old is None:
        raise UserError("surgery: these weights are unconditional and have no label embedding to take rows from")
    state["label_emb.weight"] = torch.randn(labels, width, generator=rng)
    for new, earlier in (rows or {}).items():
        state["label_emb.weight"][new] = old[earlier]
    if old is None:
        position = nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02, generator=rng)
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    return state


def from_state(state: dict[str, Tensor], of: Architecture, checkpointing: bool = False) -> UViT:
    """A network with these weights. Raises: UserError: naming what is missing, unknown or of another shape."""
    model = UViT(of, checkpointing=checkpointing)
    own = model.state_dict()
    problems = [f"{k} is missing" for k in own if k not in state] + [f"{k} is unknown" for k in state if k not in own]
    problems += [
        f"{k} is {tuple(v.shape)}, not {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if problems:
        raise UserError(
            "weights do not fit this U-ViT: "
            + "; ".join(problems[:4])
            + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        )
    model.load_state_dict(state)
    return model


def load(file: str | Path) -> UViT:
    """The network in a file, in eval mode. Raises: UserError: see `read` and `from_state`."""
    state, of = read(file)
    return from_state(state, of).eval().requires_grad_(False)


def save(model: UViT, file: Path) -> Path:
    """Write weights and sizes to a `.safetensors` file."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    return atomically(file, lambda part: save_file(tensors, part, {"architecture": json.dumps(as_dict(model.of))}))


def find(start: str) -> Path:
    """A file of weights: in a folder of weights, or at a path of its own. Raises: UserError: saying where it could
    lie."""
    for place in [Path(start), *(folder / start for folder in paths.weight_folders())]:
        if place.is_file():
            return place
    raise UserError(
        f"the weights {start} of U-ViT are not here: put the file into a folder named in DISTILL_WEIGHTS, or into a folder `weights` inside "
        "a data folder; or train from random weights with start=None"
    )
