"""The parts that U-ViT and DiT have in common. Weights are named as in timm's layers, which the official codes use.

timm's own layers would compute the same, bit for bit; importing them takes 0.9 seconds at the start of every command.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention of several heads.

    Args:
        bias:   whether queries, keys and values have one.
        scaled: whether DiffFit's scales multiply the outputs of both linear layers.
    """

    def __init__(self, width: int, heads: int, bias: bool = True, scaled: bool = False):
        super().__init__()
        self.heads, self.scaled = heads, scaled
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.proj = nn.Linear(width, width)
        if scaled:
            self.gamma_qkv, self.gamma_proj = nn.Parameter(torch.ones(3 * width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)  # (B, L, 3 D)
        qkv = qkv * self.gamma_qkv if self.scaled else qkv
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, L, D / heads)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, L, D / heads)
        x = self.proj(x.transpose(1, 2).flatten(2))  # (B, L, D)
        return x * self.gamma_proj if self.scaled else x


class Mlp(nn.Module):
    """Two linear layers around a GELU, which is exact or the tanh form (`approximate="tanh"`)."""

    def __init__(self, width: int, hidden: int, approximate: str = "none"):
        super().__init__()
        self.fc1, self.fc2, self.approximate = nn.Linear(width, hidden), nn.Linear(hidden, width), approximate

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x), approximate=self.approximate)  # (B, L, hidden)
        return self.fc2(x)  # (B, L, D)


class PatchEmbed(nn.Module):
    """Every square patch of an image as a token."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)  # (B, D, H / patch, W / patch)
        return x.flatten(2).transpose(1, 2)  # (B, L, D), row by row


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """(B, L, patch² C) numbers of the patches of square images, row by row, to the images (B, C, H, W)."""
    side = round(tokens.shape[1] ** 0.5)
    x = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (side, side))  # (B, rows, columns, p, p, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, side * patch, side * patch)


def sinusoids(side: int, width: int) -> Tensor:
    """(side², width) places of patches, row by row: sines and cosines of the row, then of the column, at wave lengths
    2 pi to 2 pi 10,000. The width must be a multiple of 4.

    Source: He et al. 2022 (MAE), appendix A.1; DiT's code has the column first.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    place = torch.arange(side, dtype=torch.float64, device="cpu")
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    angles = [at.reshape(-1, 1) * frequencies for at in (rows, columns)]  # each (side², width / 4)
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()
