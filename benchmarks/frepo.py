"""Loss and derivatives of one FRePo step, against the plain form: synthetic and real images through the network's own
layers with one graph, the regression written out, one backward pass. Both sides return the derivative by the synthetic
images.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor

from distill_lib import networks
from distill_lib.core.device import Pieces
from distill_lib.core.rng import stream
from distill_lib.methods import frepo
from distill_lib.methods.common import ntk
from distill_lib.networks import fast

SHAPE, K = (1, 28, 28), 10


@suite.benchmark(
    "frepo",
    "a FRePo step: {real} real images and IPC {ipc}, {network}, 1 x 28 x 28",
    "one graph for all images",
    size={"ipc": 10, "real": 256, "network": "FRePoConvBN"},
    quick={"ipc": 1, "real": 2, "network": "FRePoConvBN"},
    tolerance=1e-2,
)
def step(side: str, device: str, ipc: int, real: int, network: str) -> suite.Call:
    rng = stream(0, "benchmark")
    net = networks.fresh(network, (SHAPE, K), rng).to(device).eval().requires_grad_(False)
    synthetic, targets = (torch.randn(n, *SHAPE, generator=rng).to(device) for n in (K * ipc, real))
    labels = ntk.centred_labels(torch.arange(K).repeat_interleave(ipc), K).float().to(device)
    wanted = ntk.centred_labels(torch.randint(K, (real,), generator=rng), K).to(device)
    cfg = frepo.Config(ipc=ipc)

    def plain() -> Tensor:
        net.requires_grad_()
        images, exact = synthetic.clone().requires_grad_(), labels.double()
        support, theirs = net.embed(images).double(), net.embed(targets).double()
        kernel = support @ support.T
        ridge = cfg.ridge * kernel.trace() / len(kernel) * torch.eye(len(kernel), dtype=kernel.dtype, device=device)
        predicted = theirs @ support.T @ torch.linalg.solve(kernel + ridge, exact)
        loss = (predicted - wanted).square().sum(1).mean() / 2 - frepo.margin(exact)
        loss.backward()
        return images.grad

    def ours() -> Tensor:
        many, few = (1024, 1024) if synthetic.is_cuda else (128, 64)
        pieces = {"targets_at_once": Pieces(many), "support_at_once": Pieces(few)}
        return frepo.loss_and_gradients(
            lambda x: fast.embed(net, x), synthetic, labels, targets, wanted, cfg, **pieces
        )[1]

    return plain if side == "plain" else ours
