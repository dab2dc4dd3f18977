"""Classifiers by name."""

from .libraries import own
from .names import NETWORKS, blank, canonical, fresh, logits
from .stacking import Stack, stack
