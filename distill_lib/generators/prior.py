"""Generators as priors of distillation: which one, with which weights, and of which classes.

    generator = prepare(real, Prior(), loop)         # a LayeredGenerator on the set's device, weights fixed

Families: `StyleGAN-XL` with official weights, or random ones; `small`, a style generator of 2.5 million parameters,
with random weights; `cGAN`, DiM's conditional GAN, trained on the real set and kept in `runs/`, or with random weights;
`U-ViT`, one step of a denoiser.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from ..core import weights
from ..core.errors import UserError
from ..core.loop import Loop
from ..core.memory import bytes_per_image
from ..core.rng import stream
from ..core.settings import replace, settings
from ..data import ImageSet
from . import cgan, stylegan_xl, uvit
from .layered import LayeredGenerator
from .prior_networks import Conditional, Denoiser, Small

PIECE_MB = 4096  # of StyleGAN-XL's maps in a forward and a backward pass; an image of 32 pixels takes 1,400
SLACK = 1.3  # bytes taken on a CPU for each byte of the maps: freed memory that is kept, and copies in convolutions


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
    gan: cgan.GAN = cgan.GAN()
    seed: int = 0  # of random weights and of random classes

    def smoke(self) -> Prior:
        """Random weights of a narrow small generator."""
        return replace(self, family="small", weights="random", width=32, classes="own")


def prepare(real: ImageSet, prior: Prior, loop: Loop | None = None) -> LayeredGenerator:
    """The generator of these settings, on the set's device, in eval mode and without gradients of its weights.

    Raises: UserError: settings that do not fit together or the set; weights that are not there.  TimeUp.
    """
    made = _made(real, prior, loop).to(real.device).eval().requires_grad_(False)
    if made.image_shape != real.shape:
        draws = f"{prior.family} with {prior.weights} weights draws images of {made.image_shape}"
        raise UserError(f"{draws}, {real.facts.name} has {real.shape}: they must agree")
    return made


def _made(real: ImageSet, prior: Prior, loop: Loop | None) -> LayeredGenerator:
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
        if file := file_of(prior, real.shape[2]):
            return Denoiser(uvit.load(file))
        width = prior.width or 512
        patch = 4 if real.shape[2] % 4 == 0 else 1
        sizes = (real.shape[2], real.shape[0], patch, width, 4, max(1, width // 64))
        return Denoiser(uvit.UViT(uvit.UViTArchitecture(*sizes, num_classes=real.num_classes), rng))
    if prior.family == "small":
        if prior.weights != "random":
            raise UserError(f"small generator with weights {prior.weights!r}: random is what there is")
        return Small(real.shape, real.num_classes, prior.width or 256).redraw(rng)
    if prior.weights == "random":
        return stylegan_xl.StyleGANXL(*_layers(real.shape[2], prior.width)).redraw(rng)
    return stylegan_xl.read(file_of(prior, real.shape[2]))


def _layers(side: int, width: int | None) -> tuple[list[stylegan_xl.Layer], int]:
    width = width or 1024
    return stylegan_xl.published_layers(side, channel_base=64 * width, channel_max=width)


def at_once(prior: Prior, real: ImageSet, layer: int | None, pieces: int) -> int:
    """Images on their way through the generator at once: `pieces`, or fewer if those would take more than `PIECE_MB`.

    An image does not depend on the others, so the results are the same to rounding. Only StyleGAN-XL is so large.
    """
    if prior.family != "StyleGAN-XL":
        return pieces
    return max(1, min(pieces, int(PIECE_MB * 2**20 / _image_bytes(real.shape[2], prior.width, layer))))


@functools.lru_cache(maxsize=64)
def _image_bytes(side: int, width: int | None, layer: int | None) -> float:
    """Bytes of an image there and back, counted at a small width: the maps grow in proportion to it."""
    width = width or 1024
    narrow = min(width, 16)
    made = stylegan_xl.StyleGANXL(*_layers(side, narrow)).redraw(stream(0, "memory")).eval().requires_grad_(False)

    def run(n: int) -> None:
        w = torch.zeros(n, made.num_ws, made.w_dim, requires_grad=True)
        f = None if layer is None else made.to_f(w, layer).detach().requires_grad_()
        images = made(w) if f is None else made.from_f(f, w, layer)
        torch.autograd.grad(images.sum(), [w] if f is None else [w, f], allow_unused=True)

    return SLACK * width / narrow * bytes_per_image(run, few=1)


def file_of(prior: Prior, side: int) -> str | None:
    """The file of a prior's weights, None where it has none; "imagenet" is imagenet64.safetensors at 64 pixels.

    Raises: UserError: it is not here; where to put it.
    """
    if prior.family not in ("StyleGAN-XL", "U-ViT") or prior.weights in ("random", "trained"):
        return None
    imagenet = f"imagenet{side}_uvit_mid.pth" if prior.family == "U-ViT" else f"imagenet{side}.safetensors"
    name = imagenet if prior.weights == "imagenet" else prior.weights
    command = "python -m distill_lib.generators.stylegan_xl.unpickle FILE.pkl FILE.safetensors"
    convert = f"convert them with `{command}`, and " if name.endswith(".safetensors") else ""
    return str(weights.need_file(name, name, f"download the official ones, {convert}"))


def drawn_classes(generator: LayeredGenerator, real: ImageSet, prior: Prior) -> Tensor:
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


def stage1(prior: Prior) -> dict[str, cgan.GAN]:
    return {"conditional GAN": prior.gan} if (prior.family, prior.weights) == ("cGAN", "trained") else {}
