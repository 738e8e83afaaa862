"""The plain runner: jobs in a loop or in threads, without an engine; only the cutout store is kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from levelmatch_core.errors import LevelMatchError, StrictError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.jobs.job import Job, JobRunner, Workspace, failure_of
from levelmatch_core.process.blas_threads import one_blas_thread
from levelmatch_core.process.thread_budget import thread_budget, threads_per_job
from levelmatch_core.records import Record
from levelmatch_core.workers import Threads, WorkerPool

ONE_THREAD = Threads()


@dataclass(frozen=True)
class PlainRunner:
    """Runs jobs without an engine, in a loop or with a pool of workers."""

    workspace: Workspace
    pool: WorkerPool = ONE_THREAD

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:  # noqa: ARG002 - no progress is shown
        """Run all jobs, and return the results in their order."""
        threads = threads_per_job(self.pool.size, len(jobs))
        if self.pool.size == 1 or len(jobs) < 2:
            with one_blas_thread():  # each job would set and lift the limit, which takes longer than a small one needs
                return [self._outcome(job, threads) for job in jobs]
        with ThreadPoolExecutor(self.pool.size) as pool:
            return list(pool.map(self._outcome, jobs, repeat(threads)))

    def _outcome(self, job: Job, threads: int) -> Record | Failure:
        try:
            with thread_budget(threads):
                return self.pool.do([job], self.workspace)[0]
        except (LevelMatchError, OSError) as error:
            return failure_of(job, error)


@dataclass(frozen=True)
class StrictRunner:
    """Runs jobs with another runner, and stops at the first failure."""

    each: JobRunner

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Run all jobs.

        Raises
        ------
        StrictError
            If a job failed.
        """
        results = self.each(jobs, title)
        refuse_failures([result for result in results if isinstance(result, Failure)])
        return results


def refuse_failures(failures: Sequence[Failure]) -> None:
    """Stop after a failure.

    Raises
    ------
    StrictError
        If there is a failure.
    """
    if failures:
        first, more = failures[0], len(failures) - 1
        message = (
            f"{first.name}, {first.step}: {first.reason}{f' (and {more} more failed)' if more else ''}; strict is set: "
            f"fix or remove it, or unset strict to continue without it"
        )
        raise StrictError(message)
