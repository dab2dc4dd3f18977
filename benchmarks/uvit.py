"""Training and drawing of U-ViT, and a training step of DiT, against the networks a reader would write from the papers:
attention by two einsums and a softmax, and a plain loop around it.

Both sides of U-ViT's training return the averaged weights, of its drawing the images; those of DiT its gradients.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor, nn

from distill_lib import data
from distill_lib.core.errors import UserError
from distill_lib.core.loop import Loop
from distill_lib.core.rng import stream
from distill_lib.core.settings import replace
from distill_lib.evaluation.metrics.generative import Judge, Scores
from distill_lib.generators import dit, uvit
from distill_lib.generators.diffusion.continuous import sample
from distill_lib.generators.diffusion.discrete import Schedule
from distill_lib.generators.training import lr_share
from distill_lib.generators.uvit import ARCHITECTURES, UViT, UViTArchitecture
from distill_lib.methods.uvit import Config, paper_config

K = 10


class PlainAttention(nn.Module):
    """Attention as the papers write it, with the weights of `like`."""

    def __init__(self, width: int, heads: int, like: nn.Module):
        super().__init__()
        self.heads, self.scale, self.qkv, self.proj = heads, (width // heads) ** -0.5, like.qkv, like.proj

    def forward(self, x: Tensor) -> Tensor:
        b, length, width = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale
        x = torch.einsum("bhqk,bhkd->bhqd", attention.softmax(-1), v)
        return self.proj(x.transpose(1, 2).reshape(b, length, width))


def plain(model: UViT) -> UViT:
    """The same weights with attention written out."""
    other = uvit.from_state(model.state_dict(), model.arch)
    for block in [*other.in_blocks, other.mid_block, *other.out_blocks]:
        block.attn = PlainAttention(model.arch.width, model.arch.heads, block.attn)
    return other


def train_plainly(real: data.ImageSet, cfg: uvit.UViTTraining) -> nn.Module:
    """The reader's loop: what `uvit.fit` computes."""
    model = plain(uvit.initial(real, cfg, 0)).to(real.device)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay)
    rng, inputs = stream(0, "U-ViT", "batches"), uvit.StepInputs(real, cfg)
    for step in range(cfg.steps):
        images, t, noise, labels = inputs.take(step, rng)
        optimizer.param_groups[0]["lr"] = cfg.lr * lr_share(step, cfg.steps, cfg.warm_up, cfg.lr_decay)
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
def draw_plainly(
    model: nn.Module, labels: Tensor, seed: int, shape: tuple[int, int, int], evaluations: int, batch: int = 100
) -> Tensor:
    """The paper's sampler around the plain network: (N, C, H, W) uint8."""
    device, parts = labels.device, []
    for start in range(0, len(labels), batch):
        y = labels[start : start + batch]
        x = torch.stack([torch.randn(shape, generator=stream(seed, "image", start + i)) for i in range(len(y))]).to(
            device
        )
        x = sample(
            "dpm_fast", lambda x, t, y=y: model(x, torch.full((len(y),), 999 * t, device=device), y), x, evaluations
        )
        parts.append(uvit.to_uint8(x))
    return torch.cat(parts)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


SAMPLED = "FashionMNIST"
BY_CHANCE = 4.0  # FID of 200 images moves with the noise they are drawn from: 30.9 to 35.5 in five draws
COMPARED = "attention written out, one tensor after another in the optimiser"


# With patches of 2, the paper's for 32 pixels, 258 tokens attend to each other: written out that is four tables of 258
# x 258 for every image and block. With patches of 4, as in the small budget, or a wide network, matrix products take
# most of the time on both sides.
NARROW, SMALL = {"patch": 2, "width": 64, "heads": 4}, {"patch": 4, "width": 128, "heads": 4}
QUICK = {"patch": 4, "width": 32, "heads": 2}


def architecture(patch: int, width: int, heads: int) -> UViTArchitecture:
    """A U-ViT of five blocks for 32 x 32 x 3 and ten classes."""
    return replace(ARCHITECTURES["Tiny"], patch=patch, width=width, heads=heads, num_classes=K)


def training(side: str, device: str, patch: int, width: int, heads: int, steps: int, batch: int) -> suite.Call:
    of = architecture(patch, width, heads)
    facts = data.Facts("noise", tuple(map(str, range(K))), (0.5,) * of.channels, (0.5,) * of.channels)
    pixels = torch.randint(256, (batch * 4, *of.shape), generator=stream(0, "benchmark")).byte()
    real = data.ImageSet(pixels, torch.arange(len(pixels)) % K, facts).to(device)
    cfg = replace(
        uvit.UViTTraining(),
        patch=of.patch,
        width=of.width,
        depth=of.depth,
        heads=of.heads,
        steps=steps,
        batch=batch,
        looks=1,
        warm_up=1,
        ema=0.9,
        precision="float32",
    )
    return lambda: weights(
        train_plainly(real, cfg) if side == "plain" else uvit.fit(real, cfg, 0, Loop(bar=False)).model
    )


