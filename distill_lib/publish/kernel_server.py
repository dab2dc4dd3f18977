"""Notebook kernels that start in a fraction of a second, each a process of its own.

Importing torch, pandas and matplotlib takes a notebook longer than most of its cells. One process imports them once and
forks a kernel whenever it is asked to; a kernel shares nothing with the next but that memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from ipykernel.kernelapp import IPKernelApp
from jupyter_client import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from ..core.errors import UserError

LOADED = (  # not distill_lib.figures, which ties itself to the shell that imports it
    "torch torch._dynamo pandas seaborn matplotlib.pyplot matplotlib.backends.backend_svg IPython.core.completer "
    "scipy.stats sklearn.cluster distill_lib.experiments distill_lib.evaluation distill_lib.tables"
).split()


SOCKET = 95  # bytes of a socket's path that every system takes (Linux 107, macOS 103), with jupyter's "-5" behind it


def short_folder() -> tempfile.TemporaryDirectory:
    """A temporary folder whose path leaves room for sockets in it.

    Raises: UserError: no folder for temporary files has a path that is short enough and can be written to.
    """
    for place in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(place)) + len("/distill-12345678/12345678/k") <= SOCKET and os.access(place, os.W_OK):
            return tempfile.TemporaryDirectory(prefix="distill-", dir=place)
    raise UserError(
        f"notebooks talk through sockets, whose paths have at most {SOCKET} bytes: TMPDIR ({tempfile.gettempdir()}) is "
        "too long, and /tmp cannot be written to; set TMPDIR to a shorter folder"
    )


class Kernels:
    """A process that forks kernels; use as a context manager, nothing it started outlives it.

    Args:
        threads: of each kernel's numerical libraries.
    """

    def __init__(self, threads: int):
        self.threads, self._lock, self._closed = threads, threading.Lock(), False
        self._forked: list[_Forked] = []

    def __enter__(self) -> Kernels:
        if not hasattr(os, "fork"):
            raise UserError("pages are executed by forked processes, which Windows lacks: use its Linux subsystem, WSL")
        self._folder = short_folder()
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
        self._parent = subprocess.Popen([sys.executable, "-m", __name__], env=self._environment({}), **options)
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()
        self._folder.cleanup()

    def close(self) -> None:
        """End every kernel that still runs, and start no more."""
        self._closed = True
        for kernel in self._forked:
            kernel.send_signal(signal.SIGKILL)
            kernel.wait()
        self._parent.stdin.close()
        self._parent.kill()  # it may still be importing
        self._parent.wait()

    def _environment(self, extra: dict[str, str]) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # the second: ipykernel's debugger
        return {**os.environ, **threads, **quiet, "MPLBACKEND": "module://matplotlib_inline.backend_inline", **extra}

    def fork(self, connection_file: str, cwd: str, env: dict[str, str]) -> _Forked:
        """Start a kernel that listens where `connection_file` says."""
        with self._lock:
            if self._closed:
                raise RuntimeError("no kernel is started any more: another page failed or the run was stopped")
            request = {"file": connection_file, "cwd": cwd, "env": {**env, "JPY_PARENT_PID": str(self._parent.pid)}}
            self._parent.stdin.write(json.dumps(request) + "\n")
            self._parent.stdin.flush()
            answer = self._parent.stdout.readline()
            if not answer:
                raise RuntimeError("the process that starts kernels has ended")
            kernel = _Forked(int(answer))
            if self._closed:
                kernel.send_signal(signal.SIGKILL)
            self._forked.append(kernel)
            return kernel

    def interrupt(self) -> None:
        """What Ctrl-C does, in every kernel that runs: long computations save their state and stop."""
        for kernel in self._forked:
            kernel.send_signal(signal.SIGINT)

    def manager(self, cwd: Path, **env: str) -> type[AsyncKernelManager]:
        """The kernel manager class for one notebook, as papermill and nbclient take it.

        Args:
            cwd: the kernel's working folder.
            env: environment variables besides this process's own.
        """
        kernels, environment = self, self._environment(env)

        class Provisioner(LocalProvisioner):
            async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
                self.process = kernels.fork(self.parent.connection_file, str(cwd), environment)
                self.pid, self.pgid, self.cwd = self.process.pid, None, str(cwd)
                return self.connection_info

        class Manager(AsyncKernelManager):
            async def _async_pre_start_kernel(self, **kwargs: Any) -> Any:
                self.transport = "ipc"  # sockets in our own folder: no port that another program may take meanwhile
                self.ip = tempfile.mkdtemp(dir=kernels._folder.name) + "/k"
                if self.provisioner is None:
                    self.provisioner = Provisioner(kernel_id=self.ip, kernel_spec=self.kernel_spec, parent=self)
                return await super()._async_pre_start_kernel(**kwargs)

        return Manager


class _Forked:
    """The part of `subprocess.Popen` that jupyter_client uses, for a process that is not our child."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        try:
            self._process = psutil.Process(pid)  # knows the process from a later one of the same number
        except psutil.NoSuchProcess:
            self._process = None

    def poll(self) -> int | None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._process and self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
                return None
        return 0

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return 0

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.send_signal(signum)


def serve() -> None:
    """Import, then fork a kernel for every line on stdin, until stdin ends."""
    gc.disable()
    for name in LOADED:
        with contextlib.suppress(Exception):  # a notebook that needs what cannot be imported says so itself
            importlib.import_module(name)
    gc.enable()
    gc.freeze()  # a kernel's garbage collector would touch, and so copy, all the memory it shares
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended kernels leave no zombies
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                answers.close()
                _become_kernel(**request)
            finally:
                os._exit(1)
        print(pid, file=answers, flush=True)


def _become_kernel(file: str, cwd: str, env: dict[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    sys.path[0] = ""  # as in a kernel started by hand
    sys.argv = ["ipykernel_launcher.py", "-f", file]
    IPKernelApp.launch_instance()
    os._exit(0)


if __name__ == "__main__":
    serve()
