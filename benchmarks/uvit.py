"""Training and drawing of U-ViT, and a training step of DiT, against the networks a reader would write from the papers: attention by two
einsums and a softmax, and a plain loop around it.

Both sides of U-ViT's training return the averaged weights, of its drawing the images; those of DiT its gradients.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor, nn

from distill_lib import data
from distill_lib.diffusion.continuous import sample
from distill_lib.diffusion.discrete import Schedule
from distill_lib.generators import dit, uvit
from distill_lib.generators.uvit import ARCHITECTURES, UViT
from distill_lib.loop import Loop
from distill_lib.rng import generator as stream
from distill_lib.settings import replace

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
    other = uvit.from_state(model.state_dict(), model.of)
    for block in [*other.in_blocks, other.mid_block, *other.out_blocks]:
        block.attn = PlainAttention(model.of.width, model.of.heads, block.attn)
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
def draw_plainly(model: nn.Module, labels: Tensor, seed: int, shape: tuple[int, int, int], evaluations: int, batch: int = 100) -> Tensor:
    """The paper's sampler around the plain network: (N, C, H, W) uint8."""
    device, parts = labels.device, []
    for start in range(0, len(labels), batch):
        y = labels[start : start + batch]
        x = torch.stack([torch.randn(shape, generator=stream(seed, "image", start + i)) for i in range(len(y))]).to(device)
        x = sample("dpm_fast", lambda x, t, y=y: model(x, torch.full((len(y),), 999 * t, device=device), y), x, evaluations)
        parts.append(uvit.to_uint8(x))
    return torch.cat(parts)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


COMPARED = "attention written out, one tensor after another in the optimiser"


@suite.benchmark(
    "uvit-train", "U-ViT {name}: {steps} steps of {batch} images", COMPARED, size={"name": "Tiny", "steps": 8, "batch": 32},
    quick={"name": "Tiny", "steps": 1, "batch": 2}, tolerance=1e-2,
)  # fmt: skip
def train(side: str, device: str, name: str, steps: int, batch: int) -> suite.Call:
    of = replace(ARCHITECTURES[name], num_classes=K)
    facts = data.Facts("noise", tuple(map(str, range(K))), (0.5,) * of.channels, (0.5,) * of.channels)
    pixels = torch.randint(256, (batch * 4, *of.shape), generator=stream(0, "benchmark")).byte()
    real = data.ImageSet(pixels, torch.arange(len(pixels)) % K, facts).to(device)
    cfg = replace(
        uvit.Training(), patch=of.patch, width=of.width, depth=of.depth, heads=of.heads, steps=steps, batch=batch, looks=1, warm_up=1, ema=0.9,
        precision="float32",
    )  # fmt: skip
    return lambda: weights(train_plainly(real, cfg) if side == "plain" else uvit.fit(real, cfg, 0, Loop(bar=False)).model)


@suite.benchmark(
    "uvit-draw", "U-ViT {name}: {images} images of {evaluations} evaluations by DPM-Solver", COMPARED,
    size={"name": "Tiny", "images": 64, "evaluations": 50}, quick={"name": "Tiny", "images": 2, "evaluations": 3}, tolerance=0.02,
)  # fmt: skip
def draw(side: str, device: str, name: str, images: int, evaluations: int) -> suite.Call:
    of = replace(ARCHITECTURES[name], num_classes=K)
    drawing, labels = UViT(of, stream(1, "weights")).eval().to(device), (torch.arange(images) % K).to(device)
    with torch.no_grad():  # an untrained network predicts next to nothing; this one's images differ
        drawing.decoder_pred.weight.mul_(20)
    literal = plain(drawing).to(device)
    if side == "plain":
        return lambda: draw_plainly(literal, labels, 0, of.shape, evaluations)
    return lambda: uvit.generate(drawing, labels, 0, 0, evaluations, "dpm_fast", 100)


@suite.benchmark(
    "dit", "DiT's loss and gradients: {batch} latents of {channels} x {pixels} x {pixels}, width {width}, depth {depth}", "attention written out",
    size={"batch": 32, "channels": 4, "pixels": 16, "width": 192, "depth": 6}, quick={"batch": 2, "channels": 4, "pixels": 8, "width": 32, "depth": 1},
    tolerance=1e-3,
)  # fmt: skip
def latents(side: str, device: str, batch: int, channels: int, pixels: int, width: int, depth: int) -> suite.Call:
    rng, heads = stream(0, "benchmark"), max(1, width // 64)
    of = dit.Architecture(side=pixels, channels=channels, width=width, depth=depth, heads=heads, num_classes=K)
    network, schedule = dit.build(of).draw_weights(rng).to(device).train(), Schedule.linear()
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


if __name__ == "__main__":
    suite.main(only="uvit")
