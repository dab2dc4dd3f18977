"""What every test shares: nothing is written into the repository, nothing is compiled, one thread computes."""

import os
import shutil
import tempfile

# before anything imports torch
FOLDER = tempfile.mkdtemp(prefix="distill-tests-")
os.environ.update(DISTILL_RUNS=f"{FOLDER}/runs", DISTILL_CACHE=f"{FOLDER}/cache", DISTILL_COMPILE="0", MPLBACKEND="agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DISTILL_DEVICE", "cpu")
os.environ.pop("DISTILL_SUMMARY", None)


def pytest_unconfigure(config):
    shutil.rmtree(FOLDER, ignore_errors=True)
