"""Embeddings of plain ConvNets on a CPU and their first derivatives, several times faster than layer by layer.

`core/native/convnet.cpp` holds the mathematics. It is compiled with the system's C++ compiler on first use and kept in
the cache folder. It serves a `ConvNet` with instance norm or none, ReLU and average pooling, and `FRePoConv`, on
float32 images on the CPU. Everything else, and every machine without a compiler, takes the network's own layers:
`embed` decides. Second derivatives go through the layers and are as slow as they are; `winograd` has a faster way.

On a core with AVX-512 a step of DM spends 57 % of its time in the products of the 3x3 convolutions, at 89 % of the
core's peak, so that nothing around them could make it 1.5 times as fast. The layers in bfloat16 take twice the kernel's
time there, although the core multiplies bfloat16; with AMX it may be otherwise.

Results do not depend on the batch an image comes in. Gradients of weights depend, to rounding, on the number of
threads.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..core.native import convnet as _convnet
from ..core.native.convnet import Blocks
from .convnet import ConvNet, FRePoConv

# of a network's transformed filters, of which each thread keeps a gradient: wider networks take their layers
FILTERS_MB = 64


def blocks_of(network: nn.Module) -> Blocks | None:
    """How the kernel would compute this network's embedding, or None if it cannot."""
    if isinstance(network, ConvNet) and (network.act, network.pool) == ("AR", "AP") and network.norm in ("IN", "NN"):
        layers = [(block[0], block[1] if network.norm == "IN" else None) for block in network.blocks]
    elif isinstance(network, FRePoConv) and not any(isinstance(m, nn.BatchNorm2d) for m in network.body):
        layers = [(m, None) for m in network.body if isinstance(m, nn.Conv2d)]
    else:
        return None
    pairs = sum(conv.in_channels * conv.out_channels for conv, _ in layers[1:])
    if (
        any(conv.out_channels % 32 for conv, _ in layers)
        or 36 * 4 * pairs > FILTERS_MB * 2**20
        or network.shape[0] > 4
        or layers[0][0].padding[0] < 1
    ):
        return None
    name_of = {id(p): name for name, p in network.named_parameters()}
    names = [
        name_of.get(id(p)) if p is not None else None
        for conv, norm in layers
        for p in (conv.weight, conv.bias, *((norm.weight, norm.bias) if norm else (None, None)))
    ]
    conv, norm = layers[0]
    widths = tuple(conv.out_channels for conv, _ in layers)
    eps = norm.eps if norm else 0.0
    return Blocks(network.shape, conv.padding[0], norm is not None, eps, widths, network.embed_dim, tuple(names))


def embed(network: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, D): `network.embed(x)` to rounding, by the kernel where it can.

    Relative error of the kernel against float64, measured: 1e-6 (layer by layer: 8e-7); of the gradients 1e-6 to 5e-6
    (5e-7), more where a rounding moves a pre-activation across zero, as it does between any two float32 computations.
    """
    how = blocks_of(network)
    parameters = how.parameters(dict(network.named_parameters())) if how else []
    return _convnet.run(how, x, parameters) if _convnet.usable(how, x, parameters) else network.embed(x)
