"""Train one network on a whole real set, once for every method that asks for it.

Herding, K-Center and Forgetting choose images by what such a network has learned. The network and what it forgot while
it learned are kept in `runs/`, under a hash of the settings, the data and the seed, so three methods train it once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import paths, store
from ..core.batches import Batches
from ..core.device import chunked, send
from ..core.errors import UserError
from ..core.files import atomically
from ..core.loop import Loop
from ..core.rng import stream
from ..core.settings import as_dict, replace, settings
from ..data import ImageSet, augment
from . import fast, names

VERSION = 1  # of the recipe: part of its file's name; raise those of its methods too


@settings
class Training:
    """How a network is trained on the real set. The papers name the network and leave the rest open; these are our
    values."""

    network: str = "ConvNet"
    epochs: int = 50
    batch: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_at: float = 0.5  # share of the steps after which lr is a tenth
    dsa: str = "none"  # augmentation with parameters per image; "none" for none
    per_class: int | None = None  # real images per class trained on and chosen from; None for all of them

    def smoke(self, ipc: int) -> Training:
        return self._shorter(epochs=4, per_class=max(60, ipc))

    def small(self, ipc: int) -> Training:
        return self._shorter(epochs=8, per_class=max(300, ipc))

    def _shorter(self, epochs: int, per_class: int) -> Training:
        fewer = min(self.per_class or per_class, per_class)
        return replace(self, epochs=min(self.epochs, epochs), batch=64, per_class=fewer)

    def work(self, num_classes: int, images: int) -> float:
        """Images through the network, a backward pass counted as two forward ones."""
        return (3 * self.epochs + 1) * min(images, num_classes * (self.per_class or images))


@dataclasses.dataclass(frozen=True)
class ReferenceNetwork:
    """A network after training, with what happened to each image on the way.

    Attributes:
        network:   in eval mode, no gradients.
        index:     (n,) positions in the real set of the images trained on, on the CPU.
        forgotten: (n,) int64: how often the image went from classified right to wrong between two visits.
        learned:   (n,) bool: whether it was ever classified right.
    """

    network: nn.Module
    index: Tensor
    forgotten: Tensor
    learned: Tensor

    def classes(self, real: ImageSet) -> list[Tensor]:
        """For each class, the places (n_k,) of its images in `index`."""
        labels = real.hard_labels.cpu()[self.index]
        return [torch.nonzero(labels == k).flatten() for k in range(real.num_classes)]


def on_real(real: ImageSet, cfg: Training, seed: int, loop: Loop | None = None) -> ReferenceNetwork:
    """The network of these settings trained on `real`: from `runs/feature_networks` where it is, else trained and put
    there.

    Raises: TimeUp: the loop's deadline passed (the state is saved where the loop has a folder).
    """
    loop = loop or Loop()
    file = weights_file(real, cfg, seed)
    with store.once(file, "feature network", loop, real.device) as missing:
        return _train(file, real, cfg, seed, loop) if missing else _read(file, real, cfg)


def weights_file(real: ImageSet, cfg: Training, seed: int) -> Path:
    """Where the trained network lies."""
    units = [list(real.facts.mean), list(real.facts.std)]
    if real.whitening is not None:
        units.append(real.whitening.sha256())
    key = {"training": as_dict(cfg), "data": real.sha256(), "facts": units, "seed": seed, "version": VERSION}
    name = f"{cfg.network}-{real.facts.name}-{store.digest(key)}.safetensors"
    return paths.runs() / "feature_networks" / name


def _train(file: Path, real: ImageSet, cfg: Training, seed: int, loop: Loop) -> ReferenceNetwork:
    index = candidates(real, cfg.per_class, seed)
    place, n = index.to(real.device), len(index)
    rng = stream(seed, "feature network")
    network = names.fresh(cfg.network, real, rng).to(real.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    dsa = augment.dsa(cfg.dsa)
    batches = Batches(n, cfg.batch)
    was_right, learned = torch.zeros(2, n, dtype=torch.bool, device=real.device)
    forgotten = torch.zeros(n, dtype=torch.int64, device=real.device)
    live = {"network": network, "optimizer": optimizer, "rng": rng, "order": batches.order}
    live |= {"was_right": was_right, "learned": learned, "forgotten": forgotten}
    total = cfg.epochs * batches.steps_per_epoch
    for step in loop.steps("feature_network", total, live):
        here = send(batches.index(step, rng), real.device)
        images, _ = real.take(place[here])
        labels = real.hard_labels[place[here]]
        images = dsa(images, rng)
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * (1.0 if step < cfg.decay_at * total else 0.1)
        logits = names.logits(network, images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = logits.detach().argmax(1) == labels
        count_forgetting(here, right, was_right, learned, forgotten)
        loop.log(loss=loss, train_accuracy_pct=100 * right.float().mean())
    tensors = {f"network.{k}": v.cpu().contiguous() for k, v in network.state_dict().items()}
    tensors |= {"index": index, "forgotten": forgotten.cpu(), "learned": learned.cpu()}
    atomically(file, lambda part: save_file(tensors, part))
    store.forget(loop, "feature_network")
    return ReferenceNetwork(network.eval().requires_grad_(False), index, forgotten.cpu(), learned.cpu())


def _read(file: Path, real: ImageSet, cfg: Training) -> ReferenceNetwork:
    try:
        saved = load_file(file)
        network = names.fresh(cfg.network, real, stream(0, "overwritten")).to(real.device)
        network.load_state_dict({k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")})
        return ReferenceNetwork(
            network.eval().requires_grad_(False), saved["index"], saved["forgotten"], saved["learned"]
        )
    except (SafetensorError, OSError, KeyError, RuntimeError) as err:
        raise UserError(f"{file}: damaged feature network ({err}); delete it to train it again") from None


def count_forgetting(here: Tensor, right: Tensor, was_right: Tensor, learned: Tensor, forgotten: Tensor) -> None:
    """Note one visit to the images at places `here`, in place: `right` says which of them were classified right.

    Source: Toneva et al. 2019: a forgetting event is right at one visit and wrong at the next.
    """
    forgotten[here] += was_right[here] & ~right
    learned[here] |= right
    was_right[here] = right


def candidates(real: ImageSet, per_class: int | None, seed: int) -> Tensor:
    """Positions (n,) of the images to train on: all, or `per_class` random ones of every class (all of a smaller
    one)."""
    if per_class is None:
        return torch.arange(len(real))
    rng = stream(seed, "candidates")
    drawn = [members[torch.randperm(len(members), generator=rng)[:per_class]] for members in real.class_index]
    return torch.cat(drawn).sort().values


def features(network: nn.Module, real: ImageSet, index: Tensor, batch: int = 256) -> Tensor:
    """(n, D) float32 embeddings of the images at `index`, unaugmented."""

    @torch.no_grad()
    def embed(part: Tensor) -> Tensor:
        return fast.embed(network, real.take(part)[0]).float()

    return chunked(embed, index.to(real.device), size=batch)
