"""Memory that is free is given back: glibc keeps what lies below something small that lives on."""

import ctypes
from collections.abc import Callable
from functools import cache

MANY = 200
"""Work on more members or exposures than this takes so much memory for a while that it is worth giving it back."""


def trim_memory() -> None:
    """Give freed memory back to the system, in some milliseconds; where the C library has no way to, do nothing.

    To be called once after work that took much and left little: its space would stay with the process for the rest of
    a run, so that a run on many exposures needed more memory than one on few.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
