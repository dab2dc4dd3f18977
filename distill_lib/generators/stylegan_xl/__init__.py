"""StyleGAN-XL's generator: layers, network, official weights and how they are read from a pickle."""

from .layers import Layer, design, plan
from .network import FullyConnected, StyleGANXL, Synthesis, unit
from .weights import from_tensors, read, read_plan, to_tensors
