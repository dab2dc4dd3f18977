"""What a method offers, and what applies if it leaves an optional part out.

optional(method, "stage1")(config)      # the method's own part, or the default that `Method` gives
variant(skd, about, standardise=False)  # the same method as another row of a table
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
    """A module or an object with these names. Names with a value or a body here are optional: this is their default."""

    VERSION: int  # raise it when the numbers change: older records become stale
    Config: type  # settings: `ipc`, and `smoke()` and `small()`, the same method at a budget of seconds and of minutes
    EVERY_IPC: bool = False  # whether one set, such as a generator, serves every number of images per class

    @staticmethod
    def paper_config(dataset: str, ipc: int) -> Any:
        """The paper's settings for a data set and a number of images per class."""

    @staticmethod
    def distill(real: ImageSet, cfg: Any, seed: int, loop: Loop | None = None) -> ImageSet:
        """The synthetic set. The seed decides every number, and `real` stays as it is.

        Args:
            real: (N, C, H, W) images of K classes, on the device to compute on.
            loop: counts the steps, keeps checkpoints, stops at a deadline.
        """

    @staticmethod
    def stage1(cfg: Any) -> dict[str, Any]:
        """Settings of what several sets start from, such as a trained generator, by name."""
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


def variant(method: Method, about: str, parts: dict[str, Any] | None = None, **settings: Any) -> Method:
    """A method as another row of a table.

    Args:
        about:    docstring of the row; lists show its first line.
        parts:    parts of the contract that replace the method's own, such as {"VERSION": 2}.
        settings: passed on to the method's `paper_config`.
    """
    own = {name: getattr(method, name) for name in (*REQUIRED, *OPTIONAL) if hasattr(method, name)}
    own |= {"__doc__": about, "paper_config": functools.partial(method.paper_config, **settings)}
    return SimpleNamespace(**own | (parts or {}))
