"""DC: dataset condensation with gradient matching (Zhao, Mopuri & Bilen, ICLR 2021). Book page: book/dc.md

Learn images whose loss gradient matches that of real images of the same class, along the path of a network that is
trained on the synthetic set meanwhile. The distance is `common.matching.row_distance`; its derivative by the images
(algorithm 1, line 9) is `common.matching.match`.

DSA is the second row of this page: both branches pass through one random augmentation per class and update.

The paper's algorithm updates the images class by class, the official code once for all classes. Classes share neither
images nor momentum, so the two are the same step.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from .. import networks
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import Count, lowered, replace, settings
from ..data import ImageSet, augment
from ..networks.gradients import Derivatives
from .common import matching

VERSION = 1
ABOUT_DSA = """DSA: DC with differentiable siamese augmentation (Zhao & Bilen, ICML 2021). Book page: book/dc.md

Real and synthetic images of a class are seen through the same random transformation, and the derivative goes back
through it. Such images keep their value when a network is trained on them with augmentation.

Every class has a draw of its own. In the official code two classes may share one, because it seeds them from the clock.
"""
# images per class: (image updates per network, epochs on the synthetic set between two of them); official code
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


@settings
class Config:
    ipc: Count = 10  # images per class
    iterations: int = 1_001  # fresh networks, one after the other; the official loop runs 0 to 1,000 inclusive
    outer_loop: Count = 10  # image updates per network
    inner_epochs: int = 50  # epochs on the synthetic set between two of them; none follows the last update
    network: str = "ConvNet"
    lr_img: float = 0.1  # SGD step size on the pixels, in normalised units; 0.01 for the MLP
    momentum_img: float = 0.5
    lr_net: float = 0.01  # plain SGD on the network
    batch_real: Count = 256  # real images per class and update
    batch_train: Count = 256  # synthetic images per step of the network
    init: Literal["noise", "real"] = "noise"
    dsa: str | None = None  # None: DC; operations, siamese when matching, per image when training: DSA; "none" for none

    def smoke(self) -> Config:
        return replace(lowered(self, iterations=15, outer_loop=2), inner_epochs=1, batch_real=16)

    def small(self) -> Config:
        """A budget two CPU cores finish in minutes: fewer networks, smaller real batches, shorter paths."""
        updates, epochs = (150, 5) if self.ipc < 10 else (60, 3)
        few = replace(lowered(self, outer_loop=5, inner_epochs=epochs), batch_real=32)
        return lowered(few, iterations=updates // few.outer_loop)


def paper_config(dataset: str, ipc: int, siamese: bool = False) -> Config:
    """The setting behind one cell of the papers' tables, for DC or, `siamese`, for DSA.

    Source: defaults and README of the official code; DSA has no flips on digits, and its author gives the loops for 100
    images per class in an answer there. Another ipc takes the loops of the next smaller one in the code.
    """
    outer_loop, inner_epochs = LOOPS[max(known for known in LOOPS if known <= max(ipc, 1))]
    if not siamese:
        return Config(ipc=ipc, outer_loop=outer_loop, inner_epochs=inner_epochs)
    if ipc >= 100:
        outer_loop, inner_epochs = 100, 2
    dsa = augment.strategy_for(dataset)
    return Config(ipc=ipc, outer_loop=outer_loop, inner_epochs=inner_epochs, init="real", dsa=dsa)


def distill(real: ImageSet, cfg: Config, seed: int, loop: Loop | None = None) -> ImageSet:
    """Distil `real` into cfg.ipc images per class.

    Returns: K x ipc normalised float32 images with hard labels, after the last update.
    Source:  algorithm 1 of DC, section 3 of DSA; distances summed over rows, layers and classes, as in the code.
    """
    loop, method = loop or Loop(), "DC" if cfg.dsa is None else "DSA"
    rng, dsa = stream(seed, method), augment.dsa(cfg.dsa or "none")
    synthetic = real.initial_images(cfg.ipc, cfg.init, rng).requires_grad_()  # (K, ipc, C, H, W)
    labels = torch.arange(real.num_classes, device=real.device).repeat_interleave(cfg.ipc)
    optimizer = torch.optim.SGD([synthetic], lr=cfg.lr_img, momentum=cfg.momentum_img)
    network = networks.fresh(cfg.network, real, rng).to(real.device).requires_grad_(False)
    parameters, derivatives = [p.detach() for p in network.parameters()], Derivatives(network)
    how = {"batch": cfg.batch_train, "lr": cfg.lr_net, "augmentation": dsa}
    train_epoch = partial(matching.train_epoch, derivatives, parameters, labels=labels, rng=rng, **how)
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
            for _ in range(cfg.inner_epochs):
                train_epoch(synthetic.flatten(0, 1))
        loop.log(loss=distance.sum())
    return ImageSet.from_classes(synthetic, like=real, method=method, seed=seed)
