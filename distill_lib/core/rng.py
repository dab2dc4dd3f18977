"""All randomness: an explicit `torch.Generator` for every named use of a seed."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one named use of a seed, independent of every other name and of call order.

    `stream(0, "evaluate", 3)` is the stream of the fourth evaluation network, whichever networks ran before it.
    Streams live on the CPU unless asked otherwise, so that the same seed draws the same numbers on every device.

    Args:
        seed:  the run's seed.
        names: what the stream is for; anything with a stable `str`.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
