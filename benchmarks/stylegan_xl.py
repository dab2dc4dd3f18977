"""StyleGAN-XL's layers after layer n, forwards and back to codes and features, against the literal form: a weight per image in one
grouped convolution, zeros between the samples, and filters run over all of them, channel by channel.

    python benchmarks/stylegan_xl.py [--side 64] [--width 256] [--layer 12] [--images 2] [--stem 3] [--rounds 3] [--threads 2]
                                     [--device cpu] [--json FILE]

Both sides have the same random weights, codes, features and gradient of the images. They return the images and both gradients, each
divided by its length, which must agree to 1e-4. Leaky ReLU has a kink: where rounding puts a value on the other side of it, the
gradient differs by more than the value.
Where other programs use the processor too, the ratio of processor seconds with --threads 1 is the more reliable one.
"""

from __future__ import annotations

import sides
import torch
from torch import Tensor
from torch.nn import functional as F

from distill_lib.generators.stylegan_xl import StyleGANXL, Synthesis, plan
from distill_lib.rng import generator


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
    x = F.conv2d(x.reshape(1, -1, *x.shape[2:]), each.flatten(0, 1), padding=layer.kernel - 1, groups=b).unflatten(1, (b, -1))[0]
    x = x + module.bias[:, None, None]
    if layer.to_rgb:
        return x.clamp(-256, 256)
    low, high = layer.padding
    stuffed = x.new_zeros(*x.shape[:2], *(n * layer.up for n in x.shape[2:]))
    stuffed[:, :, :: layer.up, :: layer.up] = x
    x = fir(F.pad(stuffed, (low, high, low, high)), module.resampling.up_filter) * layer.up**2
    x = (F.leaky_relu(x, 0.2) * 2**0.5).clamp(-256, 256)
    return fir(x, module.resampling.down_filter)[:, :, :: layer.down, :: layer.down]


def main() -> None:
    options = sides.parser(__doc__, rounds=3)
    options.add_argument("--side", type=int, default=64)
    options.add_argument("--width", type=int, default=256, help="channels of the widest layer; the published networks have 1024")
    options.add_argument("--layer", type=int, default=12, help="n: the layers after it run")
    options.add_argument("--images", type=int, default=2)
    options.add_argument("--stem", type=int, default=3, help="kernel of the stem's layers: 1 or 3")
    args = options.parse_args()

    def build(side: str) -> tuple[sides.Side, sides.Side]:
        layers, classes = plan(args.side, args.stem, 64 * args.width, args.width)
        made = StyleGANXL(layers, classes).redraw(generator(0)).requires_grad_(False).to(args.device)
        with torch.no_grad():
            z = torch.randn(args.images, made.z_dim, generator=generator(1)).to(args.device)
            codes = made.mapping(z, torch.arange(args.images, device=args.device)).clone()
            features = made.to_f(codes, args.layer)
        back = torch.randn(args.images, *made.image_shape, generator=generator(2)).to(args.device)

        def call(count: int) -> Tensor:
            w, f = codes[:count].clone().requires_grad_(), features[:count].clone().requires_grad_()
            if side == "ours":
                images = made.from_f(f, w, args.layer)
            else:
                images = f
                for i, layer in enumerate(made.layers[args.layer :], args.layer):
                    images = literal(layer, images, w[:, 1 + i])
                images = images * 0.25
            parts = [images.detach(), *torch.autograd.grad(images, [w, f], back[:count])]
            return torch.cat([(p / p.norm()).flatten() for p in parts])

        return lambda: call(1), lambda: call(args.images)

    what = f"StyleGAN-XL, {args.side} pixels, width {args.width}, {args.images} images: layers after {args.layer} forwards and back"
    sides.run(__file__, args, what, build)


if __name__ == "__main__":
    main()
