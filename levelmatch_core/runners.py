"""The plain runner: jobs in a loop or in threads, no engine, nothing remembered but what the cutout store holds."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from levelmatch_core.errors import LevelMatchError, StrictError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.jobs.job import Job, JobRunner, Workspace, failure_of
from levelmatch_core.records import Record
from levelmatch_core.thread_budget import thread_budget, threads_per_job
from levelmatch_core.workers import Threads, WorkerPool

ONE_THREAD = Threads()


@dataclass(frozen=True)
class PlainRunner:
    """Do jobs without an engine, in a loop or by a pool of workers."""

    workspace: Workspace
    pool: WorkerPool = ONE_THREAD

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:  # noqa: ARG002 - nothing is shown here
        """Do all jobs, in their order of results."""
        threads = threads_per_job(self.pool.size, len(jobs))
        if self.pool.size == 1 or len(jobs) < 2:
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
    """Do jobs as another runner does, and end at the first that failed."""

    each: JobRunner

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Do all jobs.

        Raises
        ------
        StrictError
            If one failed.
        """
        results = self.each(jobs, title)
        refuse_failures([result for result in results if isinstance(result, Failure)])
        return results


def refuse_failures(failures: Sequence[Failure]) -> None:
    """Refuse to go on after a failure.

    Raises
    ------
    StrictError
        If there is one.
    """
    if failures:
        first, more = failures[0], len(failures) - 1
        message = (
            f"{first.name}, {first.step}: {first.reason}{f' (and {more} more failed)' if more else ''}; strict is set: "
            f"mend or remove it, or unset strict to go on without"
        )
        raise StrictError(message)
