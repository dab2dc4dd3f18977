"""The compiled ConvNet kernel against the network's own layers: what most steps of the library stand on.

embed: embeddings without a graph. train: an evaluator's step, loss and gradients of every weight of five networks;
biases before a norm have gradient zero, and layers return their rounding for it.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib import networks
from distill_lib.core.rng import stream
from distill_lib.networks import fast

SIZE, QUICK = {"channels": 3, "pixels": 32}, {"images": 2, "channels": 1, "pixels": 16}
WHAT = "{images} images, ConvNet, {channels} x {pixels} x {pixels}"


@suite.benchmark(
    "convnet-embed",
    f"embeddings of {WHAT}",
    "the network's own layers",
    size={"images": 256, **SIZE},
    quick=QUICK,
    tolerance=1e-3,
)
def embed(side: str, device: str, images: int, channels: int, pixels: int) -> suite.Call:
    rng, shape = stream(0, "benchmark"), (channels, pixels, pixels)
    network, x = (
        networks.fresh("ConvNet", (shape, 10), rng).to(device),
        torch.randn(images, *shape, generator=rng).to(device),
    )
    run = network.embed if side == "plain" else lambda x: fast.embed(network, x)
    return torch.no_grad()(lambda: run(x))


@suite.benchmark(
    "convnet-train",
    f"loss and gradients of five networks on {WHAT} each",
    "network after network, its own layers",
    size={"images": 100, **SIZE},
    quick=QUICK,
    tolerance=1e-2,
)
def train(side: str, device: str, images: int, channels: int, pixels: int) -> suite.Call:
    shape, rng = (channels, pixels, pixels), stream(0, "benchmark")
    nets = [networks.fresh("ConvNet", (shape, 10), stream(i, "benchmark")).to(device) for i in range(5)]
    batches, labels = (
        torch.randn(5, images, *shape, generator=rng).to(device),
        (torch.arange(images) % 10).repeat(5, 1).to(device),
    )
    kept = [
        i
        for i, (name, _) in enumerate(nets[0].named_parameters())
        if not name.startswith("blocks") or not name.endswith("0.bias")
    ]
    stack = networks.stack(nets)

    def plain() -> Tensor:
        found = [
            torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
            for net, x, y in zip(nets, batches, labels, strict=True)
        ]
        return torch.cat([torch.stack([row[i] for row in found]).flatten() for i in kept])

    def ours() -> Tensor:
        loss = 5 * F.cross_entropy(stack(batches).flatten(0, 1), labels.flatten())
        found = torch.autograd.grad(loss, list(stack.params.values()))
        return torch.cat([found[i].flatten() for i in kept])

    return plain if side == "plain" else ours
