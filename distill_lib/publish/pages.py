"""Run the book's live pages side by side, each in a process of its own; the first that fails stops them all.

A live page is a notebook, `notebooks/skd/table1_accuracy.ipynb`, or a text page with code cells, `book/dm.md`. Executed
copies lie in `runs/<profile>/pages/`. In the `recorded` profile a page whose code, library and results are the same as
when it was executed is not executed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .. import experiments
from ..core import paths
from ..core.device import pick
from ..core.errors import UserError, unknown
from ..core.files import atomically, writing
from .kernel_server import Kernels

MEMORY_PER_PAGE = 2 * 2**30  # bytes to have free for each page that runs at the same time


@dataclass(frozen=True)
class Page:
    """One live page: `name` is its path under `root` without the ending, as the book's contents list it."""

    root: Path
    name: str
    suffix: str = ".ipynb"

    @property
    def file(self) -> Path:
        return self.root / f"{self.name}{self.suffix}"

    @property
    def shown(self) -> str:
        """The file as messages name it."""
        return f"{self.name}{self.suffix}"

    @property
    def experiment(self) -> str:
        """`skd/table1_accuracy` for `notebooks/skd/table1_accuracy`."""
        return self.name.removeprefix("notebooks/")

    def executed(self, profile: str) -> Path:
        """Where the executed copy lies."""
        return paths.runs() / profile / "pages" / f"{self.name}.ipynb"

    def notebook(self) -> Any:
        """The page as a notebook without outputs. Raises: UserError: it cannot be read as one."""
        try:
            text = self.file.read_text()
            if self.suffix == ".ipynb":
                return nbformat.reads(text, as_version=4)
            return read_myst_markdown_notebook(text, add_source_map=True, path=str(self.file))
        except Exception as err:
            raise UserError(f"{self.shown}: not a readable notebook: {err}") from None


@dataclass(frozen=True)
class Result:
    """One executed page: wall seconds, cells of its experiment computed and reused; whether the page was reused."""

    page: Page
    seconds: float = 0.0
    computed: int = 0
    reused: int = 0
    unchanged: bool = False


class PageFailed(UserError):
    """A cell of a page raised an error, or its kernel died."""


# --- which pages ------------------------------------------------------------------------------------------------------
def notebooks(root: Path = paths.ROOT, only: str | None = None) -> list[Page]:
    """The notebooks of `root`, in order of their names.

    Args:
        only: one experiment (skd/table1_accuracy), or a folder of them (skd).
    Raises: UserError: nothing has that name; lists the names.
    """
    files = [f for f in sorted((root / "notebooks").rglob("*.ipynb")) if ".ipynb_checkpoints" not in f.parts]
    found = [Page(root, f.relative_to(root).with_suffix("").as_posix()) for f in files]
    if only is None:
        return found
    wanted = only.removeprefix("notebooks/").removesuffix(".ipynb").strip("/")
    chosen = [p for p in found if p.experiment == wanted or p.experiment.startswith(f"{wanted}/")]
    if not chosen:
        raise unknown("notebook", only, [p.experiment for p in found])
    return chosen


def live(root: Path, names: list[str]) -> list[Page]:
    """Those of the pages `names` that have code cells."""
    out = []
    for name in names:
        if (root / f"{name}.ipynb").exists():
            out.append(Page(root, name))
        elif (text := root / f"{name}.md").exists() and is_myst_markdown_notebook(text.read_text()):
            out.append(Page(root, name, ".md"))
    return out


# --- parameters -------------------------------------------------------------------------------------------------------
def parameter_names(page: Page) -> list[str]:
    """Names in a notebook's cell tagged `parameters`, as papermill reads them; none where there is no such cell."""
    if page.suffix != ".ipynb":
        return []
    page.notebook()  # papermill's own message for a damaged file is a traceback
    return list(papermill.inspect_notebook(str(page.file)))


