"""Make the book: run its live pages, build the HTML, and refuse to call a book built that is not whole.

`build` makes the book of the recorded results, `reproduce` runs every notebook in a profile and makes the book of that
run. The module is also the Sphinx extension that both, and plain `jupyter-book build .`, go through: it hands Sphinx the
executed copies of live pages, keeps everything a page loads inside the book, and stops the build on any problem.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from . import pages, paths
from .errors import UserError, unknown
from .garbage import no_collection

if TYPE_CHECKING:
    from sphinx.application import Sphinx

BANNERS = {
    "smoke": "Profile <b>smoke</b>: tiny budgets on small real data, to show that everything runs. These numbers are not results.",
    "small": "Profile <b>small</b>: reduced budgets, named beside every number.",
    "full": "Profile <b>full</b>: the papers' protocols.",
}
MATHJAX = "tex-svg-full.js"  # one file: glyphs are drawn, so no fonts to load


@dataclass(frozen=True)
class Summary:
    """What a run did: notebooks run, cells computed and reused, wall seconds, peak memory of all processes, and the book."""

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
) -> Summary:
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
        index = build(profile, root, ran=chosen)
    summary = Summary(
        profile, len(results), sum(r.computed for r in results), sum(r.reused for r in results),
        time.monotonic() - start, peak[0], index,
    )  # fmt: skip
    print(summary, flush=True)
    return summary


def build(profile: str = "recorded", root: Path = paths.ROOT, ran: list[pages.Page] = (), out: Path | None = None) -> Path:
    """Build the book and return its first page.

    Args:
        ran: notebooks whose executed copies in `profile` to show; all other live pages show the recorded results, and
             are executed first where that is not done yet.
        out: where the book goes; by default `_build` for the recorded book, else the profile's folder in `runs/`.
    Raises: UserError: every problem with its page: a failed cell, a missing figure, a broken reference or link, an image
            without alternative text, a page that would load something from outside.
    """
    if profile not in paths.PROFILES:
        raise unknown("profile", profile, paths.PROFILES)
    pages.run([p for p in pages.live(root, _contents(root)) if p not in ran], "recorded", meanwhile=_import_sphinx)
    from jupyter_book.sphinx import build_sphinx

    place = out or (root / "_build" if profile == "recorded" else paths.runs() / profile / "book")
    overrides = {
        "external_toc_path": str(root / "_toc.yml"),
        "latex_individualpages": False,
        "distill_profile": profile,
        "distill_ran": [p.name for p in ran],
    }
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed), no_collection():  # pages are trees, and kept
        result = build_sphinx(
            root, place / "html", noconfig=True, path_config=root / "_config.yml", confoverrides=overrides, really_quiet=True,
            jobs=pages.cores() + 1,  # Sphinx takes one for the process that hands out pages, which mostly waits
        )
    if isinstance(result, BaseException):
        if isinstance(result, KeyboardInterrupt):
            raise result
        raise UserError(f"the book was not built: {result}")
    if result:
        raise UserError(f"the book was not built: {printed.getvalue().strip()[-2000:]}")
    return place / "html" / "index.html"


def _import_sphinx() -> None:
    """What building a book imports, seconds of it."""
    with no_collection():
        for name in ("jupyter_book.sphinx", "myst_nb.sphinx_ext", "sphinx_book_theme", "sphinxcontrib.bibtex", "sphinx.ext.autodoc"):
            importlib.import_module(name)


def _contents(root: Path) -> list[str]:
    """The pages that `_toc.yml` lists."""
    from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

    try:
        return list(parse_toc_yaml(root / "_toc.yml"))
    except (MalformedError, OSError) as err:
        raise UserError(f"{root / '_toc.yml'}: not a table of contents: {err}") from None


# --- the Sphinx extension ----------------------------------------------------------------------------------------------
def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    from myst_nb.sphinx_ import Parser

    class ExecutedParser(Parser):
        """Reads the executed copy in place of a live page's source."""

        def parse(self, inputstring: str, document: Any) -> None:
            copy = _copies(app).get(self.env.docname)
            if copy is None:
                return super().parse(inputstring, document)
            usual = self.env.mystnb_config
            self.env.mystnb_config = usual.copy(custom_formats={".md": ("myst_nb.core.read.standard_nb_read", {}, False)})
            try:
                super().parse(copy.read_text(), document)
            finally:
                self.env.mystnb_config = usual

    app.add_config_value("distill_profile", "recorded", "env", (str,))
    app.add_config_value("distill_ran", [], "env", (list,))
    app.add_source_parser(ExecutedParser, override=True)
    app.connect("config-inited", _configure)
    app.connect("env-get-outdated", _outdated)
    app.connect("doctree-read", _check_outputs)
    app.connect("doctree-read", _say_how_made, priority=400)  # before the section's heading is collected for the contents
    app.connect("autodoc-process-docstring", _sections, priority=400)  # before napoleon, which reads sections
    app.connect("html-page-context", _offer_notebook)
    app.connect("build-finished", _finish)
    problems = _Problems(app)
    logging.getLogger("sphinx").addHandler(problems)
    app._distill_problems = problems
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _configure(app: Sphinx, config: Any) -> None:
    if banner := BANNERS.get(config.distill_profile):
        only = " The other notebooks show recorded results." if config.distill_ran and len(config.distill_ran) < len(pages.notebooks(Path(app.srcdir))) else ""
        config.html_theme_options = {**config.html_theme_options, "announcement": banner + only}
    config.mathjax_path = f"mathjax/{MATHJAX}"
    for name in ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex"):  # act on all pages together or on LaTeX, but do not say so
        app.extensions[name].parallel_read_safe = app.extensions[name].parallel_write_safe = True


