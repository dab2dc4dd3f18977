"""DSA: dataset condensation with differentiable siamese augmentation (Zhao & Bilen, ICML 2021). Book page: book/dc.md

DC's gradient matching seen through augmentation: per class and update, one random transformation is applied to the real
and to the synthetic images alike, and the derivative goes back through it. Images learned so keep their value when a
network is trained on them with augmentation.

Every class has a draw of its own. In the official code two classes may share one, because it seeds them from the clock.
"""

from __future__ import annotations

from typing import Literal

import torch

from .. import networks
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, replace, settings
from ..data import ImageSet, augment
from ..networks.gradients import Derivatives
from .common import matching

VERSION = 1


@settings
class Config:
    ipc: Count = 10  # images per class
    iterations: int = 1_001  # fresh networks, one after the other; the official loop runs 0 to 1,000 inclusive
    outer_loop: Count = 10  # image updates per network
    inner_epochs: int = 50  # epochs on the synthetic set between two of them; the last update is not followed by any
    network: str = "ConvNet"
    lr_img: float = 0.1  # SGD step size on the pixels, in normalised units
    momentum_img: float = 0.5
    lr_net: float = 0.01  # plain SGD on the network
    batch_real: Count = 256  # real images per class and update
    batch_train: Count = 256  # synthetic images per step of the network
    dsa: str = "color_crop_cutout_flip_scale_rotate"  # siamese when matching, per image when training the network; "none" for none
    init: Literal["real", "noise"] = "real"

    def smoke(self) -> Config:
        """The same method, small enough for two CPU cores in seconds."""
        return replace(
            self, iterations=min(self.iterations, 15), outer_loop=min(self.outer_loop, 2), inner_epochs=1, batch_real=16
        )

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: fewer networks, smaller real batches, shorter paths."""
        updates, epochs = (150, 5) if self.ipc < 10 else (60, 3)
        return replace(
            self,
            iterations=min(self.iterations, updates // min(self.outer_loop, 5)),
            outer_loop=min(self.outer_loop, 5),
            inner_epochs=min(self.inner_epochs, epochs),
            batch_real=32,
        )


def paper_config(dataset: str, ipc: int) -> Config:
    """The setting behind one cell of the paper's tables: no flips on digits, loop lengths by ipc.

    Source: the official repository's README and defaults; 100 images per class as its author answers there. For other
    ipc it does not name, the loop lengths of the next smaller one it does.
    """
    outer_loop, inner_epochs = (100, 2) if ipc >= 100 else matching.loops(ipc)
    return Config(ipc=ipc, outer_loop=outer_loop, inner_epochs=inner_epochs, dsa=augment.strategy_for(dataset))


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class.

    Args:
        real: (N, C, H, W) images of K classes, on the device to compute on.
    Returns: K x ipc normalised float32 images with hard labels, after the last update.
    Source:  section 3 of the paper; distances summed over rows, layers and classes, as in the official code.
    """
    loop = loop or Loop()
    rng = stream(seed, "DSA")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).requires_grad_()  # (K, ipc, C, H, W)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(cfg.ipc)
    optimizer = torch.optim.SGD([synthetic], lr=cfg.lr_img, momentum=cfg.momentum_img)
    network = networks.fresh(cfg.network, real, rng).to(real.device).requires_grad_(False)
    parameters, derivatives = [p.detach() for p in network.parameters()], Derivatives(network)
    dsa = augment.dsa(cfg.dsa)
    live = {"synthetic": synthetic, "optimizer": optimizer, "network": network, "rng": rng}
    for step in loop.steps("distill", cfg.iterations * cfg.outer_loop, live):
        if step % cfg.outer_loop == 0:
            network.redraw(rng)
        matching.freeze_batch_norm(network, real, rng)
        real_batch = real.draw_classes(cfg.batch_real, rng)  # (K, batch_real, C, H, W)
        omega = dsa.draw(rng, groups=real.num_classes)  # one operation and one set of parameters per class
        seen = dsa.apply(synthetic, omega)
        distance, gradient = matching.match(derivatives, parameters, dsa.apply(real_batch, omega), seen)
        optimizer.zero_grad()
        seen.backward(gradient)
        optimizer.step()
        if (step + 1) % cfg.outer_loop:
            images = synthetic.flatten(0, 1)
            matching.train(
                derivatives, parameters, images, labels, rng, cfg.inner_epochs, cfg.batch_train, cfg.lr_net, dsa
            )
        loop.log(loss=distance.sum())
    return ImageSet.from_classes(synthetic, like=real, method="DSA", seed=seed)
