"""How fast U-ViT trains and draws, against the network a reader would write from the paper: eager float32, attention by two einsums
and a softmax, and a plain loop around it.

    python benchmarks/uvit.py [--part train|draw|fid] [--size Tiny] [--steps 8] [--batch 32] [--images 64] [--sampler dpm_fast]
                              [--evaluations 50] [--precision float32] [--dataset FashionMNIST] [--rounds 3] [--threads 2]
                              [--device cpu] [--json FILE]

train: optimiser steps with their random numbers and the averaged weights, which both sides return and which must agree.
draw: images of ten classes; the plain side takes 50 evaluations of the single-step solver, as the paper. With --evaluations 50 and
--sampler dpm_fast ours does the same and the images must agree: that ratio is the network's. With another solver, such as
--sampler dpm++2m --evaluations 20, the images differ, and the ratio is the network's times the solver's.
fid: whether they are as good: FID of --images samples of the U-ViT trained on --dataset in the small budget, by the plain side and by
ours from the same noise, and by the plain side from other noise, which is how much chance moves it.
On a GPU add --precision bfloat16. Where other programs use the processor too, the ratio of processor seconds with --threads 1 is
the more reliable one.
"""

from __future__ import annotations

import json
import time

import sides
import torch
from torch import Tensor, nn

from distill_lib import data
from distill_lib.device import pick
from distill_lib.diffusion.continuous import sample
from distill_lib.generators import uvit
from distill_lib.generators.uvit import ARCHITECTURES, Architecture, UViT
from distill_lib.rng import generator as stream
from distill_lib.settings import replace

K = 10


