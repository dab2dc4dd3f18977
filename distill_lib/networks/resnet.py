"""ResNets: the CIFAR form of the DC/DM/MTT/GLaD code, and IDC's, whose stem follows the resolution (also Minimax, DiM,
SKD, DGS)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .base import Network, Shape, need_side, norm


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class Residual(nn.Module):
    """One residual block. `average` (the AP networks) replaces a stride of 2 by a convolution at stride 1 and 2x2
    average pooling.

    Basic: two 3x3 convolutions. Bottleneck: 1x1, 3x3, 1x1, the last with four times the channels.
    """

    def __init__(self, inputs: int, planes: int, stride: int, norm_: str, bottleneck: bool, average: bool):
        super().__init__()
        outputs = planes * (4 if bottleneck else 1)
        self.down = stride if average else 1
        s = 1 if average else stride
        if bottleneck:
            first = [conv(inputs, planes, 1), norm(norm_, planes), nn.ReLU()]
            self.first = nn.Sequential(*first, conv(planes, planes, 3, s), norm(norm_, planes), nn.ReLU())
            self.last = nn.Sequential(conv(planes, outputs, 1), norm(norm_, outputs))
        else:
            self.first = nn.Sequential(conv(inputs, planes, 3, s), norm(norm_, planes), nn.ReLU())
            self.last = nn.Sequential(conv(planes, outputs, 3), norm(norm_, outputs))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            pool = [nn.AvgPool2d(self.down)] if self.down > 1 else []
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, s), *pool, norm(norm_, outputs))

    def forward(self, x: Tensor) -> Tensor:
        main = self.first(x)
        if self.down > 1:
            main = F.avg_pool2d(main, self.down)
        return F.relu(self.last(main) + self.shortcut(x))


class ResNet(Network):
    """Stem, four stages of residual blocks, pooling, one linear layer.

    Args:
        depth:   10, 18 (basic blocks) or 50 (bottleneck blocks).
        norm_:   "IN" or "BN".
        average: average pooling in place of strides (the AP networks).
        stem:    "cifar" 3x3; "pooled" 3x3 and a halving pool; "imagenet" 7x7 at stride 2 and a halving max pool (AP:
                 7x7 at stride 1 and average pooling by 4); None for IDC's choice by resolution.
        planes:  channels of the four stages.
        blocks:  residual blocks per stage; None takes the depth's standard numbers.
        flat:    linear layer on the whole last map instead of its mean (the AP networks of Zhao et al.).
        he:      convolutions start as N(0, 2/(k*k*outputs)), as in IDC, instead of PyTorch's default.
    Source: He et al. 2016 through the code of Zhao et al. 2021 and of Kim et al. 2022.
    """

    BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        depth: int = 18,
        norm_: str = "IN",
        average: bool = False,
        stem: str | None = "cifar",
        planes: tuple[int, int, int, int] = (64, 128, 256, 512),
        blocks: tuple[int, int, int, int] | None = None,
        flat: bool = False,
        he: bool = False,
    ):
        super().__init__(shape, num_classes)
        self.he, stem = he, stem or idc_stem(shape)
        width = planes[0]
        halvings = 3 + {"cifar": 0, "pooled": 1, "imagenet": 2}[stem]
        if average:
            name = f"ResNet{depth} with average pooling"
            need_side(name, shape, shape[1:], 2**halvings, f"it halves the map {halvings} times")
        if stem == "imagenet":
            first = [conv(shape[0], width, 7, 1 if average else 2)]
            pool = [nn.AvgPool2d(4) if average else nn.MaxPool2d(3, 2, padding=1)]
        else:
            first = [conv(shape[0], width, 3)]
            pool = [nn.AvgPool2d(2) if average else nn.MaxPool2d(3, 2, padding=1)] if stem == "pooled" else []
        layers: list[nn.Module] = [*first, norm(norm_, width), nn.ReLU(), *pool]
        bottleneck = depth >= 50 and blocks is None
        inputs = width
        for stage, (channels, repeats) in enumerate(zip(planes, blocks or self.BLOCKS[depth], strict=True)):
            for block in range(repeats):
                layers.append(Residual(inputs, channels, 2 if stage and not block else 1, norm_, bottleneck, average))
                inputs = channels * (4 if bottleneck else 1)
        self.body = nn.Sequential(*layers)
        self.pool = nn.Identity() if flat else nn.AdaptiveAvgPool2d(1)
        features = inputs * (shape[1] // 8) * (shape[2] // 8) if flat else inputs
        self.classifier = nn.Linear(features, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x)).flatten(1)

    def law(self, module: nn.Module, name: str) -> tuple[str, float]:
        if self.he and isinstance(module, nn.Conv2d):
            return "normal", (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
        return super().law(module, name)


def idc_stem(shape: Shape) -> str:
    """IDC's stem for a resolution: "cifar" up to 64 pixels, "pooled" up to 128, "imagenet" above."""
    side = max(shape[1:])
    return "cifar" if side <= 64 else "pooled" if side <= 128 else "imagenet"
