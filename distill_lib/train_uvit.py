"""Stage 1 of U-ViT by itself, on one process or on several that torch's launcher starts.

    python -m distill_lib.train_uvit CIFAR10 --profile small
    torchrun --nproc-per-node 4 -m distill_lib.train_uvit CIFAR100 --profile full

The result lies in `runs/generators`, where the experiments look for it. Stopped and started again, training goes on, also with
another number of processes: a step draws the same images, times and noise whatever the number.
"""

from __future__ import annotations

import argparse
import os

import torch

from . import data, paths
from .device import pick
from .errors import UserError
from .generators import uvit
from .loop import Loop
from .methods.uvit import Config, of_profile
from .settings import replace


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset")
    options.add_argument("--profile", choices=["smoke", "small", "full"], default="full")
    options.add_argument("--scratch", action="store_true", help="start from random weights, not from the public ones")
    args = options.parse_args(arguments)
    cfg = of_profile(args.dataset, args.profile)
    if args.scratch:
        cfg = replace(cfg, training=replace(cfg.training, start=None))
    try:
        run(args.dataset, cfg)
    except UserError as err:
        raise SystemExit(f"error: {err}") from None


def run(dataset: str, cfg: Config) -> uvit.Trained:
    """Train, as one of the processes that torch's launcher started, where it did."""
    training, together = cfg.training, "LOCAL_RANK" in os.environ
    device = pick(f"cuda:{os.environ['LOCAL_RANK']}" if together and torch.cuda.is_available() else None)
    if together:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        real = data.load(dataset)[0].to(device)
        found = uvit.place(real, training, cfg.training_seed)
        loop = Loop(paths.runs() / "generators" / "work" / found.folder.name, key=found.folder.name)
        done = uvit.trained(real, training, cfg.training_seed, loop)
        if not int(os.environ.get("RANK", 0)):
            print(f"{done.file}: {done.seconds:.0f} s of training")
        return done
    finally:
        if together:
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
