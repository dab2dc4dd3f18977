"""StyleGAN-XL's generator: layers, network, official weights and how they are read from a pickle."""

from .layers import Layer, design, published_layers
from .network import FullyConnected, StyleGANXL, Synthesis, unit
from .weights import from_tensors, read
