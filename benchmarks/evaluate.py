"""How long five ConvNets take to evaluate a FashionMNIST set of 10 images per class, against a reader's own loop: eager float32,
one network after another, torch's SGD, data already in memory, the same augmentation.

    python benchmarks/evaluate.py [--ipc 10] [--epochs 20] [--rounds 3] [--threads 2] [--device cpu] [--json FILE]

Both sides train the same initial networks on the same random real images under vico_dsa with a small budget, each in a process
of its own (so that neither changes the other's memory), alternating. 1000 test images are used: with 20 epochs, testing then has
about the share of the time it has with 1000 epochs and the whole test set. Accuracies must agree within their spread.
Where other programs use the processor too, the ratio of processor seconds with --threads 1 is the more reliable one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from distill_lib import augment, data, networks
from distill_lib.data import ImageSet
from distill_lib.device import describe
from distill_lib.errors import UserError
from distill_lib.evaluate import evaluate
from distill_lib.protocols import protocol
from distill_lib.rng import generator


def sets(ipc: int) -> tuple[ImageSet, ImageSet]:
    """A random real set and 1000 test images, of FashionMNIST or, where it is not at hand, of the small copy in the package."""
    try:
        real, test = data.load("FashionMNIST", download=False)
    except UserError:
        real, test = data.load("FashionMNIST-mini")
    index = real.draw_index(ipc, generator(0, "benchmark")).flatten()
    some = test.draw_index(100, generator(1, "benchmark")).flatten()
    return real.subset(index), test.subset(some)


def plain(synthetic: ImageSet, test: ImageSet, epochs: int, num_eval: int, device: str) -> list[float]:
    """The reader's loop; accuracies in percent."""
    p = protocol(f"vico_dsa@{epochs}ep")
    images, labels = (x.to(device) for x in synthetic.all())
    test_images, test_labels = (x.to(device) for x in test.all())
    dsa, rates, accuracies = augment.named(p.augmentation), p.learning_rates(len(images) // 10, len(images)), []
    for i in range(num_eval):
        net = networks.fresh("ConvNet", synthetic, generator(0, "evaluate", i, "init")).to(device)
        rng, lr = generator(0, "plain", i), None
        for rate in rates:
            if rate != lr:
                lr = rate
                optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
            for batch in torch.randperm(len(images), generator=rng).split(p.batch):
                loss = F.cross_entropy(net(dsa(images[batch], rng)), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            answers = torch.cat([net.eval()(x).argmax(1) for x in test_images.split(256)])
        accuracies.append(100 * (answers == test_labels).double().mean().item())
    return accuracies


def child(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One measurement of one side, after a run of two epochs that warms it up."""
    torch.set_num_threads(args.threads)
    synthetic, test = sets(args.ipc)

    def run(epochs: int) -> list[float]:
        if side == "plain":
            return plain(synthetic, test, epochs, args.networks, args.device)
        name = f"vico_dsa@{epochs}ep"
        return evaluate(synthetic, test, name, num_eval=args.networks, device=args.device).test_accuracy_pct

    run(2)
    start, processor = time.perf_counter(), time.process_time()
    accuracies = run(args.epochs)
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {"seconds": seconds, "processor_seconds": processor, "memory_mb": memory, "accuracies": accuracies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("ipc", 10), ("epochs", 20), ("rounds", 3), ("networks", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--child", choices=["plain", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args)))
        return
    measured: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for _ in range(args.rounds):
        for side, found in measured.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--child", side]
            environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
            found.append(json.loads(out.splitlines()[-1]))
    result: dict[str, Any] = {
        "what": f"{args.networks} ConvNets, FashionMNIST at IPC {args.ipc}, vico_dsa@{args.epochs}ep, 1000 test images",
        "device": describe(args.device),
        "threads": args.threads,
        "torch": torch.__version__,
    }
    for side, found in measured.items():
        seconds, accuracies = [m["seconds"] for m in found], found[0]["accuracies"]
        result[side] = {
            "seconds": [round(s, 2) for s in seconds],
            "median_seconds": round(statistics.median(seconds), 2),
            "spread_seconds": round(max(seconds) - min(seconds), 2),
            "processor_seconds": [round(m["processor_seconds"], 2) for m in found],
            "memory_mb": round(max(m["memory_mb"] for m in found)),
            "accuracy_pct": round(statistics.fmean(accuracies), 2),
            "accuracy_std": round(statistics.stdev(accuracies), 2),
        }
    for of, name in (("seconds", "ratio"), ("processor_seconds", "processor_ratio")):
        ratios = [a[of] / b[of] for a, b in zip(measured["plain"], measured["ours"], strict=True)]
        result[name], result[f"{name}s"] = round(statistics.median(ratios), 2), [round(r, 2) for r in ratios]
    ours, theirs = result["ours"], result["plain"]
    gap = abs(ours["accuracy_pct"] - theirs["accuracy_pct"])
    error = math.hypot(ours["accuracy_std"], theirs["accuracy_std"]) / math.sqrt(args.networks)
    result["accuracies_agree"] = gap <= 3 * error  # three standard errors of the difference of the means
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
