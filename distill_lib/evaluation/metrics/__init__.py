"""Scores of synthetic sets and generators."""

from __future__ import annotations
