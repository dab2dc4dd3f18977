"""Distilled sets to look at: every method's images side by side, and how a set changes while it is distilled.

The notebooks make the files of images, which lie beside the records; pages only show them. A file says what it was made
with, and is made again for other settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import data, records
from ..core import paths, store
from ..core.device import pick
from ..core.loop import Loop
from ..data import ImageSet
from ..evaluation import evaluate
from ..experiments import Skip, Task
from ..experiments.compute import Run, distilled
from ..experiments.definition import at_budget
from ..experiments.papers import skd as paper
from ..figures.images import stretched
from ..generators.generated import GeneratedSet
from ..methods import METHODS
from ..records import Cell
from .numbers import number
from .skd import artefact, drawn

Shelf = dict[str, tuple[ImageSet, str]]  # method -> its set, and its accuracy in words
EPOCHS = {"smoke": 10, "small": 100, "full": 1000}  # of the network that is trained at each moment of a time-lapse


def _file(profile: str, experiment: str, dataset: str, method: str, ipc: int = 1) -> Path:
    stem = Cell("", method, dataset, ipc, "", "").stem
    return paths.results(profile) / experiment / f"{stem}.safetensors"


def _task(method: str, dataset: str, ipc: int, params: Any) -> Task | Skip:
    """Table 1's; at the small budget also settings that Table 1 leaves out: pictures need no evaluation."""
    cell = Cell(paper.TABLE1, method, dataset, ipc, "ConvNet", paper.ROWS.get(method) or paper.BESIDE[method][0])
    if params.profile == "small":
        config = at_budget(METHODS[method].paper_config(dataset, ipc), "small")
        return Task(cell, config, dataset, cell.protocol, seed=params.seed)
    return paper.table1_task(cell, params)


def shelves(params: paper.GalleryParameters) -> dict[tuple[str, int], Shelf]:
    """Sets of Table 1 as pictures, by data set and images per class; those that are kept, or in a profile that computes
    all that it has.

    The accuracy is the record's under the one protocol for all rows. A generator's images are its first draws.
    """
    found: dict[tuple[str, int], Shelf] = {}
    for dataset in params.datasets:
        for ipc in params.ipcs:
            shelf: Shelf = {}
            for method in params.methods:
                for profile in paths.shown(params.profile):
                    if shown := _one(method, dataset, ipc, profile, params):
                        shelf[method] = shown, _accuracy(method, dataset, ipc, profile)
                        break
            if shelf:
                found[dataset, ipc] = shelf
    return found


def missing(
    params: paper.GalleryParameters, found: dict[tuple[str, int], Shelf]
) -> dict[tuple[str, int], dict[str, list[str]]]:
    """The methods that the shelves lack, by data set and images per class and then by the reason."""
    out: dict[tuple[str, int], dict[str, list[str]]] = {}
    for (dataset, ipc), shelf in found.items():
        for method in params.methods:
            if method not in shelf:
                out.setdefault((dataset, ipc), {}).setdefault(_reason(method, dataset, ipc, params), []).append(method)
    return out


def _reason(method: str, dataset: str, ipc: int, params: paper.GalleryParameters) -> str:
    """Why a method has no images."""
    own = paper.ROWS.get(method) or paper.BESIDE[method][0]
    if any(records.load(Cell(paper.TABLE1, method, dataset, ipc, "ConvNet", own), p) for p in paths.RESULT_PROFILES):
        return "measured, but the images were not kept"
    task = _task(method, dataset, ipc, params) if params.profile == "smoke" else None
    return task.reason if isinstance(task, Skip) else "not distilled yet"


def _one(method: str, dataset: str, ipc: int, profile: str, params: paper.GalleryParameters) -> ImageSet | None:
    """A method's set as pictures: kept, drawn by Figure 2's generators, or made now."""
    file = _file(profile, paper.GALLERY, dataset, method, ipc)
    task = None if params.profile == "recorded" else _task(method, dataset, ipc, params)
    asked = _asked(params, task)
    if (kept := _kept(file, params, asked)) is not None:
        return kept
    drawn_file = paths.results(profile) / artefact(dataset, method)
    if method in paper.GENERATORS and params.seed == type(params)().seed and drawn_file.exists():
        many = ImageSet.load(drawn_file)
        return many.subset(torch.cat([members[:ipc] for members in many.class_index]))
    if not isinstance(task, Task):
        return None
    real = data.load(task.dataset)[0].to(pick())
    made, _ = distilled(task, 0, Run(profile), real)
    if isinstance(made, GeneratedSet):
        made = drawn(made, ipc, params.seed)
    shown = pictures(made, asked=asked)
    shown.save(file)
    return shown


