"""Make the sets of a cell, evaluate them, and put what was measured into a record."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import data, records
from ..core import paths, store, weights
from ..core.device import pick
from ..core.errors import TimeUp, UserError
from ..core.loop import Loop
from ..core.progress import Activity, Spent
from ..core.rng import stream
from ..core.settings import as_dict, replace
from ..data import ImageSet
from ..evaluation import Evaluation, evaluate
from ..evaluation.metrics.features import PRETRAINED
from ..evaluation.metrics.generative import Scores
from ..methods import METHODS, optional
from ..networks.reference import Training
from ..records import Cell, Record
from .definition import Task
from .registry import experiment
from .state import missing_sets


def stage1(task: Task) -> dict[str, Any]:
    """What is made before the task's sets and shared with other cells, with its settings: {"conditional GAN": ...}."""
    return optional(METHODS[task.maker], "stage1")(task.config)


@dataclass(frozen=True)
class SharedPart:
    """Work that several cells share under one `key`: a stage before the sets, or a distilled set."""

    key: str
    what: str
    settings: Any
    stage: bool


def shared_parts(task: Task, index: int) -> list[SharedPart]:
    """What has to be made before set `index` of a task can be evaluated, in order; the set itself comes last."""
    parts = []
    for what, settings in stage1(task).items():
        # the stages other than a training have their seed among their settings
        seed = task.seed + index if isinstance(settings, Training) else None
        digest = store.digest([task.dataset, what, as_dict(settings), seed])
        parts.append(SharedPart(f"{what.replace(' ', '-')}-{digest}", what, settings, stage=True))
    method, config = METHODS[task.maker], as_dict(task.config)
    if optional(method, "EVERY_IPC"):
        config["ipc"] = None
    key = f"set-{store.digest([task.maker, config, task.dataset, task.seed + index, method.VERSION])}"
    return [*parts, SharedPart(key, f"set of {task.maker}", task.config, stage=False)]


def made(profile: str) -> set[str]:
    """Keys of the shared parts that were made under this `runs` folder."""
    folder = paths.runs() / profile / "made"
    return {f.name for f in folder.iterdir()} if folder.is_dir() else set()


def _note_made(task: Task, index: int, profile: str) -> None:
    folder = paths.runs() / profile / "made"
    folder.mkdir(parents=True, exist_ok=True)
    for part in shared_parts(task, index):
        (folder / part.key).touch()


@functools.lru_cache(maxsize=4)
def load_on(dataset: str, device: str) -> tuple[ImageSet, ImageSet]:
    """A data set's training and test images on a device."""
    real, test = data.load(dataset)
    return real.to(device), test.to(device)


@dataclass(frozen=True)
class Run:
    """How cells are computed.

    Attributes:
        profile:  whose folder of `runs/` keeps what is made.
        deadline: `time.monotonic()` after which to save and raise `TimeUp`; None for no limit.
        device:   as `core.device.pick` takes it.
        listener: is told about the progress.
    """

    profile: str
    deadline: float | None = None
    device: str | None = None
    listener: Activity = field(default_factory=Activity)

    def load(self, dataset: str) -> tuple[ImageSet, ImageSet]:
        """A data set's training and test images on the run's device."""
        return load_on(dataset, str(pick(self.device)))

    def loop(self, folder: Path | None, key: str) -> Loop:
        """A long computation of this run, with its checkpoints in `folder`."""
        return Loop(folder, key=key, deadline=self.deadline, tell=self.listener.tell, title=self.listener.title)


