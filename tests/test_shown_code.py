"""Every command and every piece of code that the README and the book show is right: names, options and results.

Live cells run with the book. Python blocks are run here as they stand; commands are run where they only look, and else
checked as far as they go without computing: the same options, parsed and resolved.
"""

import doctest
import importlib
import re
import shlex
import subprocess

import numpy as np
import pytest
import typer
import yaml
from test_cli import call

from distill_lib import __main__ as cli
from distill_lib import data
from distill_lib.core import paths
from distill_lib.publish import build, pages

TEXTS = [paths.ROOT / "README.md", *sorted((paths.ROOT / "book").glob("*.md"))]
BLOCKS = [
    (f, m[1], m[2])
    for f in TEXTS
    for m in re.finditer(r"^```(\w+)\n(.*?)^```", f.read_text(), re.MULTILINE | re.DOTALL)
]
LOOKS = {"list", "plan", "explain", "watch", "index", "evaluate"}  # commands that compute little: run as they stand


def commands():
    for file, language, text in BLOCKS:
        if (
            language in ("bash", "console") and file.stem != "your_method"
        ):  # of a method put in by hand: run in test_examples
            lines = text.replace("\\\n", " ").splitlines()
            if language == "console":  # commands stand behind a dollar sign, what they print below
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            for line in lines:
                if words := shlex.split(line, comments=True):
                    yield pytest.param(words, id=f"{file.stem}: {' '.join(words)[:70]}")


EXAMPLES = sorted(f for f in (paths.ROOT / "distill_lib").rglob("*.py") if ">>> " in f.read_text())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.stem)
def test_examples_in_docstrings_are_right(file):
    module = importlib.import_module(".".join(file.relative_to(paths.ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_every_block_is_of_a_kind_that_is_tested():
    assert {language for _, language, _ in BLOCKS} <= {"bash", "console", "python", "text", "yaml"}


@pytest.mark.parametrize(
    "file, text", [pytest.param(f, t, id=f.stem) for f, language, t in BLOCKS if language == "yaml"]
)
def test_yaml_shown_can_be_read(file, text):
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_shown_is_one_that_works(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    while "=" in words[0]:  # DISTILL_DATA=... before a command
        words = words[1:]
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program == "make":
        assert subprocess.run(["make", "-n", *rest], cwd=paths.ROOT, capture_output=True).returncode == 0
    elif program == "papermill":
        given = dict(zip(rest[3::3], rest[4::3], strict=True))  # notebook out.ipynb -p name value -p name value
        assert set(rest[2::3]) == {"-p"}
        page = pages.Page(paths.ROOT, rest[0].removesuffix(".ipynb"))
        pages.check(page, given.pop("profile", "recorded"), given)
    elif program == "distill" or rest[:2] == ["-m", "distill_lib"]:
        arguments = rest if program == "distill" else rest[2:]
        parsed(arguments)
        if arguments[0] == "run":
            shown = [*options(arguments[1:], {"--profile", "--cells", "-p"})]
            look(monkeypatch, capsys, ["plan", *shown])
        elif arguments[0] in LOOKS:
            monkeypatch.chdir(tmp_path)
            if arguments[0] == "evaluate":
                a_set(tmp_path / arguments[1])
                arguments = [re.sub(r"@\d+ep", "@1ep", a) for a in arguments]
            look(monkeypatch, capsys, arguments)
    else:
        assert program in ("echo", "export", "dask", "hf", "torchrun"), words  # not ours


def parsed(arguments):
    """Names and options exist, and values have their types."""
    group = typer.main.get_command(cli.app)
    command = group.get_command(None, arguments[0])
    assert command is not None, arguments
    command.make_context(arguments[0], list(arguments[1:]))


def options(arguments, kept):
    """The arguments without the options that `plan` does not have."""
    words = iter(arguments)
    for word in words:
        if word.startswith("-"):
            value = next(words)
            if word in kept:
                yield from (word, value)
        else:
            yield word


def look(monkeypatch, capsys, arguments):
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 0, err
    assert out.strip()


def a_set(file):
    """A set in the form that the page describes."""
    real, _ = data.load("FashionMNIST-mini")
    chosen = real.subset(real.class_index[0][:0].new_tensor([index[0] for index in real.class_index]))
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, images=chosen.images.numpy(), labels=chosen.labels.numpy())


@pytest.mark.parametrize(
    "file, text", [pytest.param(f, t, id=f.stem) for f, language, t in BLOCKS if language == "python"]
)
def test_python_shown_runs(file, text, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    exec(compile(re.sub(r"@\d+ep", "@1ep", text), str(file), "exec"), {})


@pytest.mark.parametrize("name", build._contents(paths.ROOT))
def test_every_page_has_a_live_cell_to_adapt(name):
    (page,) = pages.live(paths.ROOT, [name])
    cells = page.notebook().cells
    (start,) = [
        i
        for i, c in enumerate(cells)
        if c.cell_type == "markdown" and re.search("^## Adapt this$", c.source, re.MULTILINE)
    ]
    code = [c.source for c in cells[start:] if c.cell_type == "code"]
    assert code and max(map(len, "\n".join(code).splitlines())) < 80, "the page cuts longer lines"