def _copies(app: Sphinx) -> dict[str, Path]:
    """Executed copy of every live page of the book, by document."""
    if not hasattr(app, "_distill_copies"):
        live = pages.live(Path(app.srcdir), sorted(app.env.found_docs))
        ran = app.config.distill_ran
        app._distill_copies = {p.name: p.executed(app.config.distill_profile if p.name in ran else "recorded") for p in live}
    return app._distill_copies


def _outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Execute what has to be, and name the pages whose executed copies are others than Sphinx has read before."""
    from sphinx.errors import ExtensionError

    try:
        live = pages.live(Path(app.srcdir), sorted(env.found_docs))
        pages.run([p for p in live if p.name not in app.config.distill_ran], "recorded")
    except UserError as err:
        raise ExtensionError(str(err)) from None
    read = getattr(env, "distill_read", {})
    env.distill_read = {name: hashlib.sha256(copy.read_bytes()).hexdigest() for name, copy in _copies(app).items()}
    return [name for name, digest in env.distill_read.items() if read.get(name) != digest]


def _says_not_run(cell: Any) -> bool:
    """Whether a cell says in so many words that there is nothing to show yet."""
    return any(output.output_type == "stream" and output.text.strip() == "not run" for output in cell.outputs)


def _check_outputs(app: Sphinx, doctree: Any) -> None:
    """Every code cell of a live page has run without error, and every figure is there."""
    import nbformat
    from sphinx.util.logging import getLogger

    say = getLogger(__name__)
    name = app.env.docname
    if (copy := _copies(app).get(name)) is None:
        return
    for number, cell in enumerate(nbformat.reads(copy.read_text(), as_version=4).cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        settings = cell.metadata.get("mystnb", {})
        if any(output.output_type == "error" for output in cell.outputs):
            say.warning("cell %d failed", number, location=name)
        elif cell.execution_count is None:
            say.warning("cell %d was not executed", number, location=name)
        elif "application/vnd.jupyter.widget-view+json" in kinds:
            say.warning("cell %d shows a widget, which is empty without a running kernel", number, location=name)
        elif {"figure", "image"} & set(settings) and not any(kind.startswith("image/") for kind in kinds) and not _says_not_run(cell):
            say.warning("cell %d should show a figure and shows none", number, location=name)


def _say_how_made(app: Sphinx, doctree: Any) -> None:
    """A section at the end of every notebook: the command that makes its tables and figures, and the records behind them; figures link to it."""
    from docutils import nodes

    name = app.env.docname
    if not name.startswith("notebooks/") or not (top := list(doctree.findall(nodes.section))):
        return
    experiment = name.removeprefix("notebooks/")
    profile = app.config.distill_profile if name in app.config.distill_ran else "recorded"
    command = f"papermill {name}.ipynb out.ipynb -p profile {profile}"
    section = nodes.section("", nodes.title("", "How this page is made"), ids=["made-by"], names=["made-by"])
    section += nodes.paragraph("", "Every table and figure above is the output of this notebook, run with")
    section += nodes.literal_block(command, command, language="console", classes=["distill-command"])
    found = nodes.bullet_list()
    for kept in ("full", "small"):
        folder = paths.results(kept) / experiment
        files = [f for f in sorted(folder.glob("*")) if f.is_file() and not f.name.startswith(".")]
        if profile != "recorded" or not files:
            continue
        measured = [f for f in files if f.suffix == ".json" and "made_by" in json.loads(f.read_text())]
        commits = sorted({c for f in measured if (c := json.loads(f.read_text())["made_by"].get("commit"))})
        where = f"results/{kept}/{experiment}"
        link = nodes.reference("", where, refuri=f"{_repository(app)}/tree/main/{where}", internal=False)
        count = lambda things, kind: f"{len(things)} {kind}{'s' * (len(things) > 1)}"  # noqa: E731
        parts = [count(measured, "record") + ", each with settings, seeds, device, seconds and memory"] if measured else []
        parts += [count(others, "file") + " of images or curves"] if (others := [f for f in files if f not in measured]) else []
        code = f". The code that measured them: {', '.join(commits)}" if commits else ""
        found += nodes.list_item("", nodes.paragraph("", "", link, nodes.Text(f": {'; '.join(parts)}{code}.")))
    if len(found):
        section += nodes.paragraph("", "from the records")
        section += found
    elif profile == "recorded":
        section += nodes.paragraph("", "It shows no record: what it has follows from the code and the published numbers alone, or was not run.")
    top[0] += section
    for figure in doctree.findall(nodes.figure):
        if captions := list(figure.findall(nodes.caption)):
            captions[0] += [nodes.Text(" "), nodes.reference("", "Command and records", refid="made-by", classes=["distill-made"])]


def _offer_notebook(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """A text page with code cells can be downloaded as a notebook too, without outputs."""
    import nbformat

    page = pages.Page(Path(app.srcdir), name, ".md")
    if name in _copies(app) and page.file.exists():
        file = Path(app.outdir) / "_sources" / f"{name}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(page.notebook(), file)
        context["ipynb_source"] = f"{name}.ipynb"


def _repository(app: Sphinx) -> str:
    return app.config.html_theme_options.get("repository_url", "").rstrip("/")


def _sections(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings here say "Returns: text" in one line; napoleon wants the text below the heading."""
    out: list[str] = []
    inside = False  # one of these, whose further lines are indented already
    for line in lines:
        heading, colon, text = line.partition(":")
        if colon and heading in ("Returns", "Raises", "Source") and text.strip():
            out += ["", f"{'Note' if heading == 'Source' else heading}:", f"    {'Source: ' if heading == 'Source' else ''}{text.strip()}"]
            inside = True
        elif inside and line.startswith(" "):
            out.append(f"    {line.strip()}")
        else:
            inside = False
            out.append(line)
    lines[:] = out


