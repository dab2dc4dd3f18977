"""One row per record, as a CSV file to read, sort and share: derived from the records, and worth nothing without them.

index.write(Path("index.csv"))
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
from .record import Record

PROFILES = ("full", "small")  # smoke records are no results
COLUMNS = (
    "profile",
    "experiment",
    "method",
    "dataset",
    "measured_on",
    "ipc",
    "network",
    "protocol",
    "variant",
    "test_accuracy_pct",
    "std_pct",
    "networks",
    "sets",
    "of_sets",
    "underfit",
    "distill_seconds",
    "evaluate_seconds",
    "cpu_seconds",
    "joules",
    "memory_mb",
    "device",
    "torch",
    "commit",
    "changed_since_commit",
    "at",
    "record",
)


def row(record: Record, profile: str) -> dict[str, Any]:
    """A record in one line. Mean and population standard deviation are over all networks; what was not measured is
    empty.

    `protocol` names the budget and `network` what was trained, where they are others than the table's heading says;
    `measured_on` is the data set, or its stand-in; `of_sets` how many sets the run is to make; `underfit` why its
    networks count as not trained.
    """
    cell, key, by = record.cell, record.key, record.made_by
    values = record.test_accuracy_pct
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
        "of_sets": key.get("num_sets", ""),
        "underfit": records_record.underfit(record),
        "distill_seconds": record.seconds.get("distill", ""),
        "evaluate_seconds": record.seconds.get("evaluate", ""),
        "cpu_seconds": _sum(record.cpu_seconds),
        "joules": _sum(record.joules),
        "memory_mb": record.memory_mb,
        "device": by.get("device", ""),
        "torch": by.get("torch", ""),
        "commit": by.get("commit", ""),
        "changed_since_commit": by.get("changed_since_commit", ""),
        "at": by.get("at", ""),
        "record": records_record.path(cell, profile).relative_to(paths.results(profile).parent).as_posix(),
    }


def _sum(parts: dict[str, float]) -> float | str:
    return round(sum(parts.values()), 2) if parts else ""


def rows() -> tuple[list[dict[str, Any]], list[str]]:
    """Every readable record as a row, in the order of the files, and what is wrong with each of the others."""
    found, damaged = [], []
    for profile in PROFILES:
        for file in records_record.files(profile):
            try:
                record = records_record.read(file)
                if records_record.path(record.cell, profile) != file:
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
            writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)

    atomically(file, table)
    return len(found), damaged
