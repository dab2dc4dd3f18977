"""One row per record, as a CSV file to read, sort and share; it is derived from the records alone.

export.write(Path("index.csv"))
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import Any

from ..core import paths
from ..core.errors import UserError
from ..core.files import atomically
from . import record as records_record
from .record import Record, files, path, underfit


def row(record: Record, profile: str) -> dict[str, Any]:
    """A record in one line. Mean and population standard deviation are over all networks; what was not measured is
    empty.

    `measured_on` is the data set or its stand-in, `protocol` has its budget, `network` is the one that was trained,
    `of_sets` says how many sets the run is to make, and `underfit` why its networks count as not trained.
    """
    cell, key, by, values = record.cell, record.key, record.made_by, record.test_accuracy_pct
    return {
        "profile": profile,
        "experiment": cell.experiment,
        "method": cell.method,
        "dataset": cell.dataset,
        "measured_on": key.get("dataset", ""),
        "ipc": "all" if cell.ipc is None else cell.ipc,
        "network": key.get("network", cell.network),
        "protocol": key.get("protocol", {}).get("name", cell.protocol),
        "variant": cell.variant,
        "test_accuracy_pct": round(statistics.fmean(values), 4),
        "std_pct": round(statistics.pstdev(values), 4) if len(values) > 1 else "",
        "networks": len(values),
        "sets": len(record.done),
        "of_sets": max(len(record.done), key["num_sets"]) if "num_sets" in key else "",
        "underfit": underfit(record),
        "distill_seconds": record.seconds.get("distill", ""),
        "evaluate_seconds": record.seconds.get("evaluate", ""),
        "cpu_seconds": _sum(record.cpu_seconds),
        "joules": _sum(record.joules),
        "memory_mb": record.memory_mb,
        **{name: by.get(name, "") for name in ("device", "torch", "commit", "changed_since_commit", "at")},
        "record": path(cell, profile).relative_to(paths.results(profile).parent).as_posix(),
    }


def _sum(parts: dict[str, float]) -> float | str:
    return round(sum(parts.values()), 2) if parts else ""


def rows() -> tuple[list[dict[str, Any]], list[str]]:
    """Every readable record as a row, in the order of the files, and what is wrong with each of the others."""
    found, damaged = [], []
    for profile in paths.RESULT_PROFILES:
        for file in files(profile):
            try:
                record = records_record.read(file)
                if path(record.cell, profile) != file:
                    raise UserError(f"{file}: holds the record of another cell ({record.cell})")
                found.append(row(record, profile))
            except UserError as err:
                damaged.append(str(err))
    return found, damaged


def write(file: Path) -> tuple[int, list[str]]:
    """Write the table. Returns: the number of rows, and what is wrong with each record that has none."""
    found, damaged = rows()

    def table(part: Path) -> None:
        with open(part, "w", newline="") as f:
            writer = csv.DictWriter(f, found[0] if found else [], lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)

    atomically(file, table)
    return len(found), damaged
