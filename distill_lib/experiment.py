"""The one place that joins data, method, evaluation and record.

An `Experiment` is one table or figure of a paper: the cells it has, and for each profile the `Task` that measures a
cell. `run` computes what is missing or stale, reuses the rest and says which; nothing else writes records.

    params = check_parameters("skd/table1_accuracy", {"profile": "smoke", "ipcs": [1]})
    outcome = run("skd/table1_accuracy", params)
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import fnmatch
import functools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import pydantic

from . import paths, records, store
from .errors import UserError, unknown
from .garbage import no_collection
from .loop import DiskFull, TimeUp, full, sweep
from .progress import Activity, Spent
from .records import Cell, Record
from .settings import as_dict

if TYPE_CHECKING:

    from .data import ImageSet
    from .evaluate import Evaluation
    from .loop import Loop
    from .verified import Summary

Profile = Literal["recorded", "smoke", "small", "full"]


def _from_text(value: Any) -> Any:
    """papermill hands over `-p ipcs "[1, 10]"` as text: read it as the list it means; `-p methods DM,DC` as names."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.replace("'", '"'))
    except json.JSONDecodeError:
        return [part.strip() for part in value.split(",") if part.strip()]


def names_of(kind: str, choices: Callable[[], list[str]]) -> Any:
    """A list-of-names type for parameter models: every name is one of `choices()`, or the error lists them; ["all"] is all."""

    def check(value: list[str]) -> list[str]:
        known = choices()
        if value == ["all"]:
            return known
        for name in value:
            if name not in known:
                raise unknown(kind, name, known)
        return value

    return Annotated[list[str], pydantic.BeforeValidator(_from_text), pydantic.AfterValidator(check)]


Numbers = Annotated[list[pydantic.PositiveInt], pydantic.BeforeValidator(_from_text)]


class Parameters(pydantic.BaseModel):
    """What every notebook can be told. A notebook's own model adds its axes; unknown names and wrong types are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    profile: Profile = "recorded"
    seed: pydantic.NonNegativeInt = 0


@dataclass(frozen=True)
class Task:
    """Everything that decides a cell's numbers in one profile."""

    cell: Cell
    config: Any  # the method's Config
    dataset: str  # what is loaded: the cell's data set or its stand-in
    protocol: str  # with its budget: vico_dsa@100ep
    num_eval: int = 5  # networks trained on each set
    num_sets: int = 1  # independently distilled sets
    seed: int = 0
    network: str | None = None  # trained on the sets, where that is another than the table's heading says; None for the cell's
    networks: tuple[str, ...] = ()  # where the cell is a mean over several architectures: all of them
    method: str | None = None  # of METHODS, where the row has another name than the method that makes its set; None for the cell's
    tested: int | None = None  # test images of every class that are tested on, drawn once; None for all
    scores: Any = None  # settings of what the experiment measures of the sets besides, such as FID: see `Experiment.measure`

    @property
    def maker(self) -> str:
        """The method, of METHODS, that makes the sets."""
        return self.method or self.cell.method

    @functools.cached_property
    def key(self) -> dict[str, Any]:
        """What a record must agree with to be reused."""
        from . import evaluate
        from .methods import METHODS

        return {
            "config": as_dict(self.config),
            "dataset": self.dataset,
            "network": self.network or self.cell.network,
            "protocol": _rules(self.protocol),
            "num_eval": self.num_eval,
            "num_sets": self.num_sets,
            "seed": self.seed,
            "code": {self.maker: METHODS[self.maker].VERSION, "evaluate": evaluate.VERSION},
            **({"networks": list(self.networks)} if self.networks else {}),
            **({"method": self.method} if self.method else {}),
            **({"tested": self.tested} if self.tested else {}),
            **({"scores": as_dict(self.scores)} if self.scores else {}),
        }


@functools.lru_cache(maxsize=512)
def _rules(name: str) -> dict[str, Any]:
    from . import protocols

    return {"name": name, **as_dict(protocols.protocol(name))}


