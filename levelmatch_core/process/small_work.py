"""Doing without a compiler what has little to do.

The graph of a few exposures takes the interpreter milliseconds, and their pixels take numpy a second; the compiler
takes half a minute for both. Where compiled code is not there yet, functions are therefore interpreted, or numpy does
the same, until that has taken as long as compiling would. All give the same bytes: each operation is on scalars, or on
each element of an array, in the order in which it is written, and sums are made :func:`in_turn`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from levelmatch_core.process.ending import wait_if_ending

MOST_PASSES = 4_000_000
"""So many passes of an inner loop are interpreted in a second or so, which is what a function takes to be compiled."""
AT_A_TIME = 1 << 15
"""So many pixels are processed together where nothing is compiled."""


class CompiledWhenLarge:
    """A compiled function that is interpreted as long as it has had little to do, unless its compiled code is there.

    Parameters
    ----------
    compiled
        What `njit` made of it.
    passes
        Takes the function's arguments and returns about how many passes of its inner loop they need, at most. If there
        is a `plain`, a pass is a quarter of a microsecond of it.
    plain
        What does the same without a compiler, if not the function itself, interpreted.
    """

    def __init__(
        self,
        compiled: Any,  # noqa: ANN401 - numba's
        passes: Callable[..., int],
        plain: Callable[..., Any] | None = None,
    ) -> None:
        update_wrapper(self, compiled.py_func)
        self.compiled = compiled
        self._passes = passes
        self._spent = 0
        self._plain = plain

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - those of the function
        """Call the function, compiled or interpreted."""
        wait_if_ending()
        if self.compiled.overloads or self._is_kept() or self._is_large(arguments):
            return self.compiled(*arguments)
        with np.errstate(divide="raise", over="ignore", invalid="ignore"):  # as compiled code does
            return _as_compiled(self.plain(*arguments))

    @property
    def plain(self) -> Callable[..., Any]:
        """What does the same without a compiler."""
        if self._plain is None:
            self._plain = interpreted(self.compiled)
        return self._plain

    def _is_kept(self) -> bool:
        """Return whether it was compiled on this machine before."""
        file = getattr(self.compiled._cache, "_cache_file", None)  # noqa: SLF001 - numba has no other way to ask
        return file is not None and Path(file._index_path).exists()  # noqa: SLF001

    def _is_large(self, arguments: tuple[Any, ...]) -> bool:
        self._spent += self._passes(*arguments)
        return self._spent > MOST_PASSES or _everything


_everything = False


@contextmanager
def everything_compiled() -> Iterator[None]:
    """Interpret nothing, so that all compiled code is there afterwards."""
    global _everything  # noqa: PLW0603 - for all functions of this process
    _everything = True
    try:
        yield
    finally:
        _everything = False


def compiled_when_large(passes: Callable[..., int], plain: Callable[..., Any] | None = None) -> Callable[[Any], Any]:
    """Decorate what `njit` made, which other compiled functions cannot call then; see :class:`CompiledWhenLarge`."""
    # with NUMBA_DISABLE_JIT it made nothing
    return lambda made: CompiledWhenLarge(made, passes, plain) if isinstance(made, Dispatcher) else made


def replaced_by(plain: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorate what `njit` made, in place of which `plain` is called by interpreted functions."""

    def decorate(made: Any) -> Any:  # noqa: ANN401 - numba's
        made.plain = plain
        return made

    return decorate


def bands(rows: int, columns: int) -> list[slice]:
    """Return bands of rows that stay in the processor's cache, and in memory that is not asked for anew."""
    step = max(1, AT_A_TIME // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def in_turn(values: NDArray[np.float64]) -> Any:  # noqa: ANN401 - a number or numbers
    """Return the sum over the first axis, one after the other as a loop makes it; numpy sums halves of a line."""
    if not len(values):
        return np.zeros(values.shape[1:])
    if values.size == len(values):  # one line
        return 0.0 + np.add.accumulate(values, axis=0)[-1]  # a loop begins at 0, not at -0
    return 0.0 + np.add.reduce(np.ascontiguousarray(values), axis=0)  # whole lines one after the other


def add_in_turn(total: NDArray[np.float64], rows: NDArray[np.float64]) -> None:
    """Add rows, one after the other, to a total of earlier ones; the first of them is changed."""
    if len(rows):
        rows[0] += total
        total[...] = in_turn(rows)


def _as_compiled(found: Any) -> Any:  # noqa: ANN401 - what a function returns
    """Return numbers as compiled functions do, which have none of numpy's."""
    if type(found) is tuple:
        return tuple(map(_as_compiled, found))
    return found.item() if isinstance(found, np.generic) else found


def dispatcher_of(function: Any) -> Any:  # noqa: ANN401 - numba's
    """Return what `njit` made of a function."""
    return getattr(function, "compiled", function)


def interpreted(compiled: Any) -> Callable[..., Any]:  # noqa: ANN401 - numba's
    """Return the function as the interpreter runs it, with all compiled ones that it calls, or what replaces them."""
    function = dispatcher_of(compiled).py_func
    named = {
        name: getattr(value, "plain", None) or interpreted(value) if isinstance(value, Dispatcher) else value
        for name, value in function.__globals__.items()
        if name in function.__code__.co_names or name == "__builtins__"
    }
    return FunctionType(function.__code__, named, function.__name__, function.__defaults__)
