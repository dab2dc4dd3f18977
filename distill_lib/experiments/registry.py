"""Experiments by name, their parameters, and their cells by a selection or a name.

params = check_parameters("skd/table1_accuracy", {"profile": "smoke", "ipcs": [1]})
cells = select(experiment("skd/table1_accuracy").cells(params), "method=DM|DC, ipc=1")
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import fnmatch
import functools
import re
from typing import Any, get_args

import pydantic

from ..core.errors import UserError, unknown
from ..records import Cell
from .definition import Experiment, Parameters
from .papers import EXPERIMENTS


@functools.cache
def experiments() -> dict[str, Experiment]:
    """Every experiment by name."""
    return {e.name: e for e in EXPERIMENTS}


def experiment(name: str) -> Experiment:
    """The experiment of that name. Raises: UserError: listing the names."""
    if name not in experiments():
        raise unknown("experiment", name, experiments())
    return experiments()[name]


# --- parameters -----------------------------------------------------------------------------------
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
    if error["type"] == "too_short":
        return f"{name}: an empty list; name at least one, or leave the parameter out for all"
    if error["type"] == "literal_error":
        return str(unknown(name, error["input"], map(str, choices)))
    return f"{name}: {error['msg']} (got {error['input']!r})"


def parameters(name: str, namespace: dict[str, Any]) -> Parameters:
    """A notebook's parameters from its global names, checked before anything runs.

    Call it as `experiment.parameters("...", globals())` in a cell below the parameters.

    Every parameter of the experiment is read from the namespace. papermill assigns whatever it is given and only warns
    about a name that the notebook does not have. So a further name is refused if the parameters cell or papermill's
    injected cell assigned it when it last ran. All other names are variables of the notebook or of its reader, and are
    left alone: a notebook can be run again in the same kernel, and cells can be added anywhere.
    Where no parameters cell is known, as in a script, every plain value counts that existed at the first call.
    What papermill (its paths) and ploomber (`upstream`, `product`) put there themselves is theirs.

    Raises: UserError: see `check_parameters`.
    """
    fields, plain = experiment(name).parameters.model_fields, (str, int, float, bool, list, tuple, dict, type(None))
    assigned = _parameter_cells(namespace.get("In", []))
    if assigned is None:
        whose, names = namespace.setdefault("_at_first", (id(namespace), namespace.keys() - {"In", "Out"}))
        assigned = names if whose == id(namespace) else namespace.keys() - {"In", "Out"}
    others = {k for k in assigned if not k.lower().startswith(("_", "papermill_")) and k not in ("upstream", "product")}
    values = {k: v for k, v in namespace.items() if k in fields or (k in others and isinstance(v, plain))}
    try:
        return check_parameters(name, values)
    except UserError as err:
        own = "; a variable of your own goes into a cell below the parameters" * bool(values.keys() - fields.keys())
        raise UserError(f"{err}{own}") from None


def _parameter_cells(cells: list[str]) -> set[str] | None:
    """Names that the parameters cell, which assigns `profile`, and papermill's injected cell below it assign.

    Args:
        cells: what has run in a kernel, in order (IPython's `In`). The last run of a cell counts: a mended typo is
        forgotten.
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
    targets = [
        t for s in body if isinstance(s, ast.Assign | ast.AnnAssign) for t in getattr(s, "targets", None) or [s.target]
    ]
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def select(cells: list[Cell], text: str | None) -> list[Cell]:
    """The cells that a selection such as "method=DM|DC, ipc=10, dataset=*MNIST" names; all of them for None.

    Raises: UserError: an unknown field, or nothing selected.
    """
    if text is None:
        return cells
    fields = [f.name for f in dataclasses.fields(Cell) if f.name != "experiment"]
    for part in text.split(","):
        name, equals, values = (t.strip() for t in part.partition("="))
        if not equals or not values:
            raise UserError(
                f"cells {text!r}: write field=value, fields are {', '.join(fields)}; for example method=DM,ipc=10"
            )
        if name not in fields:
            raise unknown("field of a cell", name, fields)
        found = sorted({_shown(c, name) for c in cells})
        cells = [
            c
            for c in cells
            if any(fnmatch.fnmatchcase(_shown(c, name).lower(), v.strip().lower()) for v in values.split("|"))
        ]
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
    every = {cell: f"{e.name}/{cell.stem}" for e in experiments().values() for cell in e.cells(e.parameters())}

    def named(wanted: str) -> dict[Cell, str]:
        return {
            cell: where
            for cell, where in every.items()
            if wanted in (str(cell), f"{cell.experiment}: {cell}", cell.stem) or wanted.endswith(where)
        }

    wanted = text.strip().removesuffix(".json")
    found = named(wanted) or named(re.sub(r"-(small|full)$", "", wanted))  # as citations have it
    if not found:
        close = difflib.get_close_matches(wanted.rpartition("/")[2], [cell.stem for cell in every], n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown cell {text!r}: {hint}`distill plan EXPERIMENT --json` lists them")
    if len(found) > 1:
        raise UserError(f"{text!r} names {len(found)} cells; write {' or '.join(found.values())}")
    return next(iter(found))


def paper_data(cell: Cell) -> str:
    """The data set that the paper's number is on, as `full` loads it: ImageWoof@224px."""
    params = check_parameters(cell.experiment, {"profile": "full"})
    return getattr(experiment(cell.experiment).task(cell, params), "dataset", cell.dataset)
