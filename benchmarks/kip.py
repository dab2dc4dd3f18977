"""Kernel entries per second and peak memory of KIP's kernels, as the tile of image pairs grows.

    python benchmarks/kip.py [--kernel KIPConv3] [--images 10] [--targets 64] [--tiles 1 4 16 64] [--precision float64]
                             [--threads 2] [--device cpu] [--json FILE]

For every tile size, in a process of its own: the kernel matrix of so many synthetic and real 28 x 28 images, and its derivative by the
synthetic ones. An entry is one pair of images. The derivatives must agree between tile sizes. Memory is above what the
process held before; on a CPU it is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sides
import torch
from torch import Tensor

from distill_lib import ntk
from distill_lib.device import Pieces, describe, pick
from distill_lib.rng import generator

SHAPE = (1, 28, 28)


def measure(args: argparse.Namespace, tile: int) -> tuple[dict[str, Any], Tensor]:
    """Figures of one tile size, and the derivative."""
    torch.set_num_threads(args.threads)
    pick(args.device)
    rng = generator(0, "benchmark")
    kernel = ntk.named(args.kernel, getattr(torch, args.precision))
    x, y = (torch.randn(n, *SHAPE, generator=rng).to(args.device) for n in (args.images, args.targets))
    direction = torch.randn(args.images, args.targets, generator=rng).to(args.device)
    tiles, entries = Pieces(tile), args.images * args.targets
    kernel.matrix(x[:1], y[:1], tiles)
    kernel.pull(x[:1], y[:1], direction[:1, :1], tiles)
    before = sides.memory_mb(args.device)
    start = time.perf_counter()
    kernel.matrix(x, y, tiles).sum().item()  # waits for the device
    middle = time.perf_counter()
    derivative = kernel.pull(x, y, direction, tiles).cpu()
    end = time.perf_counter()
    figures = {
        "tile": tile,
        "used": tiles.size,  # smaller where memory ran out
        "entries_per_second": round(entries / (middle - start), 1),
        "derivative_entries_per_second": round(entries / (end - middle), 1),
        "memory_mb": round(sides.memory_mb(args.device) - before),
    }
    return figures, derivative


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kernel", default="KIPConv3")
    options.add_argument("--images", type=int, default=10)
    options.add_argument("--targets", type=int, default=64)
    options.add_argument("--tiles", type=int, nargs="+", default=[1, 4, 16, 64])
    options.add_argument("--precision", choices=["float64", "float32"], default="float64")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--device", default="cpu")
    options.add_argument("--json", type=Path, help="write the figures there too")
    options.add_argument("--child", nargs=2, metavar=("TILE", "FILE"), help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.child:
        figures, derivative = measure(args, int(args.child[0]))
        torch.save({"figures": figures, "derivative": derivative}, args.child[1])
        return
    found, derivatives = [], []
    with tempfile.TemporaryDirectory() as folder:
        for tile in args.tiles:
            out = f"{folder}/{tile}.pt"
            command = [sys.executable, __file__, *sys.argv[1:], "--child", str(tile), out]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)})
            loaded = torch.load(out, weights_only=True)
            found.append(loaded["figures"])
            derivatives.append(loaded["derivative"].double())
    kernel = ntk.named(args.kernel)
    report = {
        "what": f"{args.kernel}, {args.images} x {args.targets} images of 28 x 28, {args.precision}",
        "pixel_pairs_per_entry": kernel.entries(SHAPE) if isinstance(kernel, ntk.Convolutional) else 0,
        "device": describe(args.device),
        "threads": args.threads,
        "torch": torch.__version__,
        "tiles": found,
        "relative_difference": max(float((d - derivatives[0]).norm() / derivatives[0].norm()) for d in derivatives),
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
