"""Threads that a job may use beside its own: those for which the runner has no other job.

A stage may have fewer jobs than there are workers, down to one, as the mosaic of a field is. A runner then lends each
job its share of the workers that stand by (:func:`thread_budget`), and a job whose work falls apart into pieces does
them side by side (:func:`parallel_map`). What comes out is the same for any number.
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
    """Return how many threads each of some jobs may use where so many workers do them."""
    return max(1, workers // max(jobs, 1))


@contextmanager
def thread_budget(threads: int) -> Iterator[None]:
    """Lend what is done in the context so many threads, its own among them."""
    before = _THREADS.set(threads)
    try:
        yield
    finally:
        _THREADS.reset(before)


def threads_available() -> int:
    """Return how many threads what is done here may use."""
    return _THREADS.get()


def parallel_map(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `work` of every item, in their order; done by as many threads as are lent.

    The first failure ends it, once what has begun is done.
    """
    number = min(threads_available(), len(items))
    if number < 2:
        return [work(item) for item in items]
    with thread_budget(1):
        contexts = [copy_context() for _ in items]  # log lines keep their place
    with ThreadPoolExecutor(number) as pool:
        futures = [pool.submit(context.run, work, item) for context, item in zip(contexts, items, strict=True)]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)
