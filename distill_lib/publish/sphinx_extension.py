"""What the book adds to Sphinx: executed copies of live pages, checks, addresses, pages of records and of code."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.sphinx_ import Parser
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxRole
from sphinx.util.logging import WarningLogRecordTranslator, WarningSuppressor, getLogger

from ..core import paths
from ..core.errors import UserError
from ..experiments import experiments
from ..records import export
from ..tables.html import BOOK
from . import pages
from .appendix import code_pages, record_pages, runnable
from .check import check_html

BANNERS = {
    "smoke": "Profile <b>smoke</b>: tiny budgets on small real data, to show that everything runs. "
    "These numbers are not results.",
    "small": "Profile <b>small</b>: reduced budgets, named beside every number.",
    "full": "Profile <b>full</b>: the papers' protocols.",
}
MATHJAX = "tex-svg-full.js"  # one file: glyphs are drawn, so no fonts to load


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""

    class ExecutedParser(Parser):
        """Reads the executed copy in place of a live page's source."""

        def parse(self, inputstring: str, document: Any) -> None:
            copy = _copies(app).get(self.env.docname)
            if copy is None:
                return super().parse(inputstring, document)
            usual = self.env.mystnb_config
            formats = {".md": ("myst_nb.core.read.standard_nb_read", {}, False)}
            self.env.mystnb_config = usual.copy(custom_formats=formats)
            try:
                super().parse(copy.read_text(), document)
            finally:
                self.env.mystnb_config = usual

    app.add_config_value("distill_profile", "recorded", "env", (str,))
    app.add_config_value("distill_ran", [], "env", (list,))
    app.add_config_value("distill_parameters", {}, "env", (dict,))  # that those notebooks were given
    app.add_config_value("distill_repository", "", "env", (str,))  # address of a public copy of the code, if any
    app.add_source_parser(ExecutedParser, override=True)
    app.add_role("src", SourceLink())
    app.connect("config-inited", _configure)
    app.connect("env-get-outdated", _outdated)
    app.connect("doctree-read", _check_outputs)
    app.connect("doctree-read", _say_how_made, priority=400)  # before the section's heading is collected
    app.connect("autodoc-process-docstring", _sections, priority=400)  # before napoleon, which reads sections
    app.connect("html-page-context", _complete)
    app.connect("build-finished", _finish)
    problems = _Problems(app)
    logging.getLogger("sphinx").addHandler(problems)
    app._distill_problems = problems
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class SourceLink(SphinxRole):
    """{src}`distill_lib/methods/dm.py`: a link to code, in the public copy if there is one, else in the book."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if not (paths.ROOT / self.text).is_file():
            getLogger(__name__).warning("no such file: %s", self.text, location=self.get_location())
        address = self.config.distill_repository
        link = f"{address}/blob/main/{self.text}" if address else f"{BOOK}code/{self.text}.html"
        return [nodes.reference("", "", nodes.literal(self.text, self.text), refuri=link, internal=False)], []


def _configure(app: Sphinx, config: Any) -> None:
    options = dict(config.html_theme_options)
    if banner := BANNERS.get(config.distill_profile):
        few = config.distill_ran and len(config.distill_ran) < len(pages.notebooks(Path(app.srcdir)))
        options["announcement"] = banner + " The other notebooks show recorded results." * bool(few)
    if address := config.distill_repository:  # then a reader can open an issue, and a notebook on a hired machine
        options |= {"repository_url": address, "use_repository_button": True, "use_issues_button": True}
        options["launch_buttons"] = {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
    config.html_theme_options = options
    config.mathjax_path = f"mathjax/{MATHJAX}"
    for name in ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex"):  # are safe, but do not say so
        app.extensions[name].parallel_read_safe = app.extensions[name].parallel_write_safe = True


def _copies(app: Sphinx) -> dict[str, Path]:
    """Executed copy of every live page of the book, by document."""
    if not hasattr(app, "_distill_copies"):
        live = pages.live(Path(app.srcdir), sorted(app.env.found_docs))
        profile, ran = app.config.distill_profile, app.config.distill_ran
        app._distill_copies = {p.name: p.executed(profile if p.name in ran else "recorded") for p in live}
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
    """Every code cell of a live page has run without error, and every figure is there with a caption."""
    say, name = getLogger(__name__), app.env.docname
    if (copy := _copies(app).get(name)) is None:
        return
    for number, cell in enumerate(nbformat.reads(copy.read_text(), as_version=4).cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        drawn = any(kind.startswith("image/") for kind in kinds)
        settings = cell.metadata.get("mystnb", {})
        if any(output.output_type == "error" for output in cell.outputs):
            say.warning("cell %d failed", number, location=name)
        elif cell.execution_count is None:
            say.warning("cell %d was not executed", number, location=name)
        elif "application/vnd.jupyter.widget-view+json" in kinds:
            say.warning("cell %d shows a widget, which is empty without a running kernel", number, location=name)
        elif {"figure", "image"} & set(settings) and not drawn and not _says_not_run(cell):
            say.warning("cell %d should show a figure and shows none", number, location=name)
        elif drawn and not settings.get("figure", {}).get("caption"):
            say.warning("cell %d shows a figure without a caption", number, location=name)


def _say_how_made(app: Sphinx, doctree: Any) -> None:
    """A section at the end of every notebook: the command that makes it, and its records; figures link to it."""
    name = app.env.docname
    if not name.startswith("notebooks/") or not (top := list(doctree.findall(nodes.section))):
        return
    ran = name in app.config.distill_ran
    profile, given = (app.config.distill_profile, app.config.distill_parameters) if ran else ("recorded", {})
    command = f"papermill {name}.ipynb out.ipynb -p profile {profile}"
    if given:
        command += f" -y {shlex.quote(json.dumps(given))}"
    section = nodes.section("", nodes.title("", "How this page is made"), ids=["made-by"], names=["made-by"])
    section += nodes.paragraph("", "Every table and figure above is the output of this notebook, run with")
    section += nodes.literal_block(command, command, language="console", classes=["distill-command"])
    source = Path(app.env.doc2path(name)).read_text()
    shown = [of for of in experiments() if of == name.removeprefix("notebooks/") or f'\\"{of}\\"' in source]
    found = [text for of in shown for text in _kept(of)] if profile == "recorded" else []
    if found:
        section += nodes.paragraph("", "from the records")
        section += nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph("", text)) for text in found))
        linked = any("/records/" in raw.astext() for raw in doctree.findall(nodes.raw))
        where = "Each row of the table of costs links to its record. " * linked
    else:
        where = (
            "No record is its own: what it shows follows from the code, from published numbers or from records of the "
            "pages that it names, or was not run. "
        )
    where *= profile == "recorded"
    section += nodes.paragraph(
        "",
        f"{where}Your own run writes records to the folder results of your copy of the project (smoke: to runs), or to "
        "the folders that DISTILL_RESULTS and DISTILL_RUNS name; the downloaded notebook prints their paths.",
    )
    top[0] += section
    for figure in doctree.findall(nodes.figure):
        for caption in list(figure.findall(nodes.caption))[:1]:
            link = nodes.reference("", "Command and records", refid="made-by", classes=["distill-made"])
            caption += [nodes.Text(" "), link]


def _kept(experiment: str) -> list[str]:
    """What lies beside the records of an experiment, in words, a line per profile."""

    def count(things: list[Path], kind: str) -> str:
        return f"{len(things)} {kind}{'s' * (len(things) > 1)}"

    found = []
    for kept in paths.RESULT_PROFILES:
        folder = paths.results(kept) / experiment
        files = [f for f in sorted(folder.glob("*")) if f.is_file() and not f.name.startswith(".")]
        made_by = {f: json.loads(f.read_text()).get("made_by") for f in files if f.suffix == ".json"}
        measured = {f: by for f, by in made_by.items() if by is not None}
        commits = sorted({by["commit"] for by in measured.values() if by.get("commit")})
        parts = [f"{count(list(measured), 'record')}, each with settings, seeds, device, seconds and memory"]
        parts = parts * bool(measured)
        if others := [f for f in files if f not in measured]:
            parts.append(f"{count(others, 'file')} of images or curves")
        code = f". The code that measured them: {', '.join(commits)}" if commits else ""
        if parts:
            found.append(f"results/{kept}/{experiment}: {'; '.join(parts)}{code}.")
    return found


def _complete(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put in the way to the book's own pages; offer every live page as a notebook."""
    if "body" in context:
        context["body"] = context["body"].replace(BOOK, "../" * name.count("/"))
    if name in _copies(app):
        context["ipynb_source"] = f"{name}.ipynb"


