"""What the papers print: one CSV per paper in printed/, one row per table cell. Loader, checks, look-up,
layout.

    reported.lookup("skd/table1_accuracy", "DM", "CIFAR10", 10)["text"]      # '48.9 ± 0.6'
    reported.matrix("dgs/table3_distributions")                             # the table in the paper's own layout

An experiment `<paper>/table...` or `<paper>/figure...` holds the paper's own numbers, `<paper>/settings` those its text
states, `<paper>/attributed_...` numbers of other papers: those are never mixed with the paper's own.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import paths
from ..core.errors import UserError, unknown

PAPERS = ("skd", "uvit", "dgs", "slfd")  # in reading order
COLUMNS = (
    "experiment",  # skd/table1_accuracy
    "method",
    "dataset",
    "ipc",  # images per class; empty if the paper names none (full data, generators)
    "network",  # evaluation network
    "variant",  # further axes of the table: "distribution=Cliff", "match=DC, space=pixel"
    "quantity",  # test_accuracy_pct, fid, parameters, ...
    "unit",
    "value",  # as printed, decimals included; empty if the source lost it
    "std",
    "trials",
    "source",  # table and row in the paper
    "status",
    "note",  # provenance problems, separated by "; "
)
KEY = COLUMNS[:7]
OTHERS = "others' entry"  # printed, but of another team, or the average of two cells: nothing to measure here
STATUSES = ("printed", OTHERS, "not in the source", "attributed")
LOST = "not in the source"
ABSENT = "no such cell"  # a place in the layout that the paper leaves out
UNITS = {  # unit -> how a value is written in a table
    "": "{}",
    "%": "{}",
    "fraction": "{}",
    "million": "{} M",
    "hours, approximate": "about {} h",
    "minutes": "{} min",
    "GB": "{} GB",
    "images": "{}",
    "pixels": "{} px",
    "x IPC": "{} x IPC",
}
LAYOUTS = {  # experiment -> (keys of the rows, keys of the columns), as in the paper
    "skd/table1_accuracy": (("method",), ("dataset", "ipc")),
    "skd/table2_cross_architecture": (("method",), ("network",)),
    "dgs/table1_imagewoof": (("ipc", "network"), ("method",)),
    "dgs/table2_subsets": (("dataset", "ipc"), ("method",)),
    "dgs/table3_distributions": (("distribution",), ("ipc",)),
    "dgs/table4_pool_size": (("pool",), ("ipc",)),
    "dgs/attributed_mgd3_table1": (("method",), ("dataset", "ipc")),
    "dgs/attributed_mgd3_table2": (("method", "ipc"), ("network",)),
    "dgs/attributed_mgd3_table8": (("ipc", "network"), ("method",)),
    "uvit/table1_configurations": (("model",), ("quantity",)),
    "uvit/table2_fid": (("dataset", "sampler"), ("quantity",)),
    "uvit/figure4_leaderboard": (("track", "rank", "team"), ("dataset",)),
    "slfd/table1_imagenet_subsets": (("match", "space", "method", "network"), ("dataset",)),
    "slfd/table2_highres": (("method",), ("dataset",)),
    "slfd/table3_merged": (("method", "dataset"), ("network",)),
    "slfd/table4_cifar10": (("method", "generator"), ("network",)),
    "slfd/table5_pathmnist": (("method",), ("resolution",)),
    "slfd/table6_uvit": (("generator", "method"), ("dataset",)),
    "slfd/table7_covariance_rank": (("resolution", "method", "rank"), ("dataset",)),
    "slfd/attributed_ld3m_table4": (("match", "space", "method"), ("dataset",)),
    "slfd/attributed_ld3m_other": (("figure", "resolution", "method"), ("quantity",)),
    "slfd/attributed_mgd3_table4": (("match", "method"), ("dataset",)),
    "slfd/attributed_gsdd": (("network", "match", "space", "method"), ("dataset",)),
    "slfd/attributed_aggregator": (("method", "dataset", "network", "resolution"), ()),
    **{f"{p}/settings": (("quantity", "dataset", "ipc", "network", "match", "resolution"), ()) for p in PAPERS},
}
# library's name -> DGS's
NETWORKS = {"ConvNetD6": "ConvNet-6", "IDC-ResNetAP10": "ResNetAP-10", "IDC-ResNet18": "ResNet-18"}
HEADINGS = {"dataset": "data set", "ipc": "IPC", "match": "matching"}


def load(paper: str) -> pd.DataFrame:
    """Every published number of a paper, one row per table cell.

    Args:
        paper: skd, uvit, dgs or slfd.
    Returns: `COLUMNS` with value and std as numbers (NaN without one), ipc and trials as integers, and `text`,
        the cell as printed: '48.9 ± 0.6', or 'not in the source'.
    Raises: UserError: unknown paper, or a damaged file: file, line and what is wrong.
    """
    return _frame(_rows(paper))


def experiment_names(paper: str | None = None, attributed: bool = False) -> list[str]:
    """The papers' own tables and figures with numbers, or with `attributed` the collections of other papers'
    numbers."""
    kinds = ("attributed",) if attributed else ("table", "figure")
    names = dict.fromkeys(r["experiment"] for p in ([paper] if paper else PAPERS) for r in _rows(p))
    return [n for n in names if n.split("/")[1].startswith(kinds)]


def lookup(experiment: str, method: str, dataset: str, *more: Any, **axes: Any) -> dict[str, Any] | None:
    """The one published number of a cell, or None if the paper has no such cell; arguments as for `rows_of`.

    Returns: the row, with `text` as printed and `value` and `std` as numbers, None where lost. Accuracies printed as
        fractions are given in percent (`text` stays as printed).
    Raises: UserError: unknown experiment, or different numbers fit: the answer says which axis decides.
    """
    found = rows_of(experiment, method, dataset, *more, **axes)
    if not found:
        return None
    if len({(r["quantity"], r["text"]) for r in found}) > 1:
        values = {k: list(dict.fromkeys(str(r[k]) for r in found)) for k in ("ipc", "network", "variant", "quantity")}
        choices = "; ".join(f"{k}: {', '.join(v)}" for k, v in values.items() if len(v) > 1)
        raise UserError(
            f"{experiment}: {len(found)} different numbers for {method} on {dataset}; say which ({choices})"
        )
    return in_percent(found[0])


def rows_of(
    experiment: str,
    method: str,
    dataset: str,
    ipc: int | None = None,
    network: str | None = None,
    variant: str | None = None,
    quantity: str | None = None,
) -> list[dict[str, Any]]:
    """Every row that fits. A number that is printed again at every IPC has several.

    Args:
        ipc, network, variant, quantity: None (or "") leaves the axis open. `network` is the paper's name or the
            library's; `variant` names one or more axes: "track=2" finds "track=2, rank=1, team=zheli".
    Raises: UserError: unknown experiment.
    """
    wanted = _axes(variant or "")
    return [
        r
        for r in cells_of(experiment)
        if (r["method"], r["dataset"]) == (method, dataset)
        and (ipc is None or r["ipc"] == ipc)
        and (not network or r["network"] in (network, NETWORKS.get(network)))
        and (not quantity or r["quantity"] == quantity)
        and wanted.items() <= r["axes"].items()
    ]


def in_percent(row: dict[str, Any]) -> dict[str, Any]:
    """A row with value and deviation in percent if they are printed as fractions; `text` stays as printed."""
    if row["unit"] != "fraction":
        return dict(row)
    return row | {k: None if row[k] is None else 100 * row[k] for k in ("value", "std")}


def matrix(experiment: str, show: Callable[[dict[str, Any]], Any] = lambda row: row["text"]) -> pd.DataFrame:
    """A table in the paper's layout: rows, columns and decimals as printed, 'not in the source' for a lost number.

    A number that the paper prints across several columns stands in each of them.

    Args:
        show: what stands for a row of the CSV in its cell; by default the number as printed.
    Raises: UserError: unknown experiment, or a damaged file.
    """
    rows = cells_of(experiment)
    down, across = LAYOUTS[experiment]
    down = [k for k in down if any(_part(r, k) is not None for r in rows)]
    places = [tuple(_part(r, k) for k in across) for r in rows]
    columns = list(dict.fromkeys(p for p in places if None not in p)) or [()]
    index = list(dict.fromkeys(tuple(_part(r, k) for k in down) for r in rows))
    cells: dict[tuple, dict[tuple, str]] = {c: dict.fromkeys(index, ABSENT) for c in columns}
    for r, place in zip(rows, places, strict=True):
        for column in columns:
            if all(p is None or p == c for p, c in zip(place, column, strict=True)):
                cells[column][tuple(_part(r, k) for k in down)] = show(r)
    frame = pd.DataFrame({c: list(v.values()) for c, v in cells.items()})
    frame.index = _labels(index, down)
    frame.columns = _labels(columns, list(across)) if across else pd.Index(["value"])
    return frame


def notes(experiment: str) -> pd.DataFrame:
    """The provenance notes of a table: each note once, the rows and the number of cells that it concerns."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in cells_of(experiment):
        for note in filter(None, r["note"].split("; ")):
            found.setdefault(note, []).append(r)
    lines = [
        {"note": note, "rows": ", ".join(dict.fromkeys(r["method"] for r in hits)), "cells": len(hits)}
        for note, hits in found.items()
    ]
    return pd.DataFrame(lines, columns=["note", "rows", "cells"])


