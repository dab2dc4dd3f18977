"""How long one image update of CAFE takes, against the official form: all real and synthetic images in one pass with one graph,
losses class by class, one backward pass through both branches, the network's own layers in eager float32.

    python benchmarks/cafe.py [--ipc 10] [--real 256] [--rounds 2] [--threads 2] [--device cpu] [--json FILE]

An update is ten classes, ConvNet-3, 28 x 28 images: both losses and their derivative by the synthetic images, which both
sides return and which must agree. Where other programs use the processor too, the ratio of processor seconds with
--threads 1 is the more reliable one.
"""

from __future__ import annotations

import sides
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.device import Pieces, pick
from distill_lib.methods import cafe
from distill_lib.rng import generator

SHAPE, K = (1, 28, 28), 10


def plain(network: torch.nn.Module, real: Tensor, synthetic: Tensor, cfg: cafe.Config) -> Tensor:
    """The official form; derivative of the loss by the synthetic images."""
    images, n, m = synthetic.clone().requires_grad_(), real.shape[1], synthetic.shape[1]
    network.requires_grad_()
    maps = network.taps(torch.cat([real.flatten(0, 1), images.flatten(0, 1)]))
    maps = [*maps, maps[-1].flatten(1)]
    loss, centres = 0.0, []
    for k in range(K):
        for weight, layer in zip([*cfg.layers, cfg.embedding], maps, strict=True):
            theirs, ours = layer[k * n : (k + 1) * n].mean(0), layer[K * n + k * m : K * n + (k + 1) * m].mean(0)
            loss = loss + weight * F.mse_loss(ours, theirs, reduction="sum")
        centres.append(maps[-1][K * n + k * m : K * n + (k + 1) * m].mean(0))
    classes = torch.arange(K, device=real.device).repeat_interleave(n)
    logits = maps[-1][: K * n] @ torch.stack(centres).T
    loss = loss + cfg.discrimination * F.cross_entropy(logits, classes, reduction="sum")
    loss.backward()
    return images.grad


def ours(network: torch.nn.Module, real: Tensor, synthetic: Tensor, cfg: cafe.Config) -> Tensor:
    weights = cafe.layer_weights(network, cfg)
    at_once = Pieces(cafe.images_at_once(real.shape[-2:], real.device))
    return cafe.image_gradient(network, real, synthetic, weights, cfg, images_at_once=at_once)[1]


def main() -> None:
    options = sides.parser(__doc__, rounds=2)
    options.add_argument("--ipc", type=int, default=10)
    options.add_argument("--real", type=int, default=256)
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        if side == "ours":
            pick(args.device)
        rng = generator(0, "benchmark")
        network = networks.fresh("ConvNet", (SHAPE, K), rng).to(args.device).requires_grad_(False)
        real, synthetic = (torch.randn(K, n, *SHAPE, generator=rng).to(args.device) for n in (args.real, args.ipc))
        cfg, step = cafe.Config(ipc=args.ipc), plain if side == "plain" else ours
        return lambda: step(network, real[:, :2], synthetic[:, :1], cfg), lambda: step(network, real, synthetic, cfg)

    sides.run(__file__, args, f"one CAFE image update, {K} classes x {args.real} real images, IPC {args.ipc}, ConvNet-3, 28 x 28", build)


if __name__ == "__main__":
    main()
