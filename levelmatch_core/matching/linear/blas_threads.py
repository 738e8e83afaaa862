"""One thread of BLAS while anything is solved: sums round as the threads go, and the bytes must not change."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # it carries no types


class _Count:
    """How many solves are under way in this process: the limit is the process's, and the last to leave lifts it."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.inside = 0
        self.limit: ThreadpoolController | None = None


_COUNT = _Count()


@cache
def _pools() -> ThreadpoolController:
    """Look once for the process's thread pools: numpy and scipy have loaded theirs, and looking costs milliseconds."""
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread; any number of threads may do so at a time."""
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
