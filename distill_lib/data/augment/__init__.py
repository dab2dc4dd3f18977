"""Augmentations with explicit randomness: DSA's family, DC's, ImageNet's pipelines, CutMix."""

from .base import Augmentation, Params
from .by_name import AUGMENTATIONS, named
from .cutmix import CutMix
from .dc_operations import dc
from .operations import perform
from .pipelines import DCBENCH_POLICIES, IMAGENET_MEAN, IMAGENET_STD, ImageNet
from .strategies import Strategy, dsa, frepo, idc, none, strategy_for
