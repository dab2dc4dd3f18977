"""The command line: `distill` or `python -m distill_lib`."""

from __future__ import annotations

import ast
import contextlib
import gc
import json
import os
import re
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .core import paths
from .core.errors import TimeUp, UserError, printable, unknown

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reproduce, read and extend four papers on generative dataset distillation.",
)
STOPPED = "stopped; what was computed is saved"
LISTED = ["methods", "datasets", "networks", "protocols", "experiments"]
Parameter = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", help="name=value, as the notebook takes it; repeat for more.")
]
ProfileOption = Annotated[str, typer.Option(help="smoke, small or full.")]
Experiments = Annotated[list[str], typer.Argument(help="For example skd/table1_accuracy; several run one by one.")]
Cells = Annotated[
    str | None,
    typer.Option(help='Only these: "method=DM,ipc=10"; several values as method=DM|DC, any part of a name with *.'),
]
Sets = Annotated[
    int | None,
    typer.Option(
        min=1, help="Distilled sets of each cell, from the first on: fewer or more than the profile's number."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with; by default one per processor core.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:0 or mps; by default the first CUDA device, else the CPU.")
]
TimeLimit = Annotated[str, typer.Option(help="Save and stop after this long: 90s, 9m, 2h. Without, run to the end.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    try:
        status = app(standalone_mode=False)  # None, or what typer made of Ctrl-C and of typer.Exit
        if status:
            sys.exit(_fail(STOPPED, status) if status == 130 else status)
    except UserError as err:
        sys.exit(_fail(str(err), 2))
    except TimeUp as stop:
        sys.exit(_fail(str(stop), 3))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(_fail(STOPPED, 130))
    except Exception as err:
        if type(err).__module__.startswith(("click", "typer")) and hasattr(err, "format_message"):
            message = err.format_message()  # none where the help was shown in place of an error
            sys.exit(_fail(message, 2) if message else 2)
        raise


def _fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _listing(kind: str, brief: bool) -> list[dict[str, object]]:
    """What one kind of name is, as rows; `brief` for rows that fit a terminal."""
    if kind == "methods":
        from .methods import METHODS

        return [{"name": name, "about": module.__doc__.splitlines()[0]} for name, module in METHODS.items()]
    if kind == "datasets":
        from . import data

        return data.facts_table(brief)
    if kind == "networks":
        from . import networks

        return [{"name": name, "about": about} for name, about in networks.NETWORKS.items()]
    if kind == "protocols":
        from .evaluation import protocols

        return [{"name": name, "about": protocols.PROTOCOLS[name].about} for name in protocols.PROTOCOLS]
    return _experiments(brief)


def _experiments(brief: bool) -> list[dict[str, object]]:
    """Every experiment with how many cells its paper prints, and how many of them are measured, as the ledger counts
    them."""
    from .experiments import experiments
    from .tables import ledger

    small = {"small": ledger.OWN, "stand-in": ledger.STAND_IN, "underfit": ledger.UNDERFIT}
    out = []
    for e in experiments().values():
        try:
            found = ledger.counts_of(e.name)
            cells = {"printed": ledger.total(found), "full": sum(found[status] for status in ledger.FULL)}
            cells |= {kind: found[status] for kind, status in small.items()}
            parts = [f"{cells['full']} of {cells['printed']} full", *(f"{cells[k]} {k}" for k in small if cells[k])]
            said = ", ".join(parts) if cells["printed"] else "none printed"
        except UserError as err:  # a damaged record
            cells = said = str(err)
        out.append({"name": e.name, "about": e.title, "cells": said if brief else cells})
    return out


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help=f"{', '.join(LISTED)}; all by default.")] = None,
    as_json: Json = False,
) -> None:
    """List the names that exist."""
    if kind is not None and kind not in LISTED:
        raise unknown("kind", kind, LISTED)
    found = {k: _listing(k, brief=not as_json) for k in ([kind] if kind else LISTED)}
    if as_json:
        print(json.dumps(found if kind is None else found[kind], indent=1))
        return
    for name, rows in found.items():
        _print_table(name, rows)


