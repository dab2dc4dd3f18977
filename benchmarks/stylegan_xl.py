"""StyleGAN-XL's layers after layer n, forwards and back to codes and features, against the literal form: a weight per
image in one grouped convolution, zeros between the samples, and filters run over all of them, channel by channel. This
is the step that GLaD and SLFD spend their time in.

Both sides have the same random weights, codes, features and gradient of the images. They return the images and both
gradients, each divided by its length. Leaky ReLU has a kink: where rounding puts a value on the other side of it, the
gradient differs by more than the value.
"""

from __future__ import annotations

import suite
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib.core.rng import stream
from distill_lib.generators.stylegan_xl import StyleGANXL, Synthesis, published_layers


def fir(x: Tensor, f: Tensor) -> Tensor:
    """Every channel by itself: rows, then columns, or both at once for a 2-D filter."""
    c = x.shape[1]
    if f.ndim == 2:
        return F.conv2d(x, f.flip(0, 1)[None, None].expand(c, 1, -1, -1), groups=c)
    x = F.conv2d(x, f.flip(0)[None, None, None].expand(c, 1, 1, -1), groups=c)
    return F.conv2d(x, f.flip(0)[None, None, :, None].expand(c, 1, -1, 1), groups=c)


def literal(module: Synthesis, x: Tensor, w: Tensor) -> Tensor:
    """The layer as it is written in the papers."""
    layer, s, weight, b = module.layer, module.affine(w), module.weight, len(x)
    if layer.to_rgb:
        s = s / (layer.inputs * layer.kernel**2) ** 0.5
    else:
        weight, s = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt(), s * s.square().mean().rsqrt()
    each = weight[None] * s[:, None, :, None, None]
    if not layer.to_rgb:
        each = each * (each.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    each = each * module.magnitude_ema.rsqrt()
    x = F.conv2d(x.reshape(1, -1, *x.shape[2:]), each.flatten(0, 1), padding=layer.kernel - 1, groups=b).unflatten(
        1, (b, -1)
    )[0]
    x = x + module.bias[:, None, None]
    if layer.to_rgb:
        return x.clamp(-256, 256)
    low, high = layer.padding
    stuffed = x.new_zeros(*x.shape[:2], *(n * layer.up for n in x.shape[2:]))
    stuffed[:, :, :: layer.up, :: layer.up] = x
    x = fir(F.pad(stuffed, (low, high, low, high)), module.resampling.up_filter) * layer.up**2
    x = (F.leaky_relu(x, 0.2) * 2**0.5).clamp(-256, 256)
    return fir(x, module.resampling.down_filter)[:, :, :: layer.down, :: layer.down]


@suite.benchmark(
    "stylegan",
    "StyleGAN-XL, {pixels} pixels, width {width}, {images} images: layers after {layer} forwards and back",
    "the published form, layer by layer",
    size={"pixels": 64, "width": 256, "layer": 12, "images": 2, "stem": 3},
    quick={"pixels": 16, "width": 32, "layer": 4, "images": 1, "stem": 1},
    tolerance=1e-3,
)
def step(side: str, device: str, pixels: int, width: int, layer: int, images: int, stem: int) -> suite.Call:
    layers, classes = published_layers(pixels, stem, 64 * width, width)
    made = StyleGANXL(layers, classes).redraw(stream(0)).requires_grad_(False).to(device)
    with torch.no_grad():
        z = torch.randn(images, made.z_dim, generator=stream(1)).to(device)
        codes = made.mapping(z, torch.arange(images, device=device)).clone()
        features = made.to_f(codes, layer)
    back = torch.randn(images, *made.image_shape, generator=stream(2)).to(device)

    def run() -> Tensor:
        w, f = codes.clone().requires_grad_(), features.clone().requires_grad_()
        if side == "ours":
            found = made.from_f(f, w, layer)
        else:
            found = f
            for i, module in enumerate(made.layers[layer:], layer):
                found = literal(module, found, w[:, 1 + i])
            found = found * 0.25
        parts = [found.detach(), *torch.autograd.grad(found, [w, f], back)]
        return torch.cat([(p / p.norm()).flatten() for p in parts])

    return run
