"""Further threads for a job, if the runner has no other jobs for them.

A stage may have fewer jobs than there are workers, such as the single job of a field's mosaic. The runner then gives
each job its share of the idle workers (:func:`thread_budget`), and a job that can be divided runs its parts in parallel
(:func:`parallel_map`). The result does not depend on the number of threads.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TypeVar

_THREADS: ContextVar[int] = ContextVar("threads", default=1)

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads_per_job(workers: int, jobs: int) -> int:
    """Return the number of threads per job for a number of workers and of jobs."""
    return max(1, workers // max(jobs, 1))


@contextmanager
def thread_budget(threads: int) -> Iterator[None]:
    """Allow this many threads in the context, including the current one."""
    before = _THREADS.set(threads)
    try:
        yield
    finally:
        _THREADS.reset(before)


def threads_available() -> int:
    """Return the number of threads that may be used here."""
    return _THREADS.get()


def parallel_map(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work` of every item, in order, using as many threads as are allowed.

    After the first failure no further items are started.
    """
    number = min(threads_available(), len(items))
    if number < 2:
        return [work(item) for item in items]
    with thread_budget(1):
        contexts = [copy_context() for _ in items]  # log lines keep their context
    with ThreadPoolExecutor(number) as pool:
        futures = [pool.submit(context.run, work, item) for context, item in zip(contexts, items, strict=True)]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)
