"""U-ViT: network, weights, training, sampling."""

from .network import ARCHITECTURES, Architecture, UViT, parameter_count
from .sample import Generated, generate, generate_for, to_uint8
from .training import (
    PIECE_MB,
    Drawn,
    Fit,
    Monitor,
    StepInputs,
    TrainedUViT,
    Training,
    at_once,
    backward,
    fit,
    image_bytes,
    initial,
    memory_mb,
    noise_loss,
    place,
    trained,
)
from .weights import architecture_of, find, from_state, load, read, save, surgery
