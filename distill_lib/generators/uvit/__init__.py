"""U-ViT: network, weights, training, sampling."""

from .network import ARCHITECTURES, Architecture, Attention, Block, Mlp, Patches, UViT, parameters, sinusoids
from .sample import Generated, generate, generate_for, to_uint8
from .training import (
    PIECE_MB,
    Fit,
    Monitor,
    StepInputs,
    Trained,
    Training,
    at_once,
    backward,
    fit,
    image_bytes,
    initial,
    memory_mb,
    noise_loss,
    place,
    rate,
    train,
    trained,
)
from .weights import architecture_of, find, from_state, load, read, save, surgery

__all__ = ["ARCHITECTURES", "Architecture", "Attention", "Block", "Fit", "Generated", "Mlp", "Monitor", "PIECE_MB", "Patches", "StepInputs", "Trained", "Training", "UViT", "architecture_of", "at_once", "backward", "find", "fit", "from_state", "generate", "generate_for", "image_bytes", "initial", "load", "memory_mb", "noise_loss", "parameters", "place", "rate", "read", "save", "sinusoids", "surgery", "to_uint8", "train", "trained"]
