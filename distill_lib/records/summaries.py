"""What is known of record files that were read, checked and not touched since: a plan need not read ten thousand of
them again.

A copy for plans only, in the runs folder; whoever shows or reuses a number reads and checks the record itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from ..core import paths
from ..core.errors import UserError
from ..core.files import atomically
from . import record as records_record
from .record import Cell, Record

FORMAT = 2
FRESH_S = 1.0  # a file changed as recently could change again within one tick of its clock


@dataclass(frozen=True)
class Summary:
    """A record in short, and the state of its file when it was checked."""

    stamp: str
    cell: str  # `name` of its cell
    settings: str  # `fingerprint` of its key
    at: str
    device: str
    method: str  # of METHODS, that made the sets
    network: str
    sets: int  # distilled sets it holds

    @classmethod
    def of(cls, record: Record, stamp: str) -> Summary:
        by, key = record.made_by, record.key
        method, network = key.get("method", record.cell.method), key.get("network", "")
        words = map(str, (by.get("at", ""), by.get("device", ""), method, network))
        return cls(stamp, name(record.cell), fingerprint(key), *words, sets=len(record.done))


def name(cell: Cell) -> str:
    """The cell in words, with the table it belongs to."""
    return f"{cell.experiment}: {cell}"


def fingerprint(key: dict[str, Any]) -> str:
    """Hash of everything a plan compares, in the order it stands in: a record's key but for the data's hash, which only
    loading them tells."""
    return hashlib.sha256(to_json({k: v for k, v in key.items() if k != "data_sha256"})).hexdigest()[:16]


def summaries(profile: str) -> tuple[dict[str, Summary], dict[str, str]]:
    """Every record of a profile by "paper/table/stem", and what is wrong with each of the files that cannot be read."""
    store = paths.runs() / "verified" / f"{profile}.json"
    known = _stored(store)
    found: dict[str, Summary] = {}
    damaged: dict[str, str] = {}
    keep = {}
    for stem, file in _files(profile):
        try:
            info = os.stat(file)
            stamp = f"{info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
            summary = known.get(stem)
            if summary is None or summary.stamp != stamp:
                summary = Summary.of(records_record.read(Path(file)), stamp)
            found[stem] = summary
            if time.time() - info.st_ctime > FRESH_S:
                keep[stem] = summary
        except FileNotFoundError:
            continue  # removed meanwhile
        except (OSError, UserError) as err:
            damaged[stem] = str(err)
    if keep != known:
        body = {"format": FORMAT, "records": {k: list(vars(v).values()) for k, v in keep.items()}}
        try:
            atomically(store, lambda part: part.write_text(json.dumps(body)))
        except UserError:
            pass  # a copy that saves time: a plan works on a folder that cannot be written, too
    return found, damaged


def _stored(store: Path) -> dict[str, Summary]:
    """The summaries kept last time; none where there are none, or of another version."""
    try:
        body = from_json(store.read_bytes())
        return {k: Summary(*v) for k, v in body["records"].items()} if body["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _files(profile: str) -> Iterator[tuple[str, str]]:
    """("paper/table/stem", path) of every record file."""
    root = str(paths.results(profile))
    for paper in _folders(root):
        for table in _folders(paper):
            prefix = table[len(root) + 1 :]
            for entry in os.scandir(table):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    yield f"{prefix}/{entry.name[:-5]}", entry.path


def _folders(root: str) -> list[str]:
    try:
        return sorted(e.path for e in os.scandir(root) if e.is_dir())
    except FileNotFoundError:
        return []