def _print_table(title: str, rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left", box=None, pad_edge=False)
    for column in rows[0] if rows else ["name"]:
        table.add_column(str(column), overflow="fold")
    for row in rows:
        cells = (", ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in row.values())
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(width=None if sys.stdout.isatty() else 240).print(table)  # lines of a file are not folded at 80 columns


def parse(pairs: list[str] | None) -> dict[str, object]:
    """`-p name=value` pairs as a dictionary; a value is JSON where it reads as JSON, else text."""
    out: dict[str, object] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"parameter {pair!r}: write name=value, for example -p ipcs=[1]")
        if name == "profile":
            raise UserError(f"parameter {pair!r}: say it as --profile {value}")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out


@app.command()
def run(
    experiments: Experiments,
    profile: ProfileOption = "smoke",
    parameter: Parameter = None,
    cells: Cells = None,
    sets: Sets = None,
    time_limit: TimeLimit = "",
    device: Device = None,
    engine_name: Annotated[
        str, typer.Option("--engine", help="local: in this process; dask: in many, here or on a cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="With dask: processes, by default one per GPU; or jobs of Slurm.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="With dask: slurm, or tcp://host:port of a running scheduler.")
    ] = None,
) -> None:
    """Compute the missing cells of experiments, and print them beside the paper's.

    What is recorded is reused, and a run that was stopped, in whatever way, goes on where it was. A record grows with
    every distilled set: `--sets 1` and later `--sets 5` give the same numbers as all five at once. Exit status: 0 every
    selected cell has its record, 2 wrong input or failed cells, 3 the time limit was reached, 130 Ctrl-C.
    """
    from . import experiments as engine
    from . import tables
    from .experiments import prerequisites

    if engine_name not in ("local", "dask"):
        raise unknown("engine", engine_name, ["local", "dask"])
    if engine_name == "local" and (workers is not None or scheduler is not None):
        raise UserError("--workers and --scheduler need --engine dask")
    limit = time.monotonic() + seconds(time_limit) if time_limit else None
    chosen = [(name, engine.check_parameters(name, {"profile": profile, **parse(parameter)})) for name in experiments]
    selected = [engine.select(engine.experiment(name).cells(params), cells) for name, params in chosen]
    left_to_do, lacking = [], {}
    for (name, params), some in zip(chosen, selected, strict=True):
        if profile == "recorded":
            left_to_do.append([])
            continue
        left_to_do.append([s for s in engine.plan(name, params, some, sets) if s.state in engine.TO_COMPUTE])
        prerequisites.check(name, profile, [s.task.maker for s in left_to_do[-1]])
        lacking |= _without_weights(left_to_do[-1])
    if lacking:
        cell, why = next(iter(lacking.items()))
        if len(lacking) == sum(map(len, left_to_do)):
            raise UserError(f"no cell can be computed here at {profile}; {cell}: {why}")
        print(f"{len(lacking)} cells will fail: {'; '.join(dict.fromkeys(lacking.values()))}")
    failed: list[engine.Status] = []
    for (name, params), some, todo in zip(chosen, selected, left_to_do, strict=True):
        if profile == "full":
            print(f"{len(todo)} cells to compute at full: see the plan with `distill plan {name} --profile full`")
        left = None if limit is None else max(0.0, limit - time.monotonic())
        options = {"time_limit": left, "say": print, "device": device, "strict": False, "sets": sets}
        if engine_name == "dask" and profile != "recorded":
            from .experiments import cluster

            outcome = cluster.run(name, params, some, workers=workers, scheduler=scheduler, **options)
        else:
            outcome = engine.run(name, params, some, **options)
        frame = tables.details(outcome)
        print(frame.to_string(index=False) if len(frame) else "nothing measured")
        failed += outcome.of("failed")
    if profile != "smoke":
        _write_index()
    if failed:
        from .core.progress import log_path

        rows = [{"cell": str(s.cell), "error": s.why, "log": str(log_path(s.cell, profile))} for s in failed]
        _print_table("failed", rows)
        raise UserError(f"{len(failed)} of {sum(map(len, selected))} cells failed; the others are recorded")


def _without_weights(todo: list[Any]) -> dict[Any, str]:
    """The cells that will fail for files that are not here, with the reason."""
    from .experiments import prerequisites

    lacking = {}
    for s in todo:
        try:
            prerequisites.check_weights(s.task)
        except UserError as err:
            lacking[s.cell] = str(err)
    return lacking


def _computed(profile: str) -> str:
    """A profile in which something is computed. Raises: UserError: recorded, or an unknown one."""
    if profile not in paths.PROFILES[1:]:
        raise unknown("profile", profile, paths.PROFILES[1:])
    return profile


def seconds(text: str) -> float:
    """'90s', '9m', '2h' or plain seconds as a number."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        found = float(number) * units[unit]
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise UserError(f"time limit {text!r}: write it as 90s, 9m or 2h")
    return found


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which takes most of a second to look through what is imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@app.command()
@_uncollected()
def plan(
    experiment: Annotated[str, typer.Argument(help="For example skd/table1_accuracy.")],
    profile: ProfileOption = "full",
    parameter: Parameter = None,
    cells: Cells = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Show where every cell stands and what it would cost: recorded, partial, missing, stale and why, or skipped and
    why."""
    from . import experiments as engine
    from .experiments import estimate

    params = engine.check_parameters(experiment, {"profile": _computed(profile), **parse(parameter)})
    statuses = engine.plan(experiment, params, engine.select(engine.experiment(experiment).cells(params), cells), sets)
    rows = estimate.rows(statuses, profile, sets)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if reason := engine.experiment(experiment).no_cells:
        print(f"{experiment} has no cells of its own: {reason}")
        return
    for row in rows:
        todo = row["state"] in engine.TO_COMPUTE
        cost = estimate.words(row["seconds"], row["memory_mb"]) if todo else ""
        why = "" if row["state"] == "recorded" else f"  ({row['why']})"
        needs = f"  after {', '.join(row['needs'])}" if row["needs"] and todo else ""
        print(f"{row['state']:9} {row['cell']}{why}{needs}" + (cost and f"  {cost}"))
    print(estimate.total(rows))


@app.command()
def fill(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="For example skd/table1_accuracy; all by default.")
    ] = None,
    profile: Annotated[str, typer.Option(help="small or full.")] = "full",
    parameter: Parameter = None,
    cells: Cells = None,
    sets: Sets = None,
    time_limit: TimeLimit = "",
    threads: Threads = None,
    device: Device = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
) -> None:
    """Compute what is missing, the cheapest number first, at low priority, until the time is up: for a spare machine
    and a night.

    Each set of a cell is stored as soon as it is done, and the next `distill fill` goes on where this one stopped.
    Cells whose data or weights are not here are left out, and counted. Exit status: 0, also where the time was up; 2
    wrong input or failed cells.
    """
    if profile not in ("small", "full"):
        raise unknown("profile", profile, ["small", "full"])
    limit = seconds(time_limit) if time_limit else None
    start = time.monotonic()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads sleep, so that other programs get the processor
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    with contextlib.suppress(AttributeError, OSError):  # no such thing on Windows
        os.nice(19)
    from .experiments import estimate
    from .experiments import fill as filling

    jobs, left_out = filling.plan(profile, experiments or None, cells, parse(parameter), sets)
    for job in jobs[:20]:
        print(f"{job}: {estimate.words(job.seconds, None)}" + (f" (as {job.basis})" if job.seconds else ""))
    if len(jobs) > 20:
        print(f"... and {len(jobs) - 20} more sets")
    known = [job.seconds for job in jobs if job.seconds is not None]
    numbers = len({job.cell for job in jobs})
    cost = estimate.words(sum(known) if known or not jobs else None, None)
    cost += f", and {len(jobs) - len(known)} of unknown cost" if known else ""
    print(f"{len(jobs)} sets of {numbers} cells to compute at {profile}: {cost}")
    alike: dict[str, list[str]] = {}
    for reason, count in left_out.most_common():
        kind, _, what = reason.partition(": ")
        alike.setdefault(kind, []).append(f"{what} ({count} cells)")
    for kind, which in alike.items():
        print(f"left out, {kind}: {', '.join(which)}")
    if dry_run or not jobs:
        return
    left = None if limit is None else limit - (time.monotonic() - start)
    done = filling.run(jobs, left, lambda line: print(line, flush=True), device)
    finished = ", ".join(f"{len(lines)} {what}" for what, lines in done.items() if lines)
    print(finished or "nothing was finished in this time; what was begun is saved")
    _write_index()
    if done["failed"]:
        raise UserError(f"{len(done['failed'])} cells failed: " + "; ".join(done["failed"]))


