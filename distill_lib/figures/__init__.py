"""Figures: they draw what they are handed."""

from .accuracy import accuracy_over_budget, accuracy_over_seconds, heat_map, leaderboard, paper_and_ours, ranking
from .claims import forest
from .distributions import correlations, difficulty_histograms, objective_map, refined_bars, target_counts, two_pixels
from .images import examples_by_difficulty, film_strip, image_grid, samples_and_nearest
from .look import colour, marker, style
from .moons import moons
from .speed import roofline, seconds_over_size
from .training import fid_curves, gan_health, module_history

__all__ = [
    "accuracy_over_budget",
    "accuracy_over_seconds",
    "colour",
    "correlations",
    "difficulty_histograms",
    "examples_by_difficulty",
    "fid_curves",
    "film_strip",
    "forest",
    "gan_health",
    "heat_map",
    "image_grid",
    "leaderboard",
    "marker",
    "module_history",
    "moons",
    "objective_map",
    "paper_and_ours",
    "ranking",
    "refined_bars",
    "roofline",
    "samples_and_nearest",
    "seconds_over_size",
    "style",
    "target_counts",
    "two_pixels",
]
