"""The contract of all methods, as checks that any method can be given.

    contract(my_method, real)      # every check; a UserError names what is not kept

`tests/test_methods.py` gives them every method of the library.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ..core.errors import TimeUp, UserError, unknown
from ..core.loop import Loop
from ..core.settings import as_dict, from_dict
from ..data import ImageSet
from .contract import OPTIONAL, REQUIRED, Method

MOST_STARTS = 500  # starts of a run that is stopped after every step


class Trial:
    """A method on a small real set, at a budget of seconds.

    Args:
        real:   (N, C, H, W) images, which must stay as they are.
        folder: for what the method keeps in `runs/`, and for its checkpoints.
        cfg:    settings; by default the paper's for two images per class, at the smoke budget.
    """

    def __init__(self, method: Method, real: ImageSet, folder: Path, cfg: Any = None):
        missing = [name for name in REQUIRED if not hasattr(method, name)]
        _must(not missing, f"the method has no {' and no '.join(missing)}")
        self.method, self.real, self.folder = method, real, folder
        if cfg is None:
            cfg = method.paper_config(real.facts.name, 2)
            _must(hasattr(cfg, "smoke"), f"paper_config gives {cfg!r}; it must give a Config with smoke() and small()")
            cfg = cfg.smoke()
        self.cfg = cfg
        self.before = real.images.clone(), real.labels.clone()

    def distill(self, seed: int = 0, loop: Loop | None = None, runs: str = "runs") -> ImageSet:
        with mock.patch.dict(os.environ, DISTILL_RUNS=str(self.folder / runs)):
            made = self.method.distill(self.real, self.cfg, seed=seed, loop=loop)
        _must(isinstance(made, ImageSet), f"distill gives a {type(made).__name__}; it must give an ImageSet")
        return made

    @functools.cached_property
    def made(self) -> ImageSet:
        """The set of seed 0."""
        return self.distill()


def _must(kept: bool, otherwise: str) -> None:
    if not kept:
        raise UserError(otherwise)


# --- checks -----------------------------------------------------------------------------------------------------------
def version_is_a_number(trial: Trial) -> None:
    """A record keeps it, and is stale once it differs."""
    _must(type(trial.method.VERSION) is int, f"VERSION is {trial.method.VERSION!r}; it must be a whole number")


def parts_are_functions(trial: Trial) -> None:
    """Every part but the numbers `VERSION` and `EVERY_IPC` can be called."""
    found = {n: getattr(trial.method, n) for n in (*REQUIRED, *OPTIONAL) if hasattr(trial.method, n)}
    for name, part in found.items():
        _must(callable(part) or name in ("VERSION", "EVERY_IPC"), f"{name} is {part!r}, which cannot be called")


def settings_are_checked_and_survive_a_record(trial: Trial) -> None:
    """A misspelt name is an error, and settings can be written as JSON, read back, compared and hashed."""
    for cfg in (trial.method.paper_config(trial.real.facts.name, 1), trial.cfg):
        kind = type(cfg)
        _must(kind is trial.method.Config, f"paper_config gives a {kind.__name__}; it must give the method's Config")
        _must(from_dict(kind, as_dict(cfg)) == cfg, f"{cfg} is another one when it is read back from {as_dict(cfg)}")
        try:
            from_dict(kind, {**as_dict(cfg), "misspelt": 3})
        except UserError:
            pass
        else:
            raise UserError("Config takes a setting that does not exist; decorate it with core.settings.settings")
        try:
            hash(cfg)
        except TypeError as err:
            raise UserError(f"Config cannot be hashed ({err}); give it tuples in place of lists") from None


def smaller_budgets_are_settings_too(trial: Trial) -> None:
    """`smoke()` and `small()` are the same method with smaller numbers."""
    cfg = trial.method.paper_config(trial.real.facts.name, 1)
    for name in ("smoke", "small"):
        _must(hasattr(cfg, name), f"Config has no {name}()")
        kind = type(getattr(cfg, name)())
        _must(kind is type(cfg), f"{name}() gives a {kind.__name__}; it must give a Config")


def every_class_has_as_many_finite_images(trial: Trial) -> None:
    """The set has `ipc` images of every class, or more, of the real ones' shape and units."""
    made, real = trial.made, trial.real
    counts = torch.bincount(made.hard_labels.cpu(), minlength=real.num_classes).tolist()
    _must(made.shape == real.shape, f"images of {tuple(made.shape)}; the real ones are {tuple(real.shape)}")
    wanted = getattr(trial.cfg, "ipc", 1)
    equal = len(set(counts)) == 1 and counts[0] >= wanted
    _must(equal, f"{counts} images of the classes; {wanted} of each are wanted")
    known = made.images.dtype in (torch.float32, torch.uint8)
    _must(known, f"images of {made.images.dtype}; they must be float32 or uint8")
    _must(bool(torch.isfinite(made.images.float()).all()), "some pixels are not finite")
    units = (made.facts.mean, made.facts.std) == (real.facts.mean, real.facts.std)
    _must(units, "the set has another normalisation than the real one")
    _must("method" in made.facts.extra, "the set does not name its method; give method=... to ImageSet.from_classes")


