"""Parquet and Arrow files: a single one, the files of a hub repository, a folder that Hugging Face `datasets` saved."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from .arrays import whole_numbers
from .folders import Tree, split_of
from .read import SPLITS, Part, Source, unreadable

IMAGES = ("image", "img", "images", "picture", "photo", "pixels", "x")
LABELS = ("label", "labels", "fine_label", "target", "targets", "class", "class_id", "class_label", "category", "y")


@dataclass(frozen=True)
class _Columns:
    """Where a file keeps images and labels, the names of its classes, where it has them, what else could be labels, and
    whether it may name files of images."""

    image: str
    label: str
    names: tuple[str, ...]
    others: tuple[str, ...]
    paths: bool


def inside(tree: Tree) -> bool:
    """Whether a folder holds such files."""
    return bool(tree.tables) or any((tree.path / f).is_file() for f in ("dataset_dict.json", "state.json"))


def read(path: Path, parquet: Sequence[Path] = ()) -> Source:
    """The set in a file, or in a folder with these parquet files.

    Raises: UserError: pyarrow is missing; damaged files; several sets; no image or label column; a row without image or
    label, with its number.
    """
    try:
        import pyarrow  # noqa: F401  optional
    except ImportError:
        raise UserError(f"{path}: reading Hugging Face folders needs pyarrow: pip install pyarrow") from None
    parts = _files(path, parquet)
    columns = {f: _columns(f) for files in parts.values() for f in files}
    names = next(iter(columns.values())).names
    for f, has in columns.items():
        if has.names != names:
            raise UserError(f"{f}: its classes {has.names[:5]} are not those of {next(iter(columns))}: {names[:5]}")

    def part(split: str) -> Part:
        images, labels, where = [], [], []
        for f in parts[split]:
            table = _open(f, [columns[f].image, columns[f].label])
            labels.append(_labels(table.column(columns[f].label), f, columns[f].label))
            images += _images(table.column(columns[f].image), f, columns[f].image)
            where += [f"{f}, row {i}" for i in range(table.num_rows)]
        if images and isinstance(images[0], np.ndarray):
            if len({i.shape for i in images}) > 1:
                raise UserError(f"{path} ({split}): pixel lists of several sizes; store encoded images (PNG)")
            images = np.stack(images)
        return Part(images, np.concatenate(labels), names=where)

    beside = [f for table, has in columns.items() if has.paths for f in _named(table, has.image)]
    also = dict.fromkeys((has.label, other) for has in columns.values() for other in has.others)
    notes = tuple(f"labels are those of column {label}; column {other} is not read" for label, other in also)
    return Source("Hugging Face folder", path, [*columns, *beside], tuple(parts), part, names, notes)


# --- which files belong to which split -------------------------------------------------------------------------------
def _files(path: Path, parquet: Sequence[Path]) -> dict[str, list[Path]]:
    if path.is_file():
        return {"all": [path]}
    if (path / "dataset_dict.json").is_file():
        splits = _described(path / "dataset_dict.json", lambda body: {n: _saved(path / n) for n in body["splits"]})
        named = [(split_of(name)[0], name) for name in splits]
        if len({split for split, _ in named}) < len(named) or not {s for s, _ in named} <= set(SPLITS):
            raise UserError(f"{path}: has the parts {', '.join(splits)}; needed train, and test or validation")
        return {split: splits[name] for split, name in named}
    if (path / "state.json").is_file():
        return {"all": _saved(path)}
    return _by_name(path, parquet)


def _saved(folder: Path) -> list[Path]:
    files = _described(folder / "state.json", lambda body: [folder / f["filename"] for f in body["_data_files"]])
    if not files:
        raise UserError(f"{folder}: no data files in it")
    return files


def _described(file: Path, read: Callable[[Any], Any]) -> Any:
    """What `read` takes from a JSON file of a saved set."""
    try:
        return read(json.loads(file.read_text(encoding="utf-8")))
    except UserError:
        raise
    except OSError as err:
        raise UserError(f"{file}: cannot be read: {err.strerror or err}") from None
    except (ValueError, KeyError, TypeError) as err:
        what = f"{type(err).__name__}: {err}"
        raise UserError(f"{file.parent}: not a complete Hugging Face data set folder ({what})") from None


def _by_name(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of every split, by the words in their names, else in those of their folders.

    Raises: UserError: several sets lie side by side, or files beside named splits name none.
    """
    parts: dict[str, list[Path]] = {}
    sets: dict[str, Path] = {}  # the first file of each set, by what the names say besides the split
    for f in files:
        *above, name = f.relative_to(root).with_suffix("").parts
        split, rest = split_of(re.split(r"-\d{5}-of-|\.", name)[0])
        said = [split_of(folder) for folder in above] + ([(split, rest)] if split else [])
        parts.setdefault(next((s for s, _ in reversed(said) if s), "all"), []).append(f)
        sets.setdefault("/".join(other for _, other in said if other not in ("", "data")), f)
    if len(sets) > 1:
        shown = ", ".join(str(f.relative_to(root)) for f in list(sets.values())[:4])
        raise UserError(f"{root}: {len(sets)} data sets side by side ({shown}); give the folder or the file of one")
    if "all" in parts and len(parts) > 1:
        odd, named = parts["all"][0].relative_to(root), ", ".join(s for s in parts if s != "all")
        rename = "rename it to train-..., validation-... or test-..."
        raise UserError(f"{root}: {odd} names no split beside {named}; {rename}")
    return parts


