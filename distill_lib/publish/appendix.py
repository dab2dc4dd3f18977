"""Pages outside the contents, a record or a file of code each; and live pages as notebooks to take away."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat.v4 import new_code_cell, new_markdown_cell
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

from .. import experiments, records
from ..core import paths
from ..core.errors import UserError
from ..tables.compare import quoted

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="{root}_static/favicon.svg"><style>{style}</style></head>
<body><main><p>{back}</p><h1>{title}</h1>{body}</main></body></html>
"""
STYLE = """:root { color-scheme: light dark; } body { font: 1rem/1.5 system-ui, sans-serif; margin: 1rem; }
main { margin: auto; max-width: 60rem; } h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
pre { border: 1px solid; overflow-x: auto; padding: 0.5rem; } @media print { pre { white-space: pre-wrap; } }"""
CODE = re.compile(r'href="(?:\.\./)*code/([^"#]+)\.html"')  # what leads to a page of code


def _write(out: Path, name: str, title: str, back: str, body: str, style: str = "") -> str:
    file = out / f"{name}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    root = "../" * name.count("/")
    parts = {"title": html.escape(title), "back": back.format(root=root), "body": body, "root": root}
    file.write_text(PAGE.format(style=STYLE + style, **parts))
    return name


def record_pages(out: Path) -> Iterator[str]:
    """A page for every record: what it says, where it is shown, and the file as it is. Yields: the pages' names."""
    known = experiments.experiments()
    for profile in paths.RESULT_PROFILES:
        for file in records.files(profile):
            try:
                record = records.read(file)
            except UserError:  # the book's checks name it
                continue
            cell, text = record.cell, json.dumps(json.loads(file.read_text()), indent=1)
            title = known[cell.experiment].title if cell.experiment in known else cell.experiment
            page, row = out / "notebooks" / f"{cell.experiment}.html", f"{cell.stem}-{profile}"
            shown = page.exists() and f'id="{row}"' in page.read_text()
            place = f"notebooks/{cell.experiment}.html{f'#{row}' * shown}" if page.exists() else "index.html"
            back = f'<a href="{{root}}{place}">{html.escape(title)}</a>'
            said = f"<p>{html.escape(quoted(record, profile))}.</p><pre tabindex='0'>{html.escape(text)}</pre>"
            yield _write(out, f"records/{profile}/{cell.experiment}/{cell.stem}", str(cell), back, said)


def code_pages(out: Path) -> Iterator[str]:
    """A page for every file of code that a page links to. Yields: the pages' names."""
    formatter = HtmlFormatter(style="a11y-high-contrast-light")
    style = formatter.get_style_defs(".highlight") + "\n.highlight { background: #fff; color: #000; }"
    linked = {name for page in out.glob("*/**/*.html") for name in CODE.findall(page.read_text())}
    for name in sorted(linked):
        file = paths.ROOT / name
        if file.is_file():  # what is missing is named where it is linked
            body = highlight(file.read_text(), get_lexer_for_filename(name), formatter)
            body = body.replace("<pre>", "<pre tabindex='0'>", 1)
            yield _write(out, f"code/{name}", name, '<a href="{root}index.html">the book</a>', body, style)


CSV = re.compile(r'<a download="[^"]*" href="data:text/csv[^>]*>CSV</a>')
HOW_TO_RUN = """*From the book: `{name}`, with its outputs as they stand there.*

To run it, install the library from a copy of the project: `pip install -e .` in its folder, with Python 3.11 or newer.
With `profile = "recorded"` nothing is computed, and the book's numbers are shown. `smoke` computes in seconds to
minutes, `small` and `full` take longer. The next cell says into which folders on your machine they write."""
FOLDERS = """# To keep what you compute beside this notebook, uncomment the next line;
# the book's own records lie elsewhere, and are then not shown.
# import os; os.environ.update(DISTILL_RESULTS="results", DISTILL_RUNS="runs")
from distill_lib.core import paths

print("records of small and full:", paths.results("small").parent.resolve())
print("sets, and records of smoke:", paths.runs().resolve())"""
ROLE = re.compile(r"\{([a-z:]+)\}`([^`<>]*?)(?:\s*<([^>`]+)>)?`")


def runnable(notebook: Any, name: str, titles: dict[str, Any]) -> Any:
    """An executed page as a notebook to take away: its roles as plain text, first what it needs and where it writes.

    Args:
        name:   of the page.
        titles: of the book's pages, by name.
    """

    def plain(found: re.Match[str]) -> str:
        role, text, target = found.groups()
        if role == "doc":
            page = re.sub(r"^(?:\.\./)*", "", target or text)
            known = next((titles[t].astext() for t in titles if t.endswith(page)), page)
            return f"*{text if target else known}*"
        return f"({text})" if role.startswith("cite") else f"`{text}`" if role == "src" else text

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = ROLE.sub(plain, cell.source)
        for output in cell.get("outputs", []):  # a table's link to itself as CSV would double the file
            if shown := output.get("data", {}).get("text/html"):
                output["data"]["text/html"] = CSV.sub("", shown)
    how = new_markdown_cell(HOW_TO_RUN.format(name=name), id="how-to-run")
    notebook.cells[:0] = [how, new_code_cell(FOLDERS, id="folders")]
    return notebook
