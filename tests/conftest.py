"""What every test shares: nothing is written into the repository, fetched or compiled, one thread computes."""

import os
import shutil
import subprocess
import tempfile

import pytest

# before anything imports torch
FOLDER = tempfile.mkdtemp(prefix="distill-tests-")
os.environ.update(DISTILL_RUNS=f"{FOLDER}/runs", DISTILL_CACHE=f"{FOLDER}/cache", DISTILL_COMPILE="0", MPLBACKEND="agg")
os.environ["DISTILL_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DISTILL_DEVICE", "cpu")
for name in ("DISTILL_RESULTS", "DISTILL_SUMMARY"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def compiler(tmp_path_factory):
    """Skips what compiles C++ only where nothing compiles: code of ours that does not is a failure."""
    name = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or "c++"
    source = tmp_path_factory.mktemp("compiler") / "one.cpp"
    source.write_text("#include <vector>\nint one() { return std::vector<int>(1).size(); }\n")
    command = [name, "-std=c++17", "-shared", "-fPIC", "-o", str(source.with_suffix(".so")), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as err:
        pytest.skip(f"no C++ compiler that works: {err}")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A `runs` folder of the test's own."""
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def folders(runs, tmp_path, monkeypatch):
    """The folder that holds `runs` and `results` of the test's own."""
    monkeypatch.setenv("DISTILL_RESULTS", str(tmp_path / "results"))
    return tmp_path


@pytest.fixture(scope="session")
def digits():
    """The digits' training and test set."""
    from distill_lib import data  # here: the kit's tests run where not all of its packages are

    return data.load("digits")


@pytest.fixture(scope="session")
def real(digits):
    return digits[0]


def pytest_unconfigure(config):
    shutil.rmtree(FOLDER, ignore_errors=True)