# --- what a file holds -----------------------------------------------------------------------------------------------
def _open(file: Path, columns: list[str] | None = None) -> Any:
    """The schema of a file; the table of these columns."""
    import pyarrow as pa  # optional
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() == ".parquet":
            return pq.read_table(file, columns=columns, partitioning=None) if columns else pq.read_schema(file)
        with pa.memory_map(str(file)) as m:
            whole = m.read(6) == b"ARROW1"  # a file of the format, not a stream
            m.seek(0)
            stream = pa.ipc.open_file(m) if whole else pa.ipc.open_stream(m)
            return stream.read_all().select(columns) if columns else stream.schema
    except (pa.ArrowException, OSError, ValueError, MemoryError) as err:
        raise unreadable(file, err, "truncated or damaged") from None


def _columns(file: Path) -> _Columns:
    schema = _open(file)
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        kinds = {c: (features.get(c) or {}).get("_type") for c in schema.names}
        classes = {c: tuple(map(str, features[c]["names"])) for c in schema.names if kinds[c] == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError) as err:
        raise UserError(f"{file}: Hugging Face's description of its columns is damaged ({err})") from None
    images = [c for c in schema.names if kinds[c] == "Image"] or [c for c in schema.names if c.lower() in IMAGES]
    images = images or [f.name for f in schema if re.match(r"(large_)?binary|struct<.*bytes", str(f.type))]
    labels = [c for name in LABELS for c in schema.names if c.lower() == name and c not in images]
    labels = sorted(dict.fromkeys([*labels, *classes]), key=lambda c: c not in classes)  # said to be classes: first
    if len(images) != 1 or not labels or len(set(schema.names)) < len(schema.names):
        has = ", ".join(f"{f.name} ({f.type})"[:60] for f in schema)
        raise UserError(f"{file}: has the columns {has}; needed one image column and a column `label`")
    kind = str(schema.field(images[0]).type)  # text, or a struct with text called path
    paths = bool(re.match(r"(dictionary<values=)?(large_)?string", kind) or re.search(r"\bpath: (large_)?string", kind))
    return _Columns(images[0], labels[0], classes.get(labels[0], ()), tuple(labels[1:]), paths)


def _named(file: Path, column: str) -> list[Path]:
    """The files of images that a table names; those that are not there are an error when they are read."""
    import pyarrow as pa  # optional
    import pyarrow.compute as pc

    inside = pa.types.is_struct(_open(file).field(column).type)
    parquet = file.suffix.lower() == ".parquet"  # of which the paths alone are read
    found = _open(file, [f"{column}.path" if inside and parquet else column]).column(0)
    found = (pc.struct_field(found, "path") if pa.types.is_struct(found.type) else found).to_pylist()
    return [file.parent / f for f in found if isinstance(f, str) and (file.parent / f).is_file()]


def _labels(column: Any, file: Path, name: str) -> np.ndarray:
    if column.null_count:
        row = next(i for i, value in enumerate(column) if not value.is_valid)
        raise UserError(f"{file}, row {row}: no label (column {name} is null)")
    if not re.match(r"(dictionary<values=)?u?int\d", str(column.type)):
        raise UserError(f"{file}, column {name}: holds {column.type}; needed whole numbers without gaps")
    return whole_numbers(column.to_numpy(), f"{file}, column {name}")


def _images(column: Any, file: Path, name: str) -> list[Any]:
    """Encoded images, files, or (H, W) and (H, W, C) pixels, one for every row."""
    out: list[Any] = []
    for i, row in enumerate(column.to_pylist()):
        where, found = f"{file}, row {i}", row
        if isinstance(row, dict):
            found = row.get("bytes") if row.get("bytes") is not None else row.get("path")
        if found is None or found in (b"", ""):
            raise UserError(f"{where}: no image (column {name} is {'null' if found is None else 'empty'})")
        if isinstance(found, str):
            found = file.parent / found
            if not found.is_file():
                raise UserError(f"{where}: names {found}, and no such file is there")
        elif isinstance(found, Sequence) and not isinstance(found, bytes):
            found = _pixels(found, f"{where}, column {name}")
        if not isinstance(found, bytes | Path | np.ndarray):
            raise UserError(f"{where}: column {name} holds {column.type}; needed encoded images or their paths")
        out.append(found)
    if len({isinstance(i, np.ndarray) for i in out}) > 1:
        raise UserError(f"{file}: column {name} holds pixels and encoded images; needed one of the two")
    return out


def _pixels(rows: Sequence[Any], where: str) -> np.ndarray | bytes:
    try:
        found = np.asarray(rows)
        good = found.dtype.kind in "iu" and found.size and found.min() >= 0 and found.max() <= 255
    except (ValueError, TypeError, OverflowError):
        good = False
    if good and found.ndim == 1:
        return found.astype(np.uint8).tobytes()  # a file, byte by byte; what decodes it says if it is none
    if not good or not (found.ndim == 2 or (found.ndim == 3 and found.shape[-1] in (1, 3))):
        needed = "(H, W) or (H, W, C) pixels of 0 to 255"
        raise UserError(f"{where}: a list that is no {needed}; store encoded images (PNG)")
    return found.astype(np.uint8)
