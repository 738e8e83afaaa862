"""Tuning of Python's garbage collection: the imports of Prefect, MLflow and others create a million lasting objects."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""Number of new objects that triggers a collection of the youngest generation; with Python's default of 700, a tenth of
the CPU time of the imports is spent on it."""


def collect_rarely() -> None:
    """Make garbage collection less frequent; to be called before the imports, which leave no garbage."""
    gc.set_threshold(YOUNG, 20, 20)


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage among what the context creates, which lasts: each object would be visited in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def pass_over_imports() -> None:
    """Exclude all existing objects from later collections."""
    gc.freeze()


def end_at_once() -> None:
    """Skip garbage collection at the end of the process, which takes half a second after a large run."""
    atexit.register(gc.freeze)
