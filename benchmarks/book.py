"""Seconds of building the book: of the recorded results, every page executed anew, and of a smoke run of every
notebook. Once each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import suite

RECORDED = "import sys, pathlib; from distill_lib.publish import build; build.build(out=pathlib.Path(sys.argv[1]))"


def build(*words: str) -> None:
    with tempfile.TemporaryDirectory(prefix="distill-benchmark-") as folder:
        environment = {**os.environ, "DISTILL_RUNS": f"{folder}/runs"}
        environment.pop("OMP_NUM_THREADS")  # pages share the processor among themselves
        done = subprocess.run(
            [sys.executable, *words, *([folder] if "-c" in words else [])],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            raise suite.Failed((done.stdout + done.stderr)[-2000:])


@suite.benchmark(
    "book-recorded",
    "the book of the recorded results, every page executed",
    "",
    size={},
    quick={},
    once=True,
    target={"seconds": 90.0},
)
def recorded(side: str, device: str) -> suite.Call:
    return lambda: build("-c", RECORDED)


@suite.benchmark(
    "book-smoke",
    "every notebook in the profile smoke, and their book",
    "",
    size={},
    quick={},
    once=True,
    target={"seconds": 360.0},
)
def smoke(side: str, device: str) -> suite.Call:
    return lambda: build("-m", "distill_lib", "reproduce", "--profile", "smoke")
