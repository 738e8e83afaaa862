"""Who does the jobs: threads of this process, processes beside it, or a Dask cluster. One setting says which.

Threads share the work of all that lets go of the interpreter's lock while it costs time: the compiled kernels of `sky`
and `matching` (numba, all nogil), numpy's arithmetic, casts and sorting on large arrays, BLAS and SuperLU, zlib,
sha256, and reading and writing files. What holds the lock is the making of records, FITS headers and WCS, tables, and
matplotlib: one worker holds it 7 % of the time with exposures of 2048 pixels, a third of it with tiles of 512 (py-spy),
so that work on many small exposures, and figures, gain from processes. Where a stage has fewer jobs than workers, as
the mosaic has, its jobs share out their own work among threads (:mod:`levelmatch_core.thread_budget`). Processes and
Dask workers get jobs and give results through pickles on the way (nothing at rest is one), share the store and the
output folder by their paths, and take a second or two to import what they need. `python -m tests.benchmarks.workers`
measures both.

The bytes that come out are the same for all three: a job is done alike wherever it is done, and all that depends on
order is put in order by the caller.
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
from levelmatch_core.log_context import logger_of
from levelmatch_core.products.output.shared_folder import SharedFolder
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings
from levelmatch_core.thread_budget import parallel_map, thread_budget, threads_available

logger = logger_of(__name__)

LogLine = tuple[tuple[str, str], str, int, str]
"""What was logged: place (tile and stage), logger, level, text."""
ATTEMPTS = 3
"""So often a job is given to a worker that dies of it, or beside it."""
PATIENCE = 60
"""Seconds to wait for a scheduler's first worker."""


class WorkerPool(Protocol):
    """Workers."""

    @property
    def size(self) -> int:
        """How many jobs they do at a time."""
        ...

    def do(self, jobs: Sequence[Job], workspace: Workspace) -> list[Record]:
        """Do some jobs, one after the other, on one worker, and wait for it.

        Raises
        ------
        LevelMatchError, OSError
            As the first job that fails does; WorkerError if its worker dies again and again.
        """
        ...


class Threads:
    """The caller's own threads, of which so many work at a time, however many there are.

    Parameters
    ----------
    size
        How many jobs they do at a time; 1 leaves that to the caller.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._free = threading.Semaphore(size) if size > 1 else nullcontext()

    def do(self, jobs: Sequence[Job], workspace: Workspace) -> list[Record]:
        """Do some jobs in this thread, one after the other."""
        results = []
        for job in jobs:
            with self._free:
                results.append(job.do(workspace))
        return results


def shared_out(pool: WorkerPool, jobs: Sequence[Job], workspace: Workspace, threads: int = 1) -> list[Record]:
    """Do some jobs on all workers of a pool that are free; one by itself may use so many threads.

    Parameters
    ----------
    pool
        The workers.
    jobs
        What to do; results come in this order.
    workspace
        Where the jobs may touch the disk.
    threads
        What a single job is lent.

    Raises
    ------
    LevelMatchError, OSError
        As the first job that fails does, once what has begun is done.
    """
    with thread_budget(threads if len(jobs) == 1 else pool.size):
        if len(jobs) == 1:
            return pool.do(jobs, workspace)
        return parallel_map(lambda job: pool.do([job], workspace)[0], jobs)


@dataclass
class _Done:
    """What a worker sends back."""

    results: list[Record]
    changed: bool
    """Whether a file of the output is new."""
    said: list[LogLine]


class ProcessWorkers:
    """Workers in other processes, on this machine or on others.

    Parameters
    ----------
    executor
        Takes functions and arguments to them.
    size
        How many jobs they do at a time.
    """

    def __init__(self, executor: Executor, size: int) -> None:
        self.size = size
        self._executor = executor
        self._guard = threading.Lock()

    def do(self, jobs: Sequence[Job], workspace: Workspace) -> list[Record]:
        """Do some jobs on one worker. Those whose files are not known beforehand are done here."""
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
                        f"{jobs[0].label}, {jobs[0].step}: {ATTEMPTS} workers died doing it, perhaps for want of memory"
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
        """Put a new pool in the place of a broken one; a cluster mends itself."""
        with self._guard:
            if self._executor is broken and isinstance(broken, ProcessPoolExecutor):
                broken.shutdown(wait=False, cancel_futures=True)
                self._executor = _processes(self.size)

    def close(self) -> None:
        """Let the workers go."""
        self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def worker_pool(settings: MatchSettings) -> Iterator[WorkerPool]:
    """Hold the workers that the settings ask for: `runner`, `procs` and `scheduler`.

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
        for _ in range(number):  # they import, for a second or two, while the run takes its inventory
            executor.submit(_awake)
    return executor


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let processes that are started meanwhile pass over Ctrl-C, which reaches all of a terminal's: it is for us."""
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
        message = f"scheduler={settings.scheduler!r} does not answer ({error}); start it, or mend the address"
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
    """End when the run has ended, even if it was killed: who waits for work would wait for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _awake() -> None:
    """Do nothing: whoever is asked to has imported this module."""


def _perform(jobs: tuple[Job, ...], workspace: Workspace, threads: int) -> _Done:
    results: list[Record] = []
    said: list[LogLine] = []
    for job in jobs:
        with _listening() as lines, thread_budget(threads):
            results.append(job.do(workspace))
        said += [(job.place, *line) for line in lines]
    folder = workspace.folder
    return _Done(results, changed=isinstance(folder, SharedFolder) and folder.changed, said=said)


class CaptureHandler(logging.Handler):
    """Keeps what one thread logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.thread = threading.get_ident()
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        if record.thread == self.thread:
            self.lines.append((record.name, record.levelno, record.getMessage()))


@contextmanager
def _listening() -> Iterator[list[tuple[str, int, str]]]:
    """Hear what this thread logs, from level INFO on."""
    ear, root = CaptureHandler(), logging.getLogger("levelmatch_core")
    root.setLevel(logging.INFO)
    root.addHandler(ear)
    try:
        yield ear.lines
    finally:
        root.removeHandler(ear)
