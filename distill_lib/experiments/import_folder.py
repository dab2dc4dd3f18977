"""Add what `make gpu` brought from another machine to the results here. Book page: book/scale_out.md

Everything is read and checked before anything is written.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from .. import records
from ..core.errors import UserError
from ..core.files import writing
from ..records import Record, benchmarks
from . import engine, registry

FORMAT = "distill_lib.gpu/1"
PROFILES = ("full", "small", "smoke")


@dataclass
class Imported:
    """A line for every record and benchmark file: what was added, and what was left out and why."""

    added: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def import_folder(folder: Path) -> Imported:
    """Add a folder's records, as they are, to those of their profiles, and its benchmarks to their device's file.

    A record of the same settings as one that is here adds the sets that are missing.

    Raises: UserError: a damaged file, a record of an unknown cell, or one made from uncommitted or unknown code.
            Nothing was written then.
    """
    with tempfile.TemporaryDirectory() as place:
        _unpack(folder, Path(place))
        found, writes = Imported(), []
        for file in sorted(Path(place).glob("records/*/*/*/*.json")):
            name = file.relative_to(Path(place) / "records").as_posix()
            try:
                record = records.read(file)
            except UserError as err:
                raise UserError(f"{folder}: {str(err).replace(str(file), name)}; nothing was added") from None
            _place(found, writes, record, name, folder)
        for file in sorted(Path(place).glob("benchmarks/*.json")):
            report = benchmarks.read(file)
            for entry in report.entries.values():
                _traced(entry["made_by"], f"{folder}: benchmark {entry['name']}")
            add = functools.partial(benchmarks.add, report.device, report.threads, list(report.entries.values()))
            writes.append((add, f"benchmarks: {report.title}, {len(report.entries)} entries"))
    for write, what in writes:
        if write():
            found.added.append(what)
        else:
            found.left_out.append(f"{what}: is being computed here now, or was meanwhile; import again")
    return found


def _unpack(folder: Path, place: Path) -> None:
    """Check the folder's files by its manifest, and unpack its results."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, this version reads {FORMAT}")
        for name, about in manifest["files"].items():
            if name.startswith("checkpoint.") and not (folder / name).is_file():
                continue  # large, and only to go on from
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != about["sha256"]:
                raise ValueError(f"{name}: another checksum than when it was written")
        with zipfile.ZipFile(folder / "results.zip") as archive:
            archive.extractall(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as err:
        problem = f"{type(err).__name__}: {err}" if isinstance(err, (KeyError, TypeError)) else str(err)
        raise UserError(f"{folder}: not a whole folder of `make gpu` ({problem}); copy it again") from None


def _place(
    found: Imported, writes: list[tuple[Callable[[], Any], str]], record: Record, name: str, folder: Path
) -> None:
    """Decide what becomes of a record: a write, or a reason to leave it out. Raises: see `import_folder`."""
    profile, cell = PurePosixPath(name).parts[0], record.cell
    where, what = f"{folder}: {name}", f"{cell.experiment} [{profile}]: {cell}"
    known = registry.experiments().get(cell.experiment)
    params = registry.check_parameters(cell.experiment, {"profile": profile}) if known and profile in PROFILES else None
    if params is None or cell not in known.cells(params) or name != f"{profile}/{cell.experiment}/{cell.stem}.json":
        raise UserError(f"{where}: {what} is no cell of this version, or not in its own file; nothing was added")
    for by in (record.made_by, *record.made_by.get("earlier", ())):
        _traced(by, where)
    here = records.load(cell, profile)
    task = known.task(cell, params)
    if changed := records.differences(record.key, getattr(task, "key", {})):
        found.left_out.append(f"{what}: stale: {'; '.join(changed)}")
        return
    if here is not None and (changed := here.differs(record)):
        found.left_out.append(
            f"{what}: the record here has other settings ({'; '.join(changed)}); delete it to take this one"
        )
        return
    new = [i for i in record.done if here is None or i not in here.done]
    if not new:
        found.left_out.append(f"{what}: its sets {record.done} are recorded")
        return
    if here is not None:
        if not set(here.done) & set(record.done):
            record = here.joined(record)
        elif not _continues(record, here):
            sets = f"sets {record.done} here are not those of the sets {here.done} recorded"
            found.left_out.append(f"{what}: it does not go on from the record here: {sets}")
            return
    added = f"{what}: set{'s' * (len(new) > 1)} {', '.join(map(str, new))} of {task.num_sets}"
    writes.append((functools.partial(_write, record, profile, here), added))


def _write(record: Record, profile: str, before: Record | None) -> bool:
    """Save a record in place of the one that was there before; False if that has changed, or its cell is being
    computed."""
    lock = engine.lock_file(record.cell, profile)
    with writing(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            if same := records.load(record.cell, profile) == before:
                record.save(profile)
            return same
    except Timeout:
        return False


def _traced(by: dict[str, Any], where: str) -> None:
    """Raises: UserError: nobody can tell which code made it."""
    if not by.get("commit"):
        raise UserError(f"{where}: does not name the commit that made it; nothing was added")
    if by.get("changed_since_commit"):
        raise UserError(f"{where}: was made from uncommitted changes of {by['commit']}; nothing was added")


def _continues(record: Record, here: Record) -> bool:
    """Whether a record holds every set of the one here, with the same accuracies."""
    return here.by_set().items() <= record.by_set().items()
