"""Classifiers by name."""

from .names import NETWORKS, about, blank, canonical, fresh, logits
from .stacking import Stack, stack

__all__ = ["NETWORKS", "Stack", "about", "blank", "canonical", "fresh", "logits", "stack"]
