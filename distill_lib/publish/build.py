"""Make the book: run its live pages, build the HTML, and refuse to call a book built that is not whole.

`build` makes the book of the recorded results, `reproduce` runs every notebook in a profile and makes the book of that
run. The module is also the Sphinx extension that both, and plain `jupyter-book build .`, go through: it hands Sphinx
the executed copies of live pages, keeps everything a page loads inside the book, and stops the build on any problem.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_book.sphinx import build_sphinx
from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

from ..core import paths
from ..core.errors import UserError, unknown
from . import pages


@dataclass(frozen=True)
class Reproduction:
    """What a run did: notebooks, cells computed and reused, wall seconds, peak memory of all processes, the book."""

    profile: str
    notebooks: int
    computed: int
    reused: int
    seconds: float
    memory_mb: float
    book: Path

    def __str__(self) -> str:
        return (
            f"{self.profile}: {self.notebooks} notebook{'s' * (self.notebooks != 1)}, cells: {self.computed} computed, "
            f"{self.reused} reused; {self.seconds:.0f} s, peak memory {self.memory_mb / 1000:.1f} GB\nbook: {self.book}"
        )


def reproduce(
    profile: str = "smoke",
    only: str | None = None,
    parameters: dict[str, Any] | None = None,
    jobs: int | None = None,
    root: Path = paths.ROOT,
) -> Reproduction:
    """Run every notebook in a profile, build the book of that run, and print what was done.

    Args:
        only:       one notebook (skd/table1_accuracy) or a folder of them (skd); the book's other pages show the
                    recorded results.
        parameters: handed to every notebook that runs.
        jobs:       notebooks at a time.
    Raises: UserError: an unknown name, before anything runs; a failed notebook; a book with problems.
    """
    start = time.monotonic()
    chosen = pages.notebooks(root, only)
    if not chosen:
        raise UserError(f"no notebooks under {root / 'notebooks'}")
    with pages.peak_memory() as peak:
        others = [p for p in pages.live(root, _contents(root)) if p not in chosen]
        results = pages.run(chosen, profile, parameters, jobs, recorded=others, meanwhile=_import_sphinx)
        index = build(profile, root, ran=chosen, parameters=parameters)
    computed, reused = (sum(getattr(r, kind) for r in results) for kind in ("computed", "reused"))
    summary = Reproduction(profile, len(results), computed, reused, time.monotonic() - start, peak[0], index)
    print(summary, flush=True)
    return summary


def build(
    profile: str = "recorded",
    root: Path = paths.ROOT,
    ran: list[pages.Page] = (),
    out: Path | None = None,
    parameters: dict[str, Any] | None = None,
) -> Path:
    """Build the book and return its first page.

    Args:
        ran: notebooks whose executed copies in `profile` to show; all other live pages show the recorded results, and
             are executed first where that is not done yet.
        out: where the book goes; by default `_build` for the recorded book, else, and where that cannot be written, the
             profile's folder in `runs/`.
        parameters: that the notebooks in `ran` were given, which their pages name; such a book does not go to `_build`.
    Raises: UserError: every problem with its page: a failed cell, a missing figure, a broken reference or link, an
        image without alternative text, a page that would load something from outside.
    """
    if profile not in paths.PROFILES:
        raise unknown("profile", profile, paths.PROFILES)
    pages.run([p for p in pages.live(root, _contents(root)) if p not in ran], "recorded", meanwhile=_import_sphinx)
    at_root = profile == "recorded" and not parameters and os.access(root, os.W_OK)
    place = out or (root / "_build" if at_root else paths.runs() / profile / "book")
    overrides = {
        "external_toc_path": str(root / "_toc.yml"),
        "latex_individualpages": False,
        "distill_profile": profile,
        "distill_ran": [p.name for p in ran],
        "distill_parameters": parameters or {},
    }
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        result = build_sphinx(
            root,
            place / "html",
            noconfig=True,
            path_config=root / "_config.yml",
            confoverrides=overrides,
            really_quiet=True,
            jobs=pages.cores() + 1,  # Sphinx takes one for the process that hands out pages, which mostly waits
        )
    if isinstance(result, KeyboardInterrupt):
        raise result
    if result:
        said = str(result) if isinstance(result, BaseException) else ""
        reason = said or printed.getvalue().strip()[-2000:] or type(result).__name__
        raise UserError(f"the book was not built: {reason}") from (result if said else None)
    return place / "html" / "index.html"


def _import_sphinx() -> None:
    """What building a book imports, seconds of it."""
    for (
        name
    ) in "jupyter_book.sphinx myst_nb.sphinx_ext sphinx_book_theme sphinxcontrib.bibtex sphinx.ext.autodoc".split():
        importlib.import_module(name)


def _contents(root: Path) -> list[str]:
    """The pages that `_toc.yml` lists."""
    try:
        return list(parse_toc_yaml(root / "_toc.yml"))
    except (MalformedError, OSError) as err:
        raise UserError(f"{root / '_toc.yml'}: not a table of contents: {err}") from None
