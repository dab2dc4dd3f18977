"""Augmentations of every protocol, each drawn first and applied afterwards.

    aug = dsa("color_crop_cutout_flip_scale_rotate")
    params = aug.draw(rng, groups=10)         # siamese: one operation and one set of parameters per class
    aug.apply(real, params)                   # (10, 256, C, H, W)
    aug.apply(synthetic, params)              # (10, ipc, C, H, W): the same transformation, differentiable
    aug(images, rng)                          # independent: one operation for the batch (N, C, H, W), parameters per
    image aug(stacked, [rng_0, rng_1])              # (2, n, C, H, W): each network from its own generator, as if it
    were alone

Images are normalised floats. What is drawn is a small record of uniform numbers, so the same record gives the same
transformation at any batch size, image size and device, and no image that is given is written to.

On a CPU an augmented image has the same bits whatever is augmented beside it, and on any number of threads (`dc` alone
fills with the mean of its batch). So no image is multiplied by a matrix, which a library adds up in another order at
another batch size, and no product is fused with a sum, which may round otherwise at the end of an array.

| name | operations per batch | used by |
| --- | --- | --- |
| `none` | - | DC and the plain protocols |
| `dsa:<names>` | one of the names | DSA, DM, CAFE, MTT, GLaD, DD-Ranking, and their evaluation |
| `idc:<names>` | flip, colour, one of crop/scale/rotate, cutout | IDC; DiM with `idc:color_crop` |
| `frepo:<names>` | one of the names, own ranges | FRePo's evaluation |
| `dc:<names>` | one of the names per image | DC's evaluation on MNIST and of ConvNetBN |
| `imagenet` | random resized crop, flip, colour jitter, lighting | IDC and Minimax at 224 pixels, with `CutMix` |
| `dcbench:<policy>` | a torchvision policy, one draw per batch | DC-BENCH |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import UserError, unknown
from .base import Augmentation
from .dc_operations import dc
from .pipelines import DCBENCH_POLICIES, DCBench, ImageNet
from .strategies import dsa, frepo, idc, none


# --- by name -------------------------------------------------------------------------------------------------------
def _facts(like: Any) -> Any:
    return getattr(like, "facts", like)


def _imagenet(like: Any = None) -> Augmentation:
    return ImageNet() if like is None else ImageNet(_facts(like).mean, _facts(like).std)


def _dcbench(policy: str = "cifar_aug", like: Any = None) -> Augmentation:
    if policy not in DCBENCH_POLICIES:
        raise unknown("DC-BENCH policy", policy, DCBENCH_POLICIES)
    if like is None:
        raise UserError(
            "DC-BENCH policies work on pixels: give the data set whose mean and std undo the normalisation (like=...)"
        )
    return DCBench(policy, _facts(like).mean, _facts(like).std)


# kind: (builder, takes an argument after the colon, takes `like`)
AUGMENTATIONS: Mapping[str, tuple[Callable[..., Augmentation], bool, bool]] = {
    "none": (none, False, False),
    "dsa": (dsa, True, False),
    "idc": (idc, True, False),
    "frepo": (frepo, True, False),
    "dc": (dc, True, False),
    "imagenet": (_imagenet, False, True),
    "dcbench": (_dcbench, True, True),
}


def named(name: str, like: Any = None) -> Augmentation:
    """An augmentation by its name, as `repr` shows it: `dsa:color_crop_flip`, `imagenet`, `dcbench:autoaug`, `none`.

    Without the part after the colon, the default of that kind.

    Args:
        like: the set (or its `Facts`) to augment; `imagenet` and `dcbench` need its mean and std
              (`imagenet` without it uses ImageNet's).
    Raises: UserError: an unknown kind, operation or policy.
    """
    kind, colon, argument = name.partition(":")
    if kind not in AUGMENTATIONS:
        raise unknown("augmentation", kind, AUGMENTATIONS)
    build, takes_argument, takes_like = AUGMENTATIONS[kind]
    if takes_like and getattr(like, "whitening", None) is not None:
        raise UserError(f"augmentation {kind} works on pixels, and the set is whitened: choose dsa, idc, frepo or none")
    if colon and not takes_argument:
        raise UserError(f"augmentation {name!r}: {kind} takes nothing after a colon")
    return build(*([argument] if colon else []), **({"like": like} if takes_like else {}))
