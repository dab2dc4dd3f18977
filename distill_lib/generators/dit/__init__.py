"""Latent diffusion with a DiT: network, weights, autoencoders, training, drawing."""

from .difffit import TRAINED, difffit
from .drawing import as_set, drawn_pool, first
from .encoded import Latents, Space, latents, resized
from .forecast import Outlook, outlook, say
from .network import (
    FREQUENCIES,
    MLP,
    Architecture,
    Attention,
    Block,
    DiT,
    FinalLayer,
    LabelEmbedder,
    Numerics,
    PatchEmbedder,
    Predict,
    TimestepEmbedder,
    build,
    from_minimax,
    guided,
    image_bytes,
    parameters,
    positions,
)
from .settings import LATENTS, Base, Precision, Sampling, has_published, held
from .training import Model, Taken, architecture, base, trained_file
from .weights import from_config, from_diffusers, infer, read, tensors

__all__ = ["Architecture", "Attention", "Base", "Block", "DiT", "FREQUENCIES", "FinalLayer", "LATENTS", "LabelEmbedder", "Latents", "MLP", "Model", "Numerics", "Outlook", "PatchEmbedder", "Precision", "Predict", "Sampling", "Space", "TRAINED", "Taken", "TimestepEmbedder", "architecture", "as_set", "base", "build", "difffit", "drawn_pool", "first", "from_config", "from_diffusers", "from_minimax", "guided", "has_published", "held", "image_bytes", "infer", "latents", "outlook", "parameters", "positions", "read", "resized", "say", "tensors", "trained_file"]
