"""Python's garbage collector, left out where it only costs time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No search for garbage in a block that makes many objects and no garbage: an import, or reading thousands of records.

    The collector looks at all objects that stay again and again: importing PyTorch takes a fifth less time without, reading 10,000
    records half.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
