"""Classifiers, by the names the field gives them.

    network = networks.fresh("ConvNet", like=real, rng=stream(0, "evaluate"))
    network(x)                           # (N, K) logits
    network.embed(x)                     # (N, D) input of the last linear layer
    networks.embed(network, x)           # the same numbers to rounding, by the fastest way this machine has

`NETWORKS` lists the names. The ConvNet family is composed: `ConvNet`, then any of depth `D1`..`D9`, width `W32`..,
activation `AR`, `AS`, `AL`, `ASwish`, norm `IN`, `BN`, `LN`, `GN`, `NN`, pooling `AP`, `MP`, `NP`, in this order, with
or without hyphens: `ConvNetD4W64BN` or `ConvNet-D4-W64-BN`. `ConvNet-6` is `ConvNetD6`.
`FRePoConvW32` and so on, and with `BN`, have 32, 64 and 128 channels in place of 128, 256 and 512.
`torchvision:<model>` and `timm:<model>` name any classifier of those libraries, `own:<name>` one that `networks.own`
made known.

Papers use one name for several networks. Plain names here are those of the DC/DSA/DM/MTT code and the same layers at
every resolution; a prefix names another source: `IDC-ResNet18`, `GLaD-VGG11`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError, unknown
from ..data import ImageSet
from . import fast
from .base import Network, Shape
from .classic import MLP, VGG11, AlexNet, LeNet
from .convnet import ConvNet, FRePoConv, KIPConv
from .fast import embed
from .libraries import LIBRARIES, Foreign
from .resnet import ResNet
from .vit import ViT

Build = Callable[[Shape, int], Network]  # (C, H, W), K -> network
THIN_PLANES = (32, 64, 128, 256)


_TABLE: dict[str, tuple[str, Build]] = {  # names with a fixed meaning outside the ConvNet family
    "MLP": ("two hidden layers of 128", MLP),
    "LeNet": ("LeNet-5 with ReLU and max pooling", LeNet),
    "AlexNet": ("five convolutions, one linear layer, no norm", AlexNet),
    "AlexNetBN": ("AlexNet with batch norm", partial(AlexNet, batch_norm=True)),
    "VGG11": ("VGG11 with instance norm, 28 or 32 pixels", VGG11),
    "VGG11BN": ("VGG11 with batch norm", partial(VGG11, norm_="BN")),
    "GLaD-VGG11": ("VGG11, instance norm, 7x7 adaptive max pooling, any resolution", partial(VGG11, glad=True)),
    "ViT": ("GLaD's ViT for ImageNet subsets: patch 16, depth 10, no LayerNorm", ViT),
    "ViTCIFAR": ("ViT of GLaD and DC-BENCH for 32 pixels", partial(ViT, patch=4, depth=6, layer_norm=True)),
    "FRePoConv": ("FRePo's network: 128-256-512 channels, no norm", FRePoConv),
    "FRePoConvBN": ("FRePo's, batch norm before convolutions 2 and 3", partial(FRePoConv, batch_norm=True)),
    "KIPConv": ("KIP's transfer network: width 1024, prepended convolution, no norm", KIPConv),
    "KIPConv3": ("KIP's transfer network without the prepended convolution", partial(KIPConv, prepended=False)),
}


def _resnets(suffix: str, norm: str, words: str) -> dict[str, tuple[str, Build]]:
    """The ResNets with one norm, whose names end in the suffix."""
    found = {}

    def add(name: str, about: str, depth: int, **options: Any) -> None:
        found[name] = (f"{about}, {words}", partial(ResNet, depth=depth, norm_=norm, **options))

    for depth in (10, 18, 50):
        add(f"ResNet{depth}{suffix}", f"ResNet-{depth} with 3x3 stem", depth)
    whole_map = "ResNet-18, average pooling for strides, linear layer on the whole map"
    add(f"ResNet18{suffix}_AP", whole_map, 18, average=True, flat=True)
    add(f"ResNet18ImageNet{suffix}", "ResNet-18 with 7x7 stem and max pooling", 18, stem="imagenet")
    for ap in ("", "AP"):
        idc: dict[str, Any] = {"average": bool(ap), "he": True}
        for depth in (10, 18) if ap else (10, 18, 50):
            name, end = f"IDC's ResNet{ap}-{depth}", f"ResNet{ap}{depth}{suffix}"
            add(f"IDC-{end}", f"{name}, stem by resolution", depth, stem=None, **idc)
            thin = f"{name} in its CIFAR form, 32-64-128-256 channels"
            add(f"IDC-Thin{end}", thin, depth, planes=THIN_PLANES, blocks=((depth - 2) // 6,) * 4, **idc)
            if depth < 50:
                large = f"{name} with its ImageNet stem at any resolution"
                add(f"IDC-Large{end}", large, depth, stem="imagenet", **idc)
                half = f"{large} and half as many channels (ours)"
                add(f"IDC-LargeThin{end}", half, depth, planes=THIN_PLANES, stem="imagenet", **idc)
    return found


_TABLE |= _resnets("", "IN", "instance norm") | _resnets("BN", "BN", "batch norm")
_SPELLINGS = {"ResNetAP-10": "IDC-ResNetAP10", "ResNetAP-18": "IDC-ResNetAP18", "ResNet18-AP": "ResNet18_AP"}
_CONVNET = re.compile(
    r"ConvNet(?:-?D?(?P<depth>[1-9]))?(?:-?W(?P<width>[1-9]\d*))?(?:-?(?P<act>ASwish|AR|AS|AL))?"
    r"(?:-?(?P<norm>IN|BN|LN|GN|NN))?(?:-?(?P<pool>AP|MP|NP))?"
)
_CONVNETS = {
    "ConvNet": "3x3 convolutions of 128 channels, instance norm, ReLU, average pooling; "
    "depth 3 at 28 and 32 pixels, 4 at 64, 5 at 128, 6 above",
    **{f"ConvNetD{d}": f"ConvNet of depth {d}" for d in range(1, 7)},
    **{f"ConvNetW{w}": f"ConvNet of width {w}" for w in (32, 64, 128, 256, 512, 1024)},
    "ConvNetAR": "ConvNet with ReLU (the default)",
    "ConvNetAS": "ConvNet with sigmoid",
    "ConvNetAL": "ConvNet with LeakyReLU (slope 0.01)",
    "ConvNetASwish": "ConvNet with Swish",
    "ConvNetASwishBN": "ConvNet with Swish and batch norm",
    "ConvNetIN": "ConvNet with instance norm (the default)",
    "ConvNetBN": "ConvNet with batch norm",
    "ConvNetLN": "ConvNet with layer norm",
    "ConvNetGN": "ConvNet with group norm, 4 groups",
    "ConvNetNN": "ConvNet without norm",
    "ConvNetAP": "ConvNet with average pooling (the default)",
    "ConvNetMP": "ConvNet with max pooling",
    "ConvNetNP": "ConvNet without pooling",
}
# every name that stands for itself, with one line on what it is; further ConvNets are composed (see the module's text)
NETWORKS: dict[str, str] = {**_CONVNETS, **{name: words for name, (words, _) in _TABLE.items()}}


def canonical(name: str) -> str:
    """The one spelling of a network's name that records use: `ConvNet-6` is `ConvNetD6`, `ResNetAP-10` is
    `IDC-ResNetAP10`."""
    return _resolve(name)[0]


def fresh(name: str, like: ImageSet | tuple[Shape, int], rng: torch.Generator) -> Network:
    """A network with new random weights, on the CPU, in train mode.

    Args:
        name: one of `NETWORKS`, a composed ConvNet, "torchvision:<model>", "timm:<model>" or "own:<name>".
        like: an image set, or ((C, H, W), K): the images it takes and the number of classes.
        rng:  the only source of randomness; torch's global generator is left as it was.
    Raises: UserError: unknown name, or images of a size the network cannot take (the message says which it can).
    """
    shape, num_classes = (like.shape, like.num_classes) if hasattr(like, "num_classes") else like
    spelled, build = _resolve(name)
    if ":" in spelled:
        network = Foreign(build, shape, num_classes, spelled, rng)
        network.check()
        return network
    return _blank(spelled, build, shape, num_classes).redraw(rng)


def blank(name: str, shape: Shape, num_classes: int) -> Network:
    """A network whose weights are all zero, in no time: to count its operations or its weights.

    Raises: UserError: as `fresh`.
    """
    spelled, build = _resolve(name)
    if ":" in spelled:
        return fresh(name, (shape, num_classes), torch.Generator())
    network = _blank(spelled, build, shape, num_classes)
    return network._apply(torch.zero_)


def _blank(spelled: str, build: Build, shape: Shape, num_classes: int) -> Network:
    with torch.device("meta"):  # no memory, no random numbers
        network = build(shape, num_classes)
    network.name = spelled
    # what to_empty does, without its import of sympy, which takes a second of every command
    return network._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, K): `network(x)` by the fastest way this machine has."""
    return network.classifier(embed(network, x)) if fast.blocks_of(network) else network(x)