@app.command()
def recompute(
    experiment: Annotated[str, typer.Argument(help="For example skd/table1_accuracy.")],
    profile: Annotated[str, typer.Option(help="smoke, small or full.")] = "small",
    parameter: Parameter = None,
    cells: Cells = None,
    sets: Annotated[
        int | None, typer.Option(min=1, help="Sets of each cell; by default all that are recorded.")
    ] = None,
    time_limit: TimeLimit = "",
    threads: Threads = None,
    device: Device = None,
    keep: Annotated[bool, typer.Option("--keep", help="Add what was computed to the book's comparison.")] = False,
) -> None:
    """Compute recorded cells anew, with nothing reused, and print how far this machine's numbers are from the records.

    Records are not changed. Exit status: 0 also where numbers differ; 2 wrong input, no record, other data; 3 the time
    limit was reached, and the same command goes on.
    """
    limit = seconds(time_limit) if time_limit else None
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    from . import experiments as engine
    from .experiments.recompute import recompute as compute_again

    params = engine.check_parameters(experiment, {"profile": _computed(profile), **parse(parameter)})
    chosen = engine.select(engine.experiment(experiment).cells(params), cells)
    found = compute_again(experiment, params, chosen, sets, keep, device=device, time_limit=limit)
    same = sum(r.largest_difference == 0 for r in found)
    print(f"{len(found)} cells computed again: {same} with the same accuracies, {len(found) - same} with others")


