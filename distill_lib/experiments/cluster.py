"""The same cells on many machines or GPUs, through dask.distributed; nothing here schedules anything itself.

What cells share is a task of its own that they wait for: first stage 1 (trained networks, generators, experts), then
the distilled set, then the cell. Every task keeps checkpoints and finished work in `runs/` and `results/`, which all
workers must see. A worker that is lost costs what its task has done since the last checkpoint; another one goes on from
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from ..core import paths
from ..core.device import pick
from ..core.errors import TimeUp, UserError
from ..core.files import writing
from ..data import ImageSet
from ..methods import METHODS, optional
from ..records import Cell
from . import compute, engine, registry, state
from .compute import Run
from .definition import Parameters, Task
from .state import Outcome, Status

if TYPE_CHECKING:
    from distributed import Client, Future


SETTINGS = [
    f"DISTILL_{name}" for name in "RUNS RESULTS DATA WEIGHTS CACHE COMPILE COMMIT TF32 DEVICE KEEP_MEMORY".split()
]  # that workers take over
TRIES = 3  # workers that may die over one task before it counts as failed
ANSWER = 45  # seconds for `sbatch`
PATIENCE = 10.0  # seconds without a worker until it is said
GRACE = 45  # seconds after a time limit in which workers end their step and save their state


def run(
    name: str,
    params: Parameters,
    cells: list[Cell] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    time_limit: float | None = None,
    say: Callable[[str], None] | None = None,
    device: str | None = None,
    strict: bool = True,
    sets: int | None = None,
) -> Outcome:
    """`experiments.run` on a dask cluster.

    Args:
        workers:   processes; by default one per GPU, without a GPU one. With `scheduler="slurm"` the number of jobs.
        scheduler: the address of a running scheduler (tcp://host:8786), "slurm" for jobs as dask's own configuration of
                   jobqueue describes them, None for processes on this machine.
        device:    what every worker computes on; by default its own GPU.
        The others as in `experiments.run`.
    Raises: UserError: dask is missing, no scheduler answers, workers that see other folders, cells that failed.
    TimeUp.
    """
    start, say = time.monotonic(), say or print
    this = registry.experiment(name)
    cells = this.cells(params) if cells is None else cells
    outcome = Outcome(params, printed=this.printed)
    order = WorkerOrder(params.profile, None if time_limit is None else time.time() + time_limit, device)
    with connected(workers, scheduler, order.ends, say) as client:
        _same_folders(client)
        futures, shared = {}, {}
        for cell in cells:
            now = state.status(cell, params, sets)
            if now.state in ("skipped", "damaged"):
                outcome.statuses.append(now if now.state == "skipped" else Status(cell, "failed", now.why, now.task))
                continue
            todo = []
            if now.state in state.TO_COMPUTE:
                todo = state.missing_sets(now.task, now.record if now.state == "partial" else None, sets)
            future = client.submit(
                _cell,
                cell,
                params,
                order,
                sets,
                _shared(client, now.task, todo, order, shared),
                key=f"{cell.stem}-{uuid.uuid4().hex[:8]}",
                pure=False,
                retries=0,
            )
            futures[future] = cell
        sizes = {"cell": len(futures), "shared part": len(shared), "worker": len(client.nthreads())}
        said = [f"{n} {what}{'s' * (n != 1)}" for what, n in sizes.items()]
        say(f"{name} [{params.profile}]: {said[0]} and {said[1]} on {said[2]}")
        stopped = False
        for future in _finished(client, futures, order.ends, say):
            result = _result(futures[future], future, params, sets)
            stopped |= result.state == "stopped"
            if result.state != "stopped":
                outcome.statuses.append(result)
                say(
                    f"[{len(outcome.statuses)}/{len(cells)}] {result.state} {result.cell}"
                    + (f": {result.why}" if result.state == "failed" else "")
                )
    outcome.seconds = time.monotonic() - start
    if stopped:
        raise TimeUp(
            f"the time limit was reached; {len(outcome.of('computed'))} cells were computed, "
            "the state of the others is saved"
        )
    return engine.ended(outcome, name, params, cells, strict, say)


@contextlib.contextmanager
def connected(
    workers: int | None = None,
    scheduler: str | None = None,
    ends: float | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Client]:
    """A client of the cluster that the arguments of `run` describe, once it has a worker; what it started, it closes.

    Raises: UserError: packages that are missing, no answer, a refused job.  TimeUp: no worker came before `ends`.
    """
    try:
        import dask  # optional
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError(
            "--engine dask needs the packages of the cluster extra: "
            "pip install 'distill_lib[cluster]', or dask[distributed]"
        ) from None
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers}: at least 1")
    local = workers or max(1, torch.cuda.device_count())  # workers on this machine, and each one's processor cores
    share = max(1, (os.cpu_count() or 1) // local)
    options = {
        "distributed.scheduler.allowed-failures": TRIES,
        "distributed.comm.timeouts.connect": "20s",
        "distributed.nanny.pre-spawn-environ": {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share)),
            "MALLOC_TRIM_THRESHOLD_": "65536",
        },
    }
    with dask.config.set(options):
        refused: list[str] = []
        if scheduler == "slurm":
            cluster = _slurm(refused)
            cluster.scale(jobs=workers or 1)
        elif scheduler:
            start = f"`dask worker {scheduler} --nthreads 1`"
            try:
                client = Client(scheduler, timeout=20)
            except (OSError, ValueError, TimeoutError) as err:
                raise UserError(
                    f"no dask scheduler answers at {scheduler} ({err}); "
                    f"start one with `dask scheduler` and workers with {start}"
                ) from None
            with client:
                try:
                    client.wait_for_workers(1, timeout=20)
                except TimeoutError:
                    raise UserError(
                        f"the dask scheduler at {scheduler} has no worker; start one with {start}"
                    ) from None
                yield client
                return
        else:
            cluster = LocalCluster(
                n_workers=local, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
            )
        try:
            with cluster, Client(cluster) as client:
                _first_worker(client, ends, say, refused)
                yield client
        except AssertionError:  # dask's, where the cluster closes while a job is being refused
            if not refused:
                raise
            raise _refusal(refused) from None


def _slurm(refused: list[str]) -> Any:
    """A cluster of Slurm's jobs; what `sbatch` says against one is added to `refused`.

    Raises: UserError: no dask-jobqueue, no `sbatch`, no description of a job.
    """
    import dask  # optional

    try:
        from dask_jobqueue import SLURMCluster  # optional
    except ImportError:
        raise UserError("--scheduler slurm needs dask-jobqueue: pip install 'distill_lib[cluster]'") from None

    class Job(SLURMCluster.job_cls):
        async def _submit_job(self, script: str) -> str:
            try:
                said = await asyncio.wait_for(super()._submit_job(script), ANSWER)
                super()._job_id_from_submit_output(said)
                return said
            except TimeoutError:
                refused.append(f"no answer in {ANSWER} seconds")
            except (OSError, RuntimeError, ValueError) as err:
                words = str(err).replace("stderr:", "").split("stdout:")[-1].split()
                refused.append(" ".join(words)[:500] or "it failed without a word")
            return ""

        def _job_id_from_submit_output(self, said: str) -> str | None:
            return super()._job_id_from_submit_output(said) if said else None

        @classmethod
        async def _close_job(cls, job: str | None, command: str) -> None:
            with contextlib.suppress(OSError):  # no scancel
                await super()._close_job(job, command)

    class Cluster(SLURMCluster):
        job_cls = Job

    one_thread = ["--nthreads", "1"]  # a process computes a task at a time
    try:
        cluster = Cluster(
            worker_extra_args=[*(dask.config.get("jobqueue.slurm.worker-extra-args", None) or []), *one_thread]
        )
    except (ValueError, TypeError) as err:
        raise UserError(
            f"dask-jobqueue: {' '.join(str(err).split())}. "
            "Describe a job (queue, cores, memory) under jobqueue.slurm in ~/.config/dask/jobqueue.yaml"
        ) from None
    if shutil.which("sbatch") is None:
        cluster.close()
        raise UserError("--scheduler slurm: there is no `sbatch` here; run this where jobs of Slurm are submitted")
    return cluster


def _refusal(refused: list[str]) -> UserError:
    return UserError(f"sbatch refused a job: {refused[0]}")


def _first_worker(client: Client, ends: float | None, say: Callable[[str], None], refused: list[str]) -> None:
    """Wait for the first worker, and say every minute that there is none yet."""
    start, told = time.monotonic(), PATIENCE
    while not client.nthreads():
        if refused:
            raise _refusal(refused)
        if ends is not None and time.time() > ends:
            raise TimeUp("the time limit was reached before any worker had started")
        if (waited := time.monotonic() - start) > told:
            told += 60
            say(
                f"waiting for a worker since {waited:.0f} s: see `squeue --me` for jobs of Slurm that wait in the queue"
            )
        time.sleep(0.2)


def _finished(
    client: Client, futures: Iterable[Future], ends: float | None, say: Callable[[str], None]
) -> Iterator[Future]:
    """The futures as they end. Raises: TimeUp: workers that do not stop, or do not come back, after the time is up."""
    from distributed import wait  # optional

    waiting, told = set(futures), time.monotonic()
    while waiting:
        try:
            done, waiting = wait(waiting, timeout=5, return_when="FIRST_COMPLETED")
        except TimeoutError:
            if ends is not None and time.time() > ends + GRACE:
                raise TimeUp("the time limit was reached, and not every worker has answered since") from None
            if time.monotonic() > told + 60 and not client.nthreads():
                told = time.monotonic()
                say("waiting for a worker: all that were there are gone")
            continue
        yield from done


def _shared(client: Client, task: Task, todo: list[int], order: WorkerOrder, shared: dict[str, Future]) -> list[Future]:
    """The futures a cell waits for: the distilled sets `todo`, which wait for their stage 1. Each exists once."""
    sets = []
    for index in todo:
        before: list[Future] = []
        for part in compute.shared_parts(task, index):
            if part.key not in shared:
                options = {"key": f"{part.key}-{uuid.uuid4().hex[:8]}", "pure": False}
                work, waits_for = (_stage1, []) if part.stage else (_set, before)
                shared[part.key] = client.submit(work, task, index, order, waits_for, **options)
            before.append(shared[part.key])
        sets.append(before[-1])
    return sets


# --- what workers do ------------------------------------------------------------------------------
@dataclass(frozen=True)
class WorkerOrder:
    """What a worker is told of a `Run`: clocks and devices are its own.

    Attributes:
        ends:   `time.time()` after which to save and stop; None for no limit.
        device: to compute on; None for the worker's own GPU.
    """

    profile: str
    ends: float | None = None
    device: str | None = None

    def run(self) -> Run:
        deadline = None if self.ends is None else time.monotonic() + self.ends - time.time()
        return Run(self.profile, deadline, _place(self.device))


def _stage1(task: Task, index: int, order: WorkerOrder, waited_for: list[str]) -> str:
    """Train what the sets of several cells start from."""

    def make(run: Run, real: ImageSet) -> None:
        loop = run.loop(
            paths.runs() / run.profile / "work" / "stage 1", ""
        )  # what is made lends it a folder of its own
        optional(METHODS[task.maker], "prepare")(real, task.config, task.seed + index, loop)

    return _until(make, task, order)


def _set(task: Task, index: int, order: WorkerOrder, waited_for: list[str]) -> str:
    return _until(lambda run, real: compute.distilled(task, index, run, real), task, order)


def _until(make: Callable[[Run, ImageSet], Any], task: Task, order: WorkerOrder) -> str:
    """Make something from a task's training set. Returns: "done", "stopped" by the time limit, or "failed"."""
    try:
        run = order.run()
        make(run, run.load(task.dataset)[0])
    except TimeUp:
        return "stopped"
    except UserError:
        return "failed"  # the cells that need it run into the same error, and report it
    return "done"


def _cell(
    cell: Cell, params: Parameters, order: WorkerOrder, sets: int | None, waited_for: list[str]
) -> dict[str, str]:
    left = None if order.ends is None else max(0.0, order.ends - time.time())
    try:
        (found,) = engine.run(
            cell.experiment, params, [cell], left, lambda line: None, _place(order.device), strict=False, sets=sets
        )
    except TimeUp:
        return {"state": "stopped", "why": ""}
    except UserError as err:
        return {"state": "failed", "why": str(err)}
    return {"state": found.state, "why": found.why}


def _place(device: str | None) -> str:
    """The device of this worker: where its machine has several GPUs, one that no other worker has."""
    if device is None and not os.environ.get("DISTILL_DEVICE") and torch.cuda.device_count() > 1:
        return _own_gpu(torch.cuda.device_count())
    return str(pick(device))


@functools.cache
def _own_gpu(count: int) -> str:
    """The first GPU whose lock is free, which this process holds until it ends."""
    for i in range(count):
        lock = FileLock(Path(tempfile.gettempdir()) / f"distill_lib-{os.getuid()}-cuda-{i}.lock", timeout=0)
        with contextlib.suppress(Timeout):
            _HELD.append(lock.acquire())
            return f"cuda:{i}"
    return f"cuda:{os.getpid() % count}"


_HELD: list[Any] = []


# --- what the client does -------------------------------------------------------------------------
def _result(cell: Cell, future: Future, params: Parameters, sets: int | None) -> Status:
    error = future.exception()
    if error is not None:
        return Status(cell, "failed", f"{type(error).__name__}: {error}")
    found = future.result()
    if found["state"] in ("stopped", "failed"):
        return Status(cell, found["state"], found["why"])
    now = state.status(cell, params, sets)
    return Status(cell, found["state"], found["why"], now.task, now.record)


def _same_folders(client: Client) -> None:
    """Point every worker at this process's folders, and make sure it sees them.

    Raises: UserError: naming the workers that do not.
    """
    folders = {
        "DISTILL_RUNS": str(paths.runs().resolve()),
        "DISTILL_RESULTS": str(paths.results("full").parent.resolve()),
    }
    values = {k: os.environ[k] for k in SETTINGS if k in os.environ} | folders
    token = paths.runs() / "activity" / f"token-{uuid.uuid4().hex}"
    with writing(token):
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    try:
        plugin = _plugin(values)
        client.register_plugin(plugin, name="distill_lib")
        blind = [worker for worker, sees in client.run(os.path.exists, str(token.resolve())).items() if not sees]
    finally:
        token.unlink()
    if blind:
        raise UserError(
            f"workers {', '.join(blind)} do not see {folders['DISTILL_RUNS']}: "
            "runs and results must lie on a file system that all share"
        )


def _plugin(values: dict[str, str]) -> Any:
    from distributed import WorkerPlugin  # optional

    class Settings(WorkerPlugin):
        """Sets the variables of every worker, also of those that join later."""

        def setup(self, worker: Any) -> None:
            os.environ.update(values)

    return Settings()