def compute(
    task: Task,
    run: Run,
    known: Record | None = None,
    sets: int | None = None,
    keep: Callable[[Record], Any] | None = None,
) -> Record:
    """Distil and evaluate one cell, set by set; resumes where an interrupted run stopped, and takes sets that other
    cells made.

    Sets are independent: computed one after the other, on different days, they give the same numbers as all at once,
    bit for bit on the same CPU with the same number of threads.
    A method may have a `measure(synthetic, test, config)` of its own, such as the accuracy of a kernel regression: what
    it returns, lists by name, goes into the record's metrics.

    Args:
        known: the cell's record so far: its sets are not computed again.
        sets:  how many of the task's sets the record should hold, from the first on; None for all.
        keep:  called with the record after every set.
    Returns: the record, not yet written.
    """
    real, test = run.load(task.dataset)
    key = {**task.key, "data_sha256": {"train": real.sha256(), "test": test.sha256()}}
    folder = paths.runs() / run.profile / "work" / task.cell.experiment / f"{task.cell.stem}-{store.digest(key)}"
    record = known
    for i in missing_sets(task, known, sets):
        one = _set(_measured_as(record, task), i, run, key, folder / f"set{i}")
        record = one if record is None else record.joined(one)
        if keep:
            keep(record)
            shutil.rmtree(folder / f"set{i}", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _measured_as(record: Record | None, task: Task) -> Task:
    """The task, with the feature space that the record's sets were measured in where its settings leave that open:
    distances of two spaces cannot be joined.

    Raises: UserError: the space needs weights that are not here.
    """
    scores = getattr(task.scores, "scores", task.scores)  # those of samples may be a part
    if record is None or not isinstance(scores, Scores) or scores.extractor != "auto":
        return task
    name = next((k.removeprefix("FID-").rpartition("-")[0] for k in record.metrics if k.startswith("FID-")), "auto")
    if name in PRETRAINED and weights.find(name) is None:
        raise UserError(
            f"{record.cell}: its sets so far were measured in the features of {name}, whose weights are not here: put "
            f"{weights.FILES[name].names[0]} into {weights.weights_place()}"
        )
    scores = replace(scores, extractor=name)
    return dataclasses.replace(
        task, scores=scores if isinstance(task.scores, Scores) else replace(task.scores, scores=scores)
    )


def _set(task: Task, index: int, run: Run, key: dict[str, Any], folder: Path) -> Record:
    """The record of one of a task's sets; `folder` keeps checkpoints and costs until the record is written."""
    real, test = run.load(task.dataset)
    place, method, digest = real.device, METHODS[task.maker], store.digest(key)
    notes = list(real.facts.notes)
    if task.tested:
        test = test.subset(test.draw_index(task.tested, stream(0, "tested")).flatten())
        notes.append(f"{task.tested} test images of every class are tested on")
    seeds = {"distill": task.seed + index, "evaluate": task.seed + 1000 * index}
    spent = Spent(folder / "seconds.json")
    synthetic, making = distilled(task, index, run, real)
    spent.include("distill", making)
    with spent.phase("evaluate", place):
        found = [
            evaluate(
                synthetic,
                test,
                task.protocol,
                network=network,
                num_eval=task.num_eval,
                seed=seeds["evaluate"],
                loop=run.loop(folder / network, digest),
                real=real,
            )
            for network in task.judges
        ]
        evaluation = found[0] if len(found) == 1 else _mean(found)
        metrics = {
            "bytes": synthetic.nbytes,
            **evaluation.metrics,
            **optional(method, "measure")(synthetic, test, task.config),
        }
    if task.scores:
        with spent.phase("measure", place):
            measure = experiment(task.cell.experiment).measure
            metrics |= measure(task, synthetic, real, test, run.loop(folder / "scores", digest))
        metrics["distill_seconds"] = [spent.seconds["distill"]]
        if place.type == "cpu":  # what other work on the machine lengthens least
            metrics["distill_cpu_seconds"] = [spent.cpu_seconds["distill"]]
    return Record(
        cell=task.cell,
        test_accuracy_pct=[float(v) for v in evaluation.test_accuracy_pct],
        sets=[index] * len(evaluation.test_accuracy_pct),
        key=key,
        metrics=metrics,
        seconds=_by_phase(spent.seconds, spent),
        cpu_seconds=_by_phase(spent.cpu_seconds, spent),
        joules=_by_phase(spent.joules, spent),
        memory_mb=round(spent.memory_mb),
        shared=making.shared,
        made_by={
            **records.provenance(place),
            "data": real.facts.name,
            "data_notes": notes,
            "seeds": {k: [v] for k, v in seeds.items()},
        },
    )


def _by_phase(values: dict[str, float], spent: Spent) -> dict[str, float]:
    """Seconds or joules of every phase; nothing if a phase has none."""
    return {k: round(v, 2) for k, v in values.items()} if values.keys() == spent.seconds.keys() else {}


def _mean(found: list[Evaluation]) -> Evaluation:
    """Several architectures as one: number i is the mean over their networks i; metrics keep each network's own."""
    each = [e.test_accuracy_pct for e in found]
    metrics = {f"accuracy_pct, {e.network}": e.test_accuracy_pct for e in found}
    metrics |= {f"train_loss, {e.network}": e.metrics["train_loss"] for e in found}
    means = [sum(v) / len(v) for v in zip(*each, strict=True)]
    return dataclasses.replace(found[0], test_accuracy_pct=means, metrics=metrics)


def distilled(task: Task, index: int, run: Run, real: ImageSet) -> tuple[ImageSet, Spent]:
    """A distilled set of a task, made once and kept in `runs/`: cells that differ only in protocol or network share it.

    A generator serves every ipc: cells that differ in it share the generator too.

    Args:
        index: which of the task's sets; each has its own seed.
        real:  the training set, on the device to compute on.
    Returns: the set, and what making it has cost, whenever that was.
    Raises:  TimeUp: with its state saved.
    """
    method, seed, ipc = METHODS[task.maker], task.seed + index, task.cell.ipc
    config = as_dict(task.config)
    if every := optional(method, "EVERY_IPC"):
        ipc = config["ipc"] = None
    key = {
        "method": task.maker,
        "config": config,
        "seed": seed,
        "dataset": task.dataset,
        "data_sha256": real.sha256(),
        "code": method.VERSION,
        "facts": [list(real.facts.mean), list(real.facts.std)],
    }
    digest = store.digest(key)
    stem = Cell("", task.maker, task.dataset, ipc, "", "").stem
    file = paths.runs() / run.profile / "sets" / f"{stem}-{digest}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    patience = -1.0 if run.deadline is None else max(0.0, run.deadline - time.monotonic())
    try:
        with FileLock(f"{file}.lock", timeout=patience):
            if file.exists() and file.with_suffix(".json").exists():  # else its cost is not known
                _note_made(task, index, run.profile)
                found = ImageSet.load(file).to(real.device)
                return found.drawing(task.config.ipc) if every else found, Spent(file.with_suffix(".json"))
            spent = Spent(file.with_suffix(".json"))  # now: another process may have begun the set
            work = paths.runs() / run.profile / "work" / "sets" / file.stem
            with store.used() as shared, spent.phase("distill", real.device):
                synthetic = method.distill(real, task.config, seed=seed, loop=run.loop(work, digest))
                if synthetic is not real:
                    synthetic.save(file)
            spent.shared |= shared
            spent.save()
            _note_made(task, index, run.profile)
            shutil.rmtree(work, ignore_errors=True)
            return synthetic, spent
    except Timeout:
        raise TimeUp("the time limit was reached while another run made the same set") from None