def cells_of(experiment: str) -> list[dict[str, Any]]:
    """The rows of one table or figure as dictionaries, numbers parsed, in the order of the paper. Raises: UserError:
    unknown experiment."""
    paper = experiment.split("/")[0]
    rows = [r for r in _rows(paper) if r["experiment"] == experiment] if paper in PAPERS else []
    if not rows:
        raise unknown("experiment", experiment, dict.fromkeys(r["experiment"] for p in PAPERS for r in _rows(p)))
    return rows


def _rows(paper: str) -> tuple[dict[str, Any], ...]:
    if paper not in PAPERS:
        raise unknown("paper", paper, PAPERS)
    file = paths.reported() / f"{paper}.csv"
    try:
        changed = file.stat().st_mtime_ns
    except OSError as err:
        raise UserError(
            f"{file}: no file with the published numbers of {paper} ({err.strerror}); "
            "restore it from git, or install again"
        ) from None
    return _read(file, changed)


@functools.lru_cache(maxsize=16)
def _read(file: Path, changed: int) -> tuple[dict[str, Any], ...]:
    """The checked rows of a file; `changed` makes an edited file a new one."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.reader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UserError(f"{file}: not a readable CSV ({err}); restore it from git") from None
    header = lines[0] if lines else []
    missing, extra = [c for c in COLUMNS if c not in header], [c for c in header if c not in COLUMNS]
    if missing or extra or len(header) != len(COLUMNS):
        problem = (
            f"column {', '.join(missing)} missing" if missing else f"unexpected column {', '.join(extra) or header}"
        )
        raise UserError(f"{file}: {problem}; the columns are {', '.join(COLUMNS)}")
    rows, seen = [], {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{file}, line {number}"
        if len(line) != len(header):
            raise UserError(f"{where}: {len(line)} fields, expected {len(header)}; restore the file from git")
        row = _checked(dict(zip(header, line, strict=True)), file.stem, where)
        key = tuple(row[k] for k in KEY)
        if key in seen:
            raise UserError(f"{where}: the cell {', '.join(str(k) for k in key if k)} is already in line {seen[key]}")
        seen[key] = number
        rows.append(row)
    return tuple(rows)


def _checked(raw: dict[str, str], paper: str, where: str) -> dict[str, Any]:
    if not raw["experiment"].startswith(f"{paper}/"):
        raise UserError(f"{where}: experiment {raw['experiment']!r} does not belong to the paper {paper!r}")
    for column in ("method", "quantity", "source"):
        if not raw[column]:
            raise UserError(f"{where}: {column} is empty")
    if raw["status"] not in STATUSES:
        raise UserError(f"{where}: {unknown('status', raw['status'], STATUSES)}")
    if raw["unit"] not in UNITS:
        raise UserError(f"{where}: {unknown('unit', raw['unit'], [repr(u) for u in UNITS])}")
    if raw["experiment"] not in LAYOUTS:
        raise UserError(f"{where}: {unknown('experiment', raw['experiment'], LAYOUTS)}")
    if (raw["status"] == "attributed") != raw["experiment"].startswith(f"{paper}/attributed_"):
        raise UserError(f"{where}: numbers of other papers belong into {paper}/attributed_..., and nothing else does")
    lost = raw["status"] == LOST
    if lost and (raw["value"] or raw["std"]):
        raise UserError(f"{where}: status {LOST!r}, but value {raw['value']!r}, std {raw['std']!r}")
    value = None if lost else _number(raw["value"], "value", where)
    std = _number(raw["std"], "std", where) if raw["std"] else None
    if std is not None and std < 0:
        raise UserError(f"{where}: std {raw['std']!r} is negative")
    text = LOST if lost else UNITS[raw["unit"]].format(raw["value"] + (f" ± {raw['std']}" if raw["std"] else ""))
    whole = {c: _whole(raw[c], c, where) for c in ("ipc", "trials")}
    return {**raw, **whole, "value": value, "std": std, "text": text, "axes": _axes(raw["variant"], where)}


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {column} {text!r} is not a number")
    return value


def _whole(text: str, column: str, where: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UserError(f"{where}: {column} {text!r} is not a positive whole number")
    return int(text)


def _axes(variant: str, where: str = "variant") -> dict[str, str]:
    """'match=DC, space=pixel' -> {'match': 'DC', 'space': 'pixel'}."""
    parts = [p.partition("=") for p in variant.split(", ")] if variant else []
    if any(not (name and equals and value) for name, equals, value in parts):
        raise UserError(f"{where}: {variant!r} is not of the form 'axis=value, axis=value'")
    return {name: value for name, _, value in parts}


def _part(row: dict[str, Any], key: str) -> Any:
    """A row's value on one axis of the layout; None if it has none."""
    value = row[key] if key in COLUMNS else row["axes"].get(key)
    return None if value == "" else value


def _labels(keys: list[tuple], names: list[str]) -> pd.Index:
    shown = [tuple("" if part is None else part for part in key) for key in keys]
    heads = [HEADINGS.get(n, n) for n in names]
    if len(heads) == 1:
        return pd.Index([key[0] for key in shown], name=heads[0])
    return pd.MultiIndex.from_tuples(shown, names=heads)


def _frame(rows: list[dict[str, Any]] | tuple[dict[str, Any], ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "text"])
    return frame.astype({"ipc": "Int64", "trials": "Int64", "value": "float64", "std": "float64"})
