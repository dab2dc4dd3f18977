"""Generators as priors of distillation: latent codes w -> features f after layer n -> image, one interface for all
families.

    generator = prepare(real, Prior(), loop)         # on the set's device, weights fixed
    w = generator.mapping(z, classes)                # (B, num_ws, w_dim)
    f = generator.to_f(w, n)                         # after the first n of `generator.layer_names`; uses w[:, : n + 1]
    images = generator.from_f(f, w, n)               # (B, C, H, W), about -1 to 1; uses w[:, n + 1 :]

Families: `StyleGAN-XL` with official weights, or random ones; `small`, a style generator of 2.5 million parameters,
with random weights; `cGAN`, DiM's conditional GAN, trained on the real set and kept in `runs/`, or with random weights;
`U-ViT`, one step of a denoiser.
"""

from __future__ import annotations

import functools
from dataclasses import field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import weights
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import replace, settings
from ..data import ImageSet
from ..networks import memory
from . import cgan, stylegan_xl, uvit
from .cgan import GAN
from .diffusion.continuous import VP
from .stylegan_xl import FullyConnected, unit
from .stylegan_xl.convolution import kept_numbers

PIECE_MB = 4096  # of StyleGAN-XL's maps on the way there and back; an image of 32 pixels has 1,400
# channels of the small generator by doublings of its side, relative to the widest
LEVELS = (1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)


@settings
class Prior:
    """Which generator, and with which weights."""

    family: Literal["StyleGAN-XL", "small", "cGAN", "U-ViT"] = "cGAN"
    # "trained" on the real set (cGAN), "random", "imagenet" (official ones of StyleGAN-XL and U-ViT), or a file's name
    weights: str = "trained"
    # widest layer; None: 1024 for StyleGAN-XL, 256 for small, 512 for U-ViT. The cGAN's is in `gan`
    width: int | None = None
    # classes asked of the generator: the set's own if it knows them, or random ones
    classes: Literal["own", "random"] = "own"
    gan: GAN = field(default_factory=GAN)
    seed: int = 0  # of random weights and of random classes

    def smoke(self) -> Prior:
        """Random weights of a narrow small generator."""
        return replace(self, family="small", weights="random", width=32, classes="own")


