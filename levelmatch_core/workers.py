"""The workers that run jobs: threads, processes, or a Dask cluster, according to a setting.

Threads are efficient where the GIL is released during the work: in the compiled kernels of `sky` and `matching` (numba,
all nogil), in numpy's arithmetic, casts and sorting of large arrays, BLAS and SuperLU, zlib, sha256, and in reading and
writing files. The GIL is held while records, FITS headers, WCS and tables are handled, and by matplotlib: 7 % of the
time of a worker with exposures of 2048 pixels, and a third of it with tiles of 512 (py-spy). Work on many small
exposures, and figures, therefore profit from processes. If a stage has fewer jobs than workers, such as the mosaic, its
jobs distribute their own work over threads (:mod:`levelmatch_core.process.thread_budget`). Processes and Dask workers
exchange jobs and results through pickles (which are never stored), share the store and the output folder by their
paths, and need a second or two to import their modules. `python -m tests.benchmarks.workers` measures both.

The output bytes are the same for all three: a job gives the same result everywhere, and the caller sorts everything
that depends on the order.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from levelmatch_core.errors import SettingsError, WorkerError
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.process.log_context import collected, logger_of
from levelmatch_core.process.thread_budget import parallel_map, thread_budget, threads_available
from levelmatch_core.products.output.shared_folder import SharedFolder
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings

logger = logger_of(__name__)

LogLine = tuple[tuple[str, str], str, int, str]
"""A log line: context (tile and stage), logger, level, text."""
ATTEMPTS = 3
"""Number of times that a job is tried with a worker that dies."""
PATIENCE = 60
"""Time limit for the first worker of a scheduler, seconds."""


class WorkerPool(Protocol):
    """Workers."""

    @property
    def size(self) -> int:
        """Number of jobs that are run at a time."""
        ...

    def do(self, jobs: Sequence[Job], workspace: Workspace) -> list[Record]:
        """Run jobs one after another on one worker, and wait for it.

        Raises
        ------
        LevelMatchError, OSError
            Those of the first job that fails; WorkerError if its worker dies repeatedly.
        """
        ...


class Threads:
    """The threads of the caller, of which at most `size` work at a time.

    Parameters
    ----------
    size
        Number of jobs that are run at a time; 1 leaves that to the caller.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._free = threading.Semaphore(size) if size > 1 else nullcontext()

    def do(self, jobs: Sequence[Job], workspace: Workspace) -> list[Record]:
        """Run jobs in this thread, one after another."""
        results = []
        for job in jobs:
            with self._free:
                results.append(job.do(workspace))
        return results


def shared_out(pool: WorkerPool, jobs: Sequence[Job], workspace: Workspace, threads: int = 1) -> list[Record]:
    """Run jobs on all free workers of a pool; a single job may use several threads.

    Parameters
    ----------
    pool
        The workers.
    jobs
        The jobs; results are in this order.
    workspace
        The places on disk that jobs may use.
    threads
        Number of threads for a single job.

    Raises
    ------
    LevelMatchError, OSError
        Those of the first job that fails, after running jobs have finished.
    """
    with thread_budget(threads if len(jobs) == 1 else pool.size):
        if len(jobs) == 1:
            return pool.do(jobs, workspace)
        return parallel_map(lambda job: pool.do([job], workspace)[0], jobs)


@dataclass
class _Done:
    """The result of a worker."""

    results: list[Record]
    changed: bool
    """Whether a new output file was written."""
    said: list[LogLine]


