"""Who measured: commit, locked requirements, device, versions and time."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch

from ..core import paths
from ..core.device import describe, processor
from ..core.measure import driver


def provenance(device: Any) -> dict[str, Any]:
    """Who measured: commit, locked requirements, device, processor's instructions or driver, versions and time."""
    info = {
        **code_state(),
        **lock_state(),
        "device": describe(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cpu":
        info["processor"] = processor()
    if torch.device(device).type == "cuda":
        rounding = "TF32" if torch.backends.cudnn.allow_tf32 else "float32"
        info |= {"cuda": torch.version.cuda, "driver": driver() or "not reported", "convolutions": rounding}
    return {**info, "at": datetime.now(UTC).isoformat(timespec="seconds")}


@functools.cache
def code_state() -> dict[str, Any]:
    """Commit of the checkout and whether its code was changed since; empty outside a git checkout, also where an
    installed package lies inside another project's.

    Without git, `DISTILL_COMMIT` may name the commit the copy was taken from.
    """
    try:
        if not paths.CHECKOUT:
            raise OSError
        git = functools.partial(subprocess.run, cwd=paths.ROOT, capture_output=True, text=True, check=True, timeout=10)
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()[:12]
        dirty = bool(git(["git", "status", "--porcelain", "--", "distill_lib"]).stdout.strip())
        return {"commit": commit, "changed_since_commit": dirty}
    except (OSError, subprocess.SubprocessError):
        return {"commit": os.environ["DISTILL_COMMIT"]} if "DISTILL_COMMIT" in os.environ else {}


@functools.cache
def lock_state() -> dict[str, Any]:
    """Hash of requirements.lock, "none" outside a checkout; and which installed packages have another version."""
    file = paths.ROOT / "requirements.lock"
    if not file.exists():
        return {"lock_sha256": "none"}
    locked = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", file.read_text(), re.MULTILINE)
    versions: dict[str, set[str]] = {}  # one version per platform or Python
    for name, version in locked:
        versions.setdefault(name, set()).add(version)
    differs = []
    for name, known in versions.items():
        try:
            here = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if here not in known and here.partition("+")[0] not in known:  # 2.11.0+cpu is a build of 2.11.0
            differs.append(f"{name} {here}")
    return {"lock_sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "not_as_locked": differs}
