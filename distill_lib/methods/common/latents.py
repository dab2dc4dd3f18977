"""Synthetic images as the output of a fixed generator: what GLaD and SLFD learn in place of pixels.

    latents = Latents(generator, real, cfg.space, ipc, rng)
    images = latents.images()                        # (K, ipc, C, H, W) in the set's units, no graph
    latents.pull(gradient)                           # writes the gradients of w and f, from the gradient of the images
    latents.optimizer.step()

The chain rule is split at the images: the matching loss sees images without a graph, and its derivative by them goes
back through the generator in pieces, so the memory does not grow with the number of images. Autograd of the whole gives
the same, to rounding.

Source: Cazenavette et al. 2023 (GLaD) and its code, commit fe62863.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.device import send
from ...core.errors import UserError
from ...core.measure import give_back
from ...core.settings import Count, replace, settings
from ...data import NORMALISATIONS, ImageSet, like, side
from ...generators import cgan, prior
from ...generators.layered import LayeredGenerator
from ...generators.prior import Prior

# matching: layer n of StyleGAN-XL at 128 pixels, step sizes of features and codes; official README and defaults of GLaD
PUBLISHED = {"DC": (16, 1.0, 0.001), "DM": (20, 10.0, 0.01), "MTT": (12, 10_000.0, 10.0)}
CIFAR_LAYER = 2  # GLaD's author, answering a question: n = 16 leaves no layer of the 32-pixel generator

# the small budget, which is ours
SMALL = {"DC": (100, 16), "DM": (150, 32), "MTT": (60, 16)}  # iterations, real images per class
SMALL_SPACE = {"DC": (5, 1.0), "DM": (7, 1.0), "MTT": (5, 1_000.0)}  # layer of the conditional GAN, step size of f
CGAN_LAYERS = {8: 2, 16: 6}  # the last layer of the conditional GAN that leaves one to follow, at this many pixels
# 2,000 steps
SMALL_GAN = replace(
    cgan.GAN().small(), width=16, batch=16, epochs=10, per_epoch=3_200, gp_every=8, looks=4, samples=400
)
SMALL_GAN = replace(SMALL_GAN, judge=replace(SMALL_GAN.judge, epochs=4, per_class=500))


@settings
class CodeSpace:
    """Settings of the latents: their generator and layer, their start, and the step sizes."""

    prior: Prior = Prior()
    layer: int | None = 16  # n: f are the features after n layers; None: codes alone, at the step size lr_img
    lr_img: float = 1.0  # SGD step size of f
    lr_w: float = 0.001  # of the codes
    momentum: float = 0.5
    start: Literal["drawn", "mean"] = "drawn"  # of the codes: of one draw per image, or the mean of 1000 per class
    features: Literal["generator", "noise"] = "generator"  # at the start: its own, or noise of their mean and deviation
    norm: Literal["fixed", "official"] = "fixed"  # of rendered images: the set's, or the wrong mean of GLaD's code
    pieces: Count = 10  # images at once on the way back through the generator

    @staticmethod
    def published(dataset: str, match: str) -> CodeSpace:
        """GLaD's own for a matching method.

        On the ImageNet subsets, CIFAR10 and PathMNIST with official ImageNet weights of StyleGAN-XL; on any other set,
        for which neither paper has a generator, with a conditional GAN trained on it.
        """
        layer, lr_img, lr_w = PUBLISHED[match]
        known = like(dataset)
        if known.is_imagenet_subset:
            return CodeSpace(Prior("StyleGAN-XL", "imagenet"), layer, lr_img, lr_w)
        if known.name in ("CIFAR10", "PathMNIST"):  # classes ImageNet does not have
            own = Prior("StyleGAN-XL", "imagenet", classes="random")
            return CodeSpace(own, CIFAR_LAYER if known.name == "CIFAR10" else layer, lr_img, lr_w)
        space = CodeSpace(Prior(), lr_w=lr_w).small(match)
        return replace(space, layer=min(space.layer, CGAN_LAYERS.get(side(dataset), space.layer)))

    def small(self, match: str) -> CodeSpace:
        """The generator is a conditional GAN trained in minutes, or one of its shape with random weights."""
        weights = "random" if self.prior.weights == "random" else "trained"
        own, (layer, lr_img) = Prior("cGAN", weights, gan=SMALL_GAN, seed=self.prior.seed), SMALL_SPACE[match]
        if self.prior.family == "cGAN" and self.layer is not None:  # that of `published`, for few pixels a lower one
            layer = min(layer, self.layer)
        return replace(self, prior=own, layer=layer, lr_img=lr_img)

    def smoke(self) -> CodeSpace:
        """A narrow generator with random weights, and step sizes that move it."""
        return replace(self, prior=self.prior.smoke(), layer=1, lr_img=min(self.lr_img, 1.0), lr_w=min(self.lr_w, 0.01))


class Latents:
    """Codes w (N, num_ws, w_dim) and features f (N, *shape), or None, of N = K x ipc images, class after class.

    Raises: UserError: a layer the generator does not have, or a normalisation that is not the set's.
    """

    def __init__(self, generator: LayeredGenerator, real: ImageSet, space: CodeSpace, ipc: int, rng: torch.Generator):
        self.generator, self.real, self.space, self.ipc, n = generator, real, space, ipc, space.layer
        layers = generator.layer_names
        if n is not None and not 0 < n < len(layers):
            has = f"the generator has {len(layers)} layers ({', '.join(layers)})"
            raise UserError(f"layer {n}: {has}; f can be taken after 1 to {len(layers) - 1} of them; None: codes alone")
        self.units, self.pieces = _units(real, space.norm), prior.at_once(space.prior, real, n, space.pieces)
        labels = prior.drawn_classes(generator, real, space.prior).repeat_interleave(ipc)
        with torch.no_grad():
            self.w = self._codes(labels, rng).clone().contiguous().requires_grad_()
            self.f = None if n is None else self._features(rng).requires_grad_()
        self.leaves = [self.w] if n is None else [self.w, self.f]
        rates = [space.lr_img] if n is None else [space.lr_w, space.lr_img]
        groups = [{"params": [leaf], "lr": lr} for leaf, lr in zip(self.leaves, rates, strict=True)]
        self.optimizer = torch.optim.SGD(groups, momentum=space.momentum)

    def _codes(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        draws = 1 if self.space.start == "drawn" else 1000
        z = send(torch.randn(len(labels), draws, self.generator.z_dim, generator=rng, device=rng.device), labels.device)
        return torch.stack([self.generator.mapping(z[:, i], labels) for i in range(draws)]).mean(0)

    def _features(self, rng: torch.Generator) -> Tensor:
        """The features f of the codes, without NaN or infinity and clamped to 10, as in the official code."""
        parts = [self.generator.to_f(self.w[i], self.space.layer) for i in self._parts()]
        f = torch.nan_to_num(torch.cat(parts), nan=0.0, posinf=5.0, neginf=-5.0).clamp(-10, 10)
        if self.space.features == "noise":
            inner = tuple(range(1, f.ndim))
            noise = send(torch.randn(f.shape, generator=rng, device=rng.device), f.device)
            f = f.mean(inner, keepdim=True) + f.std(inner, keepdim=True) * noise
        return f

    def live(self) -> dict[str, Any]:
        """The tensors and the optimiser that steps change, for `Loop.steps`."""
        return {"w": self.w, "latents": self.optimizer} | ({} if self.f is None else {"f": self.f})

    def _parts(self) -> tuple[Tensor, ...]:
        """Places of the images that go through the generator at a time."""
        return torch.arange(len(self.w), device=self.w.device).split(self.pieces)

    def render(self, w: Tensor, f: Tensor | None = None) -> Tensor:
        """(B, C, H, W) images in the set's units, differentiable."""
        images = self.generator(w) if f is None else self.generator.from_f(f, w, self.space.layer)
        return cgan.normalised(images, self.units)

    @torch.no_grad()
    def images(self) -> Tensor:
        """(K, ipc, C, H, W) in the set's units, without a graph."""
        return torch.cat([self.render(*(leaf[i] for leaf in self.leaves)) for i in self._parts()]).unflatten(
            0, (-1, self.ipc)
        )

    def pull(self, gradient: Tensor) -> None:
        """Write the gradients of w and f that follow from the gradient (K, ipc, C, H, W) by the images."""
        gradient = gradient.flatten(0, 1)
        for leaf in self.leaves:
            leaf.grad = torch.zeros_like(leaf)
        for i in self._parts():
            parts = [leaf.detach()[i].requires_grad_() for leaf in self.leaves]
            with torch.enable_grad():
                images = self.render(*parts)
            found = torch.autograd.grad(images, parts, gradient[i], allow_unused=True, materialize_grads=True)
            for leaf, part in zip(self.leaves, found, strict=True):
                leaf.grad[i] = part
            del images, found
            give_back(gradient.device)

    def distilled(self, method: str, seed: int, **extra: Any) -> ImageSet:
        """The images as a set, which does not need the generator any more."""
        return ImageSet.from_classes(self.images(), like=self.real, method=method, seed=seed, **extra)


def _units(real: ImageSet, norm: str) -> ImageSet:
    """The set whose normalisation drawn images get: the real one or, with "official", an empty one with GLaD's mean."""
    name = real.facts.name
    if real.whitening is not None:
        raise UserError(f"{name}: a generator draws pixels; give the set without whitening")
    if norm == "fixed":
        return real
    if (tuple(real.facts.mean), tuple(real.facts.std)) != NORMALISATIONS["ImageNet"]:
        raise UserError(f"{name}: norm='official' is a wrong mean of ImageNet images; give norm='fixed' for this set")
    mean, std = NORMALISATIONS["GLaD-renders"]
    return ImageSet(real.images[:0], real.labels[:0], dataclasses.replace(real.facts, mean=mean, std=std))
