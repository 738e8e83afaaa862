"""The runner that makes each job a task run of Prefect: cached by the job's key, retried, quarantined when it fails."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from typing import Any

from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import ParameterBindError, SignatureMismatchError
from prefect.futures import PrefectConcurrentFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote
from pydantic import ValidationError

from flows.orchestration.availability import of_engine
from flows.orchestration.log_batching import gathered
from flows.orchestration.persistence_errors import unstored
from flows.progress import LineReporter, Reporter
from levelmatch_core.disk_full import refuse_without_room
from levelmatch_core.errors import EngineError, LevelMatchError
from levelmatch_core.jobs.job import Job, Workspace, failure_of
from levelmatch_core.log_context import log_context, logger_of
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.records import Record, content_key
from levelmatch_core.runners import ONE_THREAD
from levelmatch_core.thread_budget import threads_per_job
from levelmatch_core.workers import WorkerPool, shared_out

logger = logger_of(__name__)

MOST_TILES = 200
"""Up to so many tiles (or what else jobs are bundled by) have a task run each in a step; more are done in batches."""

BATCHES = 8
"""Number of batches. It is fixed, so that a tile's batch follows from its name alone."""

RETRY_DELAYS = (1.0, 5.0)
"""Seconds before each retry of an operation that failed by the file system or the network."""

_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors of the operating system that waiting does not mend."""


_OURS = (ParameterBindError, SignatureMismatchError)
"""What Prefect raises when a task is called as its function cannot be: our mistake, and not its own."""


@dataclass
class Work:
    """What one task run does: the jobs of a tile, or of a batch of tiles."""

    jobs: tuple[Job, ...]
    places: tuple[int, ...]
    """Where the jobs' results belong."""
    label: str
    threads: int = 1
    """How many threads a job may use, where jobs are fewer than workers."""
    refresh: bool = False
    """Whether to do it even where a result is stored."""
    batch: bool = False
    """Whether it is a batch of tiles."""
    begun: bool = field(default=False, init=False)
    """Whether a job was begun, and not only looked up."""
    done: Sequence[Record] = field(default=(), init=False)
    """What the jobs gave, where they were done."""

    @property
    def step(self) -> str:
        """The task's name."""
        return self.jobs[0].step

    @property
    def place(self) -> tuple[str, str]:
        """What log lines name: the tile and stage of a job, or the tile or batch."""
        return self.jobs[0].place if len(self.jobs) == 1 else (self.label, self.step)

    def key(self) -> str:
        """Return the cache key: the job's, or the digest of all jobs' keys."""
        keys = [job.key() for job in self.jobs]
        return keys[0] if len(keys) == 1 else content_key("batch", keys)

    def do(self, workspace: Workspace, pool: WorkerPool) -> list[str]:
        """Let workers do the jobs and return their results, as the store keeps them."""
        self.begun = True
        with gathered() if self.batch else nullcontext():
            self.done = shared_out(pool, self.jobs, workspace, self.threads)
        return [result.to_text() for result in self.done]

    def afresh(self) -> "Work":
        """Return the same work, to be done whatever is stored."""
        return replace(self, refresh=True)

    def singly(self) -> Iterator["Work"]:
        """Yield the jobs of a batch, each by itself."""
        for job, place in zip(self.jobs, self.places, strict=True):
            yield Work((job,), (place,), job.label)


