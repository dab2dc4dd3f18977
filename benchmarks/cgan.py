"""How many images a second the conditional GAN trains on and draws, against the loop a reader would write from the papers: real
and generated images in passes of their own, gradients of both networks in every backward pass, one class after another when
drawing.

    python benchmarks/cgan.py [--part train|draw] [--width 32] [--batch 32] [--steps 8] [--side 28] [--rounds 3] [--threads 2]
                              [--device cpu] [--json FILE]

train: steps of generator and discriminator with the gradient penalty in every step; both sides see the same images and random
numbers, and the generator's first weights after the last step, which both return, must agree. draw: ten batches of images of
every class; the plain side draws class by class. Images per second are the images named in the output over its seconds.
Where other programs use the processor too, the ratio of processor seconds with --threads 1 is the more reliable one.
"""

from __future__ import annotations

import sides
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import data
from distill_lib.generators import cgan
from distill_lib.rng import generator as stream
from distill_lib.settings import replace

K = 10


def main() -> None:
    options = sides.parser(__doc__, rounds=3)
    options.add_argument("--part", choices=["train", "draw"], default="train")
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--side", type=int, default=28, help="28: one channel; 32: three")
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        channels = 3 if args.side == 32 else 1
        facts = data.Facts("noise", tuple(map(str, range(K))), (0.5,) * channels, (0.5,) * channels)
        rng = stream(0, "benchmark")
        pixels = torch.randint(256, (args.batch * args.steps, channels, args.side, args.side), generator=rng).byte()
        real = data.ImageSet(pixels, torch.arange(len(pixels)) % K, facts).to(args.device)
        of = replace(cgan.GAN(), width=args.width, batch=args.batch)

        def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
            parts = torch.arange(len(real), device=args.device).split(args.batch)[:steps]
            return [(cgan.signed(real, i), real.labels[i]) for i in parts]

        def ours(steps: int) -> Tensor:
            pair, rng = cgan.Pair(of, real, stream(1)), stream(2)
            for x, y in batches(steps):
                pair.step(x, y, rng)
            return pair.generator.first[0].weight.detach()

        def plain(steps: int) -> Tensor:
            """The reader's loop."""
            pair, rng = cgan.Pair(of, real, stream(1)), stream(2)
            g, d = pair.modules
            by_g, by_d = (torch.optim.Adam(m.parameters(), lr=of.lr, betas=of.betas) for m in (g, d))
            for x, y in batches(steps):
                score, classes = d(g(g.noise(len(y), rng), y))
                by_g.zero_grad()
                (F.cross_entropy(classes, y) - score.mean()).backward()
                by_g.step()
                labels = torch.randint(K, (len(y),), generator=rng).to(args.device)
                fake = g(g.noise(len(y), rng), labels).detach()
                alpha = torch.rand(len(y), generator=rng).to(args.device).view(-1, 1, 1, 1)
                (score_real, classes_real), (score_fake, classes_fake) = d(x), d(fake)
                middle = (alpha * x + (1 - alpha) * fake).requires_grad_()
                gradient = torch.autograd.grad(d(middle)[0].sum(), middle, create_graph=True)[0]
                penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
                loss = score_fake.mean() - score_real.mean() + F.cross_entropy(classes_fake, labels) + F.cross_entropy(classes_real, y) + 10 * penalty
                by_d.zero_grad()
                loss.backward()
                by_d.step()
            return g.first[0].weight.detach()

        drawing = cgan.redraw(cgan.Generator(of.architecture(real)), stream(1)).to(args.device)

        def draw(steps: int) -> Tensor:
            labels = torch.arange(K, device=args.device).repeat_interleave(args.batch)
            for i in range(steps):
                images = drawing.draw(labels, stream(3, i))
            return images

        def draw_plain(steps: int) -> Tensor:
            for i in range(steps):
                noise = drawing.noise(K * args.batch, stream(3, i)).split(args.batch)
                with torch.no_grad():
                    images = torch.cat([drawing.eval()(noise[k], torch.full((args.batch,), k, device=args.device)) for k in range(K)])
            return images

        loop = {("train", "plain"): plain, ("train", "ours"): ours, ("draw", "plain"): draw_plain, ("draw", "ours"): draw}[args.part, side]
        return lambda: loop(1), lambda: loop(args.steps)

    images = args.steps * args.batch * (K if args.part == "draw" else 1)
    what = {"train": "conditional GAN trained on", "draw": "conditional GAN draws"}[args.part]
    sides.run(__file__, args, f"{what} {images} images of {args.side} pixels, width {args.width}, batches of {args.batch}", build)


if __name__ == "__main__":
    main()
