"""The U-ViT."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import UserError
from ...core.settings import Count, settings
from ..diffusion.continuous import VP


# --- network -----------------------------------------------------------------------------------------------------------
@settings
class Architecture:
    """Everything that decides the shapes of the weights."""

    image_size: Count = 32  # pixels
    channels: Count = 3
    patch: Count = 2  # pixels
    width: Count = 512  # D, entries of a token
    depth: Count = 12  # blocks beside the one in the middle: half before it, half after it
    heads: Count = 8
    mlp_ratio: Count = 4
    num_classes: int = 0  # 0: unconditional
    no_label: bool = False  # whether one label more, the last, says nothing: for guidance without a classifier
    output: Literal["noise", "v"] = (
        "noise"  # of the last layer; "v": alpha noise - sigma image, from which the noise is computed (ours)
    )

    def check(self) -> Self:
        """Raises: UserError: sizes that do not fit together."""
        if self.image_size % self.patch:
            raise UserError(
                f"U-ViT: images of {self.image_size} pixels in patches of {self.patch}; the patch must divide the side"
            )
        if self.width % self.heads or self.width % 2:
            raise UserError(f"U-ViT: width {self.width} with {self.heads} heads; an even width that the heads divide")
        if self.depth % 2:
            raise UserError(
                f"U-ViT: depth {self.depth}; an even number, half before the middle block and half after it"
            )
        if self.num_classes < 0 or (self.no_label and not self.num_classes):
            raise UserError(f"U-ViT: {self.num_classes} classes; 0 is unconditional, and has no label to leave out")
        return self

    @property
    def labels(self) -> int:
        """Rows of the label embedding: classes, and the label that says nothing."""
        return self.num_classes + self.no_label

    @property
    def extras(self) -> int:
        """Tokens beside the patches: label and time, or time alone."""
        return 2 if self.num_classes else 1

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch) ** 2 + self.extras

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.image_size, self.image_size


ARCHITECTURES = {
    "Small": Architecture(),  # CIFAR-10 checkpoint
    "Mid": Architecture(
        image_size=64, patch=4, width=768, depth=16, heads=12, num_classes=1000
    ),  # ImageNet 64 x 64 checkpoints
    "Large": Architecture(image_size=64, patch=4, width=1024, depth=20, heads=16, num_classes=1000),
    "Tiny": Architecture(patch=4, width=128, depth=4, heads=4, num_classes=10),  # ours, for CPUs
}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, L, D / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP; with `skip`, after a linear layer that joins the tokens with those of an earlier
    block."""

    def __init__(self, of: Architecture, skip: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(of.width), nn.LayerNorm(of.width)
        self.attn = Attention(of.width, of.heads)
        self.mlp = Mlp(of.width, of.mlp_ratio * of.width)
        self.skip_linear = nn.Linear(2 * of.width, of.width) if skip else None

    def forward(self, x: Tensor, earlier: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, earlier], 2))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        self.proj = nn.Conv2d(of.channels, of.width, of.patch, of.patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, patches, D), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class UViT(nn.Module):
    """Images, times and labels -> the noise in them.

    Tokens are [label, time, patches], without label [time, patches]; depth / 2 blocks, one in the middle, and depth / 2
    that each take the output of its mirror image too; then pixels of every patch, and a 3x3 convolution.

    Args:
        of:            sizes.
        rng:           draws the initial weights; None leaves them undefined, for weights that are loaded afterwards.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a
        third slower. device:        "meta" for names and shapes of the weights without their memory.
    """

    def __init__(
        self, of: Architecture, rng: torch.Generator | None = None, checkpointing: bool = False, device: str = "cpu"
    ):
        super().__init__()
        self.of, self.checkpointing = of.check(), checkpointing
        with torch.device("meta"):  # building layers draws from the global generator
            self.patch_embed = Patches(of)
            if of.num_classes:
                self.label_emb = nn.Embedding(of.labels, of.width)
            self.pos_embed = nn.Parameter(torch.empty(1, of.tokens, of.width))
            self.in_blocks = nn.ModuleList(Block(of) for _ in range(of.depth // 2))
            self.mid_block = Block(of)
            self.out_blocks = nn.ModuleList(Block(of, skip=True) for _ in range(of.depth // 2))
            self.norm = nn.LayerNorm(of.width)
            self.decoder_pred = nn.Linear(of.width, of.patch**2 * of.channels)
            self.final_layer = nn.Conv2d(of.channels, of.channels, 3, padding=1)
        self.to_empty(device=device)
        half = of.width // 2
        self.register_buffer(
            "frequencies",
            torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half).float(),
            persistent=False,
        )
        if rng is not None:
            self._draw(rng)

    @torch.no_grad()
    def _draw(self, rng: torch.Generator) -> None:
        """Linear layers and positions N(0, 0.02²) cut at ±2, their biases 0; convolutions and label embeddings
        PyTorch's defaults."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, generator=rng)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5
                (
                    nn.init.uniform_(layer.weight, -bound, bound, generator=rng),
                    nn.init.uniform_(layer.bias, -bound, bound, generator=rng),
                )
            elif isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, generator=rng)
        nn.init.trunc_normal_(self.pos_embed, std=0.02, generator=rng)

    @property
    def device(self) -> torch.device:
        return self.pos_embed.device

    def embed_time(self, t999: Tensor) -> Tensor:
        """(B,) times in [0, 999] to (B, D): cosines, then sines, of wave lengths 2 pi to 2 pi 10,000."""
        angles = t999[:, None].float() * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], 1)

    def forward(self, x: Tensor, t999: Tensor, y: Tensor | None = None) -> Tensor:
        """The predicted noise.

        Args:
            x:    (B, C, H, W) noisy images.
            t999: (B,) 999 times the time in [0, 1], not rounded.
            y:    (B,) classes; None for an unconditional network.
        """
        of = self.of
        tokens = [self.embed_time(t999)[:, None], self.patch_embed(x)]
        if of.num_classes:
            tokens.insert(0, self.label_emb(y)[:, None])
        h, skips = torch.cat(tokens, 1) + self.pos_embed, []
        for block in self.in_blocks:
            h = self._through(block, h)
            skips.append(h)
        h = self._through(self.mid_block, h)
        for block in self.out_blocks:
            h = self._through(block, h, skips.pop())
        h = self.decoder_pred(self.norm(h[:, of.extras :]))
        side = of.image_size // of.patch
        h = h.unflatten(2, (of.patch, of.patch, of.channels)).unflatten(1, (side, side))  # (B, rows, columns, p, p, C)
        out = self.final_layer(h.permute(0, 5, 1, 3, 2, 4).reshape(x.shape))
        if of.output == "noise":
            return out
        alpha, sigma = (f(t999 / 999).view(-1, 1, 1, 1) for f in (VP.alpha, VP.sigma))
        return sigma * x + alpha * out

    def _through(self, block: Block, *inputs: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint

            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def parameters(of: Architecture) -> int:
    """How many numbers the weights of these sizes are."""
    extra = of.labels * of.width + of.tokens * of.width + of.width * (of.channels * of.patch**2 + 1)
    block = 4 * of.width**2 + of.width + 2 * of.mlp_ratio * of.width**2 + (of.mlp_ratio + 1) * of.width + 4 * of.width
    skips = of.depth // 2 * (2 * of.width**2 + of.width)
    out = of.patch**2 * of.channels
    return (
        extra
        + (of.depth + 1) * block
        + skips
        + 2 * of.width
        + (of.width + 1) * out
        + of.channels * (9 * of.channels + 1)
    )


def sinusoids(side: int, width: int) -> Tensor:
    """(side², width) places of patches, row by row: sine and cosine of the row and of the column at wave lengths 2 pi
    to 2 pi 10,000.

    Source: He et al. 2022 (MAE), appendix A.1. Raises: UserError: a width that four does not divide.
    """
    if width % 4:
        raise UserError(f"U-ViT: positions from sinusoids need a width that four divides, not {width}")
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) * 4 / width)
    place = torch.arange(side, dtype=torch.float64)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    angles = [at.reshape(-1, 1) * frequencies for at in (rows, columns)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()
