"""MLP, LeNet, AlexNet and VGG11 as the dataset-distillation papers use them, for 28 or 32 pixels."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..core.errors import UserError
from .base import Network, Shape, lift, lifted, need_side, norm


class MLP(Network):
    """Two hidden layers of 128 on the flattened pixels. Source: Zhao et al. 2021."""

    def __init__(self, shape: Shape, num_classes: int):
        super().__init__(shape, num_classes)
        hidden = [nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        self.body = nn.Sequential(nn.Flatten(), *hidden)
        self.classifier = nn.Linear(128, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x)


class LeNet(Network):
    """Convolutions 5x5 of 6 and 16 channels, each with max pooling; hidden layers of 120 and 84. Source: Zhao et al.
    2021."""

    def __init__(self, shape: Shape, num_classes: int):
        super().__init__(shape, num_classes)
        why = "two unpadded 5x5 convolutions and two poolings leave nothing of a smaller map"
        need_side("LeNet", shape, lifted(shape), 16, why)
        height, width = (((s - 4) // 2 - 4) // 2 for s in lifted(shape))
        first = [nn.Conv2d(shape[0], 6, 5, padding=lift(0, shape)), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        hidden = [nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
        self.body = nn.Sequential(*first, *second, *hidden)
        self.classifier = nn.Linear(84, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x)


class AlexNet(Network):
    """Five convolutions, three max poolings, one linear layer; no dropout, no norm unless asked for. Not torchvision's
    AlexNet.

    Source: Zhao et al. 2021; the same layers in MTT and GLaD at any resolution.
    """

    def __init__(self, shape: Shape, num_classes: int, batch_norm: bool = False):
        super().__init__(shape, num_classes)
        need_side("AlexNet", shape, lifted(shape), 8, "its 3 poolings halve the map 3 times")

        def conv(inputs: int, outputs: int, kernel: int, padding: int, pool: bool) -> list[nn.Module]:
            layers = [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU()]
            if batch_norm:
                layers.insert(1, nn.BatchNorm2d(outputs))
            return [*layers, nn.MaxPool2d(2)] if pool else layers

        self.body = nn.Sequential(
            *conv(shape[0], 128, 5, lift(2, shape), pool=True),
            *conv(128, 192, 5, 2, pool=True),
            *conv(192, 256, 3, 1, pool=False),
            *conv(256, 192, 3, 1, pool=False),
            *conv(192, 192, 3, 1, pool=True),
        )
        height, width = lifted(shape)
        self.classifier = nn.Linear(192 * (height // 8) * (width // 8), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


class VGG11(Network):
    """Eight convolutions 3x3 in five stages, each stage ending in max pooling; one linear layer.

    `glad=False`: the map after the fifth pooling must be 1 x 1 (28 pixels, or 32 to 63), linear layer on 512.
    `glad=True`: adaptive max pooling to 7 x 7, which repeats pixels of a smaller map; linear layer on 25 088 at any
    resolution. Sources: Zhao et al. 2021; Cazenavette et al. 2023 (GLaD).
    """

    STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))

    def __init__(self, shape: Shape, num_classes: int, norm_: str = "IN", glad: bool = False):
        super().__init__(shape, num_classes)
        need_side("VGG11", shape, lifted(shape), 32, "its 5 poolings halve the map 5 times")
        if not glad and max(lifted(shape)) >= 64:
            raise UserError(
                f"VGG11 cannot take {shape[1]}x{shape[2]} images: it takes 28 pixels and 32 to 63; "
                "use GLaD-VGG11 for larger ones"
            )
        layers, channels = [], shape[0]
        for stage in self.STAGES:
            for width in stage:
                padding = 1 if layers else lift(1, shape)
                layers += [nn.Conv2d(channels, width, 3, padding=padding), norm(norm_, width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        if glad:
            layers.append(nn.AdaptiveMaxPool2d(7))
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(512 * 49 if glad else 512, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)
