"""Classifiers, by the names the field gives them.

    network = networks.fresh("ConvNet", like=real, rng=stream(0, "evaluate"))
    network(x)                           # (N, K) logits
    network.embed(x)                     # (N, D) input of the last linear layer
    networks.embed(network, x)           # the same numbers to rounding, by the fastest way this machine has

`NETWORKS` lists the names. The ConvNet family is composed: `ConvNet`, then any of depth `D1`..`D9`, width `W32`..,
activation `AR`, `AS`, `AL`, `ASwish`, norm `IN`, `BN`, `LN`, `GN`, `NN`, pooling `AP`, `MP`, `NP`, in this order, with
or without hyphens: `ConvNetD4W64BN` or `ConvNet-D4-W64-BN`. `ConvNet-6` is `ConvNetD6`.
`FRePoConvW32` and so on, and with `BN`, have 32, 64 and 128 channels in place of 128, 256 and 512.
`torchvision:<model>` and `timm:<model>` name any classifier of those libraries.

Papers use one name for several networks. Plain names here are those of the DC/DSA/DM/MTT code and the same layers at
every resolution; a prefix names another source: `IDC-ResNet18`, `GLaD-VGG11`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

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
from .resnet import ResNet, idc_stem
from .vit import ViT

Build = Callable[[Shape, int], Network]  # (C, H, W), K -> network
THIN = (32, 64, 128, 256)


def _idc(
    depth: int,
    norm: str,
    average: bool,
    stem: str | None = None,
    planes: tuple[int, int, int, int] = (64, 128, 256, 512),
) -> Build:
    return lambda shape, k: ResNet(
        shape, k, depth, norm, average=average, stem=stem or idc_stem(shape), planes=planes, he=True
    )


def _thin(depth: int, norm: str, average: bool) -> Build:
    repeats = (depth - 2) // 6
    return lambda shape, k: ResNet(shape, k, depth, norm, average=average, planes=THIN, blocks=(repeats,) * 4, he=True)


def _table() -> dict[str, tuple[str, Build]]:
    """Every name with a fixed meaning outside the ConvNet family: what it is, and how it is built."""
    table: dict[str, tuple[str, Build]] = {
        "MLP": ("two hidden layers of 128", MLP),
        "LeNet": ("LeNet-5 with ReLU and max pooling", LeNet),
        "AlexNet": ("five convolutions, one linear layer, no norm", AlexNet),
        "AlexNetBN": ("AlexNet with batch norm", partial(AlexNet, batch_norm=True)),
        "VGG11": ("VGG11 with instance norm, 28 or 32 pixels", VGG11),
        "VGG11BN": ("VGG11 with batch norm", partial(VGG11, norm_="BN")),
        "GLaD-VGG11": (
            "VGG11 with instance norm and 7x7 adaptive max pooling, any resolution",
            partial(VGG11, glad=True),
        ),
        "ViT": ("GLaD's ViT for ImageNet subsets: patch 16, depth 10, no LayerNorm", ViT),
        "ViTCIFAR": (
            "ViT of GLaD and DC-BENCH for 32 pixels: patch 4, depth 6",
            partial(ViT, patch=4, depth=6, layer_norm=True),
        ),
        "FRePoConv": ("FRePo's network: 128-256-512 channels, no norm", FRePoConv),
        "FRePoConvBN": (
            "FRePo's network with batch norm before convolutions 2 and 3",
            partial(FRePoConv, batch_norm=True),
        ),
        "KIPConv": ("KIP's transfer network: width 1024, prepended convolution, no norm", KIPConv),
        "KIPConv3": ("KIP's transfer network without the prepended convolution", partial(KIPConv, prepended=False)),
    }
    for suffix, norm, words in (("", "IN", "instance norm"), ("BN", "BN", "batch norm")):
        for depth in (10, 18, 50):
            table[f"ResNet{depth}{suffix}"] = (
                f"ResNet-{depth} with 3x3 stem, {words}",
                partial(ResNet, depth=depth, norm_=norm),
            )
        table[f"ResNet18{suffix}_AP"] = (
            f"ResNet-18, average pooling for strides, linear layer on the whole map, {words}",
            partial(ResNet, norm_=norm, average=True, flat=True),
        )
        table[f"ResNet18ImageNet{suffix}"] = (
            f"ResNet-18 with 7x7 stem and max pooling, {words}",
            partial(ResNet, norm_=norm, stem="imagenet"),
        )
        for depth in (10, 18, 50):
            table[f"IDC-ResNet{depth}{suffix}"] = (
                f"IDC's ResNet-{depth}, stem by resolution, {words}",
                _idc(depth, norm, average=False),
            )
        for depth in (10, 18):
            table[f"IDC-ResNetAP{depth}{suffix}"] = (
                f"IDC's ResNetAP-{depth}, stem by resolution, {words}",
                _idc(depth, norm, average=True),
            )
            table[f"IDC-LargeResNetAP{depth}{suffix}"] = (
                f"IDC's ResNetAP-{depth} with its ImageNet stem at any resolution, {words}",
                _idc(depth, norm, average=True, stem="imagenet"),
            )
            table[f"IDC-LargeResNet{depth}{suffix}"] = (
                f"IDC's ResNet-{depth} with its ImageNet stem at any resolution (DiM on 28 pixels), {words}",
                _idc(depth, norm, average=False, stem="imagenet"),
            )
        for depth in (10, 18):
            for ap, average in (("", False), ("AP", True)):
                table[f"IDC-LargeThinResNet{ap}{depth}{suffix}"] = (
                    f"IDC's ResNet{ap}-{depth} with its ImageNet stem at any resolution and half as many channels (ours), {words}",
                    _idc(depth, norm, average, "imagenet", THIN),
                )
        for depth in (10, 18, 50):
            table[f"IDC-ThinResNet{depth}{suffix}"] = (
                f"IDC's CIFAR form, 32-64-128-256 channels, {words}",
                _thin(depth, norm, average=False),
            )
        for depth in (10, 18):
            table[f"IDC-ThinResNetAP{depth}{suffix}"] = (
                f"IDC's CIFAR form with average pooling, {words}",
                _thin(depth, norm, average=True),
            )
    return table


_TABLE = _table()
_SPELLINGS = {
    "ResNetAP-10": "IDC-ResNetAP10",
    "ResNetAP-18": "IDC-ResNetAP18",
    "ResNet18-AP": "ResNet18_AP",
}  # the papers' own
_CONVNET = re.compile(
    r"ConvNet(?:-?D?(?P<depth>[1-9]))?(?:-?W(?P<width>[1-9]\d*))?(?:-?(?P<act>ASwish|AR|AS|AL))?"
    r"(?:-?(?P<norm>IN|BN|LN|GN|NN))?(?:-?(?P<pool>AP|MP|NP))?"
)
_CONVNETS = {
    "ConvNet": "3x3 convolutions of 128 channels, instance norm, ReLU, average pooling; depth 3 at 28 and 32 pixels, 4 at 64, 5 at 128, "
    "6 above",
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
NETWORKS: dict[str, str] = {**_CONVNETS, **{name: words for name, (words, _) in _TABLE.items()}}
"""Every name that stands for itself, with one line on what it is; further ConvNets are composed (see the module's text)."""


def about() -> dict[str, str]:
    """What each name of `NETWORKS` is, in one line."""
    return dict(NETWORKS)


def canonical(name: str) -> str:
    """The one spelling of a network's name that records use: `ConvNet-6` is `ConvNetD6`, `ResNetAP-10` is
    `IDC-ResNetAP10`."""
    return _resolve(name)[0]


def fresh(name: str, like: ImageSet | tuple[Shape, int], rng: torch.Generator) -> Network:
    """A network with new random weights, on the CPU, in train mode.

    Args:
        name: one of `NETWORKS`, a composed ConvNet, "torchvision:<model>" or "timm:<model>".
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
    return network._apply(
        lambda t: torch.empty(t.shape, dtype=t.dtype)
    )  # what to_empty does, without its import of sympy (seconds)


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, K): `network(x)` by the fastest way this machine has."""
    return network.classifier(embed(network, x)) if fast.plan(network) else network(x)


def _resolve(name: str) -> tuple[str, Build]:
    """The canonical name and the constructor."""
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
        spelled = "ConvNet" + "".join(
            [f"D{depth}" if depth else "", f"W{width}" if width else "", act or "", norm or "", pool or ""]
        )
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
            f"unknown network {name!r}: a ConvNet's name is ConvNet, then depth D1..D9, width W<channels>, activation AR|AS|AL|ASwish, "
            "norm IN|BN|LN|GN|NN, pooling AP|MP|NP, each optional, in this order, for example ConvNetD4W64BN"
        )
    raise unknown("network", name, NETWORKS)
