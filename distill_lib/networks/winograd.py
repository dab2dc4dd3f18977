"""The papers' ConvNet as matrix products: the same function, faster, and cheap to differentiate twice.

A `ConvNet` with instance norm, ReLU and average pooling spends its time in few places, and each has a shorter way:

* the 3x3 convolutions between blocks are Winograd products F(4x4, 3x3): every 6x6 window gives 4x4 outputs for 36
  multiplications per channel pair in place of 144 (F(2x2, 3x3) where a side is no multiple of 4);
* the first convolution and its norm are one product: mean and variance of w.p over the patches p of an image follow
  from the patches' mean and covariance, so the normalised map is p times a weight of that image's own;
* maps are kept (N, H, W, C), and ReLU, pooling and their derivatives are one pass over the largest map.

Everything is built from linear maps and products, so derivatives of any order are exact and as fast. Weights may differ
from group to group of images: one call gives the gradient of every class, or trains several networks.

Source: Lavin & Gray, CVPR 2016, for the minimal filtering algorithms.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from .base import lifted
from .convnet import ConvNet

# 1-D algorithms F(m, 3): input (m + 2, m + 2), output (m, m + 2) and weight (m + 2, 3) transforms
WINOGRAD = {
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
    ),
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    ),
}


@functools.lru_cache(maxsize=16)
def _transforms(m: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The 2-D transforms of F(m x m, 3x3), t = (m + 2)^2: input (t, t), output (m^2, t), weight (t, 9)."""
    one_d = (torch.tensor(matrix, dtype=torch.float64) for matrix in WINOGRAD[m])
    return tuple(torch.kron(a, a).to(device, dtype) for a in one_d)


