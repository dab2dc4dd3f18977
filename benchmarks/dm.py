"""How fast one DM step is, against the loop over classes that a reader would write from the paper.

    python benchmarks/dm.py [--rounds 5] [--threads 2] [--ipc 10] [--batch-real 256] [--json FILE]

One step of DM on 28 x 28 images, ten classes, ConvNet-3: siamese augmentation, embedding of the real batches without a
graph, embedding of the synthetic images with one, loss, image gradient. The plain side runs the network's own layers
eagerly in float32, class after class, and augments class after class. Both sides run in the same process on the same
images, weights and augmentation draws, alternating; ratios are medians over the rounds, with the smallest and largest.
The image gradient of each side is compared with float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from distill_lib import augment, networks
from distill_lib.augment import Params
from distill_lib.device import describe
from distill_lib.methods import dm
from distill_lib.rng import generator

K, SHAPE = 10, (1, 28, 28)


def plain(network: torch.nn.Module, dsa: augment.Augmentation, omega: Params, real: Tensor, synthetic: Tensor) -> Tensor:
    """The paper's loop over classes; returns the image gradient (K, ipc, C, H, W)."""
    synthetic = synthetic.clone().requires_grad_()
    loss = torch.zeros((), dtype=real.dtype)
    for k in range(K):
        own = Params(omega.choice[k : k + 1], omega.u[k : k + 1])
        target = network.embed(dsa.apply(real[k], own)).detach().mean(0)
        loss = loss + (target - network.embed(dsa.apply(synthetic[k], own)).mean(0)).square().sum()
    loss.backward()
    return synthetic.grad


def ours(network: torch.nn.Module, dsa: augment.Augmentation, omega: Params, real: Tensor, synthetic: Tensor) -> Tensor:
    """The step as `dm.distill` takes it."""
    synthetic = synthetic.clone().requires_grad_()
    dm.matching_loss(network, dsa.apply(real, omega), dsa.apply(synthetic, omega)).backward()
    return synthetic.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--batch-real", type=int, default=256)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = generator(0, "benchmark", "dm")
    network = networks.fresh("ConvNet", (SHAPE, K), rng).requires_grad_(False)
    real = torch.randn(K, args.batch_real, *SHAPE, generator=rng)
    synthetic = torch.randn(K, args.ipc, *SHAPE, generator=rng)
    dsa = augment.dsa()
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    grads = {}
    for i in range(args.rounds + 1):
        omega = dsa.draw(rng, groups=K)
        for name, step in (("plain", plain), ("ours", ours)):
            start = time.perf_counter()
            grads[name] = step(network, dsa, omega, real, synthetic)
            if i:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    few = 32  # images per class for the comparison in float64
    exact = plain(copy.deepcopy(network).double(), dsa, omega, real[:, :few].double(), synthetic.double())
    errors = {
        name: float((step(network, dsa, omega, real[:, :few], synthetic).double() - exact).norm() / exact.norm())
        for name, step in (("plain", plain), ("ours", ours))
    }
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["ours"])]
    result = {
        "what": f"DM step, {K} classes x {args.batch_real} real, IPC {args.ipc}, ConvNet-3, 28 x 28, float32",
        "device": describe("cpu"),
        "plain_seconds": round(statistics.median(seconds["plain"]), 3),
        "ours_seconds": round(statistics.median(seconds["ours"]), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "gradient_error_plain": errors["plain"],
        "gradient_error_ours": errors["ours"],
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