@dataclass(frozen=True)
class Skip:
    """A cell that a profile does not compute, and why."""

    reason: str


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name:       skd/table1_accuracy: also the notebook, the results folder, the rows of the reported numbers.
        title:      as on the page.
        parameters: the model its notebook's parameters are checked against.
        cells:      parameters -> the cells they select, in the paper's order.
        task:       (cell, parameters) -> how the profile measures the cell, or why it does not.
        printed:    whether the paper prints the cell; the others are measured beside it, under a second protocol for example.
        measure:    (task, synthetic, real, test, loop) -> further metrics of a set, lists by name, where the task has `scores`.
        counted:    a printed row -> our value where it follows from the code without a measurement, such as a number of parameters.
    """

    name: str
    title: str
    parameters: type[Parameters]
    cells: Callable[[Any], list[Cell]]
    task: Callable[[Cell, Any], Task | Skip]
    printed: Callable[[Cell], bool] = lambda cell: True
    measure: Callable[[Task, ImageSet, ImageSet, ImageSet, Loop], dict[str, list[Any]]] | None = None
    counted: Callable[[dict[str, Any]], float | None] = lambda row: None


@functools.cache
def experiments() -> dict[str, Experiment]:
    """Every experiment by name."""
    from .experiments import EXPERIMENTS

    return {e.name: e for e in EXPERIMENTS}


def experiment(name: str) -> Experiment:
    """The experiment of that name. Raises: UserError: listing the names."""
    if name not in experiments():
        raise unknown("experiment", name, experiments())
    return experiments()[name]


# --- parameters --------------------------------------------------------------------------------------------------------
def check_parameters(name: str, values: dict[str, Any]) -> Parameters:
    """The experiment's parameters, checked.

    Raises: UserError: naming each unknown or ill-typed parameter, and listing those that exist.
    """
    model = experiment(name).parameters
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as err:
        problems = "; ".join(_problem(e, model) for e in err.errors())
        raise UserError(f"{name}: {problems}. Parameters: {', '.join(model.model_fields)}") from None


def _problem(error: Any, model: type[Parameters]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return re.split(r"\?? ?:? [Cc]hoose one of", str(unknown("parameter", name, model.model_fields)))[0]
    if isinstance(cause := error.get("ctx", {}).get("error"), UserError):
        return f"{name}: {cause}"
    choices = get_args(model.model_fields[name].annotation) if name in model.model_fields else ()
    if error["type"] == "literal_error":
        return str(unknown(name, error["input"], map(str, choices)))
    return f"{name}: {error['msg']} (got {error['input']!r})"


def parameters(name: str, namespace: dict[str, Any]) -> Parameters:
    """A notebook's parameters from its global names, checked before anything runs.

    Call it as `experiment.parameters("...", globals())` in a cell below the parameters.

    Every parameter of the experiment is read from the namespace. papermill assigns whatever it is given and only warns about
    a name that the notebook does not have. So a further name is refused if the parameters cell or papermill's injected cell
    assigned it when it last ran. All other names are variables of the notebook or of its reader, and are left alone: a
    notebook can be run again in the same kernel, and cells can be added anywhere.
    Where no parameters cell is known, as in a script, every plain value counts that exists at the call.

    Raises: UserError: see `check_parameters`.
    """
    fields, plain = experiment(name).parameters.model_fields, (str, int, float, bool, list, tuple, dict, type(None))
    assigned = _parameter_cells(namespace.get("In", []))
    others = namespace.keys() - {"In", "Out"} if assigned is None else assigned
    others = {k for k in others if not k.lower().startswith(("_", "papermill_"))}  # papermill can inject its paths
    return check_parameters(name, {k: v for k, v in namespace.items() if k in fields or (k in others and isinstance(v, plain))})


def _parameter_cells(cells: list[str]) -> set[str] | None:
    """Names that the parameters cell, which assigns `profile`, and papermill's injected cell below it assign.

    Args:
        cells: what has run in a kernel, in order (IPython's `In`). The last run of a cell counts: a mended typo is forgotten.
    Returns: None where neither has run.
    """
    injected = None
    for source in reversed(cells):
        names = _assigned(source)
        if source.startswith("# Parameters"):  # papermill's first line
            injected = names if injected is None else injected
        elif "profile" in names:
            return names | (injected or set())
    return injected


def _assigned(source: str) -> set[str]:
    """Names that a cell assigns outside functions, loops and conditions; none where it is not Python."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return set()
    targets = [t for s in body if isinstance(s, ast.Assign | ast.AnnAssign) for t in getattr(s, "targets", None) or [s.target]]
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


# --- state -------------------------------------------------------------------------------------------------------------
TO_COMPUTE = ("missing", "partial", "stale")  # states of cells that a run computes


@dataclass(frozen=True)
class Status:
    """Where a cell stands: `state` is recorded, partial (sets are missing), missing, stale, damaged or skipped; `why` says so in words."""

    cell: Cell
    state: str
    why: str = ""
    task: Task | None = None
    record: Record | None = None


def status(cell: Cell, params: Parameters, sets: int | None = None) -> Status:
    """Where a cell stands in the profile of `params`, without loading data.

    Args:
        sets: distilled sets that are enough, where the profile's number is larger; None for the profile's.
    """
    task = _definition(cell).task(cell, params)
    if isinstance(task, Skip):
        return Status(cell, "skipped", task.reason)
    try:
        record = records.load(cell, params.profile)
    except UserError as err:
        return Status(cell, "damaged", str(err), task)
    if record is None:
        return Status(cell, "missing", "never computed", task)
    changed = differences(record.key, task.key)
    if changed:
        return Status(cell, "stale", "; ".join(changed), task, record)
    if left := missing_sets(task, record, sets):
        return Status(cell, "partial", f"{len(record.done)} of {len(record.done) + len(left)} sets recorded", task, record)
    return Status(cell, "recorded", f"measured {record.made_by.get('at', 'at an unknown time')}", task, record)


def missing_sets(task: Task, record: Record | None, sets: int | None = None) -> list[int]:
    """Numbers of the task's sets, or of its first `sets`, that the record does not hold yet."""
    wanted = task.num_sets if sets is None else min(sets, task.num_sets)
    return [i for i in range(wanted) if record is None or i not in record.done]


def plan(name: str, params: Parameters, cells: list[Cell] | None = None, sets: int | None = None) -> list[Status]:
    """The status of every cell the parameters select, or of some of them; `sets` as in `status`.

    The record itself is with those that are stale or partial; what is recorded was read and checked now or, if its file was not
    touched since, before.
    """
    from . import verified

    with no_collection():
        summaries, damaged = verified.summaries(params.profile)
        cells = experiment(name).cells(params) if cells is None else cells
        return [_planned(cell, params, summaries, damaged, sets) for cell in cells]


def _planned(cell: Cell, params: Parameters, summaries: dict[str, Summary], damaged: dict[str, str], sets: int | None) -> Status:
    """As `status`, without reading a record that is known to be good and of these settings."""
    from .verified import fingerprint, name

    task = _definition(cell).task(cell, params)
    if isinstance(task, Skip):
        return Status(cell, "skipped", task.reason)
    file = f"{cell.experiment}/{cell.stem}"
    summary = summaries.get(file)
    if summary is None:
        return Status(cell, "damaged", damaged[file], task) if file in damaged else Status(cell, "missing", "never computed", task)
    if summary.cell == name(cell) and summary.settings == fingerprint(task.key) and summary.sets >= task.num_sets:
        return Status(cell, "recorded", f"measured {summary.at or 'at an unknown time'}", task)
    return status(cell, params, sets)


def stage1(task: Task) -> dict[str, Any]:
    """What has to be made before the task's sets and is shared with other cells, with its settings: {"conditional GAN": ...}."""
    from .methods import METHODS

    method = METHODS[task.maker]
    return method.stage1(task.config) if hasattr(method, "stage1") else {}


@dataclass(frozen=True)
class Part:
    """Work that several cells share: a stage before the sets, or a distilled set. `key` is the same for all that share it."""

    key: str
    what: str
    settings: Any
    stage: bool


def shared_parts(task: Task, index: int) -> list[Part]:
    """What has to be made before set `index` of a task can be evaluated, in order; the set itself comes last."""
    from .methods import METHODS
    from .training import Training

    parts = []
    for what, settings in stage1(task).items():
        seed = task.seed + index if isinstance(settings, Training) else None  # the other stages have their seed among their settings
        digest = records.digest([task.dataset, what, as_dict(settings), seed])
        parts.append(Part(f"{what.replace(' ', '-')}-{digest}", what, settings, stage=True))
    method, config = METHODS[task.maker], as_dict(task.config)
    if getattr(method, "EVERY_IPC", False):
        config["ipc"] = None
    key = f"set-{records.digest([task.maker, config, task.dataset, task.seed + index, method.VERSION])}"
    return [*parts, Part(key, f"set of {task.maker}", task.config, stage=False)]


def made(profile: str) -> set[str]:
    """Keys of the shared parts that were made under this `runs` folder."""
    folder = paths.runs() / profile / "made"
    return {f.name for f in folder.iterdir()} if folder.is_dir() else set()


def _note_made(task: Task, index: int, profile: str) -> None:
    folder = paths.runs() / profile / "made"
    folder.mkdir(parents=True, exist_ok=True)
    for part in shared_parts(task, index):
        (folder / part.key).touch()


def select(cells: list[Cell], text: str | None) -> list[Cell]:
    """The cells that a selection such as "method=DM|DC, ipc=10, dataset=*MNIST" names; all of them for None.

    Raises: UserError: an unknown field, or nothing selected.
    """
    if not text:
        return cells
    fields = [f.name for f in dataclasses.fields(Cell) if f.name != "experiment"]
    for part in text.split(","):
        name, equals, values = (t.strip() for t in part.partition("="))
        if not equals or not values:
            raise UserError(f"cells {text!r}: write field=value, fields are {', '.join(fields)}; for example method=DM,ipc=10")
        if name not in fields:
            raise unknown("field of a cell", name, fields)
        found = sorted({_shown(c, name) for c in cells})
        cells = [c for c in cells if any(fnmatch.fnmatchcase(_shown(c, name).lower(), v.strip().lower()) for v in values.split("|"))]
        if not cells:
            raise UserError(f"cells {text!r}: no cell has {name} {values}; there are {', '.join(found)}")
    return cells


def _shown(cell: Cell, name: str) -> str:
    value = getattr(cell, name)
    return "all" if value is None else str(value)


def find(text: str) -> Cell:
    """The cell that `str(cell)`, or the name of its record with or without its folder and ending, stands for.

    Raises: UserError: none or several.
    """
    wanted = text.strip().removesuffix(".json")
    found = [
        cell
        for e in experiments().values()
        for cell in e.cells(check_parameters(e.name, {}))
        if wanted in (str(cell), f"{e.name}: {cell}") or cell.stem == wanted or wanted.endswith(f"{e.name}/{cell.stem}")
    ]
    if len(found) != 1:
        if not found:
            stems = [cell.stem for e in experiments().values() for cell in e.cells(check_parameters(e.name, {}))]
            close = difflib.get_close_matches(wanted.rpartition("/")[2], stems, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"unknown cell {text!r}: {hint}`distill plan EXPERIMENT --json` lists them")
        raise UserError(f"{text!r} names {len(found)} cells; write " + " or ".join(f"{c.experiment}/{c.stem}" for c in found))
    return found[0]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What changed between two nested settings, one line each: 'config.iterations: 500 -> 20001'.

    The data hash is compared when the data is loaded, not here: `new` need not hold it.
    """
    out = []
    for k in sorted(old.keys() | new.keys()):
        a, b = old.get(k), new.get(k)
        if k == "data_sha256" or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{prefix}{k}.")
        else:
            out.append(f"{prefix}{k}: {a!r} -> {b!r}")
    return out


def _definition(cell: Cell) -> Experiment:
    return experiment(cell.experiment)


# --- running -----------------------------------------------------------------------------------------------------------
@dataclass
class Outcome:
    """What a run did: a status per cell (state computed, reused, skipped or failed) and the records it can show.

    `printed` says which cells the paper prints.
    """

    params: Parameters
    statuses: list[Status] = field(default_factory=list)
    printed: Callable[[Cell], bool] = lambda cell: True
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Status]:
        return iter(self.statuses)

    def of(self, state: str) -> list[Status]:
        return [s for s in self.statuses if s.state == state]

    @property
    def summary(self) -> str:
        """One line: cells computed, reused, skipped, failed."""
        counts = {s: len(self.of(s)) for s in ("computed", "reused", "failed", "skipped", "recorded", "partial", "missing", "stale")}
        return ", ".join(f"{n} {s}" for s, n in counts.items() if n) + f" in {self.seconds:.0f} s"


def run(
    name: str,
    params: Parameters,
    cells: list[Cell] | None = None,
    time_limit: float | None = None,
    say: Callable[[str], None] | None = None,
    device: str | None = None,
    strict: bool = True,
    sets: int | None = None,
    wait: bool = True,
) -> Outcome:
    """Compute the cells that are missing or stale in the profile of `params`, and the sets that partial ones lack; reuse the others.

    A cell's record is written after each of its distilled sets, so it grows set by set. In the `recorded` profile nothing is computed.

    Args:
        cells:      a selection; by default every cell the parameters select.
        time_limit: seconds after which to save and stop; the next run goes on from there.
        say:        where a line per cell goes before it is computed, and the summary; by default only the summary is printed.
        strict:     raise where cells failed; without, the outcome's statuses say so.
        sets:       compute the first so many distilled sets of each cell; by default all that the profile has.
        wait:       for cells that another process computes; without, the outcome leaves them out.
    Raises: UserError: cells failed (after all others have run).  DiskFull: at once.  TimeUp: the limit was reached.
    """
    from filelock import FileLock, Timeout

    from .device import pick

    start = time.monotonic()
    this = experiment(name)
    cells = this.cells(params) if cells is None else cells
    if params.profile == "recorded":
        return Outcome(params, [_recorded(cell) for cell in cells], printed=this.printed)
    tell, say = say or (lambda line: None), say or print
    pick(device)  # an unknown device stops here, not in every cell
    records.code_state()  # remembered: the checkout may change while cells are computed
    outcome, deadline = Outcome(params, printed=this.printed), None if time_limit is None else start + time_limit
    waiting, first_round = list(cells), len(cells)
    activity = Activity(params.profile, len(cells))
    for folder in {records.path(c, params.profile).parent for c in cells} | {paths.runs() / params.profile / "sets"}:
        sweep(folder)
    while waiting:
        cell = waiting.pop(0)
        first_round -= 1
        lock = paths.runs() / "locks" / params.profile / cell.experiment / f"{cell.stem}.lock"
        try:  # a cell another process is computing goes to the end of the queue
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=0 if first_round >= 0 else 5):
                result = _one(cell, params, deadline, tell, device, activity, len(outcome.statuses) + 1, sets)
        except Timeout:
            if not wait:
                continue
            waiting.append(cell)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeUp("the time limit was reached while another run computed the rest") from None
            continue
        except OSError as err:
            raise UserError(f"cannot write {lock}: {err.strerror or err}") from None
        outcome.statuses.append(result)
        _note(result)
    outcome.seconds = time.monotonic() - start
    return ended(outcome, name, params, cells, strict, say)


def ended(outcome: Outcome, name: str, params: Parameters, cells: list[Cell], strict: bool, say: Callable[[str], Any]) -> Outcome:
    """A run's outcome in the order of its cells, said in one line. Raises: UserError: with `strict`, if cells failed; names each."""
    order = {cell: i for i, cell in enumerate(cells)}
    outcome.statuses.sort(key=lambda s: order[s.cell])
    say(f"{name} [{params.profile}]: {outcome.summary}")
    if strict and (failed := outcome.of("failed")):
        raise UserError(f"{len(failed)} of {len(cells)} cells failed: " + "; ".join(f"{s.cell}: {s.why}" for s in failed))
    return outcome


def _recorded(cell: Cell) -> Status:
    for profile in ("full", "small"):
        if record := records.load(cell, profile):
            return Status(cell, "recorded", profile, record=record)
    return Status(cell, "missing", "not run")


def _one(
    cell: Cell, params: Parameters, deadline: float | None, say: Callable[[str], None], device: str | None, activity: Activity, number: int,
    sets: int | None = None,
) -> Status:  # fmt: skip
    now = status(cell, params, sets)
    if now.state == "skipped":
        return now
    if now.state == "damaged":  # never overwritten: whoever damaged it decides
        return Status(cell, "failed", now.why, now.task)
    try:
        if now.state in ("recorded", "partial"):
            if changed := _data_change(now):
                now = Status(cell, "stale", changed, now.task, now.record)
            elif now.state == "recorded":
                return Status(cell, "reused", now.why, now.task, now.record)
        why = "" if now.state == "missing" else f"{now.state}: {now.why}"
        say(f"[{number}/{activity.cells}] computing {cell}" + (why and f", {why}"))
        with activity.cell(cell, number, why):
            known = now.record if now.state == "partial" else None
            record = compute(now.task, params.profile, deadline, device, activity, known, sets, keep=lambda grown: grown.save(params.profile))
            activity.note(f"recorded: {', '.join(f'{v:.1f}' for v in record.test_accuracy_pct)} % in {records.cost(record)}")
    except (TimeUp, DiskFull, KeyboardInterrupt):
        raise
    except Exception as err:  # the other cells go on; the failure is reported at the end
        if full(err, paths.runs()):
            raise DiskFull(f"{cell}: {err}") from None
        if not isinstance(err, (UserError, OSError)):
            import traceback

            traceback.print_exc()
        say(f"{cell}: failed: {err}")
        return Status(cell, "failed", f"{type(err).__name__}: {err}", now.task)
    return Status(cell, "computed", "", now.task, record)


def _data_change(now: Status) -> str:
    """Whether the data set at hand is another one than the record's; '' where it is the same or not at hand."""
    stored = now.record.key.get("data_sha256")
    try:
        real, test = _load(now.task.dataset, "cpu")
    except UserError:
        return ""
    current = {"train": real.sha256(), "test": test.sha256()}
    return "" if stored == current else "the data set's pixels or labels differ from the recorded ones"


@functools.lru_cache(maxsize=4)
def _load(dataset: str, device: str) -> tuple[Any, Any]:
    from . import data

    real, test = data.load(dataset)
    return real.to(device), test.to(device)


def compute(
    task: Task,
    profile: str,
    deadline: float | None = None,
    device: str | None = None,
    activity: Activity | None = None,
    known: Record | None = None,
    sets: int | None = None,
    keep: Callable[[Record], Any] | None = None,
) -> Record:
    """Distil and evaluate one cell, set by set; resumes where an interrupted run stopped, and takes sets that other cells made.

    Sets do not know of each other: one after the other, on different days, they give the same numbers as all at once.
    A method may have a `measure(synthetic, test, config)` of its own, such as the accuracy of a kernel regression: what it
    returns, lists by name, goes into the record's metrics.

    Args:
        deadline: `time.monotonic()` after which to save and raise `TimeUp`.
        known:    what is recorded of the cell: its sets are not computed again.
        sets:     how many of the task's sets the record shall hold, from the first on; None for all.
        keep:     called with the record after every set.
    Returns: the record, not yet written.
    """
    from .device import pick

    place = pick(device)
    real, whole = _load(task.dataset, str(place))
    key = {**task.key, "data_sha256": {"train": real.sha256(), "test": whole.sha256()}}
    folder = paths.runs() / profile / "work" / task.cell.experiment / f"{task.cell.stem}-{records.digest(key)}"
    activity, record = activity or Activity(profile, 1), known
    for i in missing_sets(task, known, sets):
        one = _set(task, i, key, profile, real, whole, folder / f"set{i}", deadline, activity)
        record = one if record is None else record.joined(one)
        if keep:
            keep(record)
            shutil.rmtree(folder / f"set{i}", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _set(
    task: Task, index: int, key: dict[str, Any], profile: str, real: ImageSet, whole: ImageSet, folder: Path, deadline: float | None, activity: Activity
) -> Record:
    """The record of one of a task's sets.

    Args:
        whole:  the test set, of which the task may take a part.
        folder: for checkpoints and costs until the record is written.
    """
    from .evaluate import evaluate
    from .methods import METHODS
    from .rng import generator

    place, method = real.device, METHODS[task.maker]
    test = whole if task.tested is None else whole.subset(whole.draw_index(task.tested, generator(0, "tested")).flatten())
    notes = [*real.facts.notes, *([f"{task.tested} test images of every class are tested on"] if task.tested else [])]
    seeds = {"distill": task.seed + index, "evaluate": task.seed + 1000 * index}
    spent, networks = Spent(folder / "seconds.json"), task.networks or (task.key["network"],)
    digest = records.digest(key)
    synthetic, making = distilled(task, index, profile, real, deadline, activity)
    spent.include("distill", making)
    with spent.phase("evaluate", place):
        found = [
            evaluate(
                synthetic, test, task.protocol, network=network, num_eval=task.num_eval, seed=seeds["evaluate"],
                loop=activity.loop(folder / network, digest, deadline), real=real,
            )
            for network in networks
        ]  # fmt: skip
        judged = found[0] if len(found) == 1 else _mean(found)
        own = method.measure(synthetic, test, task.config) if hasattr(method, "measure") else {}
    scores: dict[str, list[Any]] = {}
    if task.scores:
        with spent.phase("measure", place):
            scores = _definition(task.cell).measure(task, synthetic, real, test, activity.loop(folder / "scores", digest, deadline))
    return Record(
        cell=task.cell,
        test_accuracy_pct=[float(v) for v in judged.test_accuracy_pct],
        sets=[index] * len(judged.test_accuracy_pct),
        key=key,
        metrics={"bytes": synthetic.nbytes, **judged.metrics, **own, **scores},
        seconds=_by_phase(spent.seconds, spent),
        cpu_seconds=_by_phase(spent.cpu_seconds, spent),
        joules=_by_phase(spent.joules, spent),
        memory_mb=round(spent.memory_mb),
        shared=making.shared,
        made_by={
            **records.provenance(place), "data": real.facts.name, "data_notes": notes, "seeds": {k: [v] for k, v in seeds.items()},
        },
    )  # fmt: skip


def _by_phase(values: dict[str, float], spent: Spent) -> dict[str, float]:
    """Seconds or joules of every phase; nothing where a phase has none."""
    return {k: round(v, 2) for k, v in values.items()} if values.keys() == spent.seconds.keys() else {}


def _mean(found: list[Evaluation]) -> Evaluation:
    """Several architectures as one: number i is the mean over their networks i; metrics keep each network's own."""
    each = [e.test_accuracy_pct for e in found]
    metrics = {f"accuracy_pct, {e.network}": e.test_accuracy_pct for e in found}
    metrics |= {f"train_loss, {e.network}": e.metrics["train_loss"] for e in found}
    return dataclasses.replace(found[0], test_accuracy_pct=[sum(v) / len(v) for v in zip(*each, strict=True)], metrics=metrics)


def distilled(
    task: Task, index: int, profile: str, real: ImageSet, deadline: float | None = None, activity: Activity | None = None
) -> tuple[ImageSet, Spent]:
    """A distilled set of a task, made once and kept in `runs/`: cells that differ in protocol or network alone share it.

    A generator serves every ipc: cells that differ in it share the generator too.

    Args:
        index: which of the task's sets; each has its own seed.
        real:  the training set, on the device to compute on.
    Returns: the set, and what making it has cost, whenever that was.
    Raises:  TimeUp: with its state saved.
    """
    from filelock import FileLock, Timeout

    from .data import ImageSet
    from .methods import METHODS

    method, seed, ipc = METHODS[task.maker], task.seed + index, task.cell.ipc
    config = as_dict(task.config)
    if every := getattr(method, "EVERY_IPC", False):
        ipc = config["ipc"] = None
    key = {
        "method": task.maker, "config": config, "seed": seed, "dataset": task.dataset,
        "data_sha256": real.sha256(), "code": method.VERSION, "facts": [list(real.facts.mean), list(real.facts.std)],
    }  # fmt: skip
    digest = records.digest(key)
    stem = Cell("", task.maker, task.dataset, ipc, "", "").stem
    file = paths.runs() / profile / "sets" / f"{stem}-{digest}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    spent, activity = Spent(file.with_suffix(".json")), activity or Activity(profile, 1)
    patience = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        with FileLock(f"{file}.lock", timeout=patience):
            if file.exists():
                _note_made(task, index, profile)
                found = ImageSet.load(file).to(real.device)
                return found.drawing(task.config.ipc) if every else found, Spent(spent.file)
            work = paths.runs() / profile / "work" / "sets" / file.stem
            with store.used() as shared, spent.phase("distill", real.device):
                synthetic = method.distill(real, task.config, seed=seed, loop=activity.loop(work, digest, deadline))
                if synthetic is not real:
                    synthetic.save(file)
            spent.shared |= shared
            spent.save()
            _note_made(task, index, profile)
            shutil.rmtree(work, ignore_errors=True)
            return synthetic, spent
    except Timeout:
        raise TimeUp("the time limit was reached while another run made the same set") from None


def _note(result: Status) -> None:
    """Tell the process that runs the notebooks what happened to a cell (a JSON line in the file `DISTILL_SUMMARY`)."""
    if file := os.environ.get("DISTILL_SUMMARY"):
        seconds = sum(result.record.seconds.values()) if result.state == "computed" else 0.0
        line = {"experiment": result.cell.experiment, "cell": result.cell.stem, "state": result.state, "seconds": seconds}
        with open(file, "a") as f:
            f.write(json.dumps(line) + "\n")