def the_seed_decides_everything(trial: Trial) -> None:
    """Two runs with one seed give the same set, bit for bit."""
    same = _same(trial.made, trial.distill())
    _must(same, "two runs with seed 0 differ; draw from core.rng.stream(seed, name) alone")


def another_seed_makes_another_set(trial: Trial) -> None:
    """Otherwise the spread over seeds says nothing."""
    _must(not _same(trial.made, trial.distill(seed=1)), "seeds 0 and 1 give the same set")


def the_real_set_is_never_written_to(trial: Trial) -> None:
    """It is shared by all methods of a process."""
    _must(len(trial.made) > 0, "the set is empty")
    kept = torch.equal(trial.real.images, trial.before[0]) and torch.equal(trial.real.labels, trial.before[1])
    _must(kept, "the real images or labels were changed; work on a copy")


def a_resumed_run_equals_an_unbroken_one(trial: Trial) -> None:
    """A run that is stopped after every step gives the same set, bit for bit."""
    for _ in range(MOST_STARTS):
        try:
            resumed = trial.distill(loop=Loop(trial.folder / "checkpoints", deadline=time.monotonic()), runs="resumed")
            break
        except TimeUp:
            continue
    else:
        raise UserError(f"a run that is stopped after every step does not end within {MOST_STARTS} starts")
    _must(_same(trial.made, resumed), "a resumed run differs; give all that changes, random streams too, to loop.steps")


def the_set_is_one_file_that_needs_no_other(trial: Trial) -> None:
    """What is written and read back has the same images, labels and facts."""
    back = ImageSet.load(trial.made.save(trial.folder / "set.safetensors"))
    same = _same(trial.made, back) and trial.made.facts == back.facts
    _must(same, "the set differs when it is read back from its file")


def _same(a: ImageSet, b: ImageSet) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


CHECKS: tuple[Callable[[Trial], None], ...] = (
    version_is_a_number,
    parts_are_functions,
    settings_are_checked_and_survive_a_record,
    smaller_budgets_are_settings_too,
    every_class_has_as_many_finite_images,
    the_seed_decides_everything,
    another_seed_makes_another_set,
    the_real_set_is_never_written_to,
    a_resumed_run_equals_an_unbroken_one,
    the_set_is_one_file_that_needs_no_other,
)


def contract(method: Method, real: ImageSet, cfg: Any = None, skip: Collection[str] = ()) -> list[str]:
    """Hold a method to the contract of all methods.

    Args:
        real: a small training set; the method is run five times on it.
        cfg:  settings to run; by default the paper's for two images per class, at the smoke budget.
        skip: names of checks to leave out.
    Returns: the checks that were made, in words.
    Raises:  UserError: naming the check that failed and why.
    """
    names = [check.__name__ for check in CHECKS]
    if others := set(skip) - set(names):
        raise unknown("check", min(others), names)
    done = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(method, real, Path(folder), cfg)
        for check in (c for c in CHECKS if c.__name__ not in skip):
            try:
                check(trial)
            except Exception as err:  # the method may fail in any way
                said = str(err) if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
                raise UserError(f"{check.__name__.replace('_', ' ')}: {said}") from err
            done.append(check.__name__.replace("_", " "))
    return done
