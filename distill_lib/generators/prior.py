"""Generators as priors of distillation: latent codes w -> features f after layer n -> image, one interface for all
families.

    generator = prepare(real, Prior(), loop)         # on the set's device, weights fixed
    w = generator.mapping(z, classes)                # (B, num_ws, w_dim)
    f = generator.to_f(w, n)                         # after the first n of `generator.layer_names`; uses w[:, : n + 1]
    images = generator.from_f(f, w, n)               # (B, C, H, W), about -1 to 1; uses w[:, n + 1 :]

Families: `StyleGAN-XL` with official weights, or random ones; `small`, a style generator of 2.5 million parameters,
with random weights; `cGAN`, DiM's conditional GAN, trained on the real set and kept in `runs/`, or with random weights.
"""

from __future__ import annotations

import functools
from dataclasses import field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import paths
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.memory import bytes_per_image
from ..core.rng import stream
from ..core.settings import replace, settings
from ..data import ImageSet
from . import cgan, uvit
from .cgan import GAN
from .diffusion.continuous import VP
from .stylegan_xl import network
from .stylegan_xl.network import FullyConnected, _unit

PIECE_MB = 4096  # of StyleGAN-XL's maps on the way there and back; an image of 32 pixels has 1,400
SLACK = 1.3  # on a CPU, bytes for a byte of the maps: freed memory that is kept, and what convolutions copy
LEVELS = (
    1,
    1,
    1 / 2,
    1 / 4,
    1 / 8,
    1 / 16,
    1 / 32,
)  # channels of the small generator by doublings of its side, relative to the widest


@settings
class Prior:
    """Which generator, and with which weights."""

    family: Literal["StyleGAN-XL", "small", "cGAN", "U-ViT"] = "cGAN"
    weights: str = "trained"  # "trained" (cGAN) on the real set, "random", "imagenet" (official; StyleGAN-XL, U-ViT), or a file's name
    width: int | None = (
        None  # widest layer; None: 1024 for StyleGAN-XL, 256 for small, 512 for U-ViT. The cGAN's is in `gan`
    )
    classes: Literal["own", "random"] = (
        "own"  # classes asked of the generator: the set's own where it knows them, or random ones
    )
    gan: GAN = field(default_factory=GAN)
    seed: int = 0  # of random weights and of random classes

    def smoke(self) -> Prior:
        """Random weights of a narrow small generator."""
        return replace(self, family="small", weights="random", width=32, classes="own")


class Generator(Protocol):
    """What GLaD and SLFD want of a generator.

    Attributes:
        z_dim, w_dim, num_ws: of noise, of a code, and how many codes an image has.
        layer_names: in order; the last gives the image.
        image_shape: (C, H, W).
        num_classes: it was made for.
    """

    z_dim: int
    w_dim: int
    num_ws: int
    num_classes: int
    layer_names: list[str]
    image_shape: tuple[int, int, int]

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor: ...

    def to_f(self, w: Tensor, n: int) -> Tensor: ...

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor: ...

    def __call__(self, w: Tensor) -> Tensor: ...