@app.command("import")
def import_(folder: Annotated[Path, typer.Argument(help="What `make gpu` wrote on another machine.")]) -> None:
    """Add the records that a run of `make gpu` brought, with who measured them, to those of this checkout.

    Exit status: 0, also where a record was left out; 2 a folder that cannot be trusted: nothing is written.
    """
    from .experiments.import_folder import import_folder

    found = import_folder(folder)
    print("\n".join([*(f"added    {line}" for line in found.added), *(f"left out {line}" for line in found.left_out)]))
    print(f"{len(found.added)} added, {len(found.left_out)} left out")


@app.command()
def explain(
    cell: Annotated[str, typer.Argument(help="A cell as `distill plan` prints it, or the name of its record.")],
    profile: ProfileOption = "full",
    parameter: Parameter = None,
) -> None:
    """Say why a cell is, or is not, taken from its record, and show all that its number depends on."""
    from . import experiments as engine
    from . import records

    found = engine.find(cell)
    params = engine.check_parameters(found.experiment, {"profile": _computed(profile), **parse(parameter)})
    now = engine.status(found, params)
    verdict = {
        "recorded": "is taken from its record",
        "skipped": "is not computed",
        "damaged": "cannot be computed",
    }.get(now.state, "would be computed")
    print(f"{now.cell} [{profile}] {verdict}: {now.why}")
    if now.record:
        where = records.path(now.cell, profile)
        made_by = ", ".join(f"{k} {v}" for k, v in now.record.made_by.items() if v not in ([], ""))
        print(f"record: {where}\nmade by: {made_by}")
        print(f"cost: {records.cost(now.record)}")
    if now.task:
        print(json.dumps(now.task.key, indent=1))


def _write_index(output: Path | None = None) -> tuple[Path, int, list[str]]:
    """The file, the number of its rows, and what is wrong with each record that has none."""
    from .records import export

    file = output or paths.runs() / "index.csv"
    return file, *export.write(file)


@app.command()
def index(output: Annotated[Path | None, typer.Option(help="By default index.csv in the runs folder.")] = None) -> None:
    """Write one row per record of the small and full profiles to a CSV file."""
    file, count, damaged = _write_index(output)
    print(f"{count} records in {file}")
    if damaged:
        raise UserError(f"{len(damaged)} records have no row: " + "; ".join(damaged))


