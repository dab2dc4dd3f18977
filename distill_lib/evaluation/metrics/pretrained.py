"""Networks with published weights whose features samples are judged by: ResNets of CIFAR-10, and FID's Inception-v3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...core import weights
from ...core.errors import UserError
from ...core.files import read_tensors, undamaged


class CIFARResNet(nn.Module):
    """ResNet-20 or -56 in the form for CIFAR: 3x3 convolution, three stages of `blocks` with 16, 32 and 64 channels,
    mean, linear.

    Batch norm is folded into the convolutions, whose state dict therefore is not the published one: `load` reads that.
    Source: He et al. 2016, section 4.2, with parameter-free shortcuts (every second pixel, zero channels on both
    sides).
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, blocks: int):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        more = blocks - 1
        stages = [*[(16, 16, 1)] * blocks, (16, 32, 2), *[(32, 32, 1)] * more, (32, 64, 2), *[(64, 64, 1)] * more]
        self.blocks = nn.ModuleList(_Block(*stage) for stage in stages)
        self.classifier = nn.Linear(64, 10)

    @staticmethod
    def load(tensors: dict[str, Tensor]) -> CIFARResNet:
        """From published tensors (`conv1`, `bn1`, `layer1.0.conv1`, ..., `linear`). Raises: UserError: tensors of
        another network."""
        blocks = sum(k.startswith("layer1.") and k.endswith(".conv1.weight") for k in tensors)
        with torch.device("meta"):
            network = CIFARResNet(max(1, blocks))
        state = {f"classifier.{k.rpartition('.')[2]}": v for k, v in tensors.items() if k.startswith("linear.")}
        try:
            names = {"first": ("conv1", "bn1")}
            for i in range(3 * blocks):
                there = f"layer{i // blocks + 1}.{i % blocks}"
                names |= {f"blocks.{i}.conv{j}": (f"{there}.conv{j}", f"{there}.bn{j}") for j in (1, 2)}
            for ours, (conv, norm) in names.items():
                state[f"{ours}.weight"], state[f"{ours}.bias"] = _folded(tensors, conv, norm)
            network.load_state_dict(state, assign=True)
        except (KeyError, RuntimeError) as err:
            raise UserError(f"not the tensors of a ResNet for CIFAR: {err}") from None
        return network.eval().requires_grad_(False)

    def embed(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised by `MEAN` and `STD` to (N, 64)."""
        x = F.relu(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) to (N, 10) logits."""
        return self.classifier(self.embed(x))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.stride, self.new = stride, (outputs - inputs) // 2  # new channels on either side

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
        return F.relu(y + x)


def _folded(tensors: dict[str, Tensor], conv: str, norm: str, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias and the batch norm after it, in one."""
    scale = tensors[f"{norm}.weight"].double() * (tensors[f"{norm}.running_var"].double() + eps).rsqrt()
    weight = tensors[f"{conv}.weight"].double() * scale.view(-1, 1, 1, 1)
    return weight.float(), (tensors[f"{norm}.bias"].double() - tensors[f"{norm}.running_mean"].double() * scale).float()


def cifar_resnet(name: str) -> CIFARResNet:
    """The ResNet-20 or ResNet-56 of CIFAR-10. Raises: UserError: the weights are not here or damaged."""
    file = weights.need(name)
    with undamaged(file, "replace it"):
        return CIFARResNet.load(read_tensors(file)[0])


def inception(tensors: dict[str, Tensor] | None = None) -> nn.Module:
    """FID's Inception-v3: (N, 3, 299, 299) in [-1, 1] to (N, 2048), the last pooled layer.

    Differs from torchvision's in its poolings: averages leave the padding out, and the last block takes a maximum.

    Args:
        tensors: its state dict; by default the published one.
    Raises: UserError: the weights are not here, or of another network.
    Source: Heusel et al. 2017; as in pytorch-fid.
    """
    from torchvision.models import inception as of  # here: every `distill plan` would wait a second

    class Pooled:
        pool = staticmethod(lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))

        def _forward(self, x: Tensor) -> list[Tensor]:
            *others, _ = super()._forward(x)
            return [*others, self.branch_pool(self.pool(x))]

    kinds = (of.InceptionA, of.InceptionC, of.InceptionE)
    a, c, e = (type(f"Pooled{block.__name__}", (Pooled, block), {}) for block in kinds)
    last = type("Last", (e,), {"pool": staticmethod(lambda x: F.max_pool2d(x, 3, stride=1, padding=1))})
    with torch.device("meta"):
        blocks = [of.BasicConv2d, a, of.InceptionB, c, of.InceptionD, e, of.InceptionAux]
        network = of.Inception3(1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
        network.Mixed_7c = last(2048)
    if tensors is None:
        tensors = torch.load(weights.need("Inception"), map_location="cpu", weights_only=True)
    state = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    try:
        missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as err:
        raise UserError(f"not the tensors of FID's Inception: {err}") from None
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise UserError(f"not the tensors of FID's Inception: {len(missing)} are missing, {len(unexpected)} unexpected")
    network.fc = nn.Identity()
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta:  # batch counters, which nothing uses in eval mode
            module, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(module), leaf, torch.zeros((), dtype=torch.int64))
    return network.eval().requires_grad_(False)


def folded(network: nn.Module) -> nn.Module:
    """In place: every `conv` with a `bn` after it (torchvision's BasicConv2d) as one convolution. In eval mode only."""
    for module in network.modules():
        conv, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv, module.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network.requires_grad_(False)
