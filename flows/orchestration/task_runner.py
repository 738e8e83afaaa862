"""The runner that executes jobs as task runs of Prefect: cached by the job's key, retried, quarantined on failure."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import ParameterBindError, SignatureMismatchError
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote
from pydantic import ValidationError

from flows.orchestration.availability import of_engine
from flows.orchestration.log_lines import gathered
from flows.orchestration.task_inputs import TaskInputs
from flows.progress import LineReporter, Reporter
from levelmatch_core.errors import EngineError, LevelMatchError
from levelmatch_core.files.sealed import seal, unseal
from levelmatch_core.files.writing import refuse_without_room
from levelmatch_core.jobs.job import Job, Workspace, failure_of
from levelmatch_core.process.log_context import collected, log_context, logger_of
from levelmatch_core.process.thread_budget import threads_per_job
from levelmatch_core.records import Record, content_key
from levelmatch_core.runners import ONE_THREAD
from levelmatch_core.text.plain_text import one_line
from levelmatch_core.workers import WorkerPool, shared_out

logger = logger_of(__name__)

MOST_TILES = 200
"""Up to this many tiles (or other bundles of jobs) have their own task runs in a step; more are run in batches."""

BATCHES = 8
"""Number of batches. It is fixed, so that the batch of a tile depends on its name only."""

MOST_TOLD = 6
"""Number of jobs that the message of a task run's state tells of."""

RETRY_DELAYS = (1.0, 5.0)
"""Seconds before each retry after an error of the file system or the network."""

_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of the operating system for which a retry is useless."""


_OURS = (ParameterBindError, SignatureMismatchError)
"""Errors that Prefect raises if a task is called with wrong arguments, which is our mistake."""

_NOT_STORED = "committing transaction"
"""Text of the line in which Prefect reports that it could not store a result, which it reports nowhere else."""


@dataclass
class Work:
    """The jobs of one task run: those of a tile, or of a batch of tiles."""

    jobs: tuple[Job, ...]
    places: tuple[int, ...]
    """Indices of the jobs' results."""
    label: str
    threads: int = 1
    """Number of threads that a job may use, if there are fewer jobs than workers."""
    refresh: bool = False
    """Whether to run the jobs even if a result is stored."""
    batch: bool = False
    """Whether it is a batch of tiles."""
    begun: bool = field(default=False, init=False)
    """Whether the jobs were started, instead of using stored results."""
    done: Sequence[Record] = field(default=(), init=False)
    """The results of the jobs, if they were run."""

    @property
    def step(self) -> str:
        """The name of the task."""
        return self.jobs[0].step

    @property
    def name(self) -> str:
        """The name of the task run: stage, step, and tile, exposure or batch."""
        stage = self.jobs[0].place[1].removesuffix(self.step).strip()
        return f"{f'{stage}, ' if stage else ''}{self.step}: {one_line(self.label)}"

    @property
    def place(self) -> tuple[str, str]:
        """The names in log lines: the tile and stage of a job, or the tile or batch."""
        return self.jobs[0].place if len(self.jobs) == 1 else (self.label, self.step)

    def key(self) -> str:
        """Return the cache key: that of the job, or the digest of the keys of all jobs."""
        keys = [job.key() for job in self.jobs]
        return keys[0] if len(keys) == 1 else content_key("batch", keys)

    def do(self, workspace: Workspace, pool: WorkerPool) -> State[list[str]]:
        """Let workers do the jobs.

        Returns
        -------
        The final state: its message says what was done, its data are the results, as the store keeps them: each with
        its digest.
        """
        self.begun = True
        started = time.monotonic()
        with gathered() if self.batch else nullcontext():
            self.done = shared_out(pool, self.jobs, workspace, self.threads)
        seconds = time.monotonic() - started
        sealed = [seal(job.key(), result.to_text()) for job, result in zip(self.jobs, self.done, strict=True)]
        return Completed(message=f"{self._told()} ({seconds:.2g} s)".lstrip(), data=sealed)

    def _told(self) -> str:
        """Return what the jobs did, the first few in words."""
        told = [job.told(result) for job, result in zip(self.jobs[:MOST_TOLD], self.done, strict=False)]
        more = len(self.jobs) - MOST_TOLD
        return one_line("; ".join([*filter(None, told), *([f"and {more} more"] if more > 0 else [])]))

    def afresh(self) -> "Work":
        """Return the same work, to be done even if results are stored."""
        return replace(self, refresh=True)

    def singly(self) -> Iterator["Work"]:
        """Yield the jobs of a batch one by one."""
        for job, place in zip(self.jobs, self.places, strict=True):
            yield Work((job,), (place,), job.label)


