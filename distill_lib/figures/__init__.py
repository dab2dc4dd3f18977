"""Figures: they draw what they are handed."""

from .accuracy import accuracy_over_budget, accuracy_over_seconds, heat_map, leaderboard, paper_and_ours, ranking
from .claims import forest
from .distributions import correlations, difficulty_histograms, objective_map, refined_bars, target_counts, two_pixels
from .images import examples_by_difficulty, film_strip, image_grid, samples_and_nearest
from .look import colour, marker, style
from .moons import moons
from .speed import roofline, seconds_over_size
from .training import fid_curves, gan_health, module_history
