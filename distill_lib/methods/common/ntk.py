"""Neural tangent kernels of infinitely wide networks in closed form, and ridge regression with a kernel.

    kernel = ntk.kernel_named("FC1")
    alpha = ntk.solve(kernel.matrix(support, support), labels)      # (n, K) float64
    predictions = kernel.matrix(support, images).T @ alpha           # (m, K)

A network of infinite width predicts, after training to convergence with squared loss, as kernel regression with its
neural tangent kernel does. Every network here has ReLU, weights of variance 2 / fan-in and biases of variance 0.01, in
the parameterisation that has both as factors of the layers. NNGP is the covariance of the outputs of such networks at
random weights, NTK the scalar product of their gradients by all parameters.

`matrix` and `pull` work in tiles: neither holds more than a tile of the pairs of images and what belongs to it, and
tiles become smaller if memory runs out.

Source: Jacot et al. 2018, Arora et al. 2019; architectures of Nguyen et al. 2021 (KIP).
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.device import Pieces
from ...core.errors import UserError

WEIGHT, BIAS = 2.0, 0.01  # variances


# --- ReLU -------------------------------------------------------------------------------------------------------------
class _ReLU(torch.autograd.Function):
    """See `relu`.

    If both pre-activations are the same up to rounding (an image with itself, two black patches), the second result has
    a kink; its slope there is taken to be zero, which is exact for an image with itself.
    """

    @staticmethod
    def forward(ctx: Any, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        rho = (c / s).clamp_(-1, 1)
        rho.masked_fill_(rho > 1 - (1e-13 if c.dtype == torch.float64 else 1e-6), 1)  # an angle that is rounding only
        step = rho.acos().mul_(-1 / (2 * torch.pi)).add_(0.5)
        root = rho.square_().neg_().add_(1).sqrt_()  # sine of the angle
        ctx.save_for_backward(c, s, step, root)
        return torch.addcmul(c * step, s, root, value=1 / (2 * torch.pi)), step

    @staticmethod
    def backward(ctx: Any, by_relu: Tensor, by_step: Tensor) -> tuple[Tensor | None, Tensor | None]:
        c, s, step, root = ctx.saved_tensors
        slope = by_step / (2 * torch.pi * s * root.masked_fill(root == 0, torch.inf))
        by_c = torch.addcmul(slope, by_relu, step) if ctx.needs_input_grad[0] else None
        by_s = by_relu * root / (2 * torch.pi) - slope * (c / s) if ctx.needs_input_grad[1] else None
        return by_c, by_s


def relu(c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """E[relu(u) relu(v)] and E[1(u > 0) 1(v > 0)] for centred normal u, v.

    Args:
        c: their covariance.
        s: the root of the product of their variances, above 0.
    """
    return _ReLU.apply(c, s)


# --- kernels ----------------------------------------------------------------------------------------------------------
class Kernel(abc.ABC):
    """NNGP and NTK of one architecture.

    Args:
        dtype: of the entries.
    """

    name: str
    rows = 512  # of one tile

    def __init__(self, dtype: torch.dtype = torch.float64):
        self.dtype = dtype

    @abc.abstractmethod
    def variances(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> the variance of every pre-activation, one tensor (N, ...) per ReLU; differentiable."""

    @abc.abstractmethod
    def between(self, x: Tensor, y: Tensor, of_x: list[Tensor], of_y: list[Tensor]) -> tuple[Tensor, Tensor]:
        """NNGP and NTK (n, m) of x (n, C, H, W) and y (m, C, H, W) with their variances; differentiable."""

    @abc.abstractmethod
    def pair_bytes(self, shape: tuple[int, int, int]) -> int:
        """About what one pair of images holds in memory while its derivative is computed."""

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise a `UserError` for images (C, H, W) the architecture cannot take."""

    def tiles(self, x: Tensor, budget_mb: int | None = None) -> Pieces:
        """Pairs of images in a tile: as many as fit the budget, by default 256 MB on a CPU and 4 GB on a GPU."""
        budget = (budget_mb or (4096 if x.is_cuda else 256)) * 2**20
        return Pieces(max(1, budget // self.pair_bytes(tuple(x.shape[1:]))))

    @torch.no_grad()
    def matrix(self, x: Tensor, y: Tensor, tiles: Pieces | None = None, nngp: bool = False) -> Tensor:
        """NTK, or NNGP, (n, m) of images x (n, C, H, W) and y (m, C, H, W).

        Args:
            tiles: pairs of images at once; becomes smaller if memory runs out.
        """
        self.check(tuple(x.shape[1:]))
        x, y, tiles = x.to(self.dtype), y.to(self.dtype), tiles or self.tiles(x)
        of_x, of_y = self._all_variances(x, tiles), self._all_variances(y, tiles)

        def tile(i: slice, j: slice) -> Tensor:
            return self.between(x[i], y[j], [v[i] for v in of_x], [v[j] for v in of_y])[0 if nngp else 1]

        rows = [torch.cat(_columns(len(y), i, tiles, lambda j, i=i: tile(i, j)), 1) for i in self._rows(len(x), tiles)]
        return torch.cat(rows)

    def pull(self, x: Tensor, y: Tensor, direction: Tensor, tiles: Pieces | None = None) -> Tensor:
        """Derivative of <direction, NTK(x, y)> by x, y held fixed; (n, C, H, W) like x.

        For the kernel matrix of a set with itself pass `direction + direction.T`, which accounts for its second place.

        Args:
            direction: (n, m).
        """
        self.check(tuple(x.shape[1:]))
        dtype, x, y, tiles = x.dtype, x.detach().to(self.dtype), y.detach().to(self.dtype), tiles or self.tiles(x)
        of_x, of_y = self._all_variances(x, tiles), self._all_variances(y, tiles)
        total, by_variance = torch.zeros_like(x), [torch.zeros_like(v) for v in of_x]

        def tile(i: slice, j: slice) -> list[Tensor]:
            leaves = [x[i].clone().requires_grad_(), *(v[i].clone().requires_grad_() for v in of_x)]
            with torch.enable_grad():
                _, ntk = self.between(leaves[0], y[j], leaves[1:], [v[j] for v in of_y])
                return list(torch.autograd.grad(ntk, leaves, direction[i, j].to(self.dtype)))

        for i in self._rows(len(x), tiles):
            for found in _columns(len(y), i, tiles, lambda j, i=i: tile(i, j)):
                for whole, part in zip([total, *by_variance], found, strict=True):
                    whole[i] += part

        def through_variances(i: slice) -> Tensor:
            leaf = x[i].clone().requires_grad_()
            with torch.enable_grad():
                return torch.autograd.grad(self.variances(leaf), leaf, [v[i] for v in by_variance])[0]

        return (total + torch.cat(Pieces(tiles.size)(len(x), through_variances))).to(dtype)

    @torch.no_grad()
    def _all_variances(self, x: Tensor, tiles: Pieces) -> list[Tensor]:
        parts = Pieces(tiles.size)(len(x), lambda i: self.variances(x[i]))
        return [torch.cat(v) for v in zip(*parts, strict=True)]

    def _rows(self, n: int, tiles: Pieces) -> list[slice]:
        step = min(n, self.rows, tiles.size)
        return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _columns(m: int, rows: slice, tiles: Pieces, tile: Callable[[slice], Any]) -> list[Any]:
    """`tile` over slices of the m columns, as many as `tiles` allows for these rows; it learns what did not fit."""
    height = rows.stop - rows.start
    columns = Pieces(max(1, tiles.size // height))
    try:
        return columns(m, tile)
    finally:
        if columns.size < tiles.size // height:
            tiles.size = columns.size * height


class FullyConnectedKernel(Kernel):
    """Flattened images, `depth` hidden layers, one output layer."""

    def __init__(self, depth: int, dtype: torch.dtype = torch.float64):
        super().__init__(dtype)
        self.depth, self.name = depth, f"FC{depth}"

    def variances(self, x: Tensor) -> list[Tensor]:
        x = x.flatten(1)
        out = [WEIGHT / x.shape[1] * torch.linalg.vector_norm(x, dim=1).square() + BIAS]
        for _ in range(self.depth - 1):
            out.append(WEIGHT * out[-1] / 2 + BIAS)
        return out

    def between(self, x: Tensor, y: Tensor, of_x: list[Tensor], of_y: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, y = x.flatten(1), y.flatten(1)
        ntk = nngp = WEIGHT / x.shape[1] * (x @ y.T) + BIAS
        for vx, vy in zip(of_x, of_y, strict=True):
            both, step = relu(nngp, (vx[:, None] * vy).sqrt())
            nngp = WEIGHT * both + BIAS
            ntk = nngp + WEIGHT * step * ntk
        return nngp, ntk

    def pair_bytes(self, shape: tuple[int, int, int]) -> int:
        return 8 * self.depth * self.dtype.itemsize


class ConvolutionalKernel(Kernel):
    """[3x3 convolution - ReLU], `blocks` x [3x3 convolution - ReLU - 2x2 average pooling], flatten or average, linear.

    A pair of images has an entry for every pair of pixels: position p in the one, p + offset in the other. Convolutions
    and ReLU keep the offset, a pooling joins offsets 2d - 1, 2d and 2d + 1 into d. A flat last map needs offset 0 only,
    so with three poolings offsets up to 7, 3 and 1 pixels are enough before them: 225 in place of 32 x 32 on 32 pixels,
    and exact. Global average pooling needs them all.

    Entries are (n, m, offsets down, offsets right, H, W), zero if p + offset lies outside.

    Args:
        prepended: the additional convolution and ReLU in front.
        average:   global average pooling in place of flattening.
    """

    rows = 16

    def __init__(
        self, blocks: int = 3, prepended: bool = False, average: bool = False, dtype: torch.dtype = torch.float64
    ):
        super().__init__(dtype)
        self.blocks, self.prepended, self.average = blocks, prepended, average
        self.name = "KIPConv" + ("" if prepended else str(blocks)) + ("GAP" if average else "")

    def check(self, shape: tuple[int, int, int]) -> None:
        least = 2**self.blocks
        if min(shape[1:]) < least:
            why = f"its {self.blocks} poolings halve the map {self.blocks} times"
            needs = f"both sides must be at least {least} pixels"
            raise UserError(f"{self.name} cannot take {shape[1]}x{shape[2]} images: {why}, so {needs}")

    def reach(self, side: int) -> list[int]:
        """Largest offset needed along an axis of `side` pixels before each pooling and after the last."""
        last = side // 2**self.blocks - 1 if self.average else 0
        return [2**n * (last + 1) - 1 for n in range(self.blocks, -1, -1)]

    def entries(self, shape: tuple[int, int, int]) -> int:
        """Pairs of pixels held for one pair of images, at the first layer."""
        down, right = self.reach(shape[1])[0], self.reach(shape[2])[0]
        return (2 * down + 1) * (2 * right + 1) * shape[1] * shape[2]

    def pair_bytes(self, shape: tuple[int, int, int]) -> int:
        kept = 28 + 12 * self.prepended  # tensors of the first layers that the graph keeps
        return kept * self.entries(shape) * self.dtype.itemsize

    def variances(self, x: Tensor) -> list[Tensor]:
        """Needs every image's covariances with itself, because pooling mixes them."""
        out: list[Tensor] = []
        self._walk(x.unsqueeze(1), x.unsqueeze(1), None, None, out)
        return out

    def between(self, x: Tensor, y: Tensor, of_x: list[Tensor], of_y: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self._walk(x.unsqueeze(1), y.unsqueeze(0), of_x, of_y, [])

    def _walk(
        self, x: Tensor, y: Tensor, of_x: list[Tensor] | None, of_y: list[Tensor] | None, seen: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """NNGP and NTK after the last layer. Without variances x and y are the same images, whose variances are
        appended to `seen`, and there is no NTK."""
        height, width = x.shape[-2:]
        down, right = self.reach(height), self.reach(width)
        nngp, ntk, mask = _products(x, y, down[0], right[0]), None, _inside(down[0], right[0], height, width, x)
        level = 0
        for layer in range(self.blocks + self.prepended):
            nngp = WEIGHT * _average3(nngp * mask) + BIAS
            ntk = nngp if ntk is None else nngp + WEIGHT * _average3(ntk * mask)
            if of_x is None:
                middle = nngp[:, 0, down[level], right[level]]  # offset 0: (N, H, W)
                seen.append(middle)
                vx, vy = middle.unsqueeze(1), middle.unsqueeze(1)
            else:
                vx, vy = of_x[layer].unsqueeze(1), of_y[layer].unsqueeze(0)
            scale = vx.sqrt()[:, :, None, None] * _shifted(vy.sqrt(), down[level], right[level], fill=1.0)
            both, step = relu(nngp, scale)
            nngp, ntk = both, None if of_x is None else step * ntk
            if self.prepended and layer == 0:
                ntk = nngp if ntk is None else ntk
                continue
            level += 1
            nngp = _pool(nngp * mask, down[level], right[level])
            ntk = nngp if of_x is None else _pool(ntk * mask, down[level], right[level])
            mask = _inside(down[level], right[level], *nngp.shape[-2:], x)
        if self.average:
            counted = nngp.shape[-1] * nngp.shape[-2]
            nngp, ntk = ((k * mask).sum((2, 3, 4, 5)) / counted**2 for k in (nngp, ntk))
        else:
            nngp, ntk = (k[:, :, 0, 0].mean((-1, -2)) for k in (nngp, ntk))
        nngp = WEIGHT * nngp + BIAS
        return nngp, nngp + WEIGHT * ntk


def _shifted(y: Tensor, down: int, right: int, fill: float = 0.0) -> Tensor:
    """(..., H, W) -> (..., offsets down, offsets right, H, W): y at p + offset, `fill` if that lies outside."""
    height, width = y.shape[-2:]
    wide = F.pad(y, (right, right, down, down), value=fill)
    return wide.unfold(-2, height, 1).unfold(-2, width, 1)  # views: (..., offsets down, offsets right, H, W)


def _products(x: Tensor, y: Tensor, down: int, right: int) -> Tensor:
    """Mean over channels of x_p y_(p + offset): x (n, 1 or m, C, H, W), y (1 or n, m, C, H, W)."""
    shifted, channels = _shifted(y, down, right), x.shape[2]
    return sum(x[:, :, c, None, None] * shifted[:, :, c] for c in range(channels)) / channels


def _inside(down: int, right: int, height: int, width: int, like: Tensor) -> Tensor:
    """1 if p + offset lies in the image, else 0: (offsets down, offsets right, H, W)."""
    return _shifted(like.new_ones(height, width), down, right).contiguous()


def _average3(k: Tensor) -> Tensor:
    """Mean over 3x3 neighbours p of every offset; zeros outside, counted."""
    return F.avg_pool2d(k.flatten(0, 3), 3, stride=1, padding=1).view(k.shape)


def _pool(k: Tensor, down: int, right: int) -> Tensor:
    """2x2 average pooling in both images, keeping offsets up to `down` and `right`; drops an odd last row or column."""
    return _pool_axis(_pool_axis(k, 2, 4, down), 3, 5, right)


def _pool_axis(k: Tensor, offsets: int, places: int, reach: int) -> Tensor:
    """One axis: place 2p + a and offset 2d + b - a, a and b in {0, 1}, go to place p and offset d."""
    half, start = k.shape[places] // 2, (k.shape[offsets] - 1) // 2 - 2 * reach  # index of offset -2 reach

    def part(parity: int, moved: int) -> Tensor:
        first = start + moved
        at = [slice(None)] * 6
        at[offsets], at[places] = slice(first, first + 4 * reach + 1, 2), slice(parity, 2 * half, 2)
        return k[tuple(at)]

    return (part(0, 0) + part(0, 1) + part(1, -1) + part(1, 0)) / 4


def kernel_named(name: str, dtype: torch.dtype = torch.float64) -> Kernel:
    """The kernel of a name: that of the infinitely wide network.

    FC1, FC2, ... have that number of hidden layers, KIPConv3 has three blocks, KIPConv a convolution in front of them;
    the latter two end with global average pooling if GAP follows.

    Raises: UserError: another name.
    """
    if match := re.fullmatch(r"FC([1-9]\d?)", name):
        return FullyConnectedKernel(int(match[1]), dtype)
    if match := re.fullmatch(r"KIPConv([1-5])?(GAP)?", name):
        return ConvolutionalKernel(int(match[1] or 3), not match[1], bool(match[2]), dtype)
    known = "FC1, FC2, ... (fully connected, hidden layers), KIPConv3 (convolutional), KIPConv (a convolution in front)"
    raise UserError(
        f"unknown kernel {name!r}: choose one of {known}, KIPConv3GAP or KIPConvGAP (global average pooling)"
    )


# --- regression -------------------------------------------------------------------------------------------------------
def solve(kernel: Tensor, labels: Tensor, ridge: float = 1e-6) -> Tensor:
    """(kernel + ridge * mean diagonal * I)^-1 labels, (n, K) in float64; differentiable.

    Args:
        kernel: (n, n), symmetric positive semi-definite.
        labels: (n, K) values.
        ridge:  as a share of the mean diagonal, so that the result does not depend on the kernel's scale.
    Raises: UserError: a matrix that is not positive definite, as when two images are equal and the ridge is too small.
    """
    kernel, n = kernel.double(), len(kernel)
    if not torch.isfinite(kernel.detach()).all():
        return labels.double() * kernel.sum() * torch.nan  # the loop that logs the loss names the step and stops
    identity = torch.eye(n, dtype=kernel.dtype, device=kernel.device)
    factor, failed = torch.linalg.cholesky_ex(kernel + ridge * kernel.diagonal().mean() * identity)
    if failed:
        problem = f"the kernel matrix of {n} images plus ridge {ridge} is not positive definite"
        raise UserError(f"{problem}: equal images? Use a larger ridge, such as 1e-4")
    return torch.cholesky_solve(labels.double(), factor)


def regress(kernel: Tensor, cross: Tensor, labels: Tensor, ridge: float = 1e-6) -> Tensor:
    """Predictions (m, K) in float64: cross (m, n) @ `solve`(kernel (n, n), labels (n, K))."""
    return cross.double() @ solve(kernel, labels, ridge)


def centred_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Classes (N,) to (N, K) float64: one-hot vectors less 1/K."""
    return F.one_hot(labels, num_classes).double() - 1 / num_classes
