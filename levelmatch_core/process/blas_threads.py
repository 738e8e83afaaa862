"""A single BLAS thread during a job or a solve.

Rounding depends on the number of threads, and results must be reproducible; idle threads spin for a tenth of a second.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it carries no types


class _Count:
    """Number of those who asked for it: the limit applies to the whole process, and the last one to end lifts it."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.inside = 0
        self.limit: ThreadpoolController | None = None


_COUNT = _Count()


@cache
def _pools() -> ThreadpoolController:
    """Find the process's thread pools, once: numpy and scipy have loaded theirs, and the search takes milliseconds."""
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread; several threads may enter this context at the same time."""
    with _COUNT.guard:
        if _COUNT.inside == 0:
            _COUNT.limit = _pools().limit(limits=1, user_api="blas")
        _COUNT.inside += 1
    try:
        yield
    finally:
        with _COUNT.guard:
            _COUNT.inside -= 1
            if _COUNT.inside == 0 and _COUNT.limit is not None:
                _COUNT.limit.restore_original_limits()
                _COUNT.limit = None
