"""Scores of synthetic sets and generators."""