def _finish(app: Sphinx, exception: Exception | None) -> None:
    """Complete the book, check its pages, and raise if there was any problem."""
    from sphinx.errors import ExtensionError

    from . import index

    logging.getLogger("sphinx").removeHandler(app._distill_problems)
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / MATHJAX
    (out / "_static" / "mathjax").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, out / "_static" / "mathjax" / MATHJAX)
    _, damaged = index.write(out / "index.csv")
    problems = [*app._distill_problems.texts, *damaged, *check_html(out, sorted(app.env.found_docs))]
    if problems:
        # Sphinx repeats no warning about a page it does not read again: make it read all of them
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)
        raise ExtensionError("\n".join([f"{len(problems)} problem{'s' * (len(problems) > 1)}", *(f"  {p}" for p in problems)]))


class _Problems(logging.Handler):
    """Collects Sphinx's warnings and errors, each once, with the page they are about."""

    def __init__(self, app: Sphinx):
        from sphinx.util.logging import WarningLogRecordTranslator, WarningSuppressor

        super().__init__(logging.WARNING)
        self.addFilter(WarningSuppressor(app))
        self.addFilter(WarningLogRecordTranslator(app))
        self.root = f"{app.srcdir}{os.sep}"
        self.texts: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.texts[record.getMessage().replace(self.root, "").replace("WARNING: ", "")] = None


# --- checks on the HTML ------------------------------------------------------------------------------------------------
def check_html(folder: Path, names: list[str]) -> list[str]:
    """Problems of finished pages: broken links, images without file or alternative text, anything loaded from outside.

    Args:
        names: the pages to check, without `.html`.
    """
    seen: dict[Path, _Seen] = {}

    def look(file: Path) -> _Seen:
        if file not in seen:
            seen[file] = _Seen()
            seen[file].feed(file.read_text())
        return seen[file]

    problems = []
    for name in names:
        page = folder / f"{name}.html"
        problems += [f"{name}: {p}" for p in _page_problems(page, look(page), look)]
    return problems


def _page_problems(page: Path, found: _Seen, look: Any) -> Iterator[str]:
    for address in found.loaded:
        if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
            yield f"would load {address} from outside"
        elif not address.startswith("data:") and not (page.parent / unquote(urlsplit(address).path)).exists():
            yield f"{address} is missing"
    for address, alt in found.images:
        if not alt or alt.strip() == address:
            yield f"image {address[:80]} has no alternative text"
    for address in dict.fromkeys(found.links):
        parts = urlsplit(address)
        if parts.scheme or address.startswith("//"):
            continue
        target = (page.parent / unquote(parts.path)) if parts.path else page
        if not target.exists():
            yield f"broken link to {address}"
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in look(target).ids:
            yield f"broken link to {address}: no such place on that page"


class _Seen(HTMLParser):
    """What a page links to, loads and offers as link targets."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = {k: v or "" for k, v in attrs}
        if "id" in a:
            self.ids.add(a["id"])
        if tag == "a" and "name" in a:
            self.ids.add(a["name"])
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and a.get("src"):
            self.loaded.append(a["src"])
        if tag == "link" and a.get("href") and {"stylesheet", "preload", "icon", "modulepreload"} & set(a.get("rel", "").split()):
            self.loaded.append(a["href"])
        if tag == "img":
            self.images.append((a.get("src", ""), a.get("alt", "")))
