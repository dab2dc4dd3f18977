"""DiT: a transformer over patches that predicts the noise of latents, given a timestep and a class.

    network = DiT(Architecture(side=32, channels=4)).draw_weights(rng)     # DiT-XL/2 at 256 pixels
    network = read("DiT-XL-2-256/transformer")                             # official or diffusers' weights
    predict = guided(network, labels, scale=4.0)

Parameters are named as in the official state dict, so that both kinds of files load. `difffit` adds scales and says which
parameters DiffFit trains.

Source: Peebles and Xie 2023 (DiT) and its code; Xie et al. 2023 (DiffFit) as in Minimax's code; diffusers' DiTTransformer2DModel.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import memory
from ..errors import UserError
from ..settings import Count, replace, settings

FREQUENCIES = 256  # numbers a timestep is embedded in
Numerics = Literal["official", "diffusers"]


@settings
class Architecture:
    """Everything that decides the shapes of the weights. The defaults are DiT-XL/2 for images of 256 pixels."""

    side: Count = 32  # of the latents
    channels: Count = 4
    patch: Count = 2
    width: Count = 1152
    depth: Count = 28
    heads: Count = 16
    mlp_ratio: float = 4.0
    num_classes: Count = 1000  # one more row of the label table stands for no class
    scaled: int = 0  # blocks, the first ones, with DiffFit's scales
    numerics: Numerics = "official"  # diffusers spaces the timestep's frequencies over 127 intervals, and has 1e-5 in the MLP's norm

    def check(self) -> Self:
        """Raises: UserError: sizes that do not fit together."""
        if self.side % self.patch:
            raise UserError(f"DiT: patches of {self.patch} do not tile latents of {self.side}; give a divisor of {self.side}")
        if self.width % 4:
            raise UserError(f"DiT: width {self.width} must be a multiple of 4")
        if self.width % self.heads:
            raise UserError(f"DiT: width {self.width} is not a multiple of {self.heads} heads")
        if not 0 <= self.scaled <= self.depth:
            raise UserError(f"DiT: scales in {self.scaled} of {self.depth} blocks")
        return self

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2

    def flops(self) -> float:
        """Floating-point operations of one forward pass of one image, a multiply-add counted as two."""
        w, hidden = self.width, int(self.width * self.mlp_ratio)
        per_token = 4 * w * w + 2 * w * hidden + 2 * self.tokens * w
        ends = self.tokens * self.patch**2 * self.channels * 3 * w
        once = self.depth * 6 * w * w + (FREQUENCIES + w) * w + 2 * w * w
        return 2.0 * (self.depth * self.tokens * per_token + ends + once)


class Attention(nn.Module):
    def __init__(self, of: Architecture, scaled: bool):
        super().__init__()
        self.heads = of.heads
        self.qkv, self.proj = nn.Linear(of.width, 3 * of.width), nn.Linear(of.width, of.width)
        if scaled:
            self.gamma_qkv, self.gamma_proj = nn.Parameter(torch.ones(3 * of.width)), nn.Parameter(torch.ones(of.width))
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        qkv = qkv * self.gamma_qkv if self.scaled else qkv
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, width / heads)
        x = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x * self.gamma_proj if self.scaled else x


class MLP(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        hidden = int(of.width * of.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(of.width, hidden), nn.Linear(hidden, of.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-zero)."""

    def __init__(self, of: Architecture, scaled: bool):
        super().__init__()
        self.attn, self.mlp = Attention(of, scaled), MLP(of)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(of.width, 6 * of.width))
        if scaled:
            self.gamma_attn, self.gamma_mlp = nn.Parameter(torch.ones(of.width)), nn.Parameter(torch.ones(of.width))
        self.scaled, self.width, self.mlp_eps = scaled, (of.width,), 1e-5 if of.numerics == "diffusers" else 1e-6

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, 2)
        a = self.attn(torch.addcmul(shift, F.layer_norm(x, self.width, eps=1e-6), 1 + scale))
        x = x + gate * (a * self.gamma_attn if self.scaled else a)
        m = self.mlp(torch.addcmul(mlp_shift, F.layer_norm(x, self.width, eps=self.mlp_eps), 1 + mlp_scale))
        return x + mlp_gate * (m * self.gamma_mlp if self.scaled else m)


