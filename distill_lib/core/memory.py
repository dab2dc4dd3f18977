"""Bytes of tensors that are alive, counted while a part of a computation runs on a few images; numbers of weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Live(TorchDispatchMode):
    """Bytes of the tensors made in the block that are alive: `now`, and `course` after every operation. Views count
    once."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.course = 0, [0]
        self._known: dict[int, int] = {}

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = () if func.is_view else out if isinstance(out, (tuple, list)) else (out,)
        for t in made:
            if isinstance(t, Tensor) and not (args and t is args[0]):  # in place
                storage = t.untyped_storage()
                if storage._cdata not in self._known:
                    self._known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata).atexit = False
        self.course.append(self.now)
        return out


def course(run: Callable[[], Any]) -> list[int]:
    """Bytes alive after every operation of a call, its result included."""
    with _Live() as live:
        result = run()  # alive to the end
    del result
    return live.course


def bytes_per_image(run: Callable[[int], Any], few: int = 2) -> float:
    """What every further image adds to the bytes alive in `run(n)`, found by `run(few)` and `run(2 * few)`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # there is little to do
    try:
        first, second = course(lambda: run(few)), course(lambda: run(2 * few))
    finally:
        torch.set_num_threads(threads)
    if len(first) != len(second):  # other operations for more images
        first, second = [max(first)], [max(second)]
    return max(b - a for a, b in zip(first, second, strict=True)) / few
