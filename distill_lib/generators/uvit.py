"""U-ViT: a vision transformer with long skips that predicts the noise of a diffusion in pixel space. Book page: book/uvit.md

    model = uvit.train(real, Training(), seed=0, loop=loop)        # weights averaged over training
    images = uvit.generate(model, labels, seed=0)                  # (N, C, H, W) uint8
    made = uvit.generate_for(model, 600, num_classes=100, seed=0, folder=folder)     # what ten minutes allow, on disk

Images are in [-1, 1] inside, pixels / 127.5 - 1. Names and shapes of the weights are those of the public checkpoints.

Source: Bao et al. 2023 (U-ViT) and its code; Li et al. 2024, who train it on CIFAR-100 and TinyImageNet.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import memory, paths, store
from ..data import ImageSet
from ..device import compiled, send
from ..diffusion.continuous import SAMPLERS, VP, sample
from ..errors import UserError, unknown
from ..loop import Loop, TimeUp, atomically
from ..rng import generator as stream
from ..settings import Count, as_dict, build, replace, settings

VERSION = 1  # of what training makes: part of the key
PIECE_MB = 8192  # of activations


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
    output: Literal["noise", "v"] = "noise"  # of the last layer; "v": alpha noise - sigma image, from which the noise is computed (ours)

    def check(self) -> Self:
        """Raises: UserError: sizes that do not fit together."""
        if self.image_size % self.patch:
            raise UserError(f"U-ViT: images of {self.image_size} pixels in patches of {self.patch}; the patch must divide the side")
        if self.width % self.heads or self.width % 2:
            raise UserError(f"U-ViT: width {self.width} with {self.heads} heads; an even width that the heads divide")
        if self.depth % 2:
            raise UserError(f"U-ViT: depth {self.depth}; an even number, half before the middle block and half after it")
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
    "Mid": Architecture(image_size=64, patch=4, width=768, depth=16, heads=12, num_classes=1000),  # ImageNet 64 x 64 checkpoints
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
    """Pre-norm attention and MLP; with `skip`, after a linear layer that joins the tokens with those of an earlier block."""

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

    Tokens are [label, time, patches], without label [time, patches]; depth / 2 blocks, one in the middle, and depth / 2 that each
    take the output of its mirror image too; then pixels of every patch, and a 3x3 convolution.

    Args:
        of:            sizes.
        rng:           draws the initial weights; None leaves them undefined, for weights that are loaded afterwards.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a third slower.
        device:        "meta" for names and shapes of the weights without their memory.
    """

    def __init__(self, of: Architecture, rng: torch.Generator | None = None, checkpointing: bool = False, device: str = "cpu"):
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
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half).float(), persistent=False)
        if rng is not None:
            self._draw(rng)

    @torch.no_grad()
    def _draw(self, rng: torch.Generator) -> None:
        """Linear layers and positions N(0, 0.02²) cut at ±2, their biases 0; convolutions and label embeddings PyTorch's defaults."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, generator=rng)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm):
                nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=rng), nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
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
    return extra + (of.depth + 1) * block + skips + 2 * of.width + (of.width + 1) * out + of.channels * (9 * of.channels + 1)


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
        if not isinstance(err, (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError)) and type(err).__name__ != "UnpicklingError":
            raise
        raise UserError(f"{file}: cannot be read as weights ({str(err).splitlines()[0]}); a .safetensors or .pth file of tensors works") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{file}: not a plain dictionary of tensors; give the averaged weights of a U-ViT, such as nnet_ema.pth")
    return state, build(Architecture, json.loads(said)) if said else architecture_of(state, str(file))


def architecture_of(state: dict[str, Tensor], name: str = "weights") -> Architecture:
    """The sizes of these weights. Raises: UserError: they are not a U-ViT's."""
    try:
        _, tokens, width = state["pos_embed"].shape
        _, channels, patch, _ = state["patch_embed.proj.weight"].shape
        mlp = state["mid_block.mlp.fc1.weight"].shape[0] // width
    except (KeyError, ValueError):
        raise UserError(f"{name}: not a U-ViT: pos_embed, patch_embed.proj.weight or mid_block.mlp.fc1.weight is missing") from None
    blocks = len({k.split(".")[1] for k in state if k.startswith("in_blocks.")})
    classes = len(state["label_emb.weight"]) if "label_emb.weight" in state else 0
    side = math.isqrt(tokens - (2 if classes else 1))
    return Architecture(side * patch, channels, patch, width, 2 * blocks, max(1, width // 64), mlp, classes).check()


def surgery(state: dict[str, Tensor], labels: int, rng: torch.Generator, rows: dict[int, int] | None = None) -> dict[str, Tensor]:
    """Weights for other classes: a new label embedding; unconditional weights also get a position for it, before all others.

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
    problems += [f"{k} is {tuple(v.shape)}, not {tuple(own[k].shape)}" for k, v in state.items() if k in own and v.shape != own[k].shape]
    if problems:
        raise UserError("weights do not fit this U-ViT: " + "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else ""))
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


# --- training ----------------------------------------------------------------------------------------------------------
@settings
class Training:
    """How a U-ViT is trained. The defaults are the paper's for CIFAR-100, and its base code's where the paper is silent."""

    patch: Count = 2
    width: Count = 512
    depth: Count = 12
    heads: Count = 8
    mlp_ratio: Count = 4
    output: Literal["noise", "v"] = "noise"  # what is learned; "v" learns shapes in fewer steps (ours)
    positions: Literal["random", "sinusoids"] = "random"  # what the patches' learned positions start from (sinusoids: ours)
    label_drop: float = 0.0  # share of the images whose label is left out, which guidance needs (ours; U-ViT's on ImageNet: 0.1)
    start: str | None = None  # file of public weights to go on from, see `find`; None: from random ones
    steps: Count = 80_000  # the paper calls them epochs
    batch: Count = 1024  # images a step, over all processes
    lr: float = 2e-4  # AdamW
    betas: tuple[float, float] = (0.99, 0.999)
    weight_decay: float = 0.03
    warm_up: int = 2500  # steps over which lr rises linearly (base code)
    lr_decay: float = 0.0  # last share of the steps over which lr falls linearly to zero (ours)
    ema: float = 0.9999  # decay of the averaged weights (base code)
    flip: bool = True  # every second image mirrored, at random (base code)
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the network's multiplications; base code: float16
    checkpointing: bool = False  # of activations: less memory, a third slower; base code: for Mid
    looks: Count = 80  # moments at which weights are kept and samples can be judged

    def smoke(self) -> Training:
        """Seconds on one CPU core."""
        return replace(
            self, patch=4, width=32, depth=2, heads=2, start=None, steps=40, batch=32, lr=2e-3, warm_up=10, lr_decay=0.5, ema=0.9,
            precision="float32", checkpointing=False, looks=2,
        )  # fmt: skip

    def small(self) -> Training:
        """Three quarters of an hour on one CPU core, with three departures that let so short a training show something: v, sinusoids, dropped labels."""
        return replace(
            self, patch=4, width=128, depth=4, heads=4, start=None, steps=8000, batch=32, lr=2e-3, betas=(0.9, 0.99), warm_up=100, lr_decay=0.5,
            ema=0.998, precision="float32", checkpointing=False, looks=8, output="v", positions="sinusoids", label_drop=0.1,
        )  # fmt: skip

    def architecture(self, real: ImageSet | memory.Size) -> Architecture:
        """Raises: UserError: images this network does not fit."""
        channels, height, side = real.shape
        if height != side:
            raise UserError(f"U-ViT: images of {height} x {side} pixels; works for squares")
        if not 0 <= self.label_drop < 1:
            raise UserError(f"U-ViT: label_drop {self.label_drop}; a share from 0 to below 1")
        sizes = (side, channels, self.patch, self.width, self.depth, self.heads, self.mlp_ratio)
        return Architecture(*sizes, real.num_classes, self.label_drop > 0, self.output).check()

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network, a backward pass counted as two forward ones."""
        return 3.0 * self.steps * self.batch

    def held(self, size: memory.Size) -> float:
        """Bytes a training step keeps alive on one process."""
        of = self.architecture(size)
        return 2**20 * memory_mb(of, self, images=at_once(of, self)) + 6 * size.floats(self.batch)

    def sampling_held(self, size: memory.Size, images: int) -> float:
        """Bytes of the images of a call of the network, and of its weights."""
        of = self.architecture(size)
        skipped = of.depth // 2 * of.width
        return 4.0 * (parameters(of) + images * of.tokens * (skipped + (8 + 2 * of.mlp_ratio) * of.width))


Monitor = Callable[[int, UViT], dict[str, float]]  # (steps done, averaged weights) -> values by name


def signed(real: ImageSet, index: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1]: the real images at `index` as the network sees them."""
    return real.subset(index).pixels() * 2 - 1


def to_uint8(images: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1], clipped, to the nearest of 256 levels."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def noise_loss(
    network: Callable[..., Tensor], images: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None, output: Literal["noise", "v"] = "noise"
) -> Tensor:  # fmt: skip
    """Mean squared error of the predicted noise at times t in [0, 1]; images (B, C, H, W), t (B,), noise like images, labels (B,).

    With output "v" the error of v, which is that of the noise divided by alpha: errors where there is much noise count more.

    Source: Bao et al. 2023; about 1 for a network that has learned nothing, which is the noise's variance. v: Salimans and Ho 2022.
    """
    alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (VP.alpha, VP.sigma))
    error = network(alpha * images + sigma * noise, 999 * t, labels).float() - noise
    return (error if output == "noise" else error / alpha).square().mean()


def initial(real: ImageSet, cfg: Training, seed: int) -> UViT:
    """The network before training: random weights, or those of `cfg.start` with a new label embedding.

    Raises: UserError: the file is not there, or does not fit.
    """
    of, rng = cfg.architecture(real), stream(seed, "U-ViT", "weights")
    if cfg.start is None:
        model = UViT(of, rng, cfg.checkpointing)
        if cfg.positions == "sinusoids":
            model.pos_embed.data[0, of.extras :] = sinusoids(of.image_size // of.patch, of.width)
        return model
    state, given = read(find(cfg.start))
    if replace(given, num_classes=of.num_classes, no_label=of.no_label) != of:
        raise UserError(f"{cfg.start}: its weights are of {given}; these images and settings need {of}")
    return from_state(surgery(state, of.labels, rng), of, cfg.checkpointing)


def sinusoids(side: int, width: int) -> Tensor:
    """(side², width) places of patches, row by row: sine and cosine of the row and of the column at wave lengths 2 pi to 2 pi 10,000.

    Source: He et al. 2022 (MAE), appendix A.1. Raises: UserError: a width that four does not divide.
    """
    if width % 4:
        raise UserError(f"U-ViT: positions from sinusoids need a width that four divides, not {width}")
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) * 4 / width)
    place = torch.arange(side, dtype=torch.float64)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    angles = [at.reshape(-1, 1) * frequencies for at in (rows, columns)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1).float()


def find(start: str) -> Path:
    """A file of weights: in a folder of weights, or at a path of its own. Raises: UserError: saying where it could lie."""
    for place in [Path(start), *(folder / start for folder in paths.weight_folders())]:
        if place.is_file():
            return place
    raise UserError(
        f"the weights {start} of U-ViT are not here: put the file into a folder named in DISTILL_WEIGHTS, or into a folder `weights` inside "
        "a data folder; or train from random weights with start=None"
    )


@dataclass(frozen=True)
class Batches:
    """What every step sees: shuffled epochs without the last, partial batch, mirrored at random, times and noise.

    All processes draw the same numbers and take their share, so that the step does not depend on how many they are.
    """

    real: ImageSet
    cfg: Training
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if self.cfg.batch > len(self.real) or self.cfg.batch % self.world:
            raise UserError(
                f"U-ViT: batches of {self.cfg.batch} from {len(self.real)} images on {self.world} processes; at most as many as there "
                "are, and a multiple of the processes"
            )

    def take(self, step: int, order: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (b, C, H, W) in [-1, 1], times (b,), noise and labels of this process's share; reshuffles `order` in place."""
        batch, device = self.cfg.batch, self.real.device
        per_epoch = len(self.real) // batch
        if step % per_epoch == 0:
            order.copy_(torch.randperm(len(order), generator=rng))
        index = order[step % per_epoch * batch :][:batch]
        mirrored = torch.rand(batch, generator=rng) < 0.5
        t = torch.rand(batch, generator=rng)
        noise = torch.randn(batch, *self.real.shape, generator=rng)
        kept = torch.rand(batch, generator=rng) >= self.cfg.label_drop if self.cfg.label_drop else torch.ones(batch, dtype=torch.bool)
        index, mirrored, t, noise, kept = (send(v.chunk(self.world)[self.rank], device) for v in (index, mirrored, t, noise, kept))
        images = signed(self.real, index)
        if self.cfg.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        return images, t, noise, torch.where(kept, self.real.hard_labels[index], self.real.num_classes)


@dataclass
class Fit:
    """A finished training.

    Attributes:
        model: the averaged weights, in eval mode.
        looks: one entry per look: step, loss (mean since the look before), what the monitor said.
        curve: [step, mean loss of the steps since the entry before].
    """

    model: UViT
    looks: list[dict[str, float]]
    curve: list[list[float]]
    seconds: float


def fit(real: ImageSet, cfg: Training, seed: int, loop: Loop | None = None, monitor: Monitor | None = None) -> Fit:
    """Train, wherever the result is to be kept; on several processes where torch.distributed was started, a share of a batch on each.

    Args:
        real:    (N, C, H, W) images without whitening, on the device to compute on.
        monitor: called at every look, on the first process.
    Raises: UserError: images or settings no network here fits.  TimeUp, Diverged: see `Loop`.
    """
    if real.whitening is not None:
        raise UserError(f"{real.facts.name}: U-ViT draws pixels; give the set without whitening")
    rank, world = _processes()
    loop = loop or Loop()
    if rank:  # the first process saves, and says when to stop
        loop = Loop(loop.folder, loop.key, every=math.inf, bar=False)
    batches, device = Batches(real, cfg, rank, world), real.device
    model = initial(real, cfg, seed).to(device).train()
    ema = from_state(model.state_dict(), model.of).to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay, fused=True)
    rng, order = stream(seed, "U-ViT", "batches"), torch.arange(len(real))
    total, counted = torch.zeros(2, dtype=torch.float64, device=device), [0, 0]  # losses since the last look, and entry of the curve
    looks: list[dict[str, float]] = []
    curve: list[list[float]] = []
    clock = {"seconds": 0.0}
    live = {
        "model": model, "ema": ema, "optimizer": optimizer, "rng": rng, "order": order, "total": total, "counted": counted,
        "looks": looks, "curve": curve, "clock": clock,
    }  # fmt: skip
    network = _fast(_parallel(model) if world > 1 else model, device)
    ours, averaged, piece = list(model.parameters()), list(ema.parameters()), at_once(model.of, cfg)
    look_at = {round(cfg.steps * (i + 1) / cfg.looks) - 1 for i in range(cfg.looks)}
    every = max(1, cfg.steps // 200)
    for step in loop.steps("uvit", cfg.steps, live):
        start = time.perf_counter()
        images, t, noise, labels = batches.take(step, order, rng)
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * rate(step, cfg)
        optimizer.zero_grad()
        loss = backward(network, images, t, noise, labels, cfg, piece)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, ours, 1 - cfg.ema)
        total += loss.detach()
        counted[:] = [c + 1 for c in counted]
        if (step + 1) % every == 0:
            curve.append([step + 1, _mean(total[1], world) / counted[1]])
            total[1], counted[1] = 0, 0
        if step in look_at:
            looks.append({"step": step + 1, "loss": _mean(total[0], world) / counted[0]})
            total[0], counted[0] = 0, 0
            if monitor and not rank:
                looks[-1] |= monitor(step + 1, ema.eval())
        loop.log(loss=loss)
        clock["seconds"] += time.perf_counter() - start
    return Fit(ema.eval(), looks, curve, clock["seconds"])


def backward(
    network: Callable[..., Tensor], images: Tensor, t: Tensor, noise: Tensor, labels: Tensor, cfg: Training, piece: int
) -> Tensor:
    """Add the gradients of `noise_loss` to the weights', a piece of the batch after the other; returns the batch's loss.

    An image's loss concerns no other, so the pieces' gradients, weighted by their images, add up to the batch's.
    """
    total = images.new_zeros(())
    for i in range(0, len(images), piece):
        i = slice(i, i + piece)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=cfg.precision == "bfloat16"):
            loss = noise_loss(network, images[i], t[i], noise[i], labels[i], cfg.output)
        if piece < len(images):
            loss = loss * (len(images[i]) / len(images))
        loss.backward()
        total = total + loss.detach()
    return total


