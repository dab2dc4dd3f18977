"""Training and drawing of the conditional GAN, against the loop a reader would write from the papers: real and
generated images in passes of their own, gradients of both networks in every backward pass, one class after another when
drawing. And stage 2 of SKD: the same steps with its matching loss.

Both sides of a training see the same images and random numbers and return the generator's first weights after the last
step.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import data, networks
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.data import augment
from distill_lib.generators import cgan
from distill_lib.methods import skd
from distill_lib.methods.common import network_pool

K = 10
SIZE = {"width": 32, "batch": 32, "steps": 8, "pixels": 28}
QUICK = {"width": 8, "batch": 2, "steps": 1, "pixels": 28}
WHAT = "{steps} steps of {batch} images of {pixels} pixels, width {width}"


def prepared(
    device: str, width: int, batch: int, steps: int, pixels: int, precision: str = "float32"
) -> tuple[data.ImageSet, cgan.GAN, list[tuple[Tensor, Tensor]]]:
    """Real images, the GAN's settings, and the batches of every step."""
    channels = 3 if pixels == 32 else 1
    facts = data.Facts("noise", tuple(map(str, range(K))), (0.5,) * channels, (0.5,) * channels)
    values = torch.randint(256, (batch * steps, channels, pixels, pixels), generator=stream(0, "benchmark")).byte()
    real = data.ImageSet(values, torch.arange(len(values)) % K, facts).to(device)
    batches = [(real.signed(i), real.labels[i]) for i in torch.arange(len(real), device=device).split(batch)]
    return real, replace(cgan.GAN(), width=width, batch=batch, precision=precision), batches


def matching(real: data.ImageSet, device: str, plain: bool):
    """SKD's loss of a step, as `pool.match` takes it."""
    cfg, rng = skd.Config(ipc=1), stream(4)
    network = networks.fresh("ConvNet", real, stream(5)).to(device).train().requires_grad_(False)
    dsa = augment.idc(cfg.matching.dsa)

    def loss(images: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        shared = dsa.draw(rng)
        theirs, ours = (dsa.apply(cgan.normalised(x, real), shared) for x in (images, fake))
        answers = (network(theirs).detach(), network(ours)) if plain else network_pool.answers(network, theirs, ours)
        target, found = (network_pool.pair_up(x, labels, cfg.matching, K) for x in answers)
        return cfg.weight * cfg.tau**2 * skd.skd_loss(target, found, cfg)

    return loss


def training(matched: bool, side: str, device: str, **size: int) -> suite.Call:
    real, of, batches = prepared(device, **size)

    def ours() -> Tensor:
        pair, rng, loss = cgan.Pair(of, real, stream(1)), stream(2), matching(real, device, plain=False)
        for x, y in batches:
            pair.step(x, y, rng, (lambda fake, x=x, y=y: loss(x, fake, y)) if matched else None)
        return pair.generator.first[0].weight.detach()

    def plain() -> Tensor:
        plainly = replace(of, precision="float32")
        pair, rng, match = cgan.Pair(plainly, real, stream(1)), stream(2), matching(real, device, plain=True)
        g, d = pair.modules
        by_g, by_d = (torch.optim.Adam(m.parameters(), lr=of.lr, betas=of.betas) for m in (g, d))
        for x, y in batches:
            fake = g(g.noise(len(y), rng), y)
            score, classes = d(fake)
            loss = F.cross_entropy(classes, y) - score.mean()
            by_g.zero_grad()
            (loss + match(x, fake, y) if matched else loss).backward()
            by_g.step()
            labels = torch.randint(K, (len(y),), generator=rng).to(device)
            fake = g(g.noise(len(y), rng), labels).detach()
            alpha = torch.rand(len(y), generator=rng).to(device).view(-1, 1, 1, 1)
            (score_real, classes_real), (score_fake, classes_fake) = d(x), d(fake)
            middle = (alpha * x + (1 - alpha) * fake).requires_grad_()
            gradient = torch.autograd.grad(d(middle)[0].sum(), middle, create_graph=True)[0]
            penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
            loss = (
                score_fake.mean()
                - score_real.mean()
                + F.cross_entropy(classes_fake, labels)
                + F.cross_entropy(classes_real, y)
                + 10 * penalty
            )
            by_d.zero_grad()
            loss.backward()
            by_d.step()
        return g.first[0].weight.detach()

    return plain if side == "plain" else ours


COMPARED = "a pass for real and one for generated images, gradients nobody needs"


@suite.benchmark("cgan-train", f"conditional GAN trained: {WHAT}", COMPARED, size=SIZE, quick=QUICK, tolerance=1e-2)
def train(*args, **size) -> suite.Call:
    return training(False, *args, **size)


def in_bfloat16(name: str, width: int, batch: int) -> None:
    """The same with multiplications in bfloat16; a step moves a weight by about the rate, so rounding may turn it."""
    size = SIZE | {"width": width, "batch": batch, "steps": 3, "precision": "bfloat16"}
    quick = QUICK | {"precision": "bfloat16"}
    title = f"conditional GAN trained in bfloat16: {WHAT}"
    suite.benchmark(name, title, COMPARED + ", in float32", size=size, quick=quick, tolerance=1e-2)(train)


in_bfloat16("cgan-train-bfloat16", width=64, batch=64)
in_bfloat16("cgan-train-bfloat16-wide", width=196, batch=32)


@suite.benchmark("skd", f"stage 2 of SKD: {WHAT}", COMPARED, size=SIZE, quick=QUICK, tolerance=1e-2)
def stage2(*args, **size) -> suite.Call:
    return training(True, *args, **size)


@suite.benchmark(
    "cgan-draw",
    "conditional GAN draws {steps} times {batch} images of each of 10 classes, {pixels} pixels, width {width}",
    "class by class",
    size=SIZE,
    quick=QUICK,
    tolerance=1e-4,
)
def draw(side: str, device: str, steps: int, batch: int, **size: int) -> suite.Call:
    real, of, _ = prepared(device, batch=batch, steps=1, **size)
    drawing = cgan.redraw(cgan.Generator(of.architecture(real)), stream(1)).to(device)

    def ours() -> Tensor:
        labels = torch.arange(K, device=device).repeat_interleave(batch)
        return [drawing.draw(labels, stream(3, i)) for i in range(steps)][-1]

    @torch.no_grad()
    def plain() -> Tensor:
        for i in range(steps):
            noise = drawing.noise(K * batch, stream(3, i)).split(batch)
            images = torch.cat([drawing.eval()(noise[k], torch.full((batch,), k, device=device)) for k in range(K)])
        return images

    return plain if side == "plain" else ours
