"""What is made once and kept in `runs/`, with its cost: feature networks, experts, generators, latents, pools.

with store.once(file, "feature network", loop, real.device) as missing:
    if missing:
        ...  # make it and write `file`
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import paths
from .errors import TimeUp
from .files import writing
from .loop import Loop
from .progress import Spent


# --- files -----------------------------------------------------------------------------------------------------------
def digest(value: Any) -> str:
    """Short stable hash of a JSON-able value: names checkpoints and files of a setting."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def plain_name(name: str) -> str:
    """A name as a part of a file's name."""
    return name.replace("/", "_").replace(":", "_").replace("@", "-")


def thinned(history: dict[str, list[tuple[int, float]]], most: int = 60) -> dict[str, list[tuple[int, float]]]:
    """At most `most` points of each curve of this stage, evenly thinned."""
    return {k: v[:: max(1, -(-len(v) // most))] for k, v in history.items() if k in ("error", "bound", "minimax")}


def forget(loop: Loop, *names: str) -> None:
    """Delete the checkpoints of these phases."""
    if loop.folder:
        for name in names:
            (loop.folder / f"{name}.ckpt").unlink(missing_ok=True)


class Busy(TimeUp):
    """Another process makes the product, and there was no more time to wait for it."""


_users: list[dict[str, dict[str, float]]] = []  # of the blocks of `used` that are open, one inside the other


@contextmanager
def once(
    file: Path,
    what: str,
    loop: Loop | None = None,
    place: Any = "cpu",
    missing: bool | None = None,
    patience: float | None = None,
) -> Iterator[bool]:
    """Hold a product's lock while it is looked for and, where it is missing, made: a second process waits for the first
    one's. Until then the loop's checkpoints are the product's own, beside it: whoever asks for it next goes on from
    them, and no other product takes them for its own. They are deleted when it is made.

    Args:
        file:     of the product; its lock and its cost lie beside it.
        what:     the product in words: "conditional GAN".
        loop:     that the product is made in, and whose deadline ends the wait.
        place:    the device it is made on.
        missing:  whether it has to be made, where another sign than the missing file says so.
        patience: seconds to wait for another process; by default until the deadline.
    Returns: whether the product has to be made. What making has cost is kept, also over interruptions, and told to
             `used`.
    Raises:  Busy: another process held the lock until the deadline.
    """
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    if patience is None:
        patience = -1.0 if loop is None or loop.deadline is None else max(0.0, loop.deadline - time.monotonic())
    lock = FileLock(f"{file}.lock", timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"the time limit was reached while another run made the {what}") from None
    before = (loop.folder, loop.key) if loop else (None, "")
    if loop:
        lend(loop, file)
    try:
        cost = file.with_name(f"{file.name}.cost.json")
        if not file.exists() if missing is None else missing:
            spent = Spent(cost)
            with used() as inside, spent.phase("make", place):
                yield True
            spent.shared |= inside
            spent.save()
            shutil.rmtree(_unfinished(file), ignore_errors=True)
        else:
            yield False
        if cost.exists():  # none beside a product of an earlier version
            spent = Spent(cost)
            for user in _users:
                user |= {_name(file, what): spent.totals, **spent.shared}
    finally:
        if loop:
            loop.folder, loop.key = before
        lock.release()


def lend(loop: Loop, file: Path) -> None:
    """Let a loop that keeps checkpoints keep them beside a product, under the product's name."""
    loop.key = f"{file.parent.name}/{file.name}"
    if loop.folder:
        loop.folder = _unfinished(file)


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{file.name}.unfinished")


@contextmanager
def used() -> Iterator[dict[str, dict[str, float]]]:
    """What `once` made or found in the block, with what making it has cost, whenever that was: {name: totals of
    `Spent`}."""
    products: dict[str, dict[str, float]] = {}
    _users.append(products)
    try:
        yield products
    finally:
        _users.pop()


def _name(file: Path, what: str) -> str:
    """The product in words, with a digest that tells two of a kind apart and is the same on every machine."""
    place = file.resolve()
    inside = place.relative_to(paths.runs().resolve()) if place.is_relative_to(paths.runs().resolve()) else place.name
    return f"{what} {hashlib.sha256(str(inside).encode()).hexdigest()[:8]}"
