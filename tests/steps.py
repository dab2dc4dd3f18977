"""A run that is stopped after every step, and goes on."""

import itertools
import time
from contextlib import suppress

from distill_lib.core.errors import TimeUp
from distill_lib.core.loop import Loop


def in_steps(run, folder):
    """What `run(loop)` returns in the end, one step at a time, and how often it was stopped."""
    for stops in itertools.count():
        with suppress(TimeUp):
            return run(Loop(folder, deadline=time.monotonic())), stops
