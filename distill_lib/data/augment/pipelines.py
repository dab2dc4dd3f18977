"""Training pipelines for ImageNet, and DC-BENCH's policies."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.device import send
from .base import Augmentation, Params, _integer, _needs_colour
from .operations import _sample, erase

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# --- ImageNet pipeline ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class ImageNet(Augmentation):
    """Random resized crop (area 0.5-1), flip, colour jitter 0.4 and lighting 0.1, per image, on normalised images.

    Jitter and lighting act on pixels in [0, 1] without clipping, so with the normalisation they are one weighted sum of
    pixel, grey of the pixel and mean grey of the image, and an offset. Source: IDC and Minimax, official code (jitter
    as in AlexNet-style training: blends towards black, the image's mean grey and the pixel's grey, in random order).
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    name = "imagenet"
    columns = 22 + 1 + 4 + 3  # ten tries of area and aspect, position; flip; three strengths and their order; lighting

    _GREY = (0.299, 0.587, 0.114)
    _EIGENVALUES = (0.2175, 0.0188, 0.0045)
    _EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        _needs_colour(x, self.name)
        return self._jitter(self._resized_crop(x, params.u[..., :23]), params.u[..., 23:])

    @staticmethod
    def _resized_crop(x: Tensor, u: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        u = u.double()
        area = h * w * (0.5 + 0.5 * u[..., 0:10])
        aspect = torch.exp((2 * u[..., 10:20] - 1) * math.log(4 / 3))
        crop_w, crop_h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (G, m, 10)
        fits = (crop_w <= w) & (crop_h <= h)
        first = fits.to(torch.uint8).argmax(-1, keepdim=True)  # no try fits: the whole image
        found = fits.any(-1)
        crop_w = torch.where(found, crop_w.gather(-1, first)[..., 0], w)
        crop_h = torch.where(found, crop_h.gather(-1, first)[..., 0], h)
        top, left = _integer(u[..., 20], h - crop_h + 1), _integer(u[..., 21], w - crop_w + 1)
        drawn = torch.stack([top, left, crop_h, crop_w, u[..., 22] < 0.5], -1)  # (G, m, 5), sent at once
        top, left, crop_h, crop_w, mirrored = send(drawn, x.device, x.dtype).unbind(-1)

        def positions(n: int, start: Tensor, size: Tensor) -> Tensor:  # (G, m, n) pixels of x, kept inside the crop
            at = (torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) * (size / n)[..., None] - 0.5
            return start[..., None] + torch.minimum(at.clamp_min(0), size[..., None] - 1)

        rows, cols = positions(h, top, crop_h), positions(w, left, crop_w)
        cols = torch.where(mirrored[..., None] > 0, cols.flip(-1), cols)
        gy, gx = (2 * rows + 1) / h - 1, (2 * cols + 1) / w - 1
        shape = (*gy.shape[:2], h, w)
        grid = torch.stack([gx[:, :, None, :].expand(shape), gy[:, :, :, None].expand(shape)], -1)
        return _sample(x, grid, "border")

    def _jitter(self, x: Tensor, u: Tensor) -> Tensor:
        """A blend makes of a pixel p a weighted sum of p, p's grey and the mean grey of its image, so three of them do
        as well."""
        u = u.double()
        mean, std, vectors, values = (
            u.new_tensor(v) for v in (self.mean, self.std, self._EIGENVECTORS, self._EIGENVALUES)
        )
        strength = 0.8 * u[..., 0:3] - 0.4  # brightness, contrast, saturation
        order = torch.tensor(_ORDERS, device=u.device)[_integer(u[..., 3], len(_ORDERS))]  # (G, m, 3)
        own, grey, level = (
            torch.ones_like(u[..., 0]),
            torch.zeros_like(u[..., 0]),
            torch.zeros_like(u[..., 0]),
        )  # the weights, (G, m)
        for which in order.unbind(-1):
            k = strength.gather(-1, which[..., None])[
                ..., 0
            ]  # blend (1 - k) p + k target; grey is of weight 1 in itself
            contrast, saturation = k * (which == 1), k * (which == 2)
            level = (1 - k) * level + contrast * (own + grey + level) + saturation * level
            own, grey = (1 - k) * own, (1 - k) * grey + saturation * (own + grey)
        drawn = (0.1 * torch.special.ndtri(u[..., 4:7].clamp(2**-25, 1 - 2**-24)) * values)[
            ..., None, :
        ] * vectors  # (G, m, 3, 3)
        light = drawn[..., 0] + drawn[..., 1] + drawn[..., 2]
        own, grey, level = own[..., None], grey[..., None], level[..., None]
        # from pixels to normalised units, where the grey of a pixel is `mixed` + middle
        middle = sum(a * b for a, b in zip(self._GREY, self.mean, strict=True))
        rest = ((own - 1) * mean + (grey + level) * middle + light) / std
        numbers = send(torch.cat([own, grey / std, level / std, rest], -1), x.device, x.dtype)[..., None, None]
        own, grey, level, rest = numbers.split([1, 3, 3, 3], 2)  # (G, m, 1 or 3, 1, 1)
        red, green, blue = (
            a * b * x[:, :, c : c + 1] for c, (a, b) in enumerate(zip(self._GREY, self.std, strict=True))
        )
        mixed = red.add_(green).add_(blue)  # (G, n, 1, H, W)
        average = mixed.mean(-1, keepdim=True).mean(-2, keepdim=True)
        return (x * own).add_(mixed * grey).add_(average * level + rest)


_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


# --- DC-BENCH ------------------------------------------------------------------------------------------------------
DCBENCH_POLICIES = ("autoaug", "randaug", "imagenet_aug", "cifar_aug")


@dataclass(frozen=True, repr=False)
class DCBench(Augmentation):
    """torchvision policies on the whole batch as 8-bit pixels: one draw per group, no gradient.

    autoaug (CIFAR-10 policy up to 32 pixels, ImageNet's above) · randaug (one operation) · imagenet_aug (crop padded by
    4, flip, jitter .4 .4 .4 .2) · cifar_aug (crop, flip, then a 16 pixel hole of zeros). Source: DC-BENCH, official
    code.
    """

    policy: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    choices = 3  # seed of torchvision's draws, centre of the hole

    @property
    def name(self) -> str:
        return f"dcbench:{self.policy}"

    def _apply(self, x: Tensor, params: Params) -> Tensor:
        _needs_colour(x, self.name)
        transform = _torchvision_policy(self.policy, x.shape[-1])
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype).view(3, 1, 1) for v in (self.mean, self.std))
        pixels = ((x.detach() * std + mean).clamp(0, 1) * 255).to(torch.uint8)
        done = []
        for images, seed in zip(pixels.unbind(), (params.choice[:, 0].double() * 2**24).tolist(), strict=True):
            with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
                torch.random.default_generator.manual_seed(int(seed))
                done.append(transform(images))
        out = (torch.stack(done).to(x.dtype) / 255 - mean) / std
        if self.policy == "cifar_aug":
            top, left = (_integer(params.choice[:, i : i + 1], n) - 8 for i, n in ((1, x.shape[-2]), (2, x.shape[-1])))
            out = erase(out, top, left, 16, 16)
        return out


@functools.cache
def _torchvision_policy(policy: str, size: int) -> Callable[[Tensor], Tensor]:
    from torchvision import transforms as t  # here: torchvision takes more than a second to import

    if policy == "autoaug":
        return t.AutoAugment(t.AutoAugmentPolicy.CIFAR10 if size <= 32 else t.AutoAugmentPolicy.IMAGENET)
    if policy == "randaug":
        return t.RandAugment(num_ops=1)
    jitter = [t.ColorJitter(0.4, 0.4, 0.4, 0.2)] if policy == "imagenet_aug" else []
    return t.Compose([t.RandomCrop(size, padding=4), t.RandomHorizontalFlip(), *jitter])
