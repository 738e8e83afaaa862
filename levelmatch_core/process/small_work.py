"""Interpreting, not compiling, what has little to do.

The graph of a few exposures takes the interpreter milliseconds, and its algorithms the compiler ten seconds. Where
their compiled code is not there yet, they are therefore interpreted until that has taken as long as compiling would.
They are written such that both give the same bytes: each operation is on scalars, in the order in which it is written.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

MOST_PASSES = 4_000_000
"""So many passes of an inner loop are interpreted in a second or so, which is what a function takes to be compiled."""


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
        if self.compiled.signatures or self._is_kept() or self._is_large(arguments):
            return self.compiled(*arguments)
        with np.errstate(divide="raise", over="ignore", invalid="ignore"):  # as compiled code does
            return self.plain(*arguments)

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


def dispatcher_of(function: Any) -> Any:  # noqa: ANN401 - numba's
    """Return what `njit` made of a function."""
    return getattr(function, "compiled", function)


def interpreted(compiled: Any) -> Callable[..., Any]:  # noqa: ANN401 - numba's
    """Return the function as the interpreter runs it, and with it all compiled ones that it calls."""
    function = compiled.py_func
    named = {
        name: interpreted(value) if isinstance(value, Dispatcher) else value
        for name, value in function.__globals__.items()
        if name in function.__code__.co_names or name == "__builtins__"
    }
    return FunctionType(function.__code__, named, function.__name__, function.__defaults__)