class PlainAttention(nn.Module):
    def __init__(self, of: Architecture):
        super().__init__()
        self.heads, self.scale = of.heads, (of.width // of.heads) ** -0.5
        self.qkv, self.proj = nn.Linear(of.width, 3 * of.width, bias=False), nn.Linear(of.width, of.width)

    def forward(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale
        x = torch.einsum("bhqk,bhkd->bhqd", attention.softmax(-1), v)
        return self.proj(x.transpose(1, 2).reshape(b, length, width))


def plain(model: UViT) -> UViT:
    """The same weights with attention written out."""
    of = model.of
    other = uvit.from_state(model.state_dict(), of)
    for block in [*other.in_blocks, other.mid_block, *other.out_blocks]:
        attention = PlainAttention(of)
        attention.load_state_dict(block.attn.state_dict())
        block.attn = attention
    return other


def train_plainly(real: data.ImageSet, cfg: uvit.Training) -> nn.Module:
    """The reader's loop: what `uvit.fit` computes."""
    model = plain(uvit.initial(real, cfg, 0)).to(real.device)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay)
    rng, order, batches = stream(0, "U-ViT", "batches"), torch.arange(len(real)), uvit.Batches(real, cfg)
    for step in range(cfg.steps):
        images, t, noise, labels = batches.take(step, order, rng)
        optimizer.param_groups[0]["lr"] = cfg.lr * uvit.rate(step, cfg)
        abar = torch.exp(-0.1 * t - 9.95 * t**2).view(-1, 1, 1, 1)
        predicted = model(abar.sqrt() * images + (1 - abar).sqrt() * noise, 999 * t, labels)
        loss = ((predicted - noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for k, v in model.state_dict().items():
            average[k] = cfg.ema * average[k] + (1 - cfg.ema) * v
        loss.item()  # the log
    model.load_state_dict(average)
    return model


@torch.no_grad()
def draw_plainly(model: nn.Module, labels: Tensor, seed: int, shape: tuple[int, int, int], batch: int = 100) -> Tensor:
    """The paper's sampler around the plain network: (N, C, H, W) uint8."""
    device, parts = labels.device, []
    for start in range(0, len(labels), batch):
        y = labels[start : start + batch]
        x = torch.stack([torch.randn(shape, generator=stream(seed, "image", start + i)) for i in range(len(y))]).to(device)
        x = sample("dpm_fast", lambda x, t, y=y: model(x, torch.full((len(y),), 999 * t, device=device), y), x, 50)
        parts.append(uvit.to_uint8(x))
    return torch.cat(parts)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def main() -> None:
    options = sides.parser(__doc__, rounds=3)
    options.add_argument("--part", choices=["train", "draw", "fid"], default="train")
    options.add_argument("--size", choices=list(ARCHITECTURES), default="Tiny")
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--sampler", default="dpm_fast")
    options.add_argument("--evaluations", type=int, default=50)
    options.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options.add_argument("--dataset", default="FashionMNIST")
    args = options.parse_args()
    if args.part == "fid":
        return fid(args)
    of = replace(ARCHITECTURES[args.size], num_classes=K)

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        if side == "ours":
            pick(args.device)
        labels = (torch.arange(args.images) % K).to(args.device)
        drawing = UViT(of, stream(1, "weights")).eval().to(args.device)
        with torch.no_grad():  # an untrained network predicts next to nothing; this one's images differ
            drawing.decoder_pred.weight.mul_(20)

        def train(steps: int) -> Tensor:
            rng = stream(0, "benchmark")
            facts = data.Facts("noise", tuple(map(str, range(K))), (0.5,) * of.channels, (0.5,) * of.channels)
            pixels = torch.randint(256, (args.batch * 4, *of.shape), generator=rng).byte()
            real = data.ImageSet(pixels, torch.arange(len(pixels)) % K, facts).to(args.device)
            cfg = replace(
                uvit.Training(), patch=of.patch, width=of.width, depth=of.depth, heads=of.heads, steps=steps, batch=args.batch, looks=1,
                warm_up=1, ema=0.9, precision=args.precision,
            )  # fmt: skip
            return weights(train_plainly(real, cfg) if side == "plain" else uvit.fit(real, cfg, 0).model)

        def draw(labels: Tensor) -> Tensor:
            if side == "plain":
                return draw_plainly(plain(drawing).to(args.device), labels, 0, of.shape)
            return uvit.generate(drawing, labels, 0, 0, args.evaluations, args.sampler, 100, args.precision)

        if args.part == "train":
            return lambda: train(1), lambda: train(args.steps)
        return lambda: draw(labels), lambda: draw(labels)  # the same size twice: compiled for it

    what = {
        "train": f"U-ViT {args.size}: {args.steps} steps of {args.batch} images",
        "draw": f"U-ViT {args.size}: {args.images} images, plainly by 50 evaluations of dpm_fast, ours by {args.evaluations} of {args.sampler}",
    }[args.part]
    sides.run(__file__, args, what, build)


def fid(args) -> None:
    from distill_lib.methods.uvit import paper_config
    from distill_lib.metrics.generative import Judge, Scores

    torch.set_num_threads(args.threads)
    device = pick(args.device)
    real, cfg = data.load(args.dataset)[0].to(device), paper_config(args.dataset).small()
    if not uvit.place(real, cfg.training, cfg.training_seed).file.exists():
        raise SystemExit(f"train first: python -m distill_lib.train_uvit {args.dataset} --profile small")
    model = uvit.trained(real, cfg.training, cfg.training_seed).model().to(device)
    labels, judge = (torch.arange(args.images) % K).to(device), Judge(real, None, replace(Scores().small(), samples=args.images))
    literal, report = plain(model).to(device).eval(), {"what": f"U-ViT of {args.dataset}, small budget: FID of {args.images} samples"}
    ways = {
        "plain": lambda: draw_plainly(literal, labels, 0, model.of.shape),
        "plain, other noise": lambda: draw_plainly(literal, labels, 1, model.of.shape),
        "ours": lambda: uvit.generate(model, labels, 0, 0, args.evaluations, args.sampler, 100, args.precision),
    }
    for name, draw in ways.items():
        start = time.process_time()
        images = draw()
        report[name] = {"processor_seconds": round(time.process_time() - start, 1), **judge.distances(data.ImageSet(images, labels, real.facts))}
    report["evaluations, ours"] = f"{args.evaluations} of {args.sampler}"
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