@app.command()
def watch(
    every: Annotated[float, typer.Option(help="Seconds between looks; 0 looks once.")] = 0.0, as_json: Json = False
) -> None:
    """Show what is being computed under this `runs` folder."""
    from .core import progress

    if not 0 <= every <= threading.TIMEOUT_MAX:
        raise UserError(f"--every {every}: a number of seconds, or 0 to look once")
    while True:
        notes = progress.running()
        if as_json:
            print(json.dumps(notes, indent=1))
        elif notes:
            _print_table("running", [progress.as_row(note) for note in notes])
        else:
            print("nothing is running")
        if every <= 0:
            return
        time.sleep(every)


@app.command()
def evaluate(
    file: Annotated[
        str, typer.Argument(help="A distilled set: .pt, .npz, .safetensors, or a folder with one folder per class.")
    ],
    dataset: Annotated[str, typer.Option(help="Whose test set judges it: a name or your own data.")],
    protocol: Annotated[
        str, typer.Option(help="Names with commas between them: vico_dsa,vico_dsa+noaug. See `distill list protocols`.")
    ] = "vico_dsa",
    networks: Annotated[str, typer.Option(help="Names with commas between them: ConvNet,ResNet18.")] = "ConvNet",
    num_eval: Annotated[
        int | None, typer.Option(help="Networks of each kind; by default the protocol's number.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    normalised: Annotated[
        bool, typer.Option("--normalised", help="Float images are normalised with the data set's mean and std.")
    ] = False,
    pixels: Annotated[bool, typer.Option("--pixels", help="Float images are pixels in [0, 1].")] = False,
    signed: Annotated[bool, typer.Option("--signed", help="Float images are pixels in [-1, 1].")] = False,
    in_bytes: Annotated[bool, typer.Option("--bytes", help="Float images are pixels from 0 to 255.")] = False,
    factor: Annotated[int, typer.Option(help="Every image holds factor x factor small ones, as IDC stores them.")] = 1,
    order: Annotated[
        str | None, typer.Option(help="Of images without labels: classes (one class after another) or rounds.")
    ] = None,
    numbers: Annotated[
        str | None, typer.Option(help="What numbers of ImageNet classes count: paper (its order) or sorted (wnids).")
    ] = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="Evaluate as many random real images too.")] = False,
    ceiling_epochs: Annotated[int | None, typer.Option(help="Epochs to train on all real images too.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Of the data set, in pixels.")] = None,
    normalisation: Annotated[
        str | None, typer.Option(help="Of the set and the data, if not the data set's own: ImageNet.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="1 or 3: convert your own data to grey or colour.")] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Which folders of your own data hold which part: --split train=day,dusk --split test=night."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="The class folders of your own data to read, in label order: ant,bee.")
    ] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything measured as JSON.")] = False,
) -> None:
    """Evaluate a distilled set from any code under a named protocol."""
    from .evaluation import files
    from .generators import generated  # noqa: F401  reads sets that are generators

    warnings.filterwarnings("ignore", module="PIL")  # what cannot be read is refused in one line
    said = {"normalised": normalised, "pixels": pixels, "signed": signed, "bytes": in_bytes}
    values = [way for way, given in said.items() if given]
    if len(values) > 1:
        raise UserError(f"--{' and --'.join(values)} exclude each other: say which the float images are")
    options = {"baseline": baseline, "ceiling_epochs": ceiling_epochs, "device": device}
    options |= {"factor": factor, "order": order, "numbers": numbers, "values": values[0] if values else None}
    options |= {"resolution": resolution, "channels": channels, "split": _split(split), "normalisation": normalisation}
    options |= {"classes": None if classes is None else _names(classes)}
    try:
        found = files.evaluate_file(file, dataset, _names(protocol), _names(networks), num_eval, seed, **options)
    except UserError as err:
        raise UserError(as_options(str(err))) from None
    if as_json:
        print(json.dumps([e.as_dict() for e in found], indent=1))
        return
    _print_table(f"{file} on {dataset}", files.rows(found))
    for note in dict.fromkeys(n for e in found for n in e.notes):
        print(f"- {note}")