class PrefectEach:
    """Do jobs as task runs of the flow run that we are in.

    Parameters
    ----------
    workspace
        Where the jobs may touch the disk.
    task_runner
        Where task runs are executed: a started runner whose workers share this process's memory. What costs time is
        handed on to the pool.
    reporter
        Shows how far the work is.
    retry_delays
        Seconds before each retry after a transient error.
    pool
        Who does the jobs.
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
        """Jobs done, by step."""
        self.cached: Counter[str] = Counter()
        """Jobs whose stored result was used, by step."""
        self.failed: Counter[str] = Counter()
        """Jobs that failed, by step."""
        self._task_runner = task_runner
        self._reporter = reporter or LineReporter()
        self._retry_delays = tuple(retry_delays)

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Do all jobs; results and failures come in the order of the jobs."""
        results: list[Any] = [None] * len(jobs)
        if not jobs:
            return results
        with self._reporter.step(title, len(jobs)) as advance:
            works = works_of(jobs, threads_per_job(self._pool.size, len(jobs)))
            while works:
                works = self._round(works, results, advance)
        return results

    def _round(self, works: Sequence[Work], results: list[Any], advance: Callable[[int], None]) -> list[Work]:
        """Do works, put what came out in its places, and return what must be done again.

        Raises
        ------
        NoRoomError
            If a result could not be stored since a disk is full.
        """
        again: list[Work] = []
        with unstored() as errors:
            futures = [self._submit(work) for work in works]
            for work, future in zip(works, futures, strict=True):
                future.wait()
                outcomes = self._outcomes(work, future.state)
                if outcomes is None:
                    again += work.singly() if work.begun else [work.afresh()]
                    continue
                for place, outcome in zip(work.places, outcomes, strict=True):
                    results[place] = outcome
                advance(len(work.jobs))
        for error in errors:
            refuse_without_room(error)
        if errors:
            why = f"{type(errors[0]).__name__}: {errors[0]}"
            logger.warning("%d results could not be stored (%s): the next run does that work again", len(errors), why)
        return again

    def _outcomes(self, work: Work, state: State[Any]) -> Sequence[Any] | None:
        """Return the results and failures of a work that has ended; None if it must be done again."""
        if state.is_completed():
            return self._results(work, state)
        if work.refresh and not work.begun:
            self._refuse_unbegun(work, state)
        if len(work.jobs) == 1 and work.begun:
            return [self._failure(work, state)]
        return None

    def _submit(self, work: Work) -> PrefectConcurrentFuture[list[str]]:
        options = _task_of(work.step, self._retry_delays, refresh=work.refresh)
        # quoted: Prefect would otherwise walk through every record in search of futures
        parameters: dict[str, Any] = {
            "work": quote(work),
            "workspace": quote(self.workspace),
            "pool": quote(self._pool),
            "key": work.key(),
            "label": work.label,
        }
        return self._task_runner.submit(options, parameters)

    def _results(self, work: Work, state: State[Any]) -> Sequence[Record] | None:
        """Return the results of a work that is done; None if they were stored and what they name is not there."""
        if work.begun:
            self.executed[work.step] += len(work.jobs)
            return work.done
        content: Any = state.result(raise_on_failure=False)
        try:
            records = [job.gives.from_text(item) for job, item in zip(work.jobs, content, strict=True)]
        except (ValidationError, TypeError, ValueError):
            with log_context(*work.place):
                logger.warning("%s: the stored result cannot be read; it is made anew", work.label)
            return None
        if not self.workspace.intact(records):
            folder = self.workspace.folder
            # of a new output it is no news that files of another one are not in it
            level = logging.DEBUG if isinstance(folder, OutputFolder) and folder.previous is None else logging.INFO
            with log_context(*work.place):
                logger.log(level, "%s: a stored file is gone or was altered; it is made anew", work.label)
            return None
        self.cached[work.step] += len(work.jobs)
        return records

    def _refuse_unbegun(self, work: Work, state: State[Any]) -> None:
        """Refuse to go on where a task run fails before its work, and no stored result is to blame.

        No exposure is, either: it would fail again as often as it were tried.

        Raises
        ------
        EngineError
            If Prefect failed, or ended the task run.
        Exception
            What else hindered it: a bug of ours, as it is.
        """
        error = state.result(raise_on_failure=False)
        if not isinstance(error, BaseException):
            error = EngineError(_ended(state))
        if not isinstance(error, _OURS):
            _refuse_lost(work, error)
        with log_context(*work.place):
            logger.error("%s: the task run could not begin: %s", work.label, type(error).__name__, exc_info=error)
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
    """Refuse to go on without Prefect where an error is its own."""
    if of_engine(error):
        message = f"{work.label}, {work.step}: the task run was lost ({type(error).__name__}: {error})"
        raise EngineError(message) from error


def _ended(state: State[Any]) -> str:
    return state.message or f"the task run ended {state.name}"


def works_of(jobs: Sequence[Job], threads: int = 1) -> list[Work]:
    """Return what the task runs do: a tile each or, above 200 tiles, batches that follow from the tiles' names."""
    tiles: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        tiles.setdefault(job.bundle, []).append(place)
    batch = len(tiles) > MOST_TILES
    if not batch:
        named = {tile if len(places) > 1 else jobs[places[0]].label: places for tile, places in tiles.items()}
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
    """Return whether an operation failed for a reason that may pass: of the file system, and never of the data."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, _LASTING)


def _key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    key: str = parameters["key"]
    return key


@cache
def _task_of(step: str, retry_delays: tuple[float, ...], *, refresh: bool) -> Task[..., list[str]]:
    """Return the task of one step, under the name that a person sees."""

    def do(work: Work, workspace: Workspace, pool: WorkerPool, key: str, label: str) -> list[str]:  # noqa: ARG001
        # key and label are parameters, so that cache policy and run name find them
        return work.do(workspace, pool)

    do.__qualname__ = step.replace(" ", "_")  # the task's key: Prefect's pages filter by it
    return task(
        name=step,
        task_run_name="{label}",
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_key),
        persist_result=True,
        result_serializer="json",
        refresh_cache=refresh,
        retries=len(retry_delays),
        retry_delay_seconds=list(retry_delays) or 0,
        retry_condition_fn=is_transient,
    )(do)