def drawing(side: str, device: str, patch: int, width: int, heads: int, images: int, evaluations: int) -> suite.Call:
    of = architecture(patch, width, heads)
    model, labels = UViT(of, stream(1, "weights")).eval().to(device), (torch.arange(images) % K).to(device)
    with torch.no_grad():  # an untrained network predicts next to nothing; this one's images differ
        model.decoder_pred.weight.mul_(20)
    literal = plain(model).to(device)
    if side == "plain":
        return lambda: draw_plainly(literal, labels, 0, of.shape, evaluations)
    return lambda: uvit.generate(model, labels, 0, 0, evaluations, "dpm_fast", 100)


for part, sizes, target in (("", NARROW, {"ratio": 1.5}), ("-small", SMALL, {})):
    suite.benchmark(
        f"uvit-train{part}",
        "U-ViT of width {width}, patches of {patch}: {steps} steps of {batch} images",
        COMPARED,
        size={**sizes, "steps": 8, "batch": 32},
        quick={**QUICK, "steps": 1, "batch": 2},
        tolerance=1e-2,
        target=target,
    )(training)
    suite.benchmark(
        f"uvit-draw{part}",
        "U-ViT of width {width}, patches of {patch}: {images} images of {evaluations} evaluations by DPM-Solver",
        COMPARED,
        size={**sizes, "images": 32, "evaluations": 50},
        quick={**QUICK, "images": 2, "evaluations": 3},
        tolerance=0.02,
        target=target,
    )(drawing)


# --- fewer evaluations for the same FID ------------------------------------------------------------------------------
def trained(device: str, dataset: str) -> tuple[data.ImageSet, Config, uvit.TrainedUViT]:
    real, cfg = data.load(dataset)[0].to(device), paper_config(dataset).small()
    return real, cfg, uvit.place(real, cfg.training, cfg.training_seed)


def untrained() -> str | None:
    """Why the solvers cannot be compared."""
    try:
        _, _, found = trained("cpu", SAMPLED)
    except UserError as err:
        return str(err)
    return None if found.file.exists() else f"needs a trained network: distill uvit train {SAMPLED} --profile small"


@suite.benchmark(
    "uvit-solver",
    "{images} images of FashionMNIST by the small budget's U-ViT and their FID: "
    "20 evaluations of DPM-Solver++ against 50 of DPM-Solver",
    "the paper's solver around attention written out",
    size={"images": 200},
    quick={"images": 20},
    tolerance=BY_CHANCE,
    distance=lambda ours, plain: float(abs(ours - plain).max()),
    difference_is="FID",
    target={"ratio": 1.5},
    repeats=1,
    lacks=untrained,
)
def solver(side: str, device: str, images: int) -> suite.Call:
    real, cfg, found = trained(device, SAMPLED)
    model, labels = found.model().to(device), (torch.arange(images) % K).to(device)
    judge = Judge(real, None, replace(Scores().small(), samples=images))
    literal = plain(model).to(device).eval()

    def guided(x: Tensor, t999: Tensor, y: Tensor) -> Tensor:
        without = literal(x, t999, torch.full_like(y, K))
        return without + cfg.guidance * (literal(x, t999, y) - without)

    def run() -> Tensor:
        if side == "plain":
            drawn = draw_plainly(guided, labels, 0, model.arch.shape, 50)
        else:
            drawn = uvit.generate(model, labels, 0, 0, cfg.steps, cfg.sampler, cfg.batch, guidance=cfg.guidance)
        scores = judge.distances(data.ImageSet(drawn, labels, real.facts))
        return torch.tensor([v for k, v in scores.items() if k.startswith("FID")])

    return run


@suite.benchmark(
    "dit",
    "DiT's loss and gradients: {batch} latents of {channels} x {pixels} x {pixels}, width {width}, depth {depth}",
    "attention written out",
    size={"batch": 32, "channels": 4, "pixels": 16, "width": 192, "depth": 6},
    quick={"batch": 2, "channels": 4, "pixels": 8, "width": 32, "depth": 1},
    tolerance=1e-3,
)
def latents(side: str, device: str, batch: int, channels: int, pixels: int, width: int, depth: int) -> suite.Call:
    rng, heads = stream(0, "benchmark"), max(1, width // 64)
    of = dit.DiTArchitecture(side=pixels, channels=channels, width=width, depth=depth, heads=heads, num_classes=K)
    network, schedule = dit.DiT(of).draw_weights(rng).to(device).train(), Schedule.linear()
    with torch.no_grad():  # as in training: adaLN-zero starts with every block switched off
        for p in network.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=rng).to(device))
    if side == "plain":
        for block in network.blocks:
            block.attn = PlainAttention(of.width, of.heads, block.attn)
    z, noise = (torch.randn(batch, channels, pixels, pixels, generator=rng).to(device) for _ in range(2))
    t, labels = torch.randint(len(schedule), (batch,), generator=rng), (torch.arange(batch) % K).to(device)
    noised = schedule.noised(z, t, noise)

    def run() -> Tensor:
        network.zero_grad()
        error, bound = schedule.losses(network(noised, schedule.timesteps[t].to(device), labels), z, noised, t, noise)
        (error.mean() + bound.mean()).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    return run
