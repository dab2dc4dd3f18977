"""A cache of record summaries in the runs folder, so that a plan does not read unchanged records again.

It serves plans only: whoever shows or reuses a number reads and checks the record itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from ..core import paths
from ..core.errors import UserError
from ..core.files import atomically
from . import record as records_record
from .record import Cell, Record

FORMAT = 3
FRESH_S = 1.0  # a file changed as recently could change again within one tick of its clock


@dataclass(frozen=True)
class RecordSummary:
    """A record in short, and the state of its file when it was checked."""

    stamp: str
    cell: str  # `name_of` its cell
    settings: str  # `fingerprint` of its key
    at: str
    device: str
    processor: str  # the instructions it has, "" for a GPU or an older record
    method: str  # of METHODS, that made the sets
    network: str
    sets: int  # distilled sets it holds

    @classmethod
    def of(cls, record: Record, stamp: str) -> RecordSummary:
        by, key = record.made_by, record.key
        method, network = key.get("method", record.cell.method), key.get("network", "")
        instructions = " ".join(by.get("processor", []))
        words = map(str, (by.get("at", ""), by.get("device", ""), instructions, method, network))
        return cls(stamp, name_of(record.cell), fingerprint(key), *words, sets=len(record.done))


def name_of(cell: Cell) -> str:
    """The cell in words, with the table it belongs to."""
    return f"{cell.experiment}: {cell}"


def fingerprint(key: dict[str, Any]) -> str:
    """Hash of everything that a plan compares: a record's key without the data's hash, which only loading tells."""
    return hashlib.sha256(to_json({k: v for k, v in key.items() if k != "data_sha256"})).hexdigest()[:16]


def summaries(profile: str) -> tuple[dict[str, RecordSummary], dict[str, str]]:
    """Every record of a profile by "paper/table/stem", and what is wrong with each of the files that cannot be read."""
    store = paths.runs() / "verified" / f"{profile}.json"
    known, found, damaged, keep = _stored(store), {}, {}, {}
    for file in records_record.files(profile):
        stem = "/".join(file.parts[-3:]).removesuffix(".json")
        try:
            info = os.stat(file)
            stamp = f"{info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
            summary = known.get(stem)
            if summary is None or summary.stamp != stamp:
                summary = RecordSummary.of(records_record.read(file), stamp)
            found[stem] = summary
            if time.time() - info.st_ctime > FRESH_S:
                keep[stem] = summary
        except FileNotFoundError:
            continue  # removed meanwhile
        except (OSError, UserError) as err:
            damaged[stem] = str(err)
    if keep != known:
        body = {"format": FORMAT, "records": {k: list(vars(v).values()) for k, v in keep.items()}}
        with contextlib.suppress(UserError):  # it only saves time: a plan also works in a folder that cannot be written
            atomically(store, lambda part: part.write_text(json.dumps(body)))
    return found, damaged


def _stored(store: Path) -> dict[str, RecordSummary]:
    """The summaries kept last time; none if there are none, or of another version."""
    try:
        body = from_json(store.read_bytes())
        return {k: RecordSummary(*v) for k, v in body["records"].items()} if body["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
