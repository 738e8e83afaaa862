"""Return of freed memory to the system: glibc keeps memory below small blocks that are still in use."""

import ctypes
from collections.abc import Callable
from functools import cache

MANY = 200
"""Work on more members or exposures than this needs so much memory temporarily that returning it is worthwhile."""


def trim_memory() -> None:
    """Return freed memory to the system, in a few milliseconds; does nothing if the C library does not support it.

    To be called after work that needed much memory and kept little. Otherwise the process would keep the memory until
    the end of the run, so that runs on many exposures would need more memory than runs on few.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
