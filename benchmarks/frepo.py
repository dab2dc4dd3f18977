"""How long loss and derivatives of one FRePo step take, against the plain form: synthetic and real images through the network's own
layers with one graph, the regression written out, one backward pass, all in eager float32 but for the regression.

    python benchmarks/frepo.py [--ipc 10] [--real 256] [--network FRePoConvBN] [--rounds 2] [--threads 2] [--device cpu] [--json FILE]

A step is ten classes of 28 x 28 images: the loss and its derivative by the synthetic images, which both sides return and
which must agree. Where other programs use the processor too, the ratio of processor seconds with --threads 1 is the more
reliable one.
"""

from __future__ import annotations

import sides
import torch
from torch import Tensor

from distill_lib import networks, ntk
from distill_lib.device import Pieces, pick
from distill_lib.methods import frepo
from distill_lib.rng import generator

SHAPE, K = (1, 28, 28), 10


def plain(network: networks.Network, images: Tensor, labels: Tensor, targets: Tensor, wanted: Tensor, cfg: frepo.Config) -> Tensor:
    """The plain form; derivative of the loss by the synthetic images."""
    network.requires_grad_()
    images, labels = images.clone().requires_grad_(), labels.double()
    support, real = network.embed(images).double(), network.embed(targets).double()
    kernel = support @ support.T
    ridge = cfg.ridge * kernel.trace() / len(kernel) * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    predicted = real @ support.T @ torch.linalg.solve(kernel + ridge, labels)
    loss = (predicted - wanted).square().sum(1).mean() / 2 - frepo.margin(labels)
    loss.backward()
    return images.grad


def ours(network: networks.Network, images: Tensor, labels: Tensor, targets: Tensor, wanted: Tensor, cfg: frepo.Config) -> Tensor:
    many, few = (1024, 1024) if images.is_cuda else (128, 64)
    pieces = {"targets_at_once": Pieces(many), "support_at_once": Pieces(few)}
    return frepo.loss_and_gradients(lambda x: networks.embed(network, x), images, labels, targets, wanted, cfg, **pieces)[1]


def main() -> None:
    options = sides.parser(__doc__, rounds=2)
    options.add_argument("--ipc", type=int, default=10)
    options.add_argument("--real", type=int, default=256)
    options.add_argument("--network", default="FRePoConvBN")
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        if side == "ours":
            pick(args.device)
        rng = generator(0, "benchmark")
        network = networks.fresh(args.network, (SHAPE, K), rng).to(args.device).eval().requires_grad_(False)
        images, targets = (torch.randn(n, *SHAPE, generator=rng).to(args.device) for n in (K * args.ipc, args.real))
        labels = ntk.centred(torch.arange(K).repeat_interleave(args.ipc), K).float().to(args.device)
        wanted = ntk.centred(torch.randint(K, (args.real,), generator=rng), K).to(args.device)
        cfg, step = frepo.Config(ipc=args.ipc), plain if side == "plain" else ours
        return (
            lambda: step(network, images[::args.ipc], labels[::args.ipc], targets[:2], wanted[:2], cfg),
            lambda: step(network, images, labels, targets, wanted, cfg),
        )

    sides.run(__file__, args, f"one FRePo step, {args.real} real images, IPC {args.ipc}, {args.network}, 28 x 28", build)


if __name__ == "__main__":
    main()
