"""Noise schedules and samplers: `continuous` for U-ViT, `discrete` for DiT."""
