"""Noise schedules and samplers: `continuous` for U-ViT, `discrete` for DiT."""

from __future__ import annotations