def train(real: ImageSet, cfg: Training, seed: int = 0, loop: Loop | None = None, monitor: Monitor | None = None) -> UViT:
    """The averaged weights of a training, which is run whether or not `runs/` holds it: see `trained` for that."""
    return fit(real, cfg, seed, loop, monitor).model


def rate(step: int, cfg: Training) -> float:
    """The learning rate of a step, as a share of the highest. It rises from 1 / warm_up; the base code is one step behind and starts at 0."""
    rise = min(1.0, (step + 1) / cfg.warm_up) if cfg.warm_up else 1.0
    return rise * (min(1.0, (1 - step / cfg.steps) / cfg.lr_decay) if cfg.lr_decay else 1.0)


def memory_mb(of: Architecture, cfg: Training, world: int = 1, images: int | None = None) -> float:
    """What training will need on a device, estimated: weights, gradients, moments and average, and what the backward pass keeps.

    Args:
        images: at once on a process; by default those that `fit` takes.
    """
    return (5 * 4 * parameters(of) + (images or min(cfg.batch // world, at_once(of, cfg))) * image_bytes(of, cfg)) / 2**20


def image_bytes(of: Architecture, cfg: Training) -> int:
    """What the backward pass keeps of one image."""
    size = 2 if cfg.precision == "bfloat16" else 4
    token = of.width * size
    block = (8 + 2 * of.mlp_ratio) * token + 4 * of.width * (4 - size) // 2
    kept = ((of.depth + 1) * 2 * token + block) if cfg.checkpointing else (of.depth + 1) * block + of.depth // 2 * 2 * token
    return of.tokens * kept


def at_once(of: Architecture, cfg: Training) -> int:
    """Images whose activations take `PIECE_MB`: a larger batch goes in pieces, whose gradients are added up."""
    return min(cfg.batch, max(1, PIECE_MB * 2**20 // image_bytes(of, cfg)))


def _fast(network: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """Compiled on a GPU; on a CPU matrix products dominate, and compiling takes minutes to save a few percent."""
    return compiled(network) if device.type == "cuda" else network


def _processes() -> tuple[int, int]:
    """(rank, how many) of the processes that train together."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _mean(value: Tensor, world: int) -> float:
    """Over the processes."""
    if world > 1:
        value = value.clone()
        torch.distributed.all_reduce(value)
    return float(value) / world


def _parallel(model: UViT) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, device_ids=[model.device] if model.device.type == "cuda" else None)


# --- kept in runs/ -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trained:
    """A training on disk: `uvit.safetensors`, `settings.json`, `health.json` (looks and loss curve), `step<n>.safetensors`."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "uvit.safetensors"

    @property
    def health(self) -> dict[str, Any]:
        """looks and curve as in `Fit`."""
        return json.loads((self.folder / "health.json").read_text())

    @property
    def seconds(self) -> float:
        """What training took."""
        return json.loads((self.folder / "settings.json").read_text())["seconds"]

    def model(self, step: int | None = None) -> UViT:
        """The averaged weights at the end, or at a look. Raises: UserError: no such look, or a damaged file."""
        if step is not None and step not in self.steps:
            raise UserError(f"{self.folder}: no weights of step {step}; there are {', '.join(map(str, self.steps))}")
        return load(self.file if step is None else self.folder / f"step{step}.safetensors")

    @property
    def steps(self) -> list[int]:
        """Steps whose weights were kept."""
        return sorted(int(f.stem.removeprefix("step")) for f in self.folder.glob("step*.safetensors"))


def place(real: ImageSet, cfg: Training, seed: int) -> Trained:
    """Where the training of these settings lies, whether or not it was run."""
    start = hashlib.sha256(find(cfg.start).read_bytes()).hexdigest() if cfg.start else None
    key = json.dumps({"training": as_dict(cfg), "start": start, "data": real.sha256(), "seed": seed, "version": VERSION}, sort_keys=True)
    name = f"uvit-{real.facts.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return Trained(paths.runs() / "generators" / name.replace("/", "_").replace(":", "_"))


def trained(real: ImageSet, cfg: Training, seed: int = 0, loop: Loop | None = None, monitor: Monitor | None = None) -> Trained:
    """The training of these settings: from `runs/generators` where it is, else run and put there.

    A second program that asks for the same training waits for the first one's. Weights are kept at every look.

    Raises: UserError: images or settings no network here fits.  TimeUp: the loop's deadline passed.
    """
    loop, found, (rank, _) = loop or Loop(), place(real, cfg, seed), _processes()
    cfg.architecture(real)
    found.folder.mkdir(parents=True, exist_ok=True)
    if rank:  # of the processes that train together, the first holds the lock
        if not found.file.exists():
            fit(real, cfg, seed, loop)
        return found
    with store.once(found.file, "U-ViT", loop, real.device) as missing:
        if missing:
            _train(found, real, cfg, seed, loop, monitor)
    return found


def _train(found: Trained, real: ImageSet, cfg: Training, seed: int, loop: Loop, monitor: Monitor | None) -> None:
    of, world = cfg.architecture(real), _processes()[1]
    print(f"U-ViT: {parameters(of):,} parameters, {of.tokens} tokens, batches of {cfg.batch}: about {memory_mb(of, cfg, world):,.0f} MB", file=sys.stderr)

    def look(step: int, model: UViT) -> dict[str, float]:
        save(model, found.folder / f"step{step}.safetensors")
        return monitor(step, model) if monitor else {}

    made = fit(real, cfg, seed, loop, look)
    about = {
        "family": "uvit", "architecture": as_dict(of), "settings": as_dict(cfg), "dataset": real.facts.name, "data_sha256": real.sha256(),
        "seed": seed, "processes": world, "seconds": round(made.seconds, 1),
    }  # fmt: skip
    for file, body in (("settings.json", about), ("health.json", {"looks": made.looks, "curve": made.curve})):
        atomically(found.folder / file, lambda part, body=body: part.write_text(json.dumps(body, indent=1) + "\n"))
    save(made.model, found.file)
    if loop.folder:
        (loop.folder / "uvit.ckpt").unlink(missing_ok=True)


# --- sampling ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
def generate(
    model: UViT, labels: Tensor | None, seed: int, first: int = 0, steps: int = 50, sampler: str = "dpm_fast", batch: int = 500,
    precision: str = "float32", count: int | None = None, guidance: float = 1.0,
) -> Tensor:  # fmt: skip
    """Images by solving the diffusion backwards from noise.

    Image k depends on (seed, first + k) and its label, up to rounding in the network, which may change with the batch.

    Args:
        labels:    (N,) classes; None for an unconditional network, with `count` = N.
        steps:     network evaluations per image.
        sampler:   one of `SAMPLERS`.
        precision: of the network's multiplications, "float32" or "bfloat16"; the solver works in float32.
        guidance:  how far to go from the noise predicted without label to that with it (Ho and Salimans 2022): 1 is the label's own,
                   more needs a network trained with `label_drop` and a second evaluation each.
    Returns: (N, C, H, W) uint8, on the network's device.
    Raises:  UserError: labels that do not fit the network, an unknown sampler.
    """
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if (labels is None) != (model.of.num_classes == 0) or (labels is None) == (count is None):
        raise UserError(f"U-ViT of {model.of.num_classes} classes: give labels for a conditional network, count for an unconditional one")
    if labels is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.of.num_classes:
        raise UserError(f"U-ViT: labels {int(labels.min())}..{int(labels.max())} for {model.of.num_classes} classes")
    network, out = _sampling(model, precision, guidance), []
    for start in range(0, len(labels) if count is None else count, batch):
        here = None if labels is None else labels[start : start + batch].to(model.device)
        n = min(batch, count - start) if here is None else len(here)
        out.append(_draw(network, model, here, n, seed, first + start, steps, sampler))
    return torch.cat(out) if out else torch.empty(0, *model.of.shape, dtype=torch.uint8)


def _sampling(model: UViT, precision: str, guidance: float) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The network as the samplers use it. Raises: UserError: guidance by a network that knows no label to leave out."""
    if guidance != 1 and not model.of.no_label:
        raise UserError(f"U-ViT: guidance {guidance} needs a network trained with label_drop; this one works with guidance 1")
    network = _fast(model.eval(), model.device)

    def eps(x: Tensor, t999: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            if guidance == 1:
                return network(x, t999, y).float()
            both = torch.cat([y, torch.full_like(y, model.of.num_classes)])
            given, without = network(torch.cat([x, x]), torch.cat([t999, t999]), both).float().chunk(2)
            return without + guidance * (given - without)

    return eps


def _draw(network: Callable[..., Tensor], model: UViT, labels: Tensor | None, n: int, seed: int, first: int, steps: int, sampler: str) -> Tensor:
    streams = [stream(seed, "image", first + k) for k in range(n)]

    def noise() -> Tensor:
        return torch.stack([torch.randn(model.of.shape, generator=g) for g in streams]).to(model.device)

    def eps(x: Tensor, t: float) -> Tensor:
        return network(x, torch.full((n,), 999 * t, device=model.device), labels)

    return to_uint8(sample(sampler, eps, noise(), steps, noise))


@dataclass(frozen=True)
class Generated:
    """Images on disk, in files of one batch each.

    Attributes:
        folder:      `batch<i>.safetensors`: images (n, C, H, W) uint8, and the seconds they took.
        num_classes: image k is of class k modulo this.
        images:      how many there are.
        seconds:     of generation and writing, whenever that was; loading and compiling the network are not counted.
    """

    folder: Path
    num_classes: int
    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def pixels(self) -> Iterator[Tensor]:
        """(n, C, H, W) uint8, one file after another."""
        from safetensors.torch import load_file

        yield from (load_file(file)["images"] for file in _files(self.folder))

    def load(self, like: ImageSet, **extra: Any) -> ImageSet:
        """As a synthetic set with `like`'s facts, uint8; the last, incomplete round of classes is left out.

        Raises: UserError: not one image of every class.
        """
        each = self.images // self.num_classes
        if not each:
            raise UserError(f"{self.images} images of {self.num_classes} classes in {self.seconds:.1f} s: not one of each; give more seconds")
        images = torch.cat(list(self.pixels()))[: each * self.num_classes]
        labels = torch.arange(len(images)) % self.num_classes
        facts = like.synthetic_facts(images=self.images, generation_seconds=round(self.seconds, 3), **extra)
        return ImageSet(images, labels, facts).to(like.device)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("batch*.safetensors"))


def generate_for(
    model: UViT, seconds: float | None, num_classes: int, seed: int, folder: str | Path, steps: int = 50, sampler: str = "dpm_fast",
    batch: int = 500, precision: str = "float32", images: int | None = None, loop: Loop | None = None, guidance: float = 1.0,
) -> Generated:  # fmt: skip
    """Generate for a time, or a number of images, in turn of every class, to disk as uint8.

    A batch that would probably end after the time is not begun. Stopped and called again, it goes on: the seconds spent are kept
    with the images. The images of two runs agree; how many they are depends on the machine.

    Args:
        seconds: of generation and writing; None where `images` says how many.
        folder:  where the files go; of this call alone.
        guidance: see `generate`.
    Raises: UserError: neither or both of seconds and images, files of other settings.  TimeUp: the loop's deadline passed.
    """
    if (seconds is None) == (images is None):
        raise UserError(f"generate_for: seconds={seconds}, images={images}; give one of the two")
    if num_classes != model.of.num_classes:
        raise UserError(f"generate_for: {num_classes} classes; the network has {model.of.num_classes}")
    folder, loop = Path(folder), loop or Loop()
    folder.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256(b"".join(model.state_dict()[k].cpu().contiguous().numpy().tobytes() for k in ("pos_embed", "decoder_pred.weight")))
    key = {"seed": seed, "steps": steps, "sampler": sampler, "batch": batch, "precision": precision, "guidance": guidance, "weights": weights.hexdigest()}
    made, spent, slowest = 0, 0.0, 0.0
    for file in _files(folder):
        n, took = _past(file, key)
        made, spent, slowest = made + n, spent + took, max(slowest, took)
    network, warm = _sampling(model, precision, guidance), False
    while made < images if seconds is None else made == 0 or spent + slowest <= seconds:
        n = batch if seconds is not None else min(batch, images - made)
        labels = (torch.arange(made, made + n) % num_classes).to(model.device)
        if not warm:  # compile, and touch the memory, before the clock starts
            network(torch.zeros(n, *model.of.shape, device=model.device), torch.zeros(n, device=model.device), labels)
            warm = True
        start = time.perf_counter()
        with torch.no_grad():
            drawn = _draw(network, model, labels, n, seed, made, steps, sampler).cpu()
        took = _write(folder / f"batch{made:09d}.safetensors", drawn, key, start)
        made, spent, slowest = made + n, spent + took, max(slowest, took)
        if loop.tell:
            done, total = (made, images) if seconds is None else (round(min(spent, seconds)), round(seconds))
            loop.tell("generate", done, total, {"images_per_second": made / spent})
        if loop.deadline is not None and time.monotonic() > loop.deadline and (made < images if seconds is None else spent + slowest <= seconds):
            raise TimeUp(f"generate: stopped at {made} images, which are kept")
    return Generated(folder, num_classes, made, spent)


def _write(file: Path, images: Tensor, key: dict[str, Any], start: float) -> float:
    """Write a batch and the seconds since `start`; returns those."""
    from safetensors.torch import save_file

    took = 0.0

    def write(part: Path) -> None:
        nonlocal took
        took = time.perf_counter() - start
        save_file({"images": images.contiguous()}, part, {"key": json.dumps(key), "seconds": repr(took)})

    atomically(file, write)
    return took


def _past(file: Path, key: dict[str, Any]) -> tuple[int, float]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as f:
            meta = f.metadata() or {}
            if json.loads(meta["key"]) != key:
                raise UserError(f"{file.parent}: holds images of other settings; give another folder, or delete it")
            return f.get_slice("images").get_shape()[0], float(meta["seconds"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as err:
        raise UserError(f"{file}: damaged ({err}); delete it and the later ones to go on from there") from None
