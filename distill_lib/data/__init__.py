"""Data sets as checked, documented values."""

from .imageset import Facts, ImageSet

__all__ = ["Facts", "ImageSet"]