def _resolve(name: str) -> tuple[str, Build]:
    """The canonical name and the constructor."""
    if not isinstance(name, str):
        raise UserError(f"a network is given by its name, not as a {type(name).__name__}; see `distill list networks`")
    library, _, model = name.partition(":")
    if model:
        if library not in LIBRARIES:
            raise unknown("library of networks", library, LIBRARIES)
        return name, LIBRARIES[library](model)
    name = _SPELLINGS.get(name, name)
    if name in _TABLE:
        return name, _TABLE[name][1]
    if match := re.fullmatch(r"FRePoConvW([1-9]\d*)(BN)?", name):
        return name, partial(FRePoConv, batch_norm=bool(match[2]), width=int(match[1]))
    if match := _CONVNET.fullmatch(name):
        depth, width, act, norm, pool = match.groups()
        parts = (f"D{depth}" if depth else "", f"W{width}" if width else "", act or "", norm or "", pool or "")
        spelled = "ConvNet" + "".join(parts)
        options = {"act": act or "AR", "norm_": norm or "IN", "pool": pool or "AP"}
        return spelled, partial(ConvNet, depth=int(depth) if depth else None, width=int(width or 128), **options)
    if re.fullmatch(r"ResNet-(10|18|50)", name):
        depth = name[7:]
        raise UserError(
            f"{name!r} stands for two networks: ResNet{depth} (3x3 stem, DC/DM/MTT/GLaD) "
            f"or IDC-ResNet{depth} (stem by resolution, IDC/Minimax/DGS)"
        )
    if name.startswith("ConvNet"):
        raise UserError(
            f"unknown network {name!r}: a ConvNet's name is ConvNet, then depth D1..D9, width W<channels>, activation "
            "AR|AS|AL|ASwish, norm IN|BN|LN|GN|NN, pooling AP|MP|NP, each optional, in this order, for example "
            "ConvNetD4W64BN"
        )
    raise unknown("network", name, NETWORKS)
