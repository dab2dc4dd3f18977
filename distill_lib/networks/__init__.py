"""Classifiers by name."""

from .names import NETWORKS, blank, canonical, fresh, logits
from .stacking import Stack, stack