def _asked(params: Any, task: Task | Skip | None) -> dict[str, Any]:
    """What the images of a file depend on, which stands in it; without the task's settings where nothing is made."""
    asked = {name: getattr(params, name) for name in ("seed", "moments") if hasattr(params, name)}
    return asked | ({"task": store.digest(task.key)} if isinstance(task, Task) else {})


def _kept(file: Path, params: Any, asked: dict[str, Any]) -> ImageSet | None:
    """A file's set, if it is there and is what is asked for; one that does not say was made with the default
    parameters."""
    if not file.exists():
        return None
    made = ImageSet.load(file)
    stored = made.facts.extra.get("asked", asked | _asked(type(params)(), None))
    return made if {**stored, **asked} == stored else None


def pictures(made: ImageSet, **extra: Any) -> ImageSet:
    """A set as uint8 pixels, each image over its own range of values: distilled images leave that of photographs."""
    shown = (stretched(made) * 255).round().byte().cpu()
    return ImageSet(shown, made.hard_labels.cpu(), made.synthetic_facts(**extra))


def _accuracy(method: str, dataset: str, ipc: int, profile: str) -> str:
    record = (
        records.load(Cell(paper.TABLE1, method, dataset, ipc, "ConvNet", paper.FAIR), profile)
        if profile != "smoke"
        else None
    )
    return number(record, profile) if record else "not run"


def films(params: paper.TimelapseParameters) -> dict[tuple[str, str], ImageSet]:
    """Sets of one image per class at moments of their distillation, by data set and method.

    Returns: images moment after moment, class by class; `facts.extra` has `steps` and `accuracy_pct`, that of one
        network trained on the set of each moment for `EPOCHS` under the one protocol for all rows.
    """
    found = {}
    for dataset in params.datasets:
        for method in params.methods:
            for profile in paths.shown(params.profile):
                file = _file(profile, paper.TIMELAPSE, dataset, method)
                task = None if params.profile == "recorded" else _task(method, dataset, 1, params)
                asked = _asked(params, task)
                made = _kept(file, params, asked)
                if made is None and isinstance(task, Task):
                    made = _filmed(task, params)
                    made.facts.extra["asked"] = asked
                    made.save(file)
                if made is not None:
                    found[dataset, method] = made
                    break
    return found


def _filmed(task: Task, params: paper.TimelapseParameters) -> ImageSet:
    real, test = (part.to(pick()) for part in data.load(task.dataset))
    frames: dict[int, ImageSet] = {}
    total = task.config.iterations * getattr(task.config, "outer_loop", 1)
    wanted = {round(total * (i / (params.moments - 1)) ** 2) for i in range(params.moments)}  # most at the start

    def keep(name: str, step: int, live: dict[str, Any]) -> None:
        if name == "distill" and step in wanted:
            frames[step] = ImageSet.from_classes(live["synthetic"].detach().clone(), like=real)

    METHODS[task.maker].distill(real, task.config, seed=task.seed, loop=Loop(watch=keep, bar=False))
    protocol = f"{paper.FAIR}@{EPOCHS[params.profile]}ep"
    accuracy = [
        evaluate(frame, test, protocol, "ConvNet", num_eval=1, seed=params.seed).mean_pct for frame in frames.values()
    ]
    images = torch.cat([pictures(frame).images for frame in frames.values()])
    labels = torch.cat([frame.hard_labels.cpu() for frame in frames.values()])
    facts = real.synthetic_facts(
        method=task.maker,
        steps=list(frames),
        accuracy_pct=[round(value, 2) for value in accuracy],
        protocol=protocol,
        made_by=records.provenance(real.device),
    )
    return ImageSet(images, labels, facts)
