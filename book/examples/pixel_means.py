"""Pixel means: k-means centres of every class, in pixel space. A complete method in forty lines."""

import torch

from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace, settings
from distill_lib.data import ImageSet

VERSION = 1  # raise it when the numbers change: older records become stale


@settings
class Config:
    ipc: int = 10  # images per class: centres
    iterations: int = 20  # Lloyd's steps

    def smoke(self):
        return replace(self, iterations=5)

    def small(self):
        return self


def paper_config(dataset: str, ipc: int) -> Config:
    return Config(ipc=ipc)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """K x ipc normalised images: the centres that k-means finds among each class's training images."""
    loop = loop or Loop()
    centres = real.draw_classes(cfg.ipc, stream(seed, "Pixel means")).flatten(2)  # (K, ipc, C*H*W)
    members = [real.take(index)[0].flatten(1) for index in real.class_index]  # K times (n, C*H*W)
    for _ in loop.steps("distill", cfg.iterations, {"centres": centres}):
        for centre, images in zip(centres, members):
            nearest = torch.cdist(images, centre).argmin(1)  # (n,)
            for j in nearest.unique():
                centre[j] = images[nearest == j].mean(0)
    images = centres.unflatten(2, real.shape)  # (K, ipc, C, H, W)
    return ImageSet.from_classes(images, like=real, method="Pixel means", seed=seed)