class _Windows(torch.autograd.Function):
    """(N, H, W, C) -> (t, N H W / m^2, C): pixel by pixel the (m + 2)^2 windows around the m x m tiles, zeros
    outside."""

    @staticmethod
    def forward(ctx, x: Tensor, m: int) -> Tensor:
        ctx.shape, ctx.m = x.shape, m
        n, h, w, c = x.shape
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        image, row, column, _ = padded.stride()
        windows = padded.as_strided((m + 2, m + 2, n, h // m, w // m, c), (row, column, image, m * row, m * column, 1))
        return windows.reshape((m + 2) ** 2, -1, c)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _Overlap.apply(grad, ctx.shape, ctx.m), None


class _Overlap(torch.autograd.Function):
    """The adjoint of `_Windows`: windows added where they overlap."""

    @staticmethod
    def forward(ctx, windows: Tensor, shape: torch.Size, m: int) -> Tensor:
        ctx.m = m
        n, h, w, c = shape
        windows = windows.view(m + 2, m + 2, n, h // m, w // m, c)
        padded = windows.new_zeros(n, h + m, w + m, c)
        tiles = padded.view(n, h // m + 1, m, w // m + 1, m, c)
        for down in (0, 1):  # a window reaches 2 pixels into the next tile
            for right in (0, 1):
                part = windows[down * m : down * m + m, right * m : right * m + m]
                rows, columns = part.shape[:2]
                place = tiles[:, down : down + h // m, :rows, right : right + w // m, :columns]
                place += part.permute(2, 3, 0, 4, 1, 5)
        return padded[:, 1 : h + 1, 1 : w + 1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Windows.apply(grad.contiguous(), ctx.m), None, None


def patches_at_once(images: Tensor, padding: tuple[int, int]) -> Tensor:
    """`F.unfold(images, 3, padding=padding)`, which on a GPU starts a kernel for every image."""
    above, left = padding
    windows = F.pad(images, (left, left, above, above)).unfold(2, 3, 1).unfold(3, 3, 1)
    return windows.permute(0, 1, 4, 5, 2, 3).reshape(len(images), 9 * images.shape[1], -1)


def _pool(x: Tensor) -> Tensor:
    """2x2 averages of (N, H, W, C)."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class _ReluPool(torch.autograd.Function):
    """2x2 averages of ReLU(x), x (N, H, W, C). Overwrites x with ReLU(x): x must be nobody else's."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.relu_()
        ctx.save_for_backward(x)
        return _pool(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _ReluUnpool.apply(grad, *ctx.saved_tensors)


class _ReluUnpool(torch.autograd.Function):
    """The adjoint of `_ReluPool` where it was evaluated: a quarter of `grad` on every pixel whose ReLU is on."""

    @staticmethod
    def forward(ctx, grad: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        n, h, w, c = x.shape
        spread = (grad.contiguous() / 4).view(n, h // 2, 1, w // 2, 1, c).expand(n, h // 2, 2, w // 2, 2, c)
        return torch.ops.aten.threshold_backward(spread, x.view(spread.shape), 0).reshape(x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _pool(torch.ops.aten.threshold_backward(grad, x, 0)), None


class Products:
    """A `ConvNet` as a function of weights.

        products = Products(network)
        weights = products.weights([p.detach()[None] for p in network.parameters()])
        products.logits(weights, images)                # (n, C, H, W) -> (n, K)

    Parameters and weights have a group axis: with G groups, images are G runs of equal length, each with its own
    weights. `weights` is a linear map of the parameters and `parameters` its adjoint, which turns derivatives with
    respect to the weights into derivatives with respect to the parameters.

    Raises: UserError: the network is none that `Products.fits`.
    """

    def __init__(self, network: nn.Module):
        if not self.fits(network):
            needs = "a ConvNet with instance norm, ReLU and average pooling whose map sides stay even"
            raise UserError(f"matrix products need {needs}")
        self.depth, self.width = network.depth, network.width
        self.height, self.side = lifted(network.shape)
        self.eps = network.blocks[0][1].eps
        self.padding = network.blocks[0][0].padding

    @staticmethod
    def fits(network: nn.Module) -> bool:
        """Whether this network can be computed this way."""
        if not isinstance(network, ConvNet) or (network.act, network.norm, network.pool) != ("AR", "IN", "AP"):
            return False
        return all(side % 2**network.depth == 0 for side in lifted(network.shape))

    def _tile(self, block: int) -> int:
        """m of the F(m x m, 3x3) that convolves the maps of a block after the first."""
        return 4 if self.height >> block & 3 == 0 and self.side >> block & 3 == 0 else 2

    def weights(self, parameters: list[Tensor]) -> list[Tensor]:
        """(G, ...) parameters, in the order of `network.parameters()` -> weights of G groups.

        Per block: (G, 9 C, width) or Winograd-transformed (t, G, width, width), scale (G, width), shift (G, width);
        then the classifier's weight (G, D, K) and bias (G, K). Biases of convolutions are left out: instance norm
        removes them.
        """
        out = []
        for block in range(self.depth):
            weight, _, scale, shift = parameters[4 * block : 4 * block + 4]
            if block == 0:
                weight = weight.flatten(2).transpose(1, 2)
            else:
                transform = _transforms(self._tile(block), weight.dtype, weight.device)[2]
                weight = (transform @ weight.reshape(-1, 9).t()).view(-1, *weight.shape[:3]).transpose(2, 3)
            out += [weight.contiguous(), scale, shift]
        return [*out, parameters[-2].transpose(1, 2), parameters[-1]]

    def parameters(self, weights: list[Tensor]) -> list[Tensor]:
        """The adjoint of `weights`: derivatives by weights -> derivatives by parameters, (G, ...) each."""
        out = []
        for block in range(self.depth):
            weight, scale, shift = weights[3 * block : 3 * block + 3]
            if block == 0:
                weight = weight.transpose(1, 2).unflatten(2, (-1, 3, 3))
            else:
                transform = _transforms(self._tile(block), weight.dtype, weight.device)[2]
                columns = weight.transpose(2, 3)  # (t, G, out, in)
                weight = (transform.t() @ columns.reshape(len(columns), -1)).t().reshape(*columns.shape[1:], 3, 3)
            out += [weight, torch.zeros_like(scale), scale, shift]
        return [*out, weights[-2].transpose(1, 2), weights[-1]]

    def repeat(self, weights: list[Tensor], groups: int) -> list[Tensor]:
        """Weights of one group, repeated for G groups."""
        return [w.repeat_interleave(groups, axis) for w, axis in zip(weights, self.group_axes, strict=True)]

    @property
    def group_axes(self) -> list[int]:
        """Which dimension of each weight is its group axis."""
        return [0, 0, 0] + [1, 0, 0] * (self.depth - 1) + [0, 0]

    def logits(self, weights: list[Tensor], images: Tensor) -> Tensor:
        """(N, C, H, W) normalised images, G runs of N / G -> (N, K); differentiable, any number of times."""
        features = self.embed(weights, images)
        weight, bias = weights[-2:]
        return torch.baddbmm(bias[:, None], features.view(len(weight), -1, features.shape[1]), weight).flatten(0, 1)

    def embed(self, weights: list[Tensor], images: Tensor) -> Tensor:
        """(N, C, H, W) normalised images, G runs of N / G -> (N, D)."""
        x = _ReluPool.apply(self._first(images, *weights[:3]))
        for block in range(1, self.depth):
            x = _ReluPool.apply(self._block(x, self._tile(block), *weights[3 * block : 3 * block + 3]))
        return x.permute(0, 3, 1, 2).flatten(1)

    def taps(self, weights: list[Tensor], images: Tensor) -> list[Tensor]:
        """The feature maps `ConvNet.taps` gives, (N, width, H, W) each."""
        x, maps = images, []
        for block in range(self.depth):
            own = weights[3 * block : 3 * block + 3]
            maps.append((self._block(x, self._tile(block), *own) if block else self._first(x, *own)).relu())
            x = _pool(maps[-1])
        return [m.permute(0, 3, 1, 2) for m in (*maps, x)]

    def _first(self, images: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H', W', width): convolution and norm."""
        n, groups = len(images), len(weight)
        on_cpu = images.device.type == "cpu"
        patches = F.unfold(images, 3, padding=self.padding) if on_cpu else patches_at_once(images, self.padding)
        patches = patches - patches.mean(2, keepdim=True)
        covariance = torch.bmm(patches, patches.transpose(1, 2)) / patches.shape[2]
        # each image its own
        weight, scale, shift = (w.repeat_interleave(n // groups, 0) for w in (weight, scale, shift))
        variance = (torch.bmm(covariance, weight) * weight).sum(1)  # (N, width)
        weight = weight * (scale * torch.rsqrt(variance + self.eps))[:, None]
        ones = patches.new_ones(n, 1, patches.shape[2])
        maps = torch.bmm(torch.cat([patches, ones], 1).transpose(1, 2), torch.cat([weight, shift[:, None]], 1))
        return maps.view(n, self.height, self.side, self.width)

    def _block(self, x: Tensor, m: int, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """(N, H, W, width) -> (N, H, W, width): convolution and norm."""
        n, h, w, c = x.shape
        groups = weight.shape[1]
        into, out, _ = _transforms(m, x.dtype, x.device)
        windows = _Windows.apply(x, m)
        products = torch.bmm((into @ windows.flatten(1)).view(len(windows) * groups, -1, c), weight.flatten(0, 1))
        maps = (out @ products.view(len(windows), -1)).view(m, m, n, h // m, w // m, c)
        maps = maps.permute(2, 3, 0, 4, 1, 5).reshape(groups, n // groups, h * w, c)
        maps = maps - maps.mean(2, keepdim=True)
        scale = scale[:, None, None] * torch.rsqrt((maps * maps).mean(2, keepdim=True) + self.eps)
        return torch.addcmul(shift[:, None, None], maps, scale).view(n, h, w, c)
