"""The same packages on every machine: pyproject, lock and conda environment agree, and every command is there."""

import json
import os
import re
import shutil
import subprocess
import sys
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


# --- without a checkout ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as `pip install` puts it, in a folder of its own."""
    place = tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "distill_lib", place / "distill_lib", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = place.glob("*.whl")
    shutil.unpack_archive(wheel, place / "site", "zip")
    return place / "site"


def plain(installed, tmp_path, *words, **environment):
    """What a command of the installed package prints, run elsewhere."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("DISTILL_", "XDG_"))}
    clean |= {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "DISTILL_COMPILE": "0", **environment}
    run = [sys.executable, *words] if words[0] == "-c" else [sys.executable, "-m", "distill_lib", *words]
    return subprocess.run(run, cwd=tmp_path, env=clean, capture_output=True, text=True)


def test_an_installed_package_computes_and_writes_nothing_into_itself(installed, tmp_path):
    before = sorted(installed.rglob("*.csv"))
    assert len([f for f in before if f.parent.name == "printed"]) == 4
    cell = ["--cells", "method=Random,dataset=FashionMNIST,ipc=1,protocol=vico_dsa", "-p", "datasets=FashionMNIST"]
    done = plain(installed, tmp_path, "run", "skd/table1_accuracy", *cell)
    assert done.returncode == 0 and "1 computed" in done.stdout, done.stderr
    assert list(tmp_path.glob(".local/share/distill_lib/runs/smoke/records/*/*/*.json"))
    done = plain(installed, tmp_path, "plan", "skd/table1_accuracy", "--profile", "smoke", *cell)
    assert done.returncode == 0 and done.stdout.startswith("recorded")
    listed = json.loads(plain(installed, tmp_path, "list", "experiments", "--json").stdout)
    assert all(row["cells"]["printed"] for row in listed if row["name"] == "skd/table1_accuracy")
    assert sorted(installed.rglob("*.csv")) == before and {p.name for p in installed.iterdir()} - {"distill_lib"} == {
        p.name for p in installed.glob("*.dist-info")
    }
    for words in (["book"], ["reproduce"]):
        done = plain(installed, tmp_path, *words)
        assert done.returncode == 2 and "needs the project's files" in done.stderr and done.stderr.count("\n") == 1


UNKNOWN = """
import os, pwd, runpy, sys
def nobody(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"): os.environ.pop(name, None)
sys.argv = ["distill", *sys.argv[1:]]
runpy.run_module("distill_lib", run_name="__main__")
"""


def test_a_user_without_name_and_home_computes_or_is_told_what_to_set(installed, tmp_path):
    cells = "method=Random,dataset=FashionMNIST,ipc=1,protocol=vico_dsa"
    words = ["-c", UNKNOWN, "run", "skd/table1_accuracy", "--cells", cells]
    done = plain(installed, tmp_path, *words)
    assert done.returncode == 2 and "set DISTILL_RUNS to a folder" in done.stderr and done.stderr.count("\n") == 1
    done = plain(installed, tmp_path, *words, DISTILL_RUNS=str(tmp_path / "r"), DISTILL_CACHE=str(tmp_path / "c"))
    assert done.returncode == 0 and "computed" in done.stdout and not (tmp_path / "~").exists(), done.stderr


ELSEWHERE = """
import importlib, os, pathlib, pkgutil, signal, sys
import distributed, torch, torch._dynamo, torchvision, timm, sklearn, pandas, matplotlib.pyplot, seaborn, diffusers
import papermill, jupyter_client, psutil, medmnist, jupyter_book.sphinx, IPython.core.completer, torchmetrics, pynvml
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r}: raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for name in {absent!r}: sys.modules.pop(name, None)
for module, names in {{os: {of_os!r}, signal: {of_signal!r}}}.items():
    for name in names: vars(module).pop(name, None)
import distill_lib
count = 0
for info in pkgutil.walk_packages(distill_lib.__path__, "distill_lib."):
    if not info.name.endswith("__main__") or info.name == "distill_lib.__main__":
        importlib.import_module(info.name)
        count += 1
assert count > 90
sys.platform = {platform!r}
from distill_lib.core import measure, device
with measure.measure("cpu") as cost: torch.ones(9).sum()
device.pick("cpu")
print(count)
"""
MISSING = {  # what the standard library lacks there
    "win32": (
        ("resource", "fcntl", "pwd", "grp", "termios", "syslog"),
        ("sched_getaffinity", "nice", "fork", "setsid", "getuid", "geteuid", "getpgid", "killpg"),
        ("SIGKILL", "SIGCHLD", "SIGALRM", "SIGHUP", "SIGUSR1"),
    ),
    "darwin": ((), ("sched_getaffinity",), ()),
}


@pytest.mark.parametrize("platform", MISSING)
def test_every_module_imports_where_other_systems_lack_something(platform):
    absent, of_os, of_signal = MISSING[platform]
    code = ELSEWHERE.format(absent=absent, of_os=of_os, of_signal=of_signal, platform=platform)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


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
