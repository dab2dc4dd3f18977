"""The vision transformers of GLaD's cross-architecture tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from .base import Seeded, Shape


class Block(nn.Module):
    """Attention and MLP, each with a residual; dropout after both projections. `layer_norm` puts LayerNorm before
    either."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, dropout: float, layer_norm: bool):
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.norm1 = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))
        self.norm2 = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        # each (N, heads, tokens, head_dim)
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # no dropout of the attention, as in GLaD's code
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT(Seeded):
    """Vision transformer: linear embedding of flattened patches (row, column, channel), class token, learned positions,
    linear head.

    Positions and class token start as N(0, 1). `layer_norm=False` is GLaD's form for ImageNet subsets, which has no
    LayerNorm at all. Source: Cazenavette et al. 2023 (GLaD); `patch=4, depth=6, layer_norm=True` is its CIFAR form,
    also DC-BENCH's.
    """

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        patch: int = 16,
        dim: int = 512,
        depth: int = 10,
        heads: int = 8,
        head_dim: int = 64,
        hidden: int = 512,
        dropout: float = 0.1,
        layer_norm: bool = False,
    ):
        super().__init__(shape, num_classes)
        channels, height, width = shape
        if height % patch or width % patch:
            why = f"it cuts {patch}x{patch} patches, so both sides must be multiples of {patch}"
            raise UserError(f"this ViT cannot take {height}x{width} images: {why}")
        self.patch = patch
        self.tokens = nn.Linear(patch * patch * channels, dim)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, (height // patch) * (width // patch) + 1, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, head_dim, hidden, dropout, layer_norm) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim) if layer_norm else nn.Identity()
        self.classifier = nn.Linear(dim, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        p = self.patch
        patches = x.unfold(2, p, p).unfold(3, p, p)  # (N, C, rows, columns, p, p)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (N, rows * columns, p * p * C)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), self.tokens(patches)], 1) + self.positions
        with self.dropout_stream(x):
            return self.norm(self.blocks(self.dropout(tokens))[:, 0])

    def law(self, module: nn.Module, name: str) -> tuple[str, float]:
        return ("normal", 1.0) if name in ("class_token", "positions") else super().law(module, name)
