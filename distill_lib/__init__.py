"""Reproducible companion to four papers on generative dataset distillation."""

__version__ = "0.1.0"
