"""`Loop`: one long computation that shows progress, saves its state, stops when told, and goes on where it was.

    for step in loop.steps("distill", iterations, {"synthetic": images, "optimizer": optimizer, "rng": rng}):
        ...
        loop.log(loss=loss)

Everything the computation changes is named in the dictionary; resuming puts it back bit for bit, so a resumed run
equals an unbroken one: bit for bit on the same CPU with the same number of threads, as long as memory does not run out.
On a GPU, on another processor and in smaller pieces sums may come in another order: a difference of rounding, which
training enlarges.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .errors import TimeUp, UserError
from .files import atomically


class Diverged(UserError):
    """A logged value became NaN or infinite; the last good checkpoint is kept."""


@dataclass(eq=False)
class Loop:
    """How to run a long computation.

    Attributes:
        folder:   where checkpoints go; None keeps none.
        key:      what the computation is (a hash of its settings); a checkpoint with another key is ignored. Without
                  one a checkpoint serves a phase of as many steps that starts from the same state: give a key where
                  settings may change that the start does not show, such as a step size.
        every:    seconds between checkpoints.
        saves:    whether checkpoints are written; of several processes that compute together, one does.
        check:    steps between looks at the logged values (each look waits for the device).
        deadline: `time.monotonic()` after which to save and raise `TimeUp`.
        bar:      show a progress bar; by default only on a terminal.
        watch:    called as watch(name, step, live) before every step and once after the last: for film strips.
        tell:     called as tell(name, done, total, values) about once a second: for whoever watches.
        title:    what the progress bar says before the phase's name.
        history:  the values that were logged and looked at, with their steps.
    """

    folder: Path | None = None
    key: str = ""
    every: float = 30.0
    check: int = 50
    deadline: float | None = None
    bar: bool | None = None
    watch: Callable[[str, int, dict[str, Any]], None] | None = None
    tell: Callable[[str, int, int, dict[str, float]], None] | None = None
    title: str = ""
    saves: bool = True
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict, init=False)
    _logged: dict[str, Tensor | float] = field(default_factory=dict, init=False)

    def log(self, **values: Tensor | float) -> None:
        """Name the step's values (scalars). Tensors stay on the device until the next look."""
        self._logged = {k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()}

    def steps(self, name: str, total: int, live: dict[str, Any]) -> Iterator[int]:
        """Yield the step numbers that are still to do, from 0 or from the checkpoint, to `total` - 1.

        Args:
            name: of the phase; one checkpoint file per phase.
            live: what the loop body changes: tensors (restored in place), `torch.Generator`s, anything with
                  `state_dict` and `load_state_dict`, and plain dicts or lists of numbers and tensors (restored in
                  place).
        Raises: TimeUp, Diverged, KeyboardInterrupt (at the next step boundary, state saved).
        """
        begun = "" if self.key or not self.folder else _digest(total, live)
        start = self._restore(name, live, begun)
        saved = told = time.monotonic()
        shown = sys.stderr.isatty() if self.bar is None else self.bar
        bar = tqdm(total=total, initial=start, desc=self.title + name, disable=not shown, leave=False)
        with bar, _interrupts() as interrupted:
            for step in range(start, total):
                if self.watch:
                    self.watch(name, step, live)
                yield step
                done = step + 1
                if self._logged and (done % self.check == 0 or done == total):
                    bar.set_postfix(self._look(name, step))
                bar.update()
                now = time.monotonic()
                if self.tell and (now - told > 1 or done == total):
                    self.tell(name, done, total, {k: v[-1][1] for k, v in self.history.items()})
                    told = now
                stop = interrupted() or (self.deadline is not None and now > self.deadline and done < total)
                if self.folder and self.saves and (stop or done == total or now - saved > self.every):
                    if self._logged:
                        self._look(name, step)
                    self._save(name, done, live, begun)
                    saved = now
                if interrupted():
                    raise KeyboardInterrupt
                if stop:
                    kept = "state saved" if self.folder else "no checkpoint folder, state lost"
                    raise TimeUp(f"{name}: stopped at step {done} of {total}; {kept}")
        if self.watch:
            self.watch(name, total, live)

    def _look(self, name: str, step: int) -> dict[str, str]:
        values, self._logged = {k: float(v) for k, v in self._logged.items()}, {}
        bad = [k for k, v in values.items() if not math.isfinite(v)]
        if bad:
            last = f"the last good state is in {self._file(name)}" if self.folder else "no checkpoint folder was given"
            raise Diverged(f"{name}: {', '.join(f'{k} = {values[k]}' for k in bad)} at step {step}; {last}")
        for k, v in values.items():
            self.history.setdefault(k, []).append((step, v))
        return {k: f"{v:.4g}" for k, v in values.items()}

    # --- checkpoints -------------------------------------------------------------------------------------------------
    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.ckpt"

    def _save(self, name: str, step: int, live: dict[str, Any], begun: str) -> None:
        state = {k: _snapshot(v) for k, v in live.items()}
        saved = {"key": self.key or begun, "step": step, "state": state, "history": self.history}
        atomically(self._file(name), lambda part: torch.save(saved, part))

    def _restore(self, name: str, live: dict[str, Any], begun: str) -> int:
        if not self.folder or not self._file(name).exists():
            return 0
        try:
            saved = torch.load(self._file(name), map_location="cpu", weights_only=True)
        except Exception as err:
            what = f"damaged checkpoint ({err}); delete it to start this phase again"
            raise UserError(f"{self._file(name)}: {what}") from None
        if saved["key"] != (self.key or begun) or saved["state"].keys() != live.keys():  # of other settings or code
            return 0
        for k, v in live.items():
            _put_back(v, saved["state"][k])
        self.history = saved["history"]
        return saved["step"]


def _snapshot(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, dict):
        return {k: _snapshot(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_snapshot(v) for v in value]
    return value


def _digest(total: int, live: dict[str, Any]) -> str:
    """What a phase starts from, and how many steps it takes, as a hash."""
    found = hashlib.sha256(str(total).encode())

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{tuple(value.shape)} {value.dtype}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            found.update(flat.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        elif isinstance(value, dict):
            for k, v in value.items():
                found.update(str(k).encode())
                add(v)
        elif isinstance(value, (list, tuple)):
            for v in value:
                add(v)
        else:
            found.update(repr(value).encode())

    add({k: _snapshot(v) for k, v in live.items()})
    return found.hexdigest()


def _put_back(value: Any, saved: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(saved)
    elif isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(saved)
    elif hasattr(value, "load_state_dict"):
        value.load_state_dict(saved)
    elif isinstance(value, dict):
        in_place = value and all(isinstance(v, (Tensor, torch.Generator)) for v in value.values())
        if in_place and value.keys() == saved.keys():
            for k in value:
                _put_back(value[k], saved[k])
        else:
            value.clear()
            value.update(saved)
    elif isinstance(value, list):
        value[:] = saved
    else:
        raise TypeError(f"cannot restore a {type(value).__name__} in place; put numbers into a list or dict")


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a flag during a loop (in the main thread only), so that the loop stops between two steps."""
    hits: list[int] = []
    old = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None

    def note(signum: int, frame: Any) -> None:
        if hits and callable(old):  # a second Ctrl-C does not wait for the step to end
            old(signum, frame)
        hits.append(signum)

    if old is not None:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(hits)
    finally:
        if old is not None:
            signal.signal(signal.SIGINT, old)
