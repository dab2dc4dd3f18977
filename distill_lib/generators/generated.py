"""`GeneratedSet`: a distilled set that is a generator. Every epoch may draw new images; what is stored are the
weights."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.files import read_tensors, undamaged, write_tensors
from ..core.paths import expanded
from ..core.rng import stream
from ..core.settings import as_dict
from ..data import READERS, Facts, ImageSet
from . import cgan

FORMAT = "distill_lib.GeneratedSet/1"


class GeneratedSet(ImageSet):
    """Images drawn by a generator, `ipc` of every class.

    `images` and `labels` are one sample, drawn from the set's seed: what `all`, `take` and figures show. `epoch(rng)`
    draws another one.

    Args:
        generator: with `family`, `arch` and `draw(labels, rng)`, which gives images in (-1, 1). Not written to.
        facts:     classes, normalisation.
        seed:      of the sample.
    """

    def __init__(self, generator: cgan.Generator, facts: Facts, ipc: int, seed: int = 0):
        if ipc < 1:
            raise UserError(f"ipc {ipc}: at least 1 image per class")
        if len(facts.class_names) != generator.arch.num_classes:
            has = f"{facts.name} has {len(facts.class_names)} classes"
            raise UserError(f"{has}, the generator {generator.arch.num_classes}: they must agree")
        self.generator, self.ipc, self.seed = generator.eval().requires_grad_(False), ipc, seed
        device = next(generator.parameters()).device
        labels = torch.arange(generator.arch.num_classes, device=device).repeat_interleave(ipc)
        blank = torch.zeros(len(labels), *generator.arch.shape, device=device)
        super().__init__(blank, labels, facts)
        self.images = self._draw(stream(seed, "sample"))

    @classmethod
    def made(cls, method: str, real: ImageSet, generator: cgan.Generator, ipc: int, seed: int) -> GeneratedSet:
        """The set that a method distilled from `real`, with its facts."""
        return cls(generator, real.synthetic_facts(method=method, seed=seed), ipc, seed)

    def drawing(self, ipc: int) -> GeneratedSet:
        """The same generator, drawing `ipc` images of every class."""
        return self if ipc == self.ipc else GeneratedSet(self.generator, self.facts, ipc, self.seed)

    def _draw(self, rng: torch.Generator) -> Tensor:
        return cgan.normalised(self.generator.draw(self.labels, rng), self)

    def epoch(self, rng: torch.Generator) -> ImageSet:
        """`ipc` new images of every class."""
        return ImageSet(self._draw(rng), self.labels, self.facts)

    @property
    def nbytes(self) -> int:
        """Bytes of the generator's weights."""
        return sum(t.nbytes for t in self.generator.state_dict().values())

    def to(self, device: torch.device | str) -> GeneratedSet:
        if self.device == torch.device(device):
            return self
        return GeneratedSet(copy.deepcopy(self.generator).to(device), self.facts, self.ipc, self.seed)

    def save(self, path: str | Path) -> Path:
        """Write weights, facts and seed to one `.safetensors` file, complete or not at all."""
        about = {"architecture": json.dumps(as_dict(self.generator.arch)), "ipc": str(self.ipc), "seed": str(self.seed)}
        about |= {"facts": json.dumps(dataclasses.asdict(self.facts))}
        about |= {"format": FORMAT, "family": self.generator.family, "precision": self.generator.precision}
        return write_tensors(expanded(path), self.generator.state_dict(), about)

    @staticmethod
    def load(path: str | Path) -> GeneratedSet:
        """Read what `save` wrote; needs no other file. `ImageSet.load` reads it too.

        Raises: UserError: missing, truncated or foreign file.
        """
        path = expanded(path)
        with undamaged(path, "write a generator with GeneratedSet.save"):
            tensors, about = read_tensors(path)
            if about.get("format") != FORMAT or about.get("family") != "cgan":
                raise UserError(f"{path}: a safetensors file, but not a generator; write one with GeneratedSet.save")
            generator = cgan.rebuild(json.loads(about["architecture"]))
            generator.load_state_dict(tensors)
            generator.precision = about.get("precision", "float32")
            facts = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(about["facts"]).items()}
            return GeneratedSet(generator, Facts(**facts), int(about["ipc"]), int(about["seed"]))


READERS[FORMAT] = GeneratedSet.load