class ProcessWorkers:
    """Workers in other processes, on this machine or on others.

    Parameters
    ----------
    executor
        Executes functions in the workers.
    size
        Number of jobs that are run at a time.
    """

    def __init__(self, executor: Executor, size: int) -> None:
        self.size = size
        self._executor = executor
        self._guard = threading.Lock()

    def do(self, jobs: Sequence[Job], workspace: Workspace) -> list[Record]:
        """Run jobs on one worker. Jobs whose files are not known beforehand are run here."""
        if any(job.writes() is None for job in jobs):
            return [job.do(workspace) for job in jobs]
        names = [name for job in jobs for name in job.writes() or ()]
        if names:
            workspace.held().claim(names)
        shared, threads = workspace.shared(), threads_available()
        for attempt in range(1, ATTEMPTS + 1):
            executor = self._executor
            try:
                with _signals_held():
                    future = executor.submit(_perform, tuple(jobs), shared, threads)
                done: _Done = future.result()
            except (BrokenExecutor, CancelledError) as error:
                self._renew(executor)
                logger.warning("%s, %s: lost its worker (%s)", jobs[0].label, jobs[0].step, error)
                if attempt == ATTEMPTS:
                    message = (
                        f"{jobs[0].label}, {jobs[0].step}: {ATTEMPTS} workers died doing it, perhaps for lack of memory"
                    )
                    raise WorkerError(message) from error
                continue
            break
        if done.changed:
            workspace.held().note_change()
        for (tile, stage), name, level, text in done.said:
            logging.getLogger(name).log(level, "%s", text, extra={"tile": tile, "stage": stage})
        return done.results

    def _renew(self, broken: Executor) -> None:
        """Replace a broken pool by a new one; a cluster recovers by itself."""
        with self._guard:
            if self._executor is broken and isinstance(broken, ProcessPoolExecutor):
                broken.shutdown(wait=False, cancel_futures=True)
                self._executor = _processes(self.size)

    def close(self) -> None:
        """Shut the workers down."""
        self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def worker_pool(settings: MatchSettings) -> Iterator[WorkerPool]:
    """Provide the workers according to the settings `runner`, `procs` and `scheduler`.

    Raises
    ------
    SettingsError
        If Dask is not installed, or the scheduler does not answer or has no worker.
    """
    if settings.runner == "threads":
        yield Threads(settings.procs)
    elif settings.runner == "processes":
        pool = ProcessWorkers(_processes(settings.procs), settings.procs)
        try:
            yield pool
        finally:
            pool.close()
    else:
        with _dask(settings) as client:
            size = sum(client.nthreads().values())
            yield ProcessWorkers(client.get_executor(pure=False), size)


def _processes(number: int) -> ProcessPoolExecutor:
    # spawned: a fork of a process with threads may hang
    executor = ProcessPoolExecutor(
        number, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    with _signals_held():
        for _ in range(number):  # they import modules, for a second or two, while the run reads its inventory
            executor.submit(_awake)
    return executor


@contextmanager
def _signals_held() -> Iterator[None]:
    """Make processes started in this context ignore Ctrl-C, which a terminal sends to all; this process handles it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _dask(settings: MatchSettings) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        message = "runner='dask' needs the packages dask and distributed: pip install 'levelmatch[dask]'"
        raise SettingsError(message) from error
    if settings.scheduler is None:
        with (
            LocalCluster(
                n_workers=settings.procs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(settings.scheduler, timeout=PATIENCE / 4)
    except (OSError, ValueError) as error:
        message = f"scheduler={settings.scheduler!r} does not answer ({error}); start it, or correct the address"
        raise SettingsError(message) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            message = f"scheduler={settings.scheduler!r} has no worker; start one: dask worker {settings.scheduler}"
            raise SettingsError(message) from error
        yield client


# -- in the worker -----------------------------------------------------------------------------------------------------
def _end_with_parent() -> None:
    """End when the run has ended, even if it was killed, instead of waiting for work forever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _awake() -> None:
    """Do nothing: the call makes the worker import this module."""


def _perform(jobs: tuple[Job, ...], workspace: Workspace, threads: int) -> _Done:
    results: list[Record] = []
    said: list[LogLine] = []
    logging.getLogger("levelmatch_core").setLevel(logging.INFO)
    for job in jobs:
        with collected("levelmatch_core", logging.INFO) as lines, thread_budget(threads):
            results.append(job.do(workspace))
        said += [(job.place, line.name, line.levelno, line.getMessage()) for line in lines]
    folder = workspace.folder
    return _Done(results, changed=isinstance(folder, SharedFolder) and folder.changed, said=said)
