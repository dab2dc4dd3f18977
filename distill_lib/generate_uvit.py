"""Images of a trained U-ViT: as many as a time allows, in turn of every class, to a folder as uint8.

    python -m distill_lib.generate_uvit CIFAR10 --profile small --seconds 600 --folder samples
    python -m distill_lib.generate_uvit --weights nnet_ema.pth --images 50000 --folder samples

Stopped and started again, it goes on; the seconds spent are kept with the images. Unconditional weights have no classes to
generate in turn and are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import data
from .device import pick
from .errors import UserError
from .generators import uvit
from .methods.uvit import Config, of_profile


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("dataset", nargs="?", help="whose U-ViT, trained by distill_lib.train_uvit or an experiment")
    options.add_argument("--weights", type=Path, help="a file of weights, in place of a data set")
    options.add_argument("--profile", choices=["smoke", "small", "full"], default="full")
    options.add_argument("--seconds", type=float)
    options.add_argument("--images", type=int)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args(arguments)
    try:
        made = run(args)
    except UserError as err:
        raise SystemExit(f"error: {err}") from None
    print(f"{made.folder}: {made.images} images in {made.seconds:.1f} s, {made.images_per_second:.1f} a second")


def run(args: argparse.Namespace) -> uvit.Generated:
    if (args.dataset is None) == (args.weights is None):
        raise UserError("give a data set or --weights, one of the two")
    cfg, device = Config() if args.weights else of_profile(args.dataset, args.profile), pick()
    if args.weights:
        model = uvit.load(args.weights)
    else:
        found = uvit.place(data.load(args.dataset)[0], cfg.training, cfg.training_seed)
        if not found.file.exists():
            raise UserError(f"no U-ViT of {args.dataset} at {args.profile}; train it: python -m distill_lib.train_uvit {args.dataset} --profile {args.profile}")
        model = found.model()
    if not model.of.num_classes:
        raise UserError(f"{args.weights}: unconditional weights; train them on a data set with classes first, with start={str(args.weights)!r}")
    return uvit.generate_for(
        model.to(device), args.seconds, model.of.num_classes, args.seed, args.folder, cfg.steps, cfg.sampler, cfg.batch, cfg.precision,
        args.images, guidance=cfg.guidance,
    )  # fmt: skip


if __name__ == "__main__":
    main()
