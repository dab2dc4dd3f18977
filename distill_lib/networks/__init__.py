"""Classifiers by name."""

from .names import NETWORKS, blank, canonical, fresh, logits
from .stacking import Stack, stack

__all__ = ["NETWORKS", "Stack", "blank", "canonical", "fresh", "logits", "stack"]
