"""Latent diffusion with a DiT: network, weights, autoencoders, training, drawing."""

from .difffit import DIFFFIT, difffit
from .drawing import as_set, drawn_pool, first
from .encoded import latents
from .network import DiT, DiTArchitecture, TimestepEmbedder, guided, positions
from .settings import Pretraining, Sampling, has_published
from .training import Model, architecture, base, trained_file
from .weights import read
