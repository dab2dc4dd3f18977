"""The example methods of the book keep the contract of the library's own methods."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from distill_lib import data, experiments
from distill_lib.core import paths
from distill_lib.methods import check

FILES = sorted((paths.ROOT / "book" / "examples").glob("*.py"))
EXAMPLE = paths.ROOT / "book" / "examples" / "pixel_means.py"
PAGE = paths.ROOT / "book" / "your_method.md"


def load(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_an_example_method_keeps_the_contract(file):
    assert len(check.contract(load(file), data.load("digits")[0])) == len(check.CHECKS)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A copy of the library with the example put into it as the page says, change by change."""
    root = tmp_path_factory.mktemp("library")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(paths.ROOT / "distill_lib", root / "distill_lib", ignore=ignored)
    shutil.copy(EXAMPLE, root / "distill_lib" / "methods")
    (root / "tests").mkdir()
    for file in ("pyproject.toml", "tests/conftest.py", "tests/test_methods.py"):
        shutil.copy(paths.ROOT / file, root / file)
    changes = re.findall(r"```\{code-block\} diff\n:caption: `?([^`\s]+)`?\n\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(changes) == 3
    for file, change in changes:
        lines = [(line[0], line[1:]) for line in change.splitlines()]
        before, after = ("\n".join(text for sign, text in lines if sign != other) for other in "+-")
        text = (root / file).read_text()
        assert text.count(before) == 1, f"{file} has no such place:\n{before}"
        (root / file).write_text(text.replace(before, after))
    return root


def run(library, *words):
    """What a command prints in that copy."""
    places = {"PYTHONPATH": str(library), "DISTILL_RUNS": str(library / "runs")}
    environment = {k: v for k, v in os.environ.items() if k != "DISTILL_RESULTS"} | places
    done = subprocess.run([sys.executable, *words], cwd=library, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PLAN_ALL = """
from distill_lib import experiments
from distill_lib.experiments import estimate

for name in experiments.experiments():
    found = experiments.plan(name, experiments.check_parameters(name, {"profile": "smoke"}))
    todo = [s for s in found if s.state in experiments.TO_COMPUTE]
    some = [s for s in found if s.cell.method == "Pixel means" and s.state == "recorded"] + todo[:1]
    print(name, estimate.total(estimate.rows(some, "smoke")))
"""


def test_a_method_that_is_put_in_as_the_page_says_is_listed_planned_run_tested_and_explained(library):
    (shown,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    commands = [shlex.split(line) for line in shown.splitlines()]
    modules = {"distill": "distill_lib", "pytest": "pytest"}
    listed, planned, ran, tested = (run(library, "-m", modules[program], *words) for program, *words in commands)
    assert "Pixel means: k-means centres of every class" in listed
    assert "1 missing" in planned and planned.count("  time unknown\n") == 1
    assert "1 computed" in ran and f"{len(check.CHECKS) + 1} passed" in tested
    (record,) = (library / "runs" / "smoke" / "records" / "skd" / "table1_accuracy").glob("*.json")
    explained = run(library, "-m", "distill_lib", "explain", f"skd/table1_accuracy/{record.stem}", "--profile", "smoke")
    assert "is taken from its record" in explained and '"Pixel means": 1' in explained
    every = run(library, "-c", PLAN_ALL).splitlines()  # with a record of a method whose cost is not counted
    assert len(every) == len(experiments.experiments())
    assert every[0].startswith("skd/table1_accuracy 2 cells: 1 recorded, 1 missing")


def test_pixel_means_are_means_of_the_images_nearest_to_them():
    method = load(EXAMPLE)
    real, _ = data.load("digits")
    one = method.distill(real, method.Config(ipc=1, iterations=1), seed=0)
    means = torch.stack([real.take(index)[0].mean(0) for index in real.class_index])
    assert torch.allclose(one.images, means, atol=1e-5)
    few, many = (spread(real, method.distill(real, method.Config(ipc=3, iterations=n), seed=0)) for n in (1, 10))
    assert many < few  # each of Lloyd's steps lowers it


def spread(real, centres):
    """Mean squared distance of real images to the nearest centre of their class."""
    pairs = zip(real.class_index, centres.class_index, strict=True)
    return sum(
        torch.cdist(real.take(a)[0].flatten(1), centres.images[b].flatten(1)).amin(1).square().sum().item()
        for a, b in pairs
    )


def test_the_example_is_as_long_as_the_book_says():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