class TimestepEmbedder(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, of.width), nn.SiLU(), nn.Linear(of.width, of.width))
        half = FREQUENCIES // 2
        intervals = half - (of.numerics == "diffusers")
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device="cpu") / intervals)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(self.mlp[0].weight.dtype))


class LabelEmbedder(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        self.embedding_table = nn.Embedding(of.num_classes + 1, of.width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)


class PatchEmbedder(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        self.proj = nn.Conv2d(of.channels, of.width, of.patch, of.patch)

    def forward(self, z: Tensor) -> Tensor:
        return self.proj(z).flatten(2).transpose(1, 2)


class FinalLayer(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        self.linear = nn.Linear(of.width, of.patch**2 * 2 * of.channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(of.width, 2 * of.width))
        self.width = (of.width,)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, 2)
        return self.linear(torch.addcmul(shift, F.layer_norm(x, self.width, eps=1e-6), 1 + scale))


class DiT(nn.Module):
    """(z_t (B, C, S, S), timesteps (B,), labels (B,)) -> (B, 2C, S, S): noise, and where the log-variance lies.

    The label `num_classes` stands for no class. Weights are PyTorch's until `draw_weights` or `load_state_dict`.
    """

    family = "dit"

    def __init__(self, of: Architecture):
        super().__init__()
        self.of = of.check()
        self.x_embedder, self.t_embedder, self.y_embedder = PatchEmbedder(of), TimestepEmbedder(of), LabelEmbedder(of)
        self.pos_embed = nn.Parameter(positions(of.width, of.side // of.patch)[None], requires_grad=False)
        self.blocks = nn.ModuleList(Block(of, i < of.scaled) for i in range(of.depth))
        self.final_layer = FinalLayer(of)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        x = self.x_embedder(z) + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(labels)
        for block in self.blocks:
            x = block(x, condition)
        x = self.final_layer(x, condition)  # (B, tokens, patch² 2C)
        n, p = self.of.side // self.of.patch, self.of.patch
        return x.view(len(x), n, n, p, p, 2 * self.of.channels).permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, n * p, n * p)

    @torch.no_grad()
    def draw_weights(self, rng: torch.Generator) -> Self:
        """The official initial weights: Xavier's uniform, normal (0.02) embedders, zero gates and output; a new network answers 0."""
        for name, p in self.named_parameters():
            if name == "pos_embed" or "gamma" in name:
                continue
            if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer.linear"):
                p.zero_()
            elif name.startswith(("t_embedder", "y_embedder")):
                p.copy_(torch.randn(p.shape, generator=rng, device=rng.device) * 0.02)
            else:
                bound = math.sqrt(6 / (p.shape[0] + p[0].numel()))
                p.copy_((torch.rand(p.shape, generator=rng, device=rng.device) * 2 - 1) * bound)
        return self


def parameters(of: Architecture) -> int:
    """How many numbers the weights of these sizes are, places of the patches included, without DiffFit's scales."""
    w, hidden, patch = of.width, int(of.width * of.mlp_ratio), of.channels * of.patch**2
    block = 4 * w * w + 4 * w + 2 * w * hidden + hidden + w + 6 * w * w + 6 * w
    ends = patch * w + w + of.tokens * w + FREQUENCIES * w + w + w * w + w + (of.num_classes + 1) * w
    return of.depth * block + ends + 2 * w * w + 2 * w + 2 * patch * w + 2 * patch


@functools.lru_cache(maxsize=64)
def image_bytes(of: Architecture) -> float:
    """What training keeps of one image: counted with one block and with two; every further one keeps as much as the second."""

    def counted(depth: int) -> float:
        with torch.random.fork_rng(devices=[]):
            network = DiT(replace(of, depth=depth, scaled=0))
        weights = [p for p in network.parameters() if p.requires_grad]

        def run(n: int) -> tuple[Tensor, ...]:
            latents = torch.zeros(n, of.channels, of.side, of.side)
            return torch.autograd.grad(network(latents, torch.zeros(n), torch.zeros(n, dtype=torch.int64)).sum(), weights)

        return memory.growth(run).each

    one, two = counted(1), counted(2)
    return one + (of.depth - 1) * (two - one)


def build(of: Architecture) -> DiT:
    """A network without a draw from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        return DiT(of)


def positions(width: int, side: int) -> Tensor:
    """(side², width): sines and cosines of the column, then of the row, in row-major order."""
    omega = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    row, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float64, device="cpu")] * 2, indexing="ij")
    parts = [part for at in (column, row) for angle in [at.reshape(-1, 1) * omega] for part in (angle.sin(), angle.cos())]
    return torch.cat(parts, 1).float()


# --- guidance ----------------------------------------------------------------------------------------------------------
Predict = Callable[[Tensor, Tensor], Tensor]


def guided(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], labels: Tensor, none: int, scale: float, channels: Literal["official", "all"] = "all"
) -> Predict:
    """Classifier-free guidance: noise = without class + scale (with class - without class); variances are those with class.

    Args:
        labels:   (B,) conditions; `none` is the label for no class.
        scale:    1 is the conditional answer alone, 0 the unconditional noise.
        channels: "official" guides the first three channels alone, as DiT's code keeps it for reproducibility; "all" as diffusers.
    """
    if scale == 1:
        return lambda z, t: network(z, t, labels)
    both = torch.cat([labels, torch.full_like(labels, none)])

    def predict(z: Tensor, t: Tensor) -> Tensor:
        given, without = network(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        c = z.shape[1] if channels == "all" else min(3, z.shape[1])
        return torch.cat([without[:, :c] + scale * (given[:, :c] - without[:, :c]), given[:, c:]], 1)

    return predict


# --- DiffFit -----------------------------------------------------------------------------------------------------------
TRAINED = ("bias", "norm", "gamma", "y_embed")  # parts of the names of what DiffFit trains; no norm here has parameters


def difffit(network: DiT) -> DiT:
    """A copy with scales of 1 in the first half of its blocks, in which only DiffFit's parameters need gradients.

    Its outputs are those of `network` until it is trained.
    """
    copy = build(replace(network.of, scaled=network.of.depth // 2)).to(network.pos_embed.device)
    missing, extra = copy.load_state_dict(network.state_dict(), strict=False)
    assert not extra and all("gamma" in name for name in missing)
    for name, p in copy.named_parameters():
        p.requires_grad_(any(part in name for part in TRAINED))
    return copy


# --- files -------------------------------------------------------------------------------------------------------------
def read(path: str | Path, numerics: Numerics | None = None) -> DiT:
    """A network from its official state dict (one file), or from a folder that diffusers wrote.

    A checkpoint of Minimax's fine-tuning is read too, with DiffFit's scales `gamma1` and `gamma2`, which its code multiplies with: in
    `attn` the queries, keys and values, and the projection; in a block the attention's branch and the MLP's, before they are added.

    Args:
        path:     a `.safetensors` or `.pt` file of the official names; or a folder with `config.json` and diffusers' weights, or one
                  above it that has it as `transformer`.
        numerics: how it computes; by default that of the library the file is from. The weights of DiT-XL/2 were trained with the
                  official one, whichever file holds them.
    Raises: UserError: missing, damaged or foreign files.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "transformer" if (path / "transformer").is_dir() else path
        try:
            config = json.loads((path / "config.json").read_text())
            of = from_config(config, numerics or "diffusers")
            network = build(of)
            network.load_state_dict({"pos_embed": network.pos_embed.data, **from_diffusers(tensors(path), of)})
        except (OSError, json.JSONDecodeError, KeyError, TypeError, RuntimeError) as err:
            raise UserError(f"{path}: not a DiT as diffusers writes it ({err})") from None
        return network
    try:
        state = from_minimax(tensors(path))
        network = build(infer(state, numerics or "official"))
        network.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as err:
        raise UserError(f"{path}: not the state dict of a DiT ({err})") from None
    return network


def tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, or of a folder's files `diffusion_pytorch_model*` or `model*`; nothing is unpickled but tensors.

    Of a checkpoint that training wrote: the averaged weights, which the official samplers take.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [path]
    if path.is_dir():
        found = [sorted(path.glob(f"{stem}*.{end}")) for end in ("safetensors", "bin") for stem in ("diffusion_pytorch_model", "model")]
        files = next((f for f in found if f), [])
    if not files or not files[0].exists():
        raise UserError(f"{path}: no weights here; diffusers writes diffusion_pytorch_model.safetensors")
    out: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                state = load_file(file)
            else:
                with torch.serialization.safe_globals([argparse.Namespace]):  # training's arguments lie beside its weights
                    state = torch.load(file, map_location="cpu", weights_only=True)
                state = state.get("ema", state)
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as err:
            raise UserError(f"{file}: damaged or no file of weights ({err})") from None
        except Exception as err:  # what the restricted unpickler refuses
            raise UserError(f"{file}: holds more than tensors, and is not read ({type(err).__name__})") from None
        out |= state
    return out


_SCALES = {"attn.gamma1": "attn.gamma_qkv", "attn.gamma2": "attn.gamma_proj", "gamma1": "gamma_attn", "gamma2": "gamma_mlp"}  # Minimax -> here


def from_minimax(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with DiffFit's scales under the names they have here; without such scales it stays as it is."""
    return {re.sub(r"(?<=\d\.)(attn\.)?gamma[12]$", lambda found: _SCALES[found[0]], name): tensor for name, tensor in state.items()}


def infer(state: dict[str, Tensor], numerics: Numerics = "official") -> Architecture:
    """The architecture of an official state dict. It does not tell the heads: they are taken to be of 72 numbers, or 64 where 72 do not fit."""
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    head = 72 if width % 72 == 0 else 64 if width % 64 == 0 else width
    return Architecture(
        side=math.isqrt(state["pos_embed"].shape[1]) * patch, channels=channels, patch=patch, width=width, depth=len(blocks),
        heads=width // head, mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,
        scaled=sum(f"blocks.{i}.gamma_attn" in state for i in blocks), numerics=numerics,
    )  # fmt: skip


def from_config(config: dict, numerics: Numerics = "diffusers") -> Architecture:
    """The architecture of a diffusers `config.json` (DiTTransformer2DModel, or Transformer2DModel as older files say).

    Raises: UserError: a network that is no DiT, or one without learned variances.
    """
    if config.get("norm_type", "ada_norm_zero") != "ada_norm_zero" or config.get("activation_fn", "gelu-approximate") != "gelu-approximate":
        found = f"{config.get('norm_type')}, {config.get('activation_fn')}"
        raise UserError(f"a transformer with {found}; a DiT has ada_norm_zero, gelu-approximate")
    channels = config["in_channels"]
    if config.get("out_channels") != 2 * channels:
        outputs = config.get("out_channels")
        raise UserError(f"a DiT with {outputs} output channels for {channels}; one that learns variances has {2 * channels}")
    heads = config["num_attention_heads"]
    return Architecture(
        side=config["sample_size"], channels=channels, patch=config["patch_size"], width=heads * config["attention_head_dim"],
        depth=config["num_layers"], heads=heads, num_classes=config["num_embeds_ada_norm"], numerics=numerics,
    )  # fmt: skip


_BLOCK = {  # official -> diffusers; qkv is three there
    "attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2", "adaLN_modulation.1": "norm1.linear",
}  # fmt: skip
_ENDS = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1", "final_layer.linear": "proj_out_2"}
_EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1", "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}  # fmt: skip


def from_diffusers(state: dict[str, Tensor], of: Architecture) -> dict[str, Tensor]:
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
        for i in range(of.depth):
            for ours, theirs in _BLOCK.items():
                out[f"blocks.{i}.{ours}.{kind}"] = state[f"transformer_blocks.{i}.{theirs}.{kind}"]
            out[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([state[f"transformer_blocks.{i}.attn1.to_{x}.{kind}"] for x in "qkv"])
    return out