class LayeredGenerator(Protocol):
    """What GLaD and SLFD need of a generator.

    Attributes:
        z_dim, w_dim, num_ws: of noise, of a code, and how many codes an image has.
        layer_names: in order; the last gives the image.
        image_shape: (C, H, W).
        num_classes: how many it knows.
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


class _Layered(nn.Module):
    """A generator whose features are those between two of its layers, which `run` computes."""

    layer_names: list[str]

    def start(self, w: Tensor) -> Tensor:
        """What goes into the first layer."""
        raise NotImplementedError

    def run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        """Through the layers from `first` up to `last`, which is not included."""
        raise NotImplementedError

    def to_f(self, w: Tensor, n: int) -> Tensor:
        return self.run(self.start(w), w, 0, n)

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor:
        return self.run(f, w, n, len(self.layer_names))

    def forward(self, w: Tensor) -> Tensor:
        return self.run(self.start(w), w, 0, len(self.layer_names))


# --- the small style generator ---
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


class Small(_Layered):
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


# --- the conditional GAN ---
class Conditional(_Layered):
    """DiM's generator in this interface. An image has one code, the generator's input: class entries and noise.

    A layer ends with its ReLU; f after the first is 4 x 4. From n = 1 on the code changes nothing any more.
    """

    family = "cGAN"
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
        norms = [m for m in self.generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all passes; there is one
        labels = torch.arange(images, device=self.generator.last.weight.device) % self.num_classes
        self.generator.train()(self.generator.noise(images, rng), labels)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.generator.eval()
        return self


# --- U-ViT ---
class Denoiser(_Layered):
    """A U-ViT in this interface. The code is a noisy image, beside the embedding of its class; the image is what one
    step makes of it.

    At the time when signal and noise have the same share, the prediction of the noise gives the clean image: x =
    sqrt(2) code - noise. f holds the tokens after n blocks and those that later blocks join: (B, 1 + joins, tokens,
    width). The code enters the image again at the end, so it has a gradient for every n. SLFD does not say how it joins
    U-ViT to its codes, beyond a change of shape; this is ours.
    """

    family = "U-ViT"
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
            f = 2**0.5 * self._parts(w)[0] - self.model.image(f[:, 0])
        return f


# --- making one ---
def prepare(real: ImageSet, prior: Prior, loop: Loop | None = None) -> LayeredGenerator:
    """The generator of these settings, on the set's device, in eval mode and without gradients of its weights.

    Raises: UserError: settings that do not fit together or the set; weights that are not there.  TimeUp.
    """
    channels, height, side = real.shape
    made = _made(real, prior, loop).to(real.device).eval().requires_grad_(False)
    if made.image_shape != real.shape:
        draws = f"{prior.family} with {prior.weights} weights draws images of {made.image_shape}"
        raise UserError(f"{draws}, {real.facts.name} has {real.shape}: they must agree")
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
        sizes = (real.shape[2], real.shape[0], patch, width, 4, max(1, width // 64))
        return Denoiser(uvit.UViT(uvit.Architecture(*sizes, num_classes=real.num_classes), rng))
    if prior.family == "small":
        if prior.weights != "random":
            raise UserError(f"small generator with weights {prior.weights!r}: random is what there is")
        return Small(real.shape, real.num_classes, prior.width or 256).redraw(rng)
    if prior.weights == "random":
        return stylegan_xl.StyleGANXL(*_plan(real.shape[2], prior.width)).redraw(rng)
    return stylegan_xl.read(_file(prior.weights, real.shape[2]))


def _plan(side: int, width: int | None) -> tuple[list[stylegan_xl.Layer], int]:
    width = width or 1024
    return stylegan_xl.plan(side, channel_base=64 * width, channel_max=width)


def held(prior: Prior, size: memory.Size) -> float:
    """Bytes that making the generator keeps alive: training it if it is trained, else its weights."""
    return prior.gan.held(size) if stage1(prior) else sum(counted(prior, size, None)[:2])


def at_once(prior: Prior, real: ImageSet, layer: int | None, pieces: int) -> int:
    """Images on their way through the generator at once: `pieces`, or fewer if those would take more than `PIECE_MB`.

    An image does not depend on the others, so the results are the same to rounding. Only StyleGAN-XL is so large.
    """
    if prior.family != "StyleGAN-XL":
        return pieces
    size = memory.Size(real.shape, real.num_classes, len(real))
    return max(1, min(pieces, int(PIECE_MB * 2**20 / counted(replace(prior, weights="random"), size, layer)[1])))


@functools.lru_cache(maxsize=64)
def counted(prior: Prior, size: memory.Size, layer: int | None) -> tuple[float, float, int]:
    """Bytes of the weights and of an image there and back, and the numbers of an image's latents."""
    wider, kept = 1.0, None
    if prior.family == "cGAN":
        with torch.random.fork_rng(devices=[]):
            made = Conditional(cgan.Generator(prior.gan.architecture(size)))
    else:
        if prior.family == "StyleGAN-XL":  # its maps grow evenly with the width, its weights with the square
            width = prior.width or 1024
            kept = sum(kept_numbers(layer, size.gpu) for layer in _plan(size.shape[2], width)[0])
            wider, prior = max(1.0, width / 16), replace(prior, width=min(width, 16))
        made = _made(size, replace(prior, weights="random"), None)
    made = made.eval().requires_grad_(False)

    def run(n: int) -> None:
        w = torch.zeros(n, made.num_ws, made.w_dim, requires_grad=True)
        f = None if layer is None else made.to_f(w, layer).detach().requires_grad_()
        images = made(w) if f is None else made.from_f(f, w, layer)
        torch.autograd.grad(images.sum(), [w] if f is None else [w, f], allow_unused=True)

    numbers = made.num_ws * made.w_dim
    if layer is not None:
        with torch.no_grad():
            numbers += round(wider * made.to_f(torch.zeros(1, made.num_ws, made.w_dim), layer).numel())
    return 4.0 * (kept or memory.parameter_count(made)), size.slack * wider * memory.growth(run, 1).each, numbers


def _file(name: str, side: int, imagenet: str = "imagenet{}.safetensors") -> str:
    """Where weights lie: "imagenet" is imagenet64.safetensors at 64 pixels."""
    name = imagenet.format(side) if name == "imagenet" else name
    if (file := weights.find_file(name)) is None:
        convert = (
            "convert them with `python -m distill_lib.generators.stylegan_xl.unpickle FILE.pkl FILE.safetensors`, and "
        )
        first = "download the official ones, " + (convert if name.endswith(".safetensors") else "")
        raise weights.not_here(name, first)
    return str(file)


def classes(generator: LayeredGenerator, real: ImageSet, prior: Prior) -> Tensor:
    """(K,) which class of the generator each class of the set is drawn as.

    Its ImageNet index if both have one; its own label if the generator has as many classes; else random distinct
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