class PrefectEach:
    """Run jobs as task runs of the current flow run.

    Parameters
    ----------
    workspace
        The places on disk that jobs may use.
    task_runner
        Executes the task runs: a started runner whose workers share the memory of this process. The actual work is
        passed on to the pool.
    reporter
        Shows the progress.
    retry_delays
        Seconds before each retry after a transient error.
    pool
        The workers that run the jobs.
    """

    def __init__(
        self,
        workspace: Workspace,
        task_runner: ThreadPoolTaskRunner[Any],
        reporter: Reporter | None = None,
        retry_delays: Sequence[float] = RETRY_DELAYS,
        pool: WorkerPool = ONE_THREAD,
    ) -> None:
        self.workspace = workspace
        self._pool = pool
        self.executed: Counter[str] = Counter()
        """Number of jobs that were run, by step."""
        self.cached: Counter[str] = Counter()
        """Number of jobs whose stored results were used, by step."""
        self.failed: Counter[str] = Counter()
        """Number of jobs that failed, by step."""
        self._task_runner = task_runner
        self._inputs = TaskInputs()
        self._reporter = reporter or LineReporter()
        self._retry_delays = tuple(retry_delays)

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Run all jobs, and return results and failures in the order of the jobs."""
        results: list[Any] = [None] * len(jobs)
        if not jobs:
            return results
        with self._reporter.step(title, len(jobs)) as advance:
            works = works_of(jobs, threads_per_job(self._pool.size, len(jobs)))
            while works:
                works = self._round(works, results, advance)
        self._inputs.end_call()
        return results

    def _round(self, works: Sequence[Work], results: list[Any], advance: Callable[[int], None]) -> list[Work]:
        """Run works, store their results in `results`, and return the works that have to be repeated.

        Raises
        ------
        NoRoomError
            If a result could not be stored because a disk is full.
        """
        again: list[Work] = []
        with collected("prefect.task_runs", logging.ERROR, all_threads=True) as lines:
            futures = [self._submit(work) for work in works]
            for work, future in zip(works, futures, strict=True):
                future.wait()
                outcomes = self._outcomes(work, future.state)
                if outcomes is not None:
                    self._inputs.done(work.jobs, future.task_run_id)
                else:
                    again += work.singly() if work.begun else [work.afresh()]
                    continue
                for place, outcome in zip(work.places, outcomes, strict=True):
                    results[place] = outcome
                advance(len(work.jobs))
        errors = [
            line.exc_info[1]
            for line in lines
            if line.exc_info and line.exc_info[1] is not None and _NOT_STORED in line.getMessage()
        ]
        for error in errors:
            refuse_without_room(error)
        if errors:
            why = f"{type(errors[0]).__name__}: {errors[0]}"
            logger.warning("%d results could not be stored (%s): the next run repeats that work", len(errors), why)
        return again

    def _outcomes(self, work: Work, state: State[Any]) -> Sequence[Any] | None:
        """Return the results and failures of a work that has ended; None if it has to be repeated."""
        if state.is_completed():
            return self._results(work, state)
        if work.refresh and not work.begun:
            self._refuse_unbegun(work, state)
        if len(work.jobs) == 1 and work.begun:
            return [self._failure(work, state)]
        return None

    def _submit(self, work: Work) -> PrefectConcurrentFuture[State[list[str]]]:
        options = _task_of(work.step, self._retry_delays, refresh=work.refresh)
        # quoted, since Prefect would otherwise search every record for futures
        parameters: dict[str, Any] = {
            "work": quote(work),
            "workspace": quote(self.workspace),
            "pool": quote(self._pool),
            "key": work.key(),
            "name": work.name,
        }
        return self._task_runner.submit(options, parameters, dependencies={"work": self._inputs.of(work.jobs)})

    def _results(self, work: Work, state: State[Any]) -> Sequence[Record] | None:
        """Return the results of a finished work; None if they were stored, but files that they refer to are missing."""
        if work.begun:
            self.executed[work.step] += len(work.jobs)
            return work.done
        content: Any = state.result(raise_on_failure=False)
        try:
            records = [
                job.gives.from_text(unseal(job.key(), item)) for job, item in zip(work.jobs, content, strict=True)
            ]
        except (ValidationError, TypeError, ValueError):
            with log_context(*work.place):
                logger.warning("%s: the stored result cannot be read; it is computed again", work.label)
            return None
        if not self.workspace.intact(records):
            # that a run with other inputs, or of another output folder, wrote something else meanwhile is normal
            level = logging.INFO if self.workspace.harmed(records) else logging.DEBUG
            with log_context(*work.place):
                logger.log(level, "%s: a stored file is missing or was altered; it is created again", work.label)
            return None
        self.cached[work.step] += len(work.jobs)
        return records

    def _refuse_unbegun(self, work: Work, state: State[Any]) -> None:
        """Stop if a task run fails before its jobs start, and no stored result is the cause.

        Exposures are not the cause, either: it would fail again whenever it is tried.

        Raises
        ------
        EngineError
            If Prefect failed, or ended the task run.
        Exception
            Any other cause, which is a bug of levelmatch, unchanged.
        """
        error = state.result(raise_on_failure=False)
        if not isinstance(error, BaseException):
            error = EngineError(_ended(state))
        if not isinstance(error, _OURS):
            _refuse_lost(work, error)
        with log_context(*work.place):
            logger.error("%s: the task run could not start: %s", work.label, type(error).__name__, exc_info=error)
        raise error

    def _failure(self, work: Work, state: State[Any]) -> Any:  # noqa: ANN401 - a Failure, as the protocol has it
        error = state.result(raise_on_failure=False)
        if not isinstance(error, BaseException):
            error = RuntimeError(_ended(state))
        _refuse_lost(work, error)
        if not isinstance(error, LevelMatchError | OSError):
            with log_context(*work.place):
                logger.error("%s: unexpected %s", work.label, type(error).__name__, exc_info=error)
        self.failed[work.step] += 1
        return failure_of(work.jobs[0], error)


def _refuse_lost(work: Work, error: BaseException) -> None:
    """Stop if an error was caused by Prefect."""
    if of_engine(error):
        message = f"{work.label}, {work.step}: the task run was lost ({type(error).__name__}: {error})"
        raise EngineError(message) from error


def _ended(state: State[Any]) -> str:
    return state.message or f"the task run ended {state.name}"


def works_of(jobs: Sequence[Job], threads: int = 1) -> list[Work]:
    """Return the works of the task runs: one per tile or, above 200 tiles, batches determined by the tiles' names."""
    tiles: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        tiles.setdefault(job.bundle, []).append(place)
    batch = len(tiles) > MOST_TILES
    if not batch:
        named = tiles
    else:
        batches: dict[int, list[int]] = {}
        for tile, places in tiles.items():
            batches.setdefault(_batch_of(tile), []).extend(places)
        named = {f"batch {number} of {BATCHES}: {len(batches[number])}": batches[number] for number in sorted(batches)}
    return [
        Work(tuple(jobs[place] for place in places), tuple(places), name, threads, batch=batch)
        for name, places in named.items()
    ]


