"""The U-ViT: a vision transformer with long skips that predicts the noise of a diffusion in pixel space.

Weights have the names and shapes of the public checkpoints. Source: Bao et al. 2023 (U-ViT) and its code.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...core.errors import UserError
from ...core.settings import Count, replace, settings
from ..diffusion.continuous import VP
from ..transformer import Attention, Mlp, PatchEmbed, unpatchify


@settings
class UViTArchitecture:
    """Everything that decides the shapes of the weights."""

    image_size: Count = 32  # pixels
    channels: Count = 3
    patch: Count = 2  # pixels
    width: Count = 512  # D, entries of a token
    depth: Count = 12  # blocks beside the one in the middle: half before it, half after it
    heads: Count = 8
    mlp_ratio: Count = 4
    num_classes: int = 0  # 0: unconditional
    no_label: bool = False  # whether there is one more label, the last, that means no class: for guidance
    # what the last layer gives; "v": alpha noise - sigma image, from which the noise is computed (ours)
    output: Literal["noise", "v"] = "noise"

    def check(self) -> Self:
        """Raises: UserError: sizes that do not fit together."""
        if self.image_size % self.patch:
            given = f"images of {self.image_size} pixels in patches of {self.patch}"
            raise UserError(f"U-ViT: {given}; the patch must divide the side")
        if self.width % self.heads or self.width % 2:
            raise UserError(f"U-ViT: width {self.width} with {self.heads} heads; an even width that the heads divide")
        if self.depth % 2:
            raise UserError(f"U-ViT: depth {self.depth}; give an even number, half before and half after the middle")
        if self.num_classes < 0 or (self.no_label and not self.num_classes):
            raise UserError(f"U-ViT: {self.num_classes} classes; 0 is unconditional, and has no label to leave out")
        return self

    @property
    def labels(self) -> int:
        """Rows of the label embedding: the classes, and the label that means no class."""
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


_IMAGENET = UViTArchitecture(image_size=64, patch=4, num_classes=1000)
ARCHITECTURES = {
    "Small": UViTArchitecture(),  # CIFAR-10 checkpoint
    "Mid": replace(_IMAGENET, width=768, depth=16, heads=12),  # ImageNet 64 x 64 checkpoints, as Large
    "Large": replace(_IMAGENET, width=1024, depth=20, heads=16),
    "Tiny": UViTArchitecture(patch=4, width=128, depth=4, heads=4, num_classes=10),  # ours, for CPUs
}


class UViTBlock(nn.Module):
    """Pre-norm attention and MLP; with `skip`, after a linear layer that joins the tokens with those of an earlier
    block."""

    def __init__(self, arch: UViTArchitecture, skip: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(arch.width), nn.LayerNorm(arch.width)
        self.attn = Attention(arch.width, arch.heads, bias=False)
        self.mlp = Mlp(arch.width, arch.mlp_ratio * arch.width)
        self.skip_linear = nn.Linear(2 * arch.width, arch.width) if skip else None

    def forward(self, x: Tensor, earlier: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, earlier], 2))  # (B, L, 2 D) to (B, L, D)
        x = x + self.attn(self.norm1(x))  # (B, L, D)
        return x + self.mlp(self.norm2(x))  # (B, L, D)


class UViT(nn.Module):
    """Images, times and labels -> the noise in them.

    Tokens are [label, time, patches], without labels [time, patches]. They pass depth / 2 blocks, one in the middle,
    and depth / 2 more, each of which also takes the output of its mirror image; then every patch becomes pixels again,
    and a 3x3 convolution follows.

    Args:
        arch:          sizes.
        rng:           draws the initial weights; None leaves them undefined, for weights that are loaded afterwards.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a
                       third slower.
        device:        "meta" for names and shapes of the weights without their memory.
    """

    def __init__(
        self,
        arch: UViTArchitecture,
        rng: torch.Generator | None = None,
        checkpointing: bool = False,
        device: str = "cpu",
    ):
        super().__init__()
        self.arch, self.checkpointing = arch.check(), checkpointing
        with torch.device("meta"):  # building layers draws from the global generator
            self.patch_embed = PatchEmbed(arch.channels, arch.width, arch.patch)
            if arch.num_classes:
                self.label_emb = nn.Embedding(arch.labels, arch.width)
            self.pos_embed = nn.Parameter(torch.empty(1, arch.tokens, arch.width))
            self.in_blocks = nn.ModuleList(UViTBlock(arch) for _ in range(arch.depth // 2))
            self.mid_block = UViTBlock(arch)
            self.out_blocks = nn.ModuleList(UViTBlock(arch, skip=True) for _ in range(arch.depth // 2))
            self.norm = nn.LayerNorm(arch.width)
            self.decoder_pred = nn.Linear(arch.width, arch.patch**2 * arch.channels)
            self.final_layer = nn.Conv2d(arch.channels, arch.channels, 3, padding=1)
        self.to_empty(device=device)
        half = arch.width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half).float()
        self.register_buffer("frequencies", frequencies, persistent=False)
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
                layer.reset_parameters()
            elif isinstance(layer, nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5
                for p in (layer.weight, layer.bias):
                    nn.init.uniform_(p, -bound, bound, generator=rng)
            elif isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, generator=rng)
        nn.init.trunc_normal_(self.pos_embed, std=0.02, generator=rng)

    @property
    def device(self) -> torch.device:
        return self.pos_embed.device

    def tokens(self, x: Tensor, t999: Tensor, label: Tensor | None) -> Tensor:
        """(B, L, D) from images (B, C, H, W), times (B,) in [0, 999] and embeddings of labels (B, D)."""
        angles = t999[:, None].float() * self.frequencies  # (B, D / 2), of wave lengths 2 pi to 2 pi 10,000
        time = torch.cat([angles.cos(), angles.sin()], 1)  # (B, D)
        extras = [time[:, None]] if label is None else [label[:, None], time[:, None]]
        return torch.cat([*extras, self.patch_embed(x)], 1) + self.pos_embed

    def image(self, h: Tensor) -> Tensor:
        """(B, C, H, W) from the tokens (B, L, D) after the last block."""
        h = self.decoder_pred(self.norm(h[:, self.arch.extras :]))  # (B, patches, patch² C)
        return self.final_layer(unpatchify(h, self.arch.patch))

    def forward(self, x: Tensor, t999: Tensor, y: Tensor | None = None) -> Tensor:
        """The predicted noise.

        Args:
            x:    (B, C, H, W) noisy images.
            t999: (B,) 999 times the time in [0, 1], not rounded.
            y:    (B,) classes; None for an unconditional network.
        """
        h, skips = self.tokens(x, t999, self.label_emb(y) if self.arch.num_classes else None), []  # (B, L, D)
        for block in self.in_blocks:
            h = self._through(block, h)  # (B, L, D)
            skips.append(h)
        h = self._through(self.mid_block, h)  # (B, L, D)
        for block in self.out_blocks:
            h = self._through(block, h, skips.pop())  # (B, L, D)
        out = self.image(h)  # (B, C, H, W)
        if self.arch.output == "noise":
            return out
        alpha, sigma = (f(t999 / 999).view(-1, 1, 1, 1) for f in (VP.alpha, VP.sigma))
        return sigma * x + alpha * out

    def _through(self, block: UViTBlock, *inputs: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


@functools.lru_cache(maxsize=64)
def parameter_count(arch: UViTArchitecture) -> int:
    """Number of parameters of a network of these sizes."""
    return sum(p.numel() for p in UViT(arch, device="meta").parameters())
