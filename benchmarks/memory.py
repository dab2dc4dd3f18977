"""Peak memory of a method at 50 images per class of CIFAR-10's shape, against the estimate that `distill plan` prints.

The estimate comes from records of the same method (see `distill_lib.estimate`); where there is none, `off_pct` is missing and the row says so.
The images are noise: the memory does not depend on what they show. Steps are few: the peak does not depend on how many they are, but
for the weights that MTT keeps of every step.
"""

from __future__ import annotations

import suite
import torch

from distill_lib import estimate
from distill_lib.data import Facts, ImageSet
from distill_lib.device import measure
from distill_lib.experiment import Task
from distill_lib.loop import Loop
from distill_lib.methods import METHODS
from distill_lib.records import Cell
from distill_lib.rng import generator
from distill_lib.settings import replace

QUICK = {"ipc": 1, "images": 200, "real": 2}


def peak(method: str, device: str, ipc: int, images: int, real: int, **few: int) -> suite.Call:
    """Run a step of the method; megabytes measured and estimated."""
    facts = Facts("CIFAR10", tuple("0123456789"), (0.5,) * 3, (0.25,) * 3)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=generator(0, "benchmark"), dtype=torch.uint8)
    data = ImageSet(pixels, torch.arange(images) % 10, facts).to(device)
    published = METHODS[method].paper_config("CIFAR10", ipc)
    cfg = replace(published, **few, **({"batch_real": real} if method != "MTT" else {}))
    if method == "MTT":
        cfg = replace(cfg, experts=replace(cfg.experts, count=1, epochs=2, per_epoch=real, zca=False), max_start_epoch=1, expert_epochs=1)

    def run() -> dict[str, float]:
        task = Task(Cell("memory", method, "CIFAR10", ipc, "ConvNet", "vico_dsa"), published, "CIFAR10", "vico_dsa")
        estimated = estimate.estimate(task, estimate.rates("full")).memory_mb
        with measure(device) as cost:
            METHODS[method].distill(data, cfg, seed=0, loop=Loop(bar=False))
        found = {"measured_mb": round(cost.memory_mb)}
        if estimated:
            found |= {"estimated_mb": round(estimated), "off_pct": round(100 * abs(estimated / cost.memory_mb - 1))}
        return found

    return run


def registered(method: str, **few: int) -> None:
    @suite.benchmark(
        f"memory-{method.lower()}", f"a step of {method} at IPC {{ipc}} on {{images}} images, 3 x 32 x 32: peak memory", "",
        size={"ipc": 50, "images": 50_000, "real": 256, **few}, quick={**QUICK, **few}, target={"off_pct": 20.0}, repeats=1,
    )  # fmt: skip
    def build(side: str, device: str, **size: int) -> suite.Call:
        return peak(method, device, **size)


registered("DM", iterations=1)
registered("DC", iterations=1, outer_loop=1)
registered("MTT", iterations=1, syn_steps=2)


if __name__ == "__main__":
    suite.main(only="memory")
