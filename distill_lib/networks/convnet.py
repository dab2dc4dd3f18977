"""Plain convolutional networks: the ConvNet of the dataset-distillation papers, and those of FRePo and KIP."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..core.errors import UserError
from .base import Network, Shape, activation, fan_in, lift, lifted, need_side, norm, pooling


def default_depth(shape: Shape) -> int:
    """Blocks for a resolution, as in the papers: 3 at 28 and 32 pixels, 4 at 64, 5 at 128, 6 at 224 and 256.

    The last map is then 4 x 4 (3 x 3 at 224 pixels). Smaller images get 2 blocks (8 pixels: a 2 x 2 map), which is
    ours.
    """
    return max(2, round(math.log2(max(lifted(shape)) / 4)))


class ConvNet(Network):
    """`depth` blocks of convolution 3x3 - norm - activation - 2x2 pooling, then one linear layer.

    Args:
        depth:      number of blocks; None picks by resolution (`default_depth`).
        width:      channels of every block.
        act, norm_, pool: codes that `base.activation`, `base.norm` and `base.pooling` explain.
    Raises: UserError: the image is too small for the depth.
    Source: Zhao et al. 2021 (DC), and everyone after; default PyTorch initialisation.
    """

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        depth: int | None = None,
        width: int = 128,
        act: str = "AR",
        norm_: str = "IN",
        pool: str = "AP",
    ):
        super().__init__(shape, num_classes)
        self.depth, self.width = depth or default_depth(shape), width
        self.act, self.norm, self.pool = act, norm_, pool
        height, side = lifted(shape)
        if pool != "NP":
            why = f"its {self.depth} poolings halve the map {self.depth} times"
            need_side(f"ConvNetD{self.depth}", shape, lifted(shape), 2**self.depth, why)
        if norm_ == "GN" and width % 4:
            raise UserError(f"ConvNetW{width}GN: group norm has 4 groups, so the width must be a multiple of 4")
        blocks, channels = [], shape[0]
        for level in range(self.depth):
            conv = nn.Conv2d(channels, width, 3, padding=lift(1, shape) if level == 0 else 1)
            blocks.append(nn.Sequential(conv, norm(norm_, width, height, side), activation(act), pooling(pool)))
            channels = width
            if pool != "NP":
                height, side = height // 2, side // 2
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(width * height * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)

    def taps(self, x: Tensor) -> list[Tensor]:
        """CAFE's feature maps: of every block between activation and pooling, then the last block's after pooling."""
        maps = []
        for conv, norm_, act, pool in self.blocks:
            maps.append(act(norm_(conv(x))))
            x = pool(maps[-1])
        return [*maps, x]


class FRePoConv(Network):
    """FRePo's network: three blocks of convolution 3x3 - ReLU - 2x2 average pooling with 128, 256, 512 channels.

    Batch norm, if used, comes *before* the second and third convolution. Embedding: 8192 at 28 and 32 pixels.

    Args:
        width: channels of the first block, doubled in each of the next two.
    Source: Zhou et al. 2022; Flax initialisation (LeCun normal, zero biases); batch norm keeps 0.1 of its running
    statistics per batch.
    """

    def __init__(self, shape: Shape, num_classes: int, batch_norm: bool = False, width: int = 128):
        super().__init__(shape, num_classes)
        need_side("FRePoConv", shape, lifted(shape), 8, "its 3 poolings halve the map 3 times")
        blocks, channels = [], shape[0]
        for level in range(3):
            before = [nn.BatchNorm2d(channels, momentum=0.9)] if batch_norm and level else []
            conv = nn.Conv2d(channels, width << level, 3, padding=1 if level else lift(1, shape))
            blocks += [*before, conv, nn.ReLU(), nn.AvgPool2d(2)]
            channels = width << level
        self.body = nn.Sequential(*blocks)
        height, side = lifted(shape)
        self.classifier = nn.Linear(channels * (height // 8) * (side // 8), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)

    def law(self, module: nn.Module, name: str) -> tuple[str, float]:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # LeCun normal: variance 1/fan_in after the cut at two standard deviations, which leaves 0.8796 of the
            # deviation
            if name == "bias":
                return "constant", 0.0
            return "truncated", fan_in(module) ** -0.5 / 0.87962566103423978
        return super().law(module, name)


class KIPConv(Network):
    """KIP's transfer network: [convolution - ReLU] then 3 x [convolution 3x3 - ReLU - 2x2 average pooling], 1024
    channels, no norm.

    28-pixel images keep their size here (maps of 28, 14, 7, 3).
    Source: Nguyen et al. 2021, standard parameterisation: weights N(0, 2/fan_in), biases N(0, 0.01).
    """

    def __init__(self, shape: Shape, num_classes: int, prepended: bool = True, width: int = 1024):
        super().__init__(shape, num_classes)
        need_side("KIPConv", shape, shape[1:], 8, "its 3 poolings halve the map 3 times")
        layers, channels = [], shape[0]
        for level in range(4 if prepended else 3):
            pool = [] if prepended and level == 0 else [nn.AvgPool2d(2)]
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), *pool]
            channels = width
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (shape[1] // 8) * (shape[2] // 8), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)

    def law(self, module: nn.Module, name: str) -> tuple[str, float]:
        return "normal", (2 / fan_in(module)) ** 0.5 if name == "weight" else 0.1