def _names(text: str) -> list[str]:
    """Names with commas between them; as JSON where a name has a comma: `["a, b", "c"]`."""
    if text.startswith("["):
        try:
            return list(map(str, json.loads(text)))
        except json.JSONDecodeError:
            raise UserError(
                f'{text}: begins like a list; write ["a, b", "c"] as JSON, or names with commas between'
            ) from None
    return [name.strip() for name in text.split(",") if name.strip()]


def _split(pairs: list[str] | None) -> dict[str, list[str]] | None:
    """`part=folders`, once or more for a part, as `data.load` takes them."""
    found: dict[str, list[str]] = {}
    for pair in pairs or []:
        part, equals, given = pair.partition("=")
        if not equals:
            raise UserError(f"--split {pair!r}: write part=folder, as in --split train=day,dusk --split test=night")
        found.setdefault(part, []).extend(_names(given))
    return found or None


def as_options(message: str) -> str:
    """The arguments of `data.load` that a message advises, as options of the command line.

    >>> as_options("say which: split={'train': ['a', 'b'], 'test': 'c'}; or classes=['a', 'b']; or pass channels=1")
    'say which: --split train=a,b --split test=c; or --classes a,b; or pass --channels 1'
    """

    def joined(value: str | list[str]) -> str:
        names = [value] if isinstance(value, str) else value
        return json.dumps(names) if any("," in name for name in names) else ",".join(names)

    def option(found: re.Match) -> str:
        try:
            value = ast.literal_eval(found[2])
        except (SyntaxError, ValueError):  # a name with a bracket in it: the argument still says it
            return found[0]
        given = {f"{part}=": at for part, at in value.items()} if isinstance(value, dict) else {"": value}
        return " ".join(f"--{found[1]} {shlex.quote(start + joined(at))}" for start, at in given.items())

    message = re.sub(r"\b(split|classes)=(\{.*?\}|\[.*?\])", option, message)
    message = re.sub(r"\b(split|classes|channels|resolution)=(?=[\s,:;])", r"--\1", message)
    return re.sub(r"\b(channels|resolution)=(?=[\w'])", r"--\1 ", message)


uvit = typer.Typer(
    no_args_is_help=True, help="U-ViT by itself: train stage 1, also on several processes, and generate images."
)
app.add_typer(uvit, name="uvit")


@uvit.command("train")
def uvit_train(
    dataset: Annotated[str, typer.Argument(help="For example CIFAR10.")],
    profile: ProfileOption = "full",
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Start from random weights, not from the public ones.")
    ] = False,
) -> None:
    """Train the U-ViT of a data set; on several GPUs: `torchrun --nproc-per-node 4 -m distill_lib uvit train
    CIFAR100`."""
    from .experiments import uvit_commands

    uvit_commands.train(dataset, _computed(profile), scratch)


@uvit.command("generate")
def uvit_generate(
    folder: Annotated[Path, typer.Option(help="Where the images go; what it holds already is kept and continued.")],
    dataset: Annotated[
        str | None, typer.Argument(help="Whose U-ViT, trained by `distill uvit train` or an experiment.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A file of weights, in place of a data set.")] = None,
    profile: ProfileOption = "full",
    seconds: Annotated[float | None, typer.Option(help="How long to generate.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Or how many images.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Generate images of a trained U-ViT, in turn of every class, to a folder as uint8."""
    from .experiments import uvit_commands

    uvit_commands.generate(folder, dataset, weights, _computed(profile), seconds, images, seed)


@app.command()
def reproduce(
    profile: Annotated[str, typer.Option(help="recorded, smoke, small or full.")] = "smoke",
    only: Annotated[str | None, typer.Option(help="One notebook: skd/table1_accuracy.")] = None,
    parameter: Parameter = None,
    jobs: Annotated[int | None, typer.Option(help="Notebooks at a time.")] = None,
) -> None:
    """Run every notebook in a profile and build the book of that run."""
    paths.needs_checkout("distill reproduce")
    from .publish import build as book_

    book_.reproduce(profile, only=only, parameters=parse(parameter), jobs=jobs)


@app.command()
def book() -> None:
    """Build the book from the recorded results."""
    paths.needs_checkout("distill book")
    from .publish import build as book_

    print(book_.build())


if __name__ == "__main__":
    main()
