"""U-ViT: network, weights, training, sampling."""

from .network import ARCHITECTURES, UViT, UViTArchitecture, parameter_count
from .sample import Generated, generate, generate_for, to_uint8
from .training import Drawn, StepInputs, TrainedUViT, UViTTraining, backward, fit, initial, noise_loss, place, trained
from .weights import from_state, load, save, surgery
