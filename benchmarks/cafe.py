"""One image update of CAFE, against the official form: all real and synthetic images in one pass with one graph, losses
class by class, one backward pass through both branches. Both sides return the derivative of the losses by the synthetic
images.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.device import Pieces
from distill_lib.core.rng import stream
from distill_lib.methods import cafe

SHAPE, K = (1, 28, 28), 10


def plain(network: nn.Module, theirs: Tensor, synthetic: Tensor, cfg: cafe.Config) -> tuple[Tensor, Tensor]:
    """The official form for (K, real) and (K, ipc) images: the losses, and their derivative by the synthetic images."""
    (classes, real), ipc = theirs.shape[:2], synthetic.shape[1]
    images = synthetic.clone().requires_grad_()
    network.requires_grad_()
    maps = network.taps(torch.cat([theirs.flatten(0, 1), images.flatten(0, 1)]))
    maps = [*maps, maps[-1].flatten(1)]
    loss, centres = 0.0, []
    for k in range(classes):
        own = slice(classes * real + k * ipc, classes * real + (k + 1) * ipc)
        for weight, layer in zip([*cfg.layers, cfg.embedding], maps, strict=True):
            loss = loss + weight * F.mse_loss(
                layer[own].mean(0), layer[k * real : (k + 1) * real].mean(0), reduction="sum"
            )
        centres.append(maps[-1][own].mean(0))
    labels = torch.arange(classes, device=theirs.device).repeat_interleave(real)
    logits = maps[-1][: classes * real] @ torch.stack(centres).T
    loss = loss + cfg.discrimination * F.cross_entropy(logits, labels, reduction="sum")
    loss.backward()
    return loss.detach(), images.grad


@suite.benchmark(
    "cafe",
    "a CAFE image update: 10 classes of {real} real images and IPC {ipc}, ConvNet, 1 x 28 x 28",
    "the official form: one pass with one graph",
    size={"ipc": 10, "real": 256},
    quick={"ipc": 1, "real": 2},
    tolerance=1e-2,
)
def update(side: str, device: str, ipc: int, real: int) -> suite.Call:
    rng = stream(0, "benchmark")
    network = networks.fresh("ConvNet", (SHAPE, K), rng).to(device).requires_grad_(False)
    theirs, synthetic = (torch.randn(K, n, *SHAPE, generator=rng).to(device) for n in (real, ipc))
    cfg = cafe.Config(ipc=ipc)

    def ours() -> Tensor:
        at_once = Pieces(cafe.images_at_once(SHAPE[-2:], theirs.device))
        return cafe.image_gradient(
            network, theirs, synthetic, cafe.layer_weights(network, cfg), cfg, images_at_once=at_once
        )[1]

    return (lambda: plain(network, theirs, synthetic, cfg)[1]) if side == "plain" else ours