def _batch_of(tile: str) -> int:
    return int.from_bytes(sha256(tile.encode("utf-8", "surrogateescape")).digest()[:4], "big") % BATCHES


def is_transient(_task: object, _task_run: TaskRun, state: State[Any]) -> bool:
    """Return whether an operation failed with an error that may be transient: of the file system, not of the data."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, _LASTING)


def _key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    key: str = parameters["key"]
    return key


@cache
def _task_of(step: str, retry_delays: tuple[float, ...], *, refresh: bool) -> Task[..., State[list[str]]]:
    """Return the task of one step, with the name that the user sees."""

    def do(work: Work, workspace: Workspace, pool: WorkerPool, key: str, name: str) -> State[list[str]]:  # noqa: ARG001
        # key and name are parameters for the sake of the cache policy and the run name
        state = work.do(workspace, pool)
        if not work.jobs[0].logs_told:  # Prefect's pages show the lines of a task run, but not the message of its state
            get_run_logger().info("%s", state.message)
        return state

    do.__qualname__ = step.replace(" ", "_")  # the key of the task, by which Prefect's pages filter
    return task(
        name=step,
        task_run_name="{name}",
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_key),
        persist_result=True,
        result_serializer="json",
        refresh_cache=refresh,
        retries=len(retry_delays),
        retry_delay_seconds=list(retry_delays) or 0,
        retry_condition_fn=is_transient,
    )(do)
