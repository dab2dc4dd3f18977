"""Every method, the evaluation and the metrics on a pretended device: see `pretended_runs.py`."""

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_is_left_on_the_processor():
    """In a process of its own: PyTorch counts devices at the first backward pass, and the pretended one would stay."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    file = Path(__file__).with_name("pretended_runs.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