# --- the small style generator
# -----------------------------------------------------------------------------------------
class _Block(nn.Module):
    """Upsampling by 2 (where asked for), 3x3 convolution modulated by a code, bias, leaky ReLU; toRGB is 1x1 and
    plain."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, up: bool, rgb: bool = False):
        super().__init__()
        kernel = 1 if rgb else 3
        self.affine, self.up, self.rgb = FullyConnected(w_dim, inputs), up, rgb
        self.weight, self.bias = (
            nn.Parameter(torch.empty(outputs, inputs, kernel, kernel)),
            nn.Parameter(torch.empty(outputs)),
        )

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.affine(w)
        if self.rgb:
            return F.conv2d(x * (s * s.shape[1] ** -0.5)[:, :, None, None], self.weight) + self.bias[:, None, None]
        out = (s.square() @ self.weight.square().sum((2, 3)).T + 1e-8).rsqrt()
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = F.conv2d(x * s[:, :, None, None], self.weight, padding=1) * out[:, :, None, None]
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * 2**0.5


class Small(nn.Module):
    """A StyleGAN2-like conditional generator from a learned constant; `num_ws` counts one code for it, which nothing
    uses.

    Args:
        shape: (C, H, H) with H = 4 to 7 times a power of 2.
        width: channels at the first two sides.
    """

    family = "small"

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
            raise UserError(
                f"small generator: images of {height} x {side} pixels; works for squares of 4 to 7 times a power of 2, such as 28 or 64"
            )
        wide = [max(1, round(width * part)) for part in LEVELS[: doublings + 1]]
        self.image_shape, self.num_classes, self.z_dim, self.w_dim = shape, num_classes, z_dim, w_dim
        self.embed = nn.Embedding(num_classes, z_dim, _weight=torch.empty(num_classes, z_dim))
        self.fc0, self.fc1 = (FullyConnected(n, w_dim, 0.01, activation=True) for n in (2 * z_dim, w_dim))
        self.constant = nn.Parameter(torch.empty(wide[0], first, first))
        blocks, self.layer_names = [_Block(wide[0], wide[0], w_dim, up=False)], [f"{first}_{wide[0]}"]
        for level in range(1, doublings + 1):
            blocks += [
                _Block(wide[level - 1], wide[level], w_dim, up=True),
                _Block(wide[level], wide[level], w_dim, up=False),
            ]
            self.layer_names += [f"{first << level}_{wide[level]}{part}" for part in "ab"]
        self.layers = nn.ModuleList([*blocks, _Block(wide[-1], channels, w_dim, up=False, rgb=True)])
        self.layer_names.append(f"{side}_{channels}")
        self.num_ws = len(self.layers) + 1

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor:
        w = self.fc1(self.fc0(torch.cat([_unit(z), _unit(self.embed(classes))], 1)))
        return w[:, None].expand(-1, self.num_ws, -1)

    def to_f(self, w: Tensor, n: int) -> Tensor:
        return self._run(self.constant.expand(len(w), -1, -1, -1), w, 0, n)

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor:
        return self._run(f, w, n, len(self.layers))

    def _run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            x = self.layers[i](x, w[:, 1 + i])
        return x

    def forward(self, w: Tensor) -> Tensor:
        return self.from_f(self.to_f(w, 0), w, 0)

    @torch.no_grad()
    def redraw(self, rng: torch.Generator) -> Small:
        """Random weights, in place: normal ones, which the modulation brings to unit variance; toRGB as small as its
        inputs are many."""
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


# --- the conditional GAN
# -----------------------------------------------------------------------------------------------
class Conditional(nn.Module):
    """DiM's generator in this interface. An image has one code, the generator's input: class entries and noise.

    A layer ends with its ReLU; f after the first is 4 x 4. From n = 1 on the code changes nothing any more.
    """

    family = "cGAN"
    num_ws = 1

    def __init__(self, generator: cgan.Generator):
        super().__init__()
        self.generator, of = generator.eval(), generator.of
        self.image_shape, self.num_classes, self.z_dim = of.shape, of.num_classes, of.noise
        self.w_dim = generator.first[0].in_features
        body = list(generator.body)
        self.groups = [nn.Sequential(*body[i : i + 3]) for i in range(0, len(body), 3)]  # convolution, batch norm, ReLU
        self.layer_names = [
            f"{i}: {name}" for i, name in enumerate(["linear", *(type(g[0]).__name__ for g in self.groups), "image"], 1)
        ]

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor:
        of = self.generator.of
        onehot = F.one_hot(classes, of.num_classes).to(z.dtype) * of.label_scale
        return torch.cat([onehot, z[:, of.num_classes :] if of.label == "overwrite" else z], 1)[:, None]

    def to_f(self, w: Tensor, n: int) -> Tensor:
        return self._run(w[:, 0], 0, n)

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor:
        return self._run(f, n, len(self.layer_names))

    def _run(self, x: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            if i == 0:
                x = self.generator.first(x).view(len(x), self.generator.of.width, 4, 4)
            elif i <= len(self.groups):
                x = self.groups[i - 1](x)
            else:
                x = self.generator.last(x).tanh()
        return x

    def forward(self, w: Tensor) -> Tensor:
        return self.from_f(w[:, 0], w, 0)

    @torch.no_grad()
    def redraw(self, rng: torch.Generator, images: int = 256) -> Conditional:
        """Random weights, in place; batch norm takes mean and variance from so many images, or it would have none to
        divide by."""
        cgan.redraw(self.generator, rng)
        norms = [m for m in self.generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all passes; there is one
        labels = torch.arange(images, device=self.generator.last.weight.device) % self.num_classes
        self.generator.train()(self.generator.noise(images, rng), labels)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.generator.eval()
        return self


# --- U-ViT --------------------------------------------------------------------------------------------------------------
class Denoiser(nn.Module):
    """A U-ViT in this interface: the code is a noisy image, beside the embedding of its class; the image is what one
    step makes of it.

    At the time where signal and noise have the same share, the prediction of the noise gives the clean image: x =
    sqrt(2) code - noise. f holds the tokens after n blocks and those that later blocks join: (B, 1 + joins, tokens,
    width). The code enters the image again at the end, so it has a gradient for every n. How SLFD joins U-ViT to its
    codes is not said beyond a change of shape; this is ours.
    """

    family = "U-ViT"
    num_ws = 1

    def __init__(self, model: uvit.UViT):
        super().__init__()
        self.model, of = model, model.of
        if not of.num_classes:
            raise UserError("U-ViT as a generator needs weights that know classes; these are unconditional")
        self.image_shape, self.num_classes = of.shape, of.num_classes
        self.z_dim = of.channels * of.image_size**2
        self.w_dim = self.z_dim + of.width
        self.blocks = [*model.in_blocks, model.mid_block, *model.out_blocks]
        self.layer_names = [f"block {i}" for i in range(1, len(self.blocks) + 1)] + ["image"]
        self.register_buffer("time", (999 * VP.t_of_lambda(0.0)).float(), persistent=False)

    def mapping(self, z: Tensor, classes: Tensor) -> Tensor:
        return torch.cat([z, self.model.label_emb(classes)], 1)[:, None]

    def to_f(self, w: Tensor, n: int) -> Tensor:
        x, label = self._parts(w)
        time = self.model.embed_time(self.time.expand(len(w)))
        tokens = torch.cat([label[:, None], time[:, None], self.model.patch_embed(x)], 1) + self.model.pos_embed
        f = self._run(tokens[:, None], 0, min(n, len(self.blocks)))
        return f if n <= len(self.blocks) else self._image(f[:, 0], x)

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor:
        if n > len(self.blocks):
            return f
        return self._image(self._run(f, n, len(self.blocks))[:, 0], self._parts(w)[0])

    def _parts(self, w: Tensor) -> tuple[Tensor, Tensor]:
        x, label = w[:, 0].split([self.z_dim, self.model.of.width], 1)
        return x.view(-1, *self.image_shape), label

    def _run(self, f: Tensor, first: int, last: int) -> Tensor:
        h, kept = f[:, 0], list(f[:, 1:].unbind(1))
        for i in range(first, last):
            if i < len(self.model.in_blocks):
                h = self.blocks[i](h)
                kept.append(h)
            else:
                h = self.blocks[i](h, kept.pop()) if i > len(self.model.in_blocks) else self.blocks[i](h)
        return torch.stack([h, *kept], 1)

    def _image(self, h: Tensor, x: Tensor) -> Tensor:
        of, side = self.model.of, self.model.of.image_size // self.model.of.patch
        h = self.model.decoder_pred(self.model.norm(h[:, of.extras :]))
        h = h.unflatten(2, (of.patch, of.patch, of.channels)).unflatten(1, (side, side))  # (B, rows, columns, p, p, C)
        return 2**0.5 * x - self.model.final_layer(h.permute(0, 5, 1, 3, 2, 4).reshape(x.shape))

    def forward(self, w: Tensor) -> Tensor:
        return self.from_f(self.to_f(w, 0), w, 0)


# --- making one --------------------------------------------------------------------------------------------------------
def prepare(real: ImageSet, prior: Prior, loop: Loop | None = None) -> Generator:
    """The generator of these settings, on the set's device, in eval mode and without gradients of its weights.

    Raises: UserError: settings that do not fit together or the set; weights that are not there.  TimeUp.
    """
    channels, height, side = real.shape
    made = _made(real, prior, loop).to(real.device).eval().requires_grad_(False)
    if made.image_shape != real.shape:
        has = f"{real.facts.name} has {real.shape}"
        raise UserError(
            f"{prior.family} with {prior.weights} weights draws images of {made.image_shape}, {has}: they must agree"
        )
    return made


def _made(real: ImageSet, prior: Prior, loop: Loop | None) -> nn.Module:
    rng = stream(prior.seed, "prior", prior.family)
    if prior.family == "cGAN":
        if prior.weights == "trained":
            return Conditional(cgan.train(real, prior.gan, loop).generator)
        if prior.weights == "random":
            with torch.random.fork_rng(devices=[]):
                return Conditional(cgan.Generator(prior.gan.architecture(real))).redraw(rng)
        raise UserError(f"cGAN with weights {prior.weights!r}: trained or random")
    if prior.weights == "trained":
        more = "" if prior.family == "small" else ", imagenet or a file"
        raise UserError(f"{prior.family}: only the cGAN is trained here; weights are random{more}")
    if prior.family == "U-ViT":
        if prior.weights != "random":
            return Denoiser(uvit.load(_file(prior.weights, real.shape[2], "imagenet{}_uvit_mid.pth")))
        width = prior.width or 512
        patch = 4 if real.shape[2] % 4 == 0 else 1
        of = uvit.Architecture(
            real.shape[2], real.shape[0], patch, width, 4, max(1, width // 64), num_classes=real.num_classes
        )
        return Denoiser(uvit.UViT(of, rng))
    if prior.family == "small":
        if prior.weights != "random":
            raise UserError(f"small generator with weights {prior.weights!r}: random is what there is")
        return Small(real.shape, real.num_classes, prior.width or 256).redraw(rng)
    if prior.weights == "random":
        width = prior.width or 1024
        layers, classes = network.plan(real.shape[2], channel_base=64 * width, channel_max=width)
        return network.StyleGANXL(layers, classes).redraw(rng)
    return network.read(_file(prior.weights, real.shape[2]))


def at_once(prior: Prior, real: ImageSet, layer: int | None, pieces: int) -> int:
    """Images on their way through the generator at once: `pieces`, or fewer where those would take more than
    `PIECE_MB`.

    An image's way concerns no other: the results are the same to rounding. Only StyleGAN-XL is so large.
    """
    if prior.family != "StyleGAN-XL":
        return pieces
    return max(1, min(pieces, int(PIECE_MB * 2**20 / _image_bytes(real.shape[2], prior.width or 1024, layer))))


@functools.lru_cache(maxsize=64)
def _image_bytes(side: int, width: int, layer: int | None) -> float:
    """Bytes of an image there and back, counted at a small width: the maps grow evenly with it."""
    narrow = min(width, 16)
    layers, num_classes = network.plan(side, channel_base=64 * narrow, channel_max=narrow)
    made = network.StyleGANXL(layers, num_classes).redraw(stream(0, "memory")).eval().requires_grad_(False)

    def run(n: int) -> None:
        w = torch.zeros(n, made.num_ws, made.w_dim, requires_grad=True)
        f = None if layer is None else made.to_f(w, layer).detach().requires_grad_()
        images = made(w) if f is None else made.from_f(f, w, layer)
        torch.autograd.grad(images.sum(), [w] if f is None else [w, f], allow_unused=True)

    return SLACK * width / narrow * bytes_per_image(run, few=1)


def _file(weights: str, side: int, imagenet: str = "imagenet{}.safetensors") -> str:
    """Where weights lie: "imagenet" is imagenet64.safetensors at 64 pixels."""
    name = imagenet.format(side) if weights == "imagenet" else weights
    for place in [paths.ROOT, *paths.weight_folders()]:  # a path of one's own counts from here
        if (file := place / name).is_file():
            return str(file)
    how = "convert them with `python -m distill_lib.foreign_pickle FILE.pkl FILE.safetensors`, and "
    raise UserError(
        f"the weights {name} are not here: download the official ones, {how if name.endswith('.safetensors') else ''}put them into a folder named in DISTILL_WEIGHTS or into "
        "`weights` inside a data folder"
    )


def classes(generator: Generator, real: ImageSet, prior: Prior) -> Tensor:
    """(K,) which class of the generator each class of the set is drawn as.

    Its ImageNet index where both have one, its own label where the generator has as many classes, else random distinct
    classes.
    """
    k = real.num_classes
    indices = real.facts.imagenet_indices
    if prior.classes == "own" and len(indices) == k and generator.num_classes == 1000:
        return torch.tensor(indices, device=real.device)
    if prior.classes == "own" and generator.num_classes == k:
        return torch.arange(k, device=real.device)
    if generator.num_classes < k:
        raise UserError(f"the generator knows {generator.num_classes} classes, {real.facts.name} has {k}")
    return torch.randperm(generator.num_classes, generator=stream(prior.seed, "classes"))[:k].to(real.device)


def stage1(prior: Prior) -> dict[str, GAN]:
    """What cells share before their sets differ."""
    return {"conditional GAN": prior.gan} if (prior.family, prior.weights) == ("cGAN", "trained") else {}
