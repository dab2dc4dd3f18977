"""Generators with layers beside StyleGAN-XL: a small style generator, the conditional GAN, and a U-ViT's one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from ..core.errors import UserError
from . import cgan, uvit
from .diffusion.continuous import VP
from .layered import LayeredGenerator
from .stylegan_xl import FullyConnected, unit

# channels of the small generator by doublings of its side, relative to the widest
LEVELS = (1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)


class _Block(nn.Module):
    """Upsampling by 2 (where asked for), 3x3 convolution modulated by a code, bias, leaky ReLU; toRGB is 1x1 and
    plain."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, up: bool, rgb: bool = False):
        super().__init__()
        kernel = 1 if rgb else 3
        self.affine, self.up, self.rgb = FullyConnected(w_dim, inputs), up, rgb
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.affine(w)  # (B, inputs)
        if self.rgb:
            return F.conv2d(x * (s * s.shape[1] ** -0.5)[:, :, None, None], self.weight) + self.bias[:, None, None]
        out = (s.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()  # (B, outputs)
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")  # (B, inputs, 2 H, 2 W)
        x = F.conv2d(x * s[:, :, None, None], self.weight, padding=1) * out[:, :, None, None]  # (B, outputs, H, W)
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * 2**0.5


class Small(LayeredGenerator):
    """A StyleGAN2-like conditional generator from a learned constant; `num_ws` counts one code for it, which nothing
    uses.

    Args:
        shape: (C, H, H) with H = 4 to 7 times a power of 2.
        width: channels at the first two sides.
    """

    def __init__(
        self, shape: tuple[int, int, int], num_classes: int, width: int = 256, z_dim: int = 64, w_dim: int = 128
    ):
        super().__init__()
        channels, height, side = shape
        doublings = 0
        while side >> doublings > 7:
            doublings += 1
        first = side >> doublings
        if height != side or first << doublings != side or first < 4 or doublings >= len(LEVELS):
            works = "squares of 4 to 7 times a power of 2, such as 28 or 64"
            raise UserError(f"small generator: images of {height} x {side} pixels; works for {works}")
        wide = [max(1, round(width * part)) for part in LEVELS[: doublings + 1]]
        self.image_shape, self.num_classes, self.z_dim, self.w_dim = shape, num_classes, z_dim, w_dim
        self.embed = nn.Embedding(num_classes, z_dim, _weight=torch.empty(num_classes, z_dim))
        self.fc0, self.fc1 = (FullyConnected(n, w_dim, 0.01, activation=True) for n in (2 * z_dim, w_dim))
        self.constant = nn.Parameter(torch.empty(wide[0], first, first))
        blocks, self.layer_names = [_Block(wide[0], wide[0], w_dim, up=False)], [f"{first}_{wide[0]}"]
        for level in range(1, doublings + 1):
            blocks.append(_Block(wide[level - 1], wide[level], w_dim, up=True))
            blocks.append(_Block(wide[level], wide[level], w_dim, up=False))
            self.layer_names += [f"{first << level}_{wide[level]}{part}" for part in "ab"]
        self.layers = nn.ModuleList([*blocks, _Block(wide[-1], channels, w_dim, up=False, rgb=True)])
        self.layer_names.append(f"{side}_{channels}")
        self.num_ws = len(self.layers) + 1

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor:
        w = self.fc1(self.fc0(torch.cat([unit(z), unit(self.embed(classes))], 1)))  # (B, w_dim)
        return w[:, None].expand(-1, self.num_ws, -1)

    def start(self, w: Tensor) -> Tensor:
        return self.constant.expand(len(w), -1, -1, -1)

    def run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            x = self.layers[i](x, w[:, 1 + i])
        return x

    @torch.no_grad()
    def redraw(self, rng: torch.Generator) -> Small:
        """Random weights, in place: standard normal, which the modulation brings to unit variance; half as large in
        toRGB, which has none."""
        for module in self.modules():
            if isinstance(module, (FullyConnected, _Block)):
                scale = 1 / module.lr_multiplier if isinstance(module, FullyConnected) else 0.5 if module.rgb else 1.0
                module.weight.copy_(torch.randn(module.weight.shape, generator=rng, device=rng.device) * scale)
                module.bias.zero_()
        for block in self.layers:
            block.affine.bias.fill_(1.0)
        for parameter in (self.embed.weight, self.constant):
            parameter.copy_(torch.randn(parameter.shape, generator=rng, device=rng.device))
        return self


class Conditional(LayeredGenerator):
    """DiM's generator, layer by layer. An image has one code, the generator's input: class entries and noise.

    A layer ends with its ReLU; f after the first is 4 x 4. From n = 1 on the code changes nothing any more.
    """

    num_ws = 1

    def __init__(self, generator: cgan.Generator):
        super().__init__()
        self.generator, arch = generator.eval(), generator.arch
        self.image_shape, self.num_classes, self.z_dim = arch.shape, arch.num_classes, arch.noise
        self.w_dim = generator.first[0].in_features
        body = list(generator.body)
        self.groups = [nn.Sequential(*body[i : i + 3]) for i in range(0, len(body), 3)]  # convolution, batch norm, ReLU
        kinds = ["linear", *(type(group[0]).__name__ for group in self.groups), "image"]
        self.layer_names = [f"{i}: {kind}" for i, kind in enumerate(kinds, 1)]

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor:
        return self.generator.labelled(z, classes)[:, None]

    def start(self, w: Tensor) -> Tensor:
        return w[:, 0]

    def run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            if i == 0:
                x = self.generator.first(x).view(len(x), self.generator.arch.width, 4, 4)
            elif i <= len(self.groups):
                x = self.groups[i - 1](x)
            else:
                x = self.generator.last(x).tanh()
        return x

    @torch.no_grad()
    def redraw(self, rng: torch.Generator, images: int = 256) -> Conditional:
        """Random weights, in place; batch norm takes its mean and variance from this many images."""
        cgan.redraw(self.generator, rng)
        labels = torch.arange(images, device=self.generator.last.weight.device) % self.num_classes
        update_bn([self.mapping(self.generator.noise(images, rng), labels)], self)
        return self.eval()


class Denoiser(LayeredGenerator):
    """A U-ViT, block by block. The code is a noisy image, beside the embedding of its class; the image is what one
    step makes of it.

    At the time when signal and noise have the same share, the prediction of the noise gives the clean image: x =
    sqrt(2) code - noise. f holds the tokens after n blocks and those that later blocks join: (B, 1 + joins, tokens,
    width). The code enters the image again at the end, so it has a gradient for every n. SLFD does not say how it joins
    U-ViT to its codes, beyond a change of shape; this is ours.
    """

    num_ws = 1

    def __init__(self, model: uvit.UViT):
        super().__init__()
        self.model, arch = model, model.arch
        if not arch.num_classes:
            raise UserError("U-ViT as a generator needs weights that know classes; these are unconditional")
        self.image_shape, self.num_classes = arch.shape, arch.num_classes
        self.z_dim = arch.channels * arch.image_size**2
        self.w_dim = self.z_dim + arch.width
        self.blocks = [*model.in_blocks, model.mid_block, *model.out_blocks]
        self.layer_names = [f"block {i}" for i in range(1, len(self.blocks) + 1)] + ["image"]
        self.register_buffer("time", (999 * VP.t_of_lambda(0.0)).float(), persistent=False)

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor:
        return torch.cat([z, self.model.label_emb(classes)], 1)[:, None]

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy images (B, C, H, W) and embeddings of classes (B, D)."""
        x, label = w[:, 0].split([self.z_dim, self.model.arch.width], 1)
        return x.view(-1, *self.image_shape), label

    def start(self, w: Tensor) -> Tensor:
        x, label = self._parts(w)
        return self.model.tokens(x, self.time.expand(len(w)), label)[:, None]

    def run(self, f: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        joins = len(self.model.in_blocks)
        if first < len(self.blocks):
            h, kept = f[:, 0], list(f[:, 1:].unbind(1))
            for i in range(first, min(last, len(self.blocks))):
                h = self.blocks[i](h, kept.pop()) if i > joins else self.blocks[i](h)
                if i < joins:
                    kept.append(h)
            f = torch.stack([h, *kept], 1)
        if first <= len(self.blocks) < last:
            x, answer = self._parts(w)[0], self.model.image(f[:, 0])
            # the clean image, where image and noise have the same share 1 / sqrt(2)
            f = (x - answer) / 2**0.5 if self.model.arch.output == "v" else 2**0.5 * x - answer
        return f
