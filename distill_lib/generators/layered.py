"""A generator as a row of layers, with an image's features between any two of them.

w = generator.mapping(z, classes)                # codes (B, num_ws, w_dim)
f = generator.to_f(w, n)                         # features after the first n layers; uses w[:, : n + 1]
images = generator.from_f(f, w, n)               # (B, C, H, W), about -1 to 1; uses w[:, n + 1 :]
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class LayeredGenerator(nn.Module):
    """A generator as GLaD and SLFD need it.

    Attributes:
        mapping: noise (B, z_dim) and classes (B,) to codes (B, num_ws, w_dim).
        z_dim, w_dim, num_ws: of noise, of a code, and how many codes an image has.
        layer_names: in order; the last gives the image.
        image_shape: (C, H, W).
        num_classes: how many it knows.
    """

    mapping: Callable[[Tensor, Tensor], Tensor]
    z_dim: int
    w_dim: int
    num_ws: int
    num_classes: int
    layer_names: list[str]
    image_shape: tuple[int, int, int]

    def start(self, w: Tensor) -> Tensor:
        """The input of the first layer."""
        raise NotImplementedError

    def run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        """The features after the layers from number `first` up to `last`, which is not included."""
        raise NotImplementedError

    def to_f(self, w: Tensor, n: int) -> Tensor:
        """Features after the first n layers."""
        return self.run(self.start(w), w, 0, n)

    def from_f(self, f: Tensor, w: Tensor, n: int) -> Tensor:
        """Images from features after n layers."""
        return self.run(f, w, n, len(self.layer_names))

    def forward(self, w: Tensor) -> Tensor:
        """(B, num_ws, w_dim) to (B, C, H, W), about -1 to 1, not clamped."""
        return self.run(self.start(w), w, 0, len(self.layer_names))
