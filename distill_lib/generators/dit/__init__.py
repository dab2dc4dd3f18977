"""Latent diffusion with a DiT: network, weights, autoencoders, training, drawing."""

from .difffit import TRAINED, difffit
from .drawing import as_set, drawn_pool, first
from .encoded import EncodedSet, LatentSpace, latents, resized
from .forecast import Outlook, outlook, say
from .network import Architecture, DiT, TimestepEmbedder, build, guided, image_bytes, parameter_count, positions
from .settings import Pretraining, Sampling, has_published, peak_bytes
from .training import Model, Steps, Taken, architecture, base, trained_file
from .weights import from_config, from_diffusers, from_minimax, infer, read, tensors
