"""DiT: a transformer over patches that predicts the noise of latents, given a timestep and a class.

    network = DiT(DiTArchitecture(side=32, channels=4)).draw_weights(rng)     # DiT-XL/2 at 256 pixels
    network = read("DiT-XL-2-256/transformer")                             # official or diffusers' weights
    predict = guided(network, labels, none=1000, scale=4.0)

Parameters are named as in the official state dict, so that both kinds of files load.

Source: Peebles and Xie 2023 (DiT) and its code; Xie et al. 2023 (DiffFit) as in Minimax's code; diffusers'
DiTTransformer2DModel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.settings import Count, settings
from ..transformer import Attention, Mlp, PatchEmbed, sinusoids, unpatchify

FREQUENCIES = 256  # numbers a timestep is embedded in
Numerics = Literal["official", "diffusers"]
Predict = Callable[[Tensor, Tensor], Tensor]


@settings
class DiTArchitecture:
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
    # diffusers spaces the timestep's frequencies over 127 intervals, and has 1e-5 in the MLP's norm
    numerics: Numerics = "official"

    def check(self) -> Self:
        """Raises: UserError: sizes that do not fit together."""
        if self.side % self.patch:
            given = f"patches of {self.patch} do not tile latents of {self.side}"
            raise UserError(f"DiT: {given}; give a divisor of {self.side}")
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

    @property
    def hidden(self) -> int:
        """Entries between the layers of an MLP."""
        return int(self.width * self.mlp_ratio)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """(B, L, D) tokens, normalised, then scaled and shifted by the condition (B, 1, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[2:], eps=eps), 1 + scale)


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the condition (adaLN-zero)."""

    def __init__(self, arch: DiTArchitecture, scaled: bool):
        super().__init__()
        self.attn = Attention(arch.width, arch.heads, scaled=scaled)
        self.mlp = Mlp(arch.width, arch.hidden, approximate="tanh")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(arch.width, 6 * arch.width))
        if scaled:
            self.gamma_attn, self.gamma_mlp = (nn.Parameter(torch.ones(arch.width)) for _ in range(2))
        self.scaled, self.mlp_eps = scaled, 1e-5 if arch.numerics == "diffusers" else 1e-6

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, 2)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts  # each (B, 1, D)
        a = self.attn(modulate(x, shift, scale))  # (B, L, D)
        x = x + gate * (a * self.gamma_attn if self.scaled else a)  # (B, L, D)
        m = self.mlp(modulate(x, mlp_shift, mlp_scale, self.mlp_eps))  # (B, L, D)
        return x + mlp_gate * (m * self.gamma_mlp if self.scaled else m)  # (B, L, D)


class TimestepEmbedder(nn.Module):
    """(B,) timesteps to (B, D): cosines, then sines, through an MLP."""

    def __init__(self, arch: DiTArchitecture):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, arch.width), nn.SiLU(), nn.Linear(arch.width, arch.width))
        half = FREQUENCIES // 2
        intervals = half - (arch.numerics == "diffusers")
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device="cpu") / intervals)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t.float()[:, None] * self.frequencies  # (B, FREQUENCIES / 2)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(self.mlp[0].weight.dtype))  # (B, D)


class LabelEmbedder(nn.Module):
    """(B,) labels to (B, D); the last row stands for no class."""

    def __init__(self, arch: DiTArchitecture):
        super().__init__()
        self.embedding_table = nn.Embedding(arch.num_classes + 1, arch.width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding_table(labels)  # (B, D)


class FinalLayer(nn.Module):
    """Tokens to the numbers of their patches, shifted and scaled by the condition."""

    def __init__(self, arch: DiTArchitecture):
        super().__init__()
        self.linear = nn.Linear(arch.width, arch.patch**2 * 2 * arch.channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(arch.width, 2 * arch.width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, 2)  # each (B, 1, D)
        return self.linear(modulate(x, shift, scale))  # (B, L, patch² 2C)


class DiT(nn.Module):
    """(z_t (B, C, S, S), timesteps (B,), labels (B,)) -> (B, 2C, S, S): noise, and where the log-variance lies.

    The label `num_classes` stands for no class. Weights are PyTorch's until `draw_weights` or `load_state_dict`.
    """

    def __init__(self, arch: DiTArchitecture):
        super().__init__()
        self.arch = arch.check()
        self.pos_embed = nn.Parameter(positions(arch.width, arch.side // arch.patch)[None], requires_grad=False)
        with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global generator
            self.x_embedder = PatchEmbed(arch.channels, arch.width, arch.patch)
            self.t_embedder, self.y_embedder = TimestepEmbedder(arch), LabelEmbedder(arch)
            self.blocks = nn.ModuleList(DiTBlock(arch, i < arch.scaled) for i in range(arch.depth))
            self.final_layer = FinalLayer(arch)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        x = self.x_embedder(z) + self.pos_embed  # (B, L, D)
        condition = self.t_embedder(t) + self.y_embedder(labels)  # (B, D)
        for block in self.blocks:
            x = block(x, condition)  # (B, L, D)
        x = self.final_layer(x, condition)  # (B, L, patch² 2C)
        return unpatchify(x, self.arch.patch)  # (B, 2C, S, S)

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


def positions(width: int, side: int) -> Tensor:
    """(side², width): sines and cosines of the column, then of the row, in row-major order."""
    return sinusoids(side, width).roll(width // 2, dims=1)


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
        channels: "official" guides the first three channels alone, as DiT's code keeps it for reproducibility; "all"
                  guides all of them, as diffusers does.
    """
    if scale == 1:
        return lambda z, t: network(z, t, labels)
    both = torch.cat([labels, torch.full_like(labels, none)])

    def predict(z: Tensor, t: Tensor) -> Tensor:
        given, without = network(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        c = z.shape[1] if channels == "all" else min(3, z.shape[1])
        return torch.cat([without[:, :c] + scale * (given[:, :c] - without[:, :c]), given[:, c:]], 1)

    return predict
