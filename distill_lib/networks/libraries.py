"""Any classifier of torchvision or timm, or of your own, as an evaluation network: "torchvision:resnet18",
"timm:vit_tiny_patch16_224", "own:<name>"."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ..core.errors import UserError, unknown
from .base import Seeded, Shape


class Foreign(Seeded):
    """A model of another library, split into embedding and last linear layer.

    Its initial weights are the library's own initialisation, under a seed drawn from the generator. Randomness while it
    trains (dropout, stochastic depth) comes from the network's own seed.
    """

    def __init__(
        self, build: Callable[[Shape, int], nn.Module], shape: Shape, num_classes: int, name: str, rng: torch.Generator
    ):
        super().__init__(shape, num_classes)
        self.name, self._build = name, build
        self.seed.fill_(int(torch.randint(2**40, (), generator=rng)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.seed))
            model = build(shape, num_classes)
            if any(nn.parameter.is_lazy(p) for p in model.parameters()):  # drawn now, not in the first step
                with torch.no_grad():
                    model.eval()(torch.zeros(1, *shape))
                model.train()
        linear = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        found = [(path, layer) for path, layer in linear if layer.out_features == num_classes]
        if not found:
            raise UserError(f"{name} does not end in a linear layer with one output per class: choose another network")
        self._path, self.classifier = found[-1]
        self.body = model
        self._replace_last(nn.Identity())

    def _replace_last(self, layer: nn.Module) -> None:
        parent, _, attribute = self._path.rpartition(".")
        setattr(self.body.get_submodule(parent), attribute, layer)

    def embed(self, x: Tensor) -> Tensor:
        with self.dropout_stream(x):
            return self.body(x)

    def redraw(self, rng: torch.Generator) -> Self:
        self.load_state_dict(Foreign(self._build, self.shape, self.num_classes, self.name, rng).state_dict())
        return self

    def check(self) -> None:
        """Raise a `UserError` unless an image of the network's shape gives an embedding, and this and the last layer
        what the whole model gives."""
        image, last, problem = torch.linspace(-1, 1, math.prod(self.shape)).view(1, *self.shape), self.classifier, ""
        training = self.training
        try:
            with torch.no_grad():
                embedding = self.eval().embed(image)
                self._replace_last(last)
                logits = self.body(image)
                self._replace_last(nn.Identity())
            if not isinstance(embedding, Tensor) or embedding.shape != (1, last.in_features):
                shape = tuple(getattr(embedding, "shape", ()))
                problem = f"it gives {shape} before its last layer, not (1, {last.in_features})"
            elif not torch.allclose(last(embedding), logits, 1e-4, 1e-5):
                problem = "its last linear layer is followed by others, such as a softmax: leave them out"
        except Exception as err:  # whatever another library raises for a size it cannot take
            problem = f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else 'no message'}"
        self.train(training)
        if problem:
            _, height, width = self.shape
            most = "" if self.name.startswith("own:") else "; most models of its library are made for 224x224"
            raise UserError(f"{self.name} cannot take {height}x{width} images ({problem}){most}")


def torchvision_model(name: str) -> Callable[[Shape, int], nn.Module]:
    from torchvision import models  # here: torchvision takes more than a second to import

    names = models.list_models(module=models)
    if name not in names:
        raise unknown("torchvision classifier", name, names)

    def build(shape: Shape, num_classes: int) -> nn.Module:
        options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        if name.startswith("vit_"):
            options["image_size"] = shape[1]
        try:
            model = models.get_model(name, weights=None, num_classes=num_classes, **options)
        except (AssertionError, ValueError) as err:
            raise UserError(f"torchvision:{name} cannot take {shape[1]}x{shape[2]} images: {err}") from None
        if shape[0] != 3:
            _change_channels(model, shape[0])
        return model

    return build


def timm_model(name: str) -> Callable[[Shape, int], nn.Module]:
    import timm  # here: it takes more than a second to import

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:12] or timm.list_models("*resnet*")[:12]
        raise UserError(f"unknown timm model {name!r}: timm.list_models() has them all, for example {', '.join(close)}")

    def build(shape: Shape, num_classes: int) -> nn.Module:
        options = {"pretrained": False, "num_classes": num_classes, "in_chans": shape[0]}
        try:
            return timm.create_model(name, img_size=shape[1:], **options)
        except TypeError:  # convolutional networks have no image size
            return timm.create_model(name, **options)
        except (AssertionError, ValueError) as err:
            raise UserError(f"timm:{name} cannot take {shape[1]}x{shape[2]} images: {err}") from None

    return build


def _change_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one that takes another number of channels, with the library's default
    initialisation."""
    path, old = next((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, bias=old.bias is not None
    )
    setattr(model.get_submodule(parent), attribute, new)


_OWN: dict[str, Callable[[Shape, int], nn.Module]] = {}


def own(name: str, build: Callable[[Shape, int], nn.Module]) -> str:
    """Make a classifier of yours known, until Python ends, wherever a network is named.

        mine = networks.own("two layers", lambda shape, classes: nn.Sequential(...))
        evaluate(images, test, "vico_dsa", mine)

    Args:
        name:  what records and checkpoints tell it from others by: give a changed network another one.
        build: from (C, H, W) and K to a new module that takes (N, C, H, W) normalised images to (N, K) logits, K being
               the outputs of its last linear layer. Its weights are drawn from torch's global generator, which is
               seeded for it.
    Returns: the network's name, "own:<name>".
    Raises: UserError: no name.
    """
    if not name.strip():
        raise UserError("a network of your own needs a name")
    _OWN[name] = build
    return f"own:{name}"


def own_model(name: str) -> Callable[[Shape, int], nn.Module]:
    if name not in _OWN:
        known = ", ".join(f"own:{other}" for other in _OWN) or "none yet"
        raise UserError(f"unknown network own:{name}: make it known with networks.own(name, build); known: {known}")
    return _OWN[name]


LIBRARIES = {"torchvision": torchvision_model, "timm": timm_model, "own": own_model}
