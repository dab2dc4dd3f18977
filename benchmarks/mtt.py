"""How long MTT's inner loop takes, there and back, against the loop a reader would write from the paper: the network's own
layers, eager float32, every step's graph kept, one backward pass through all of them.

    python benchmarks/mtt.py [--ipc 10] [--steps 10] [--rounds 3] [--threads 2] [--device cpu] [--json FILE]

A loop is so many steps of a ConvNet-3 student on all synthetic images of ten classes, 28 x 28, with augmentation, then the
distance to the expert and its derivative by the images, which both sides return and which must agree. Memory of the plain
side grows with the steps; --steps shows it. Where other programs use the processor too, the ratio of processor seconds
with --threads 1 is the more reliable one.
"""

from __future__ import annotations

import sides
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from distill_lib import augment, networks
from distill_lib.derivatives import Derivatives
from distill_lib.methods import mtt
from distill_lib.rng import generator
from distill_lib.trajectories import flat, unflat

SHAPE, K = (1, 28, 28), 10


def main() -> None:
    options = sides.parser(__doc__, rounds=2)
    options.add_argument("--ipc", type=int, default=10)
    options.add_argument("--steps", type=int, default=10)
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        rng = generator(0, "benchmark")
        network = networks.fresh("ConvNet", (SHAPE, K), rng).to(args.device).requires_grad_(False)
        start = flat(list(network.parameters()))
        target = start + 0.001 * torch.randn(start.shape, generator=rng).to(args.device)
        images, labels = torch.randn(K * args.ipc, *SHAPE, generator=rng).to(args.device), torch.arange(K, device=args.device).repeat(args.ipc)
        step_size, aug = torch.tensor(0.01, device=args.device), augment.dsa("color_crop_cutout_flip_scale_rotate")

        def plain(synthetic: Tensor, steps: int) -> Tensor:
            """The reader's loop; derivative of the loss by the images."""
            leaf, theta, names = synthetic.clone().requires_grad_(), start.clone().requires_grad_(), [n for n, _ in network.named_parameters()]
            for draw in draws(steps, len(leaf)):
                weights = dict(zip(names, unflat(theta, network), strict=True))
                loss = F.cross_entropy(functional_call(network, weights, (aug.apply(leaf, draw),)), labels[: len(leaf)])
                theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
            loss = (theta - target).square().sum() / (start - target).square().sum()
            return torch.autograd.grad(loss, leaf)[0]

        def ours(synthetic: Tensor, steps: int) -> Tensor:
            batches = [torch.arange(len(synthetic), device=args.device)] * steps
            derivatives = Derivatives(network)
            return mtt.matched(derivatives, start, target, synthetic, labels, step_size, batches, draws(steps, len(synthetic)), aug)[1]

        def draws(steps: int, images: int) -> list[augment.Params]:
            again = generator(1, "benchmark")
            return [aug.draw(again, images=images) for _ in range(steps)]

        loop = plain if side == "plain" else ours
        return lambda: loop(images[:4], 1), lambda: loop(images, args.steps)

    sides.run(__file__, args, f"{args.steps} student steps there and back, {K * args.ipc} images (IPC {args.ipc}), ConvNet-3, 28 x 28", build)


if __name__ == "__main__":
    main()