def check(page: Page, profile: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters to hand to a page.

    Raises: UserError: one is unknown or of the wrong type; lists those that exist.
    """
    known = parameter_names(page)
    for name in parameters:
        if name not in known:
            problem = unknown("parameter", name, known) if known else "takes no parameters"
            raise UserError(f"{page.experiment}: {problem}")
    given = {**({"profile": profile} if profile != "recorded" and "profile" in known else {}), **parameters}
    if page.experiment in experiments.experiments():
        experiments.check_parameters(page.experiment, given)
    return given


# --- running ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Task:
    page: Page
    profile: str
    parameters: dict[str, Any]
    fingerprint: str = ""


def run(
    pages: list[Page],
    profile: str,
    parameters: dict[str, Any] | None = None,
    jobs: int | None = None,
    recorded: list[Page] = (),
    meanwhile: Callable[[], Any] = lambda: None,
) -> list[Result]:
    """Execute pages and keep their executed copies; one progress display for all.

    Every page's parameters are checked before the first page starts.

    Args:
        parameters: handed to every page.
        jobs:       pages at a time; by default as many as cores and free memory allow, one where a GPU computes.
        recorded:   further pages, which show recorded results: executed as they stand, where that has not been done
                    yet.
        meanwhile:  called if any page is executed, while the process that starts kernels imports and a core has
                    nothing to do.
    Returns: a result for every page of `pages`.
    Raises: PageFailed: naming page, cell and error; the other pages are stopped, what they computed is kept.
            UserError: an unknown profile or parameter, before anything runs.
    """
    if profile not in paths.PROFILES:
        raise unknown("profile", profile, paths.PROFILES)
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be at least 1; got {jobs}")
    still = list(recorded) if profile != "recorded" or parameters else [*pages, *recorded]
    needed = _fingerprints(still)
    changed = {page: needed[page] for page in needed if _stored_fingerprint(page, "recorded") != needed[page]}
    chosen = [page for page in pages if page not in still]
    number = len(chosen) + len(changed)
    jobs = max(1, min(jobs or _jobs(profile), number))
    with Kernels(threads=max(1, cores() // jobs)) if number else nullcontext() as kernels:  # imports while we check
        tasks = [_Task(page, profile, check(page, profile, parameters or {})) for page in chosen]
        tasks += [_Task(page, "recorded", {}, fingerprint) for page, fingerprint in changed.items()]
        if tasks:
            meanwhile()
        results = _run(tasks, kernels, jobs) if tasks else []
    results += [Result(page, unchanged=True) for page in still if page not in changed]
    return [r for r in results if r.page in pages]


def _run(tasks: list[_Task], kernels: Any, jobs: int) -> list[Result]:
    results: list[Result] = []
    with ThreadPoolExecutor(jobs) as pool, _display(len(tasks)) as shown:
        waiting: set[Future] = {pool.submit(_one, task, kernels, shown) for task in tasks}
        try:
            while waiting:
                ready, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                shown.refresh()
                for future in ready:
                    results.append(future.result())
                    shown.finished(results[-1])
        except BaseException:  # a page failed, or Ctrl-C: the others save what they have and stop
            for future in waiting:
                future.cancel()
            kernels.interrupt()
            wait(waiting, timeout=15)
            kernels.close()
            raise
    return results


def _one(task: _Task, kernels: Any, shown: _Display) -> Result:
    start, page, profile = time.monotonic(), task.page, task.profile
    folder = paths.runs() / profile / "partial" / page.name
    source, copy, summary = folder / "source.ipynb", folder / "executed.ipynb", folder / "cells.jsonl"
    notebook = page.notebook()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        summary.unlink(missing_ok=True)
        nbformat.write(notebook, source)
    shown.started(page, summary)
    try:
        executed = papermill.execute_notebook(
            source,
            copy,
            task.parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            request_save_on_cell_execute=False,
            iopub_timeout=60,  # seconds that a large output may take beside other work
            kernel_manager_class=kernels.manager(page.file.parent, DISTILL_SUMMARY=str(summary)),
        )
    except papermill.PapermillExecutionError as err:
        raise PageFailed(_explain(page, notebook, err, copy)) from None
    except Exception as err:
        reason = f"({type(err).__name__}: {err}); out of memory?"
        raise PageFailed(f"{page.shown}: the kernel died or did not start {reason}") from None
    for part in (executed, *executed.cells):
        part.metadata.pop("papermill", None)
    executed.metadata["distill"] = {"profile": profile, "fingerprint": task.fingerprint}
    atomically(page.executed(profile), lambda part: part.write_text(nbformat.writes(executed)))
    states = [line["state"] for line in _lines(summary)]
    for file in (source, copy, summary):
        file.unlink(missing_ok=True)
    return Result(page, time.monotonic() - start, states.count("computed"), states.count("reused"))


def _explain(page: Page, notebook: Any, err: Any, copy: Path) -> str:
    """Page, cell and error in four lines; the traceback stays in the executed copy."""
    number = next((i for i, cell in enumerate(notebook.cells, 1) if cell.source == err.source), None)
    first = next((line for line in err.source.splitlines() if line.strip()), "")
    where = f"cell {number}" if number else "the cell of the given parameters"
    message = f"{err.ename}: {err.evalue}" if err.evalue else err.ename
    if len(message) > 600:
        message = f"{message[:600]} ..."
    lines = [f"{page.shown}, {where}: {message}", f"first line of the cell: {first.strip()}"]
    return "\n  ".join([*lines, f"executed copy with the traceback: {copy}"])


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(profile: str) -> int:
    """Pages at a time: one more than cores on small machines, as pages also wait, one per two cores on others, memory
    permitting."""
    if profile in ("small", "full") and pick().type == "cuda":
        return 1
    by_memory = int(psutil.virtual_memory().available // MEMORY_PER_PAGE)
    return max(1, min(cores() + 1 if cores() <= 4 else cores() // 2, by_memory))


# --- when an executed copy still holds --------------------------------------------------------------------------------
def _fingerprints(pages: list[Page]) -> dict[Page, str]:
    """For each page a hash of what its recorded copy depends on: its source, the library, the results, the packages."""
    common = hashlib.sha256(sys.version.encode())
    lock = paths.ROOT / "requirements.lock"
    common.update(lock.read_bytes() if lock.exists() else b"")
    shown = (paths.results(kept) for kept in ("small", "full", "benchmarks", "recomputed"))
    for folder in (paths.ROOT / "distill_lib", paths.ROOT / "book", *shown):
        others = folder.name == "book"  # than pages: what these read
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and not (others and file.suffix == ".md"):
                common.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        page: hashlib.sha256(common.digest() + page.name.encode() + page.file.read_bytes()).hexdigest()
        for page in pages
    }


def _stored_fingerprint(page: Page, profile: str) -> str | None:
    try:
        return json.loads(page.executed(profile).read_text())["metadata"]["distill"]["fingerprint"]
    except (OSError, ValueError, KeyError):
        return None


# --- progress and memory ----------------------------------------------------------------------------------------------
class _Display:
    """A bar for all pages, a line for each that runs; without a terminal, a line for each that ends."""

    def __init__(self, total: int):
        self.console = Console(stderr=True)
        texts = [TextColumn("{task.description}"), TextColumn("{task.fields[cells]}")]
        columns = [SpinnerColumn(), texts[0], BarColumn(), texts[1], TimeElapsedColumn()]
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.bar = self.progress.add_task("pages", total=total, cells="")
        self.total, self.count = total, 0
        self.tasks: dict[Page, tuple[Any, Path]] = {}
        self.lock = threading.Lock()

    def started(self, page: Page, summary: Path) -> None:
        with self.lock:
            self.tasks[page] = (self.progress.add_task(page.experiment, total=None, cells=""), summary)

    def refresh(self) -> None:
        with self.lock:
            for task, summary in self.tasks.values():
                done = len(_lines(summary))
                self.progress.update(task, cells=f"{done} cells" if done else "")

    def finished(self, result: Result) -> None:
        with self.lock:
            self.count += 1
            self.progress.remove_task(self.tasks.pop(result.page)[0])
            self.progress.update(self.bar, completed=self.count)
        some = result.computed or result.reused
        cells = f", cells: {result.computed} computed, {result.reused} reused" if some else ""
        said = f"{self.count}/{self.total} {result.page.experiment}: {result.seconds:.1f} s{cells}"
        self.console.print(said, highlight=False)


@contextmanager
def _display(total: int) -> Iterator[_Display]:
    shown = _Display(total)
    with shown.progress:
        yield shown


def _lines(file: Path) -> list[dict[str, Any]]:
    """Complete JSON lines of a file that another process may be writing."""
    try:
        return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    except FileNotFoundError:
        return []


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Fill in the peak memory of this process and all below it, in MB; memory they share counts once (on Linux)."""
    peak, stop = [0.0], threading.Event()

    def look() -> None:
        this = psutil.Process()
        while not stop.wait(0.5):
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    full = process.memory_full_info()
                    total += getattr(full, "pss", full.rss)
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 2**20)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
