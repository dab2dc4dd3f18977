"""What a method offers, and what happens where it leaves a part out.

optional(method, "stage1")(config)     # the method's own, or the default that stands in `Method`
variant(skd, about, standardise=False) # the same method as another row of a table
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..core.loop import Loop
    from ..data import ImageSet

REQUIRED = ("VERSION", "Config", "paper_config", "distill")
OPTIONAL = ("EVERY_IPC", "stage1", "prepare", "measure")


class Method(Protocol):
    """A module or an object with these names. What has a value or a body here may be left out: it is the default."""

    VERSION: int  # raised when the numbers change: older records become stale
    Config: type  # of settings, with `smoke()` and `small()`: the same method at a budget of seconds and of minutes
    EVERY_IPC: bool = False  # whether one set, such as a generator, serves every number of images per class

    @staticmethod
    def paper_config(dataset: str, ipc: int) -> Any:
        """The paper's settings for a data set and a number of images per class."""

    @staticmethod
    def distill(real: ImageSet, cfg: Any, seed: int, loop: Loop | None = None) -> ImageSet:
        """The synthetic set. The seed decides every number, and `real` stays as it is."""

    @staticmethod
    def stage1(cfg: Any) -> dict[str, Any]:
        """Settings of what several sets start from, by name, such as a trained generator."""
        return {}

    @staticmethod
    def prepare(real: ImageSet, cfg: Any, seed: int, loop: Loop | None = None) -> Any:
        """Make what `stage1` names ahead of `distill`, which otherwise makes it itself."""

    @staticmethod
    def measure(synthetic: ImageSet, test: ImageSet, cfg: Any) -> dict[str, list[Any]]:
        """What a record keeps besides the accuracies: lists by name."""
        return {}


def optional(method: Method, name: str) -> Any:
    """An optional part of a method: its own, or the default."""
    return getattr(method, name, getattr(Method, name))


def variant(method: Method, about: str, version: int | None = None, **settings: Any) -> Method:
    """A method under other settings, as a row of its own.

    Args:
        about:    its docstring; the first line is shown in lists.
        version:  its own VERSION; by default the method's.
        settings: passed on to the method's `paper_config`.
    """
    parts = {name: getattr(method, name) for name in (*REQUIRED, *OPTIONAL) if hasattr(method, name)}
    parts |= {"__doc__": about, "paper_config": functools.partial(method.paper_config, **settings)}
    return SimpleNamespace(**parts | ({} if version is None else {"VERSION": version}))
