"""How fast the compiled ConvNet kernel is, against the network's own layers run eagerly in float32.

    python benchmarks/convnet_fast.py [--rounds 7] [--threads 2] [--cpu-time] [--json FILE]

Both sides run in the same process on the same weights and images, alternating, so that a busy machine slows both; every
ratio is the median over the rounds, with the smallest and largest round. Errors are against float64. On a machine that is
busy with other work, `--threads 1 --cpu-time` compares processor seconds, which waiting does not change.

    embed   no-grad embedding of 256 real images (a class of a DM step)
    image   gradient by 10 synthetic images through DM's loss, network frozen
    train   one evaluator step: five networks, 100 images each, loss and gradients of every weight
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.device import describe
from distill_lib.networks import fast
from distill_lib.rng import generator


def compare(plain: Callable[[], object], quick: Callable[[], object], rounds: int, clock: Callable[[], float]) -> dict[str, object]:
    """Seconds of both, alternating, and the ratio of each round."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 1):
        for side, call in enumerate((plain, quick)):
            start = clock()
            call()
            if i:  # the first round warms up
                seconds[side].append(clock() - start)
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    return {
        "eager_s": statistics.median(seconds[0]),
        "fast_s": statistics.median(seconds[1]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def image_gradient(embed: Callable, network: networks.Network, synthetic: Tensor, target: Tensor) -> Tensor:
    """Gradient of DM's loss of one class by its synthetic images."""
    synthetic = synthetic.clone().requires_grad_()
    (target - embed(network, synthetic).mean(0)).square().sum().backward()
    return synthetic.grad


def cases(shape: tuple[int, int, int], rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, object]]:
    nets = [networks.fresh("ConvNet", (shape, 10), generator(i, "benchmark")) for i in range(5)]
    rng = generator(0, "benchmark", "images")
    real, synthetic, batches = (torch.randn(*n, *shape, generator=rng) for n in ((256,), (10,), (5, 100)))
    labels = torch.arange(10).repeat(5, 10)
    frozen = copy.deepcopy(nets[0]).requires_grad_(False)
    exact = copy.deepcopy(frozen).double()

    def plain(network: networks.Network, x: Tensor) -> Tensor:
        return network.embed(x)

    out = {}
    with torch.no_grad():
        out["embed"] = compare(lambda: plain(frozen, real), lambda: fast.embed(frozen, real), rounds, clock)
        wanted, target = exact.embed(real.double()), frozen.embed(real).mean(0)
        out["embed"] |= {"error_eager": error(plain(frozen, real), wanted), "error_fast": error(fast.embed(frozen, real), wanted)}
    sides = [lambda embed=embed: image_gradient(embed, frozen, synthetic, target) for embed in (plain, fast.embed)]
    wanted = image_gradient(plain, exact, synthetic.double(), wanted.mean(0))
    out["image"] = compare(*sides, rounds, clock) | {"error_eager": error(sides[0](), wanted), "error_fast": error(sides[1](), wanted)}

    def one_by_one() -> list[Tensor]:
        found = []
        for network, x, y in zip(nets, batches, labels, strict=True):
            found += torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
        return found

    stack = networks.stack(nets)

    def stacked() -> tuple[Tensor, ...]:
        loss = 5 * F.cross_entropy(stack(batches).flatten(0, 1), labels.flatten())
        return torch.autograd.grad(loss, list(stack.params.values()))

    eager, quick = one_by_one(), stacked()
    wanted = [torch.stack(eager[i :: len(quick)]) for i in range(len(quick))]
    matched = [(a, b) for a, b in zip(quick, wanted, strict=True) if a.any()]  # biases before a norm get exactly zero
    out["train"] = compare(one_by_one, stacked, rounds, clock) | {"difference": max(error(a, b.double()) for a, b in matched)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor seconds in place of wall seconds")
    parser.add_argument("--json", type=Path, help="also store the figures in this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    if fast.kernel() is None:
        raise SystemExit("the kernel is not available here: no C++ compiler, or DISTILL_COMPILE=0")
    print(f"{describe('cpu')}, torch {torch.__version__}")
    found = {}
    for shape in ((1, 28, 28), (3, 32, 32)):
        for name, row in cases(shape, options.rounds, clock).items():
            found[f"{name} {'x'.join(map(str, shape))}"] = row
            errors = ", ".join(f"{k.replace('_', ' ')} {v:.1e}" for k, v in row.items() if k.startswith(("error", "difference")))
            print(
                f"{name:6s} {shape}: eager {row['eager_s']:.3f} s, fast {row['fast_s']:.3f} s, "
                f"ratio {row['ratio']:.1f} ({row['ratio_min']:.1f} to {row['ratio_max']:.1f}); {errors}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"device": describe("cpu"), "torch": torch.__version__, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
