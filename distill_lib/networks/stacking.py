"""Several networks of one architecture as one: weights stacked along a first dimension, one call for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.native import convnet
from . import fast
from .base import Network, Seeded


class Stack:
    """n networks trained at once, each as it would be alone, to rounding.

        nets = networks.stack([networks.fresh("ConvNet", real, stream(0, i)) for i in range(5)])
        logits = nets.forward(nets.params, x)       # x (n, B, C, H, W) -> (n, B, K), network i on batch i

    On a CPU the networks run one after another, ConvNets by the compiled kernel: that took a third of the time of their
    layers and a fifth of that of grouped convolutions (five networks, 20 images each). Running them as one would gain
    little more: at one image per class, the least that is trained on, four fifths of a step are spent inside the
    kernel, which takes a quarter more time per image than at ten. On a GPU they run as one, under `vmap`.

    Args:
        precision: of multiplications; logits are float32. On a core that multiplies bfloat16, a step of AlexNet, VGG11,
                   ResNet18 and ViTCIFAR takes 0.5 to 0.65 of its time in float32; a ConvNet runs its layers instead of
                   the kernel, which is slower. An instance norm of small maps enlarges what is rounded: gradients of an
                   untrained ResNet18 or VGG11 differ from those in float32 by half their norm. Ten VGG11s trained on
                   IPC 1 of FashionMNIST for 50 epochs ended 0.1 ± 1.0 points lower, so small effects are not excluded.

    Attributes:
        params:  name -> (n, ...) tensor, a leaf that requires gradients.
        buffers: name -> (n, ...) tensor: batch norm's running statistics, dropout's seeds. Updated in place in train
        mode.
    """

    def __init__(self, networks: Sequence[Network], precision: Literal["float32", "bfloat16"] = "float32"):
        if not networks:
            raise UserError("stack: at least one network")
        first = networks[0]
        for other in networks[1:]:
            if (other.name, other.shape, other.num_classes) != (first.name, first.shape, first.num_classes):
                both = f"{first.name} for {first.shape} and {other.name} for {other.shape}"
                raise UserError(f"stack: {both} are two architectures; give networks of one")
        self.n, self.precision = len(networks), precision
        self.params, self.buffers = stack_module_state(list(networks))
        self.blocks = fast.blocks_of(first)
        self.skeleton = copy.deepcopy(first).to("meta")  # the layers without their numbers

    def __len__(self) -> int:
        return self.n

    def train(self, mode: bool = True) -> Stack:
        self.skeleton.train(mode)
        return self

    def eval(self) -> Stack:
        return self.train(False)

    def forward(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """(n, B, C, H, W) images, or (B, C, H, W) that every network sees, to (n, B, K) logits. A function of
        `params`."""
        shared = x.ndim == 4
        if not shared and len(x) != self.n:
            shapes = f"({self.n}, B, C, H, W) or (B, C, H, W)"
            raise UserError(f"stack of {self.n} networks: images must be {shapes}, got {tuple(x.shape)}")
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self._logits(params, x, shared).float()

    def _logits(self, params: dict[str, Tensor], x: Tensor, shared: bool) -> Tensor:
        if x.is_cuda and not self._keeps_state():
            return vmap(self._one, in_dims=(0, 0, None if shared else 0))(params, self.buffers, x)
        rows = [dict(zip(params, row, strict=True)) for row in zip(*(p.unbind() for p in params.values()), strict=True)]
        state = [{k: b[i] for k, b in self.buffers.items()} for i in range(self.n)]  # views: what is written stays
        return torch.stack([self._one(rows[i], state[i], x if shared else x[i]) for i in range(self.n)])

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(self.params, x)

    def network(self, i: int) -> Network:
        """Network i on its own, a copy."""
        device = next(iter(self.params.values())).device
        alone = copy.deepcopy(self.skeleton).to_empty(device=device)
        alone.load_state_dict({k: v[i].detach() for k, v in {**self.params, **self.buffers}.items()})
        return alone

    def _one(self, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        parameters = self.blocks.parameters(params) if self.blocks else []
        if convnet.usable(self.blocks, x, parameters):
            features = convnet.run(self.blocks, x, parameters)
            return F.linear(features, params["classifier.weight"], params["classifier.bias"])
        return functional_call(self.skeleton, (params, buffers), (x,))

    def _keeps_state(self) -> bool:
        """Whether a pass writes buffers or draws random numbers, which vmap cannot do network by network."""
        stateful = (Seeded, nn.modules.batchnorm._BatchNorm)
        return self.skeleton.training and any(isinstance(m, stateful) for m in self.skeleton.modules())


def stack(networks: Sequence[Network], precision: Literal["float32", "bfloat16"] = "float32") -> Stack:
    """Networks of one architecture as a `Stack`; they are copied."""
    return Stack(networks, precision)
