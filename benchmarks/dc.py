"""How long one step of DC or DSA takes, against the loop a reader would write from the paper: class by class, the network's
own layers, eager float32, the real branch differentiated and detached, one backward pass through the sum.

    python benchmarks/dc.py [--method DC|DSA] [--ipc 10] [--real 256] [--rounds 3] [--threads 2] [--device cpu] [--json FILE]

A step is ten classes, ConvNet-3, 28 x 28 images: the distance between real and synthetic gradients and its derivative by
the synthetic images, which both sides return and which must agree. For DSA both apply the same augmentation. Where other
programs use the processor too, the ratio of processor seconds with --threads 1 is the more reliable one.
"""

from __future__ import annotations

import sides
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import augment, matching, networks
from distill_lib.derivatives import Derivatives
from distill_lib.rng import generator

SHAPE, K = (1, 28, 28), 10


def plain(network: torch.nn.Module, real: Tensor, synthetic: Tensor, aug: augment.Augmentation, omega: augment.Params) -> Tensor:
    """The reader's loop; derivative of the distance by the synthetic images."""
    images, total = synthetic.clone().requires_grad_(), 0.0
    parameters = list(network.requires_grad_().parameters())
    for k in range(K):
        one = augment.Params(omega.choice[k : k + 1], omega.u[k : k + 1])
        loss_real = F.cross_entropy(network(aug.apply(real[k], one)), torch.full((len(real[k]),), k, device=real.device))
        theirs = [g.detach() for g in torch.autograd.grad(loss_real, parameters)]
        loss = F.cross_entropy(network(aug.apply(images[k], one)), torch.full((len(images[k]),), k, device=real.device))
        ours = torch.autograd.grad(loss, parameters, create_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            if a.ndim > 1:
                a, b = a.flatten(1), b.flatten(1)
                total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return torch.autograd.grad(total, images)[0]


def ours(network: torch.nn.Module, real: Tensor, synthetic: Tensor, aug: augment.Augmentation, omega: augment.Params) -> Tensor:
    images = synthetic.clone().requires_grad_()
    seen = aug.apply(images, omega)
    _, gradient = matching.match(Derivatives(network), [p.detach() for p in network.parameters()], aug.apply(real, omega), seen)
    return torch.autograd.grad(seen, images, gradient)[0] if seen is not images else gradient


def main() -> None:
    options = sides.parser(__doc__, rounds=2)
    options.add_argument("--method", choices=["DC", "DSA"], default="DC")
    options.add_argument("--ipc", type=int, default=10)
    options.add_argument("--real", type=int, default=256)
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        rng = generator(0, "benchmark")
        network = networks.fresh("ConvNet", (SHAPE, K), rng).to(args.device).requires_grad_(False)
        real, synthetic = (torch.randn(K, n, *SHAPE, generator=rng).to(args.device) for n in (args.real, args.ipc))
        aug = augment.dsa("color_crop_cutout_flip_scale_rotate") if args.method == "DSA" else augment.none()
        omega, step = aug.draw(rng, groups=K), plain if side == "plain" else ours
        return lambda: step(network, real[:, :2], synthetic[:, :1], aug, omega), lambda: step(network, real, synthetic, aug, omega)

    sides.run(__file__, args, f"one {args.method} step, {K} classes x {args.real} real images, IPC {args.ipc}, ConvNet-3, 28 x 28", build)


if __name__ == "__main__":
    main()
