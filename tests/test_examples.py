"""The example methods of the book keep the contract of the library's own methods."""

import importlib.util
import json
import os
import re
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
    shutil.copytree(paths.ROOT / "results" / "reported", root / "results" / "reported")
    shutil.copy(EXAMPLE, root / "distill_lib" / "methods")
    page = (paths.ROOT / "book" / "your_method.md").read_text()
    changes = re.findall(r"```\{code-block\} diff\n:caption: (\S+)\n\n(.*?)```", page, re.DOTALL)
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
    assert done.returncode == 0, done.stderr
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


def test_a_method_that_is_put_in_as_the_page_says_is_listed_planned_run_and_explained(library):
    distill = ["-m", "distill_lib"]
    assert '"Pixel means: k-means centres' in run(library, *distill, "list", "methods", "--json")
    table = ["skd/table1_accuracy", "--profile", "smoke", "-p", "methods=Pixel means"]
    rows = json.loads(run(library, *distill, "plan", *table, "--json"))
    (missing,) = [row for row in rows if row["state"] == "missing"]
    assert missing["seconds"] is None is missing["memory_mb"] and "Pixel means" in missing["basis"]
    assert "1 computed" in run(library, *distill, "run", *table)
    explained = run(library, *distill, "explain", f"skd/table1_accuracy/{missing['record']}", "--profile", "smoke")
    assert "is taken from its record" in explained and '"Pixel means": 1' in explained
    every = run(library, "-c", PLAN_ALL).splitlines()  # with a record of a method whose cost is not counted
    assert len(every) == len(experiments.experiments()) and every[0].startswith("skd/table1_accuracy 2 cells: 1 recorded, 1 missing")
    longer = ["skd/table1_accuracy", "--profile", "full", "-p", "methods=Pixel means", "-p", "datasets=MNIST"]
    planned = run(library, *distill, "plan", *longer)
    assert "3 cells: 3 missing; to compute: time unknown" in planned and planned.count("  time unknown\n") == 3


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
    return sum(torch.cdist(real.take(a)[0].flatten(1), centres.images[b].flatten(1)).amin(1).square().sum().item() for a, b in pairs)


def test_the_example_is_as_long_as_the_book_says():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
