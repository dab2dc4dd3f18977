"""The same packages on every machine: pyproject, lock and conda environment agree, and every command is there."""

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distill_lib.core.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = [Requirement(line.rstrip(" \\")) for line in LOCK.splitlines() if re.match(r"[a-zA-Z0-9]", line)]


def pinned(name, python):
    """The lock's version of a package for one Python version on Linux."""
    environment = {
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found = [
        p.specifier
        for p in PINS
        if canonicalize_name(p.name) == canonicalize_name(name) and (p.marker is None or p.marker.evaluate(environment))
    ]
    assert len(found) == 1, f"{name}: {len(found)} pins for Python {python}"
    return str(found[0]).removeprefix("==")


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_pins_every_direct_dependency_within_its_bounds(python):
    for requirement in DIRECT:
        assert requirement.specifier.contains(pinned(requirement.name, python)), requirement


def test_every_pin_has_hashes_and_the_lock_names_no_place():
    entries = re.split(r"\n(?=[a-zA-Z0-9])", LOCK.split("\n", 2)[2])
    assert len(entries) == len(PINS) > 100
    assert all("--hash=sha256:" in e for e in entries)
    assert not re.search(r"https?://|index-url|find-links|(^|[ =])/(?!/)\w", LOCK, re.MULTILINE)


def test_conda_gets_the_pins_of_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python=")).removeprefix("python=")
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == [*(f"{r.name}=={pinned(r.name, python)}" for r in DIRECT), "--editable ."]


@pytest.mark.parametrize("target", ["reproduce", "book", "test", "benchmark", "clean"])
def test_make_knows_the_target(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_hands_profile_notebook_and_parameters_on():
    line = "make -n reproduce PROFILE=small ONLY=skd/table1_accuracy PARAMS='-p ipcs=[1]'"
    said = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert "distill_lib reproduce --profile small --only skd/table1_accuracy" in said and "-p ipcs=[1]" in said


def test_licence_and_citation_are_the_project_s():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_ci_stops_on_the_first_failure_and_runs_the_readme_s_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script and "\nmake test\n" in script
    assert "make test" in (ROOT / "README.md").read_text()
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]["check"]["steps"]
    assert any(step.get("run") == "bash .ci/run" for step in steps)
