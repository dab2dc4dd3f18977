"""DiT: a transformer over patches that predicts the noise of latents, given a timestep and a class.

    network = DiT(Architecture(side=32, channels=4)).draw_weights(rng)     # DiT-XL/2 at 256 pixels
    network = read("DiT-XL-2-256/transformer")                             # official or diffusers' weights
    predict = guided(network, labels, scale=4.0)

Parameters are named as in the official state dict, so that both kinds of files load. `difffit` adds scales and says
which parameters DiffFit trains.

Source: Peebles and Xie 2023 (DiT) and its code; Xie et al. 2023 (DiffFit) as in Minimax's code; diffusers'
DiTTransformer2DModel.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.memory import bytes_per_image
from ...core.settings import Count, replace, settings

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
    numerics: Numerics = (
        "official"  # diffusers spaces the timestep's frequencies over 127 intervals, and has 1e-5 in the MLP's norm
    )

    def check(self) -> Self:
        """Raises: UserError: sizes that do not fit together."""
        if self.side % self.patch:
            raise UserError(
                f"DiT: patches of {self.patch} do not tile latents of {self.side}; give a divisor of {self.side}"
            )
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
        return (
            x.view(len(x), n, n, p, p, 2 * self.of.channels).permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, n * p, n * p)
        )

    @torch.no_grad()
    def draw_weights(self, rng: torch.Generator) -> Self:
        """The official initial weights: Xavier's uniform, normal (0.02) embedders, zero gates and output; a new network
        answers 0."""
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
    """What training keeps of one image: counted with one block and with two; every further one keeps as much as the
    second."""

    def counted(depth: int) -> float:
        with torch.random.fork_rng(devices=[]):
            network = DiT(replace(of, depth=depth, scaled=0))
        weights = [p for p in network.parameters() if p.requires_grad]

        def run(n: int) -> tuple[Tensor, ...]:
            latents = torch.zeros(n, of.channels, of.side, of.side)
            return torch.autograd.grad(
                network(latents, torch.zeros(n), torch.zeros(n, dtype=torch.int64)).sum(), weights
            )

        return bytes_per_image(run)

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
    parts = [
        part for at in (column, row) for angle in [at.reshape(-1, 1) * omega] for part in (angle.sin(), angle.cos())
    ]
    return torch.cat(parts, 1).float()


# --- guidance ----------------------------------------------------------------------------------------------------------
Predict = Callable[[Tensor, Tensor], Tensor]


def guided(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    labels: Tensor,
    none: int,
    scale: float,
    channels: Literal["official", "all"] = "all",
) -> Predict:
    """Classifier-free guidance: noise = without class + scale (with class - without class); variances are those with
    class.

    Args:
        labels:   (B,) conditions; `none` is the label for no class.
        scale:    1 is the conditional answer alone, 0 the unconditional noise.
        channels: "official" guides the first three channels alone, as DiT's code keeps it for reproducibility; "all" as
        diffusers.
    """
    if scale == 1:
        return lambda z, t: network(z, t, labels)
    both = torch.cat([labels, torch.full_like(labels, none)])

    def predict(z: Tensor, t: Tensor) -> Tensor:
        given, without = network(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        c = z.shape[1] if channels == "all" else min(3, z.shape[1])
        return torch.cat([without[:, :c] + scale * (given[:, :c] - without[:, :c]), given[:, c:]], 1)

    return predict


_SCALES = {
    "attn.gamma1": "attn.gamma_qkv",
    "attn.gamma2": "attn.gamma_proj",
    "gamma1": "gamma_attn",
    "gamma2": "gamma_mlp",
}  # Minimax -> here


def from_minimax(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with DiffFit's scales under the names they have here; without such scales it stays as it is."""
    return {
        re.sub(r"(?<=\d\.)(attn\.)?gamma[12]$", lambda found: _SCALES[found[0]], name): tensor
        for name, tensor in state.items()
    }