def _sections(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings here say "Returns: text" in one line; napoleon wants the text below the heading."""
    out: list[str] = []
    inside = False  # one of these, whose further lines are indented already
    for line in lines:
        heading, colon, text = line.partition(":")
        if colon and heading in ("Returns", "Raises", "Source") and text.strip():
            source = heading == "Source"
            out += ["", f"{'Note' if source else heading}:", f"    {'Source: ' * source}{text.strip()}"]
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
    for unneeded in (out / "_static").rglob("*.map"):  # for debuggers of the theme: megabytes
        unneeded.unlink()
    for name, copy in _copies(app).items():
        file = out / "_sources" / f"{name}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(runnable(nbformat.reads(copy.read_text(), as_version=4), name, app.env.titles), file)
    made = [*record_pages(out), *(code_pages(out) if not app.config.distill_repository else [])]
    _, damaged = export.write(out / "index.csv")
    problems = [*app._distill_problems.texts, *damaged, *check_html(out, [*sorted(app.env.found_docs), *made])]
    if problems:
        # Sphinx repeats no warning about a page it does not read again: make it read all of them
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise ExtensionError("\n".join([count, *(f"  {p}" for p in problems)]))


class _Problems(logging.Handler):
    """Collects Sphinx's warnings and errors, each once, with the page they are about."""

    def __init__(self, app: Sphinx):
        super().__init__(logging.WARNING)
        self.addFilter(WarningSuppressor(app))
        self.addFilter(WarningLogRecordTranslator(app))
        self.root = f"{app.srcdir}{os.sep}"
        self.texts: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except TypeError:  # some of Sphinx's own messages have more places than values
            text = f"{record.msg} {record.args}"
        self.texts[text.replace(self.root, "").replace("WARNING: ", "")] = None
