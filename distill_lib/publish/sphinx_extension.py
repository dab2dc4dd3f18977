"""What the book adds to Sphinx."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.sphinx_ import Parser
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.logging import WarningLogRecordTranslator, WarningSuppressor, getLogger

from ..core import paths
from ..core.errors import UserError
from ..records import export
from . import pages
from .build import BANNERS, MATHJAX
from .check import check_html


# --- the Sphinx extension
# ----------------------------------------------------------------------------------------------
def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""

    class ExecutedParser(Parser):
        """Reads the executed copy in place of a live page's source."""

        def parse(self, inputstring: str, document: Any) -> None:
            copy = _copies(app).get(self.env.docname)
            if copy is None:
                return super().parse(inputstring, document)
            usual = self.env.mystnb_config
            self.env.mystnb_config = usual.copy(
                custom_formats={".md": ("myst_nb.core.read.standard_nb_read", {}, False)}
            )
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
    app.connect(
        "doctree-read", _say_how_made, priority=400
    )  # before the section's heading is collected for the contents
    app.connect("autodoc-process-docstring", _sections, priority=400)  # before napoleon, which reads sections
    app.connect("html-page-context", _offer_notebook)
    app.connect("build-finished", _finish)
    problems = _Problems(app)
    logging.getLogger("sphinx").addHandler(problems)
    app._distill_problems = problems
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _configure(app: Sphinx, config: Any) -> None:
    if banner := BANNERS.get(config.distill_profile):
        only = (
            " The other notebooks show recorded results."
            if config.distill_ran and len(config.distill_ran) < len(pages.notebooks(Path(app.srcdir)))
            else ""
        )
        config.html_theme_options = {**config.html_theme_options, "announcement": banner + only}
    config.mathjax_path = f"mathjax/{MATHJAX}"
    for name in (
        "sphinx_multitoc_numbering",
        "sphinx_jupyterbook_latex",
    ):  # act on all pages together or on LaTeX, but do not say so
        app.extensions[name].parallel_read_safe = app.extensions[name].parallel_write_safe = True


def _copies(app: Sphinx) -> dict[str, Path]:
    """Executed copy of every live page of the book, by document."""
    if not hasattr(app, "_distill_copies"):
        live = pages.live(Path(app.srcdir), sorted(app.env.found_docs))
        ran = app.config.distill_ran
        app._distill_copies = {
            p.name: p.executed(app.config.distill_profile if p.name in ran else "recorded") for p in live
        }
    return app._distill_copies


def _outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Execute what has to be, and name the pages whose executed copies are others than Sphinx has read before."""
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
        elif (
            {"figure", "image"} & set(settings)
            and not any(kind.startswith("image/") for kind in kinds)
            and not _says_not_run(cell)
        ):
            say.warning("cell %d should show a figure and shows none", number, location=name)


def _say_how_made(app: Sphinx, doctree: Any) -> None:
    """A section at the end of every notebook: the command that makes its tables and figures, and the records behind
    them; figures link to it."""
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
        parts = (
            [count(measured, "record") + ", each with settings, seeds, device, seconds and memory"] if measured else []
        )
        parts += (
            [count(others, "file") + " of images or curves"]
            if (others := [f for f in files if f not in measured])
            else []
        )
        code = f". The code that measured them: {', '.join(commits)}" if commits else ""
        found += nodes.list_item("", nodes.paragraph("", "", link, nodes.Text(f": {'; '.join(parts)}{code}.")))
    if len(found):
        section += nodes.paragraph("", "from the records")
        section += found
    elif profile == "recorded":
        section += nodes.paragraph(
            "", "It shows no record: what it has follows from the code and the published numbers alone, or was not run."
        )
    top[0] += section
    for figure in doctree.findall(nodes.figure):
        if captions := list(figure.findall(nodes.caption)):
            captions[0] += [
                nodes.Text(" "),
                nodes.reference("", "Command and records", refid="made-by", classes=["distill-made"]),
            ]


def _offer_notebook(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """A text page with code cells can be downloaded as a notebook too, without outputs."""
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
            out += [
                "",
                f"{'Note' if heading == 'Source' else heading}:",
                f"    {'Source: ' if heading == 'Source' else ''}{text.strip()}",
            ]
            inside = True
        elif inside and line.startswith(" "):
            out.append(f"    {line.strip()}")
        else:
            inside = False
            out.append(line)
    lines[:] = out


def _finish(app: Sphinx, exception: Exception | None) -> None:
    """Complete the book, check its pages, and raise if there was any problem."""
    logging.getLogger("sphinx").removeHandler(app._distill_problems)
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    source = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / MATHJAX
    (out / "_static" / "mathjax").mkdir(parents=True, exist_ok=True)
    shutil.copy(source, out / "_static" / "mathjax" / MATHJAX)
    _, damaged = export.write(out / "index.csv")
    problems = [*app._distill_problems.texts, *damaged, *check_html(out, sorted(app.env.found_docs))]
    if problems:
        # Sphinx repeats no warning about a page it does not read again: make it read all of them
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)
        raise ExtensionError(
            "\n".join([f"{len(problems)} problem{'s' * (len(problems) > 1)}", *(f"  {p}" for p in problems)])
        )


class _Problems(logging.Handler):
    """Collects Sphinx's warnings and errors, each once, with the page they are about."""

    def __init__(self, app: Sphinx):
        super().__init__(logging.WARNING)
        self.addFilter(WarningSuppressor(app))
        self.addFilter(WarningLogRecordTranslator(app))
        self.root = f"{app.srcdir}{os.sep}"
        self.texts: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.texts[record.getMessage().replace(self.root, "").replace("WARNING: ", "")] = None
