"""What the SKD notebooks show."""

from __future__ import annotations

import pandas as pd

from .. import data
from ..core import paths
from ..core.device import pick
from ..core.files import atomically
from ..data import ImageSet
from ..experiments import Skip, Task
from ..experiments.compute import Run, distilled
from ..experiments.papers import skd as paper
from ..generators import cgan
from ..generators.generated import GeneratedSet
from ..records import Cell


def artefact(dataset: str, name: str, ending: str = "safetensors") -> str:
    """A file of Figure 2, below the folder of a profile's results."""
    return f"{paper.FIGURE2}/{dataset}_{name}.{ending}".lower().replace(" ", "-").replace("(", "").replace(")", "")


def samples(params: paper.Figure2Parameters) -> dict[str, dict[str, ImageSet]]:
    """Images of every generator: data set -> method -> per_class images of every class, from the same noise for all
    methods.

    Drawn from the generators of Table 1, which are made where `runs/` does not have them, and kept beside the records;
    in the profile `recorded` only what is kept is shown.
    """
    shown: dict[str, dict[str, ImageSet]] = {}
    for dataset in params.datasets:
        for method in params.methods:
            if params.profile == "recorded":
                if file := paths.kept("recorded", artefact(dataset, method)):
                    shown.setdefault(dataset, {})[method] = ImageSet.load(file)
                continue
            task = paper.table1_task(Cell(paper.TABLE1, method, dataset, 1, "ConvNet", paper.ROWS[method]), params)
            if isinstance(task, Skip):
                continue
            real = data.load(task.dataset)[0].to(pick())
            made, _ = distilled(task, 0, Run(params.profile), real)
            images = drawn(made, params.per_class, params.seed)
            images.save(paths.results(params.profile) / artefact(dataset, method))
            looks, file = health(task, real), paths.results(params.profile) / artefact(dataset, "health", "csv")
            atomically(file, lambda part, looks=looks: looks.to_csv(part, index=False))
            shown.setdefault(dataset, {})[method] = images
    return shown


def drawn(made: ImageSet, per_class: int, seed: int) -> ImageSet:
    """`per_class` images of every class from a generator, as uint8 pixels; the noise depends on the seed alone."""
    many = GeneratedSet(made.generator, made.facts, per_class, seed)
    return ImageSet((many.pixels() * 255).round().byte().cpu(), many.labels.cpu(), many.facts)


def health(task: Task, real: ImageSet) -> pd.DataFrame:
    """How the GAN's training went: a row per look."""
    return pd.DataFrame(cgan.train(real, task.config.gan).health)


def health_kept(params: paper.Figure2Parameters) -> dict[str, pd.DataFrame]:
    """The health tables that are kept, by data set."""
    found = {d: paths.kept(params.profile, artefact(d, "health", "csv")) for d in params.datasets}
    return {d: pd.read_csv(file) for d, file in found.items() if file}
