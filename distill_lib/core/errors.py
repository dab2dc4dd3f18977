"""One clear message for everything a user can get wrong, and the exception of a time limit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    """The text with the bytes of file names that are not UTF-8 written as `\\udce9`, so that it can be printed."""
    return text.encode("utf-8", "backslashreplace").decode()


class UserError(ValueError):
    """Bad input, said once: what was given and what would work. The command line prints it without a traceback."""

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


class TimeUp(Exception):
    """The time limit was reached; the state is saved."""


def unknown(kind: str, given: object, choices: Iterable[str]) -> UserError:
    """The error for a name that is not in a list.

    >>> str(unknown("dataset", "cifar", ["CIFAR10", "MNIST"]))
    "unknown dataset 'cifar': did you mean CIFAR10? Choose one of CIFAR10, MNIST"
    """
    choices = list(choices)
    by_lower = {c.lower(): c for c in choices}
    close = difflib.get_close_matches(str(given).lower(), by_lower, n=1, cutoff=0.6)
    hint = f"did you mean {by_lower[close[0]]}? " if close else ""
    return UserError(f"unknown {kind} {given!r}: {hint}{'C' if hint else 'c'}hoose one of {', '.join(choices)}")
