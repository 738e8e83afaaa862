"""Compiling on other cores what a large first run on a machine needs, while the command imports and starts.

A small one compiles nothing (:mod:`levelmatch_core.process.small_work`). What a large one compiles, from which
arguments, is listed in `compiled_ahead.txt` (`python -m tests.benchmarks.compilation` writes it anew). Child processes
compile it into numba's cache: first what every run needs at once, for which the run waits before it computes; then,
with what the run leaves idle, what it needs late and, if it has many files, what their graph needs. What the list
lacks, what is not ready, and what a child fails at, is compiled by the run itself.
"""

import gc
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from levelmatch_core.process.compiled import is_cold

LIST = Path(__file__).with_name("compiled_ahead.txt")
"""Turn, module, function and types of arguments of each entry, longest first."""

MOST_CHILDREN = 8
"""More children than this have too little to do, each having numba to import."""

_LONGEST = 180.0
"""Seconds after which a child is not waited for any more."""

FEW_FILES = 50
"""Up to about so many inputs the graph is small enough to be interpreted."""

FEW_BYTES = 1 << 28
"""Pixels of so many bytes take numpy a few seconds more than compiled code, which is what is waited for that."""

_REST = "rest"
"""The argument for which what the graph needs is compiled, and else all the rest."""

_LATE = {"add_part", "medians", "robust_mean", "row_ends", "share", "spline_box"}
"""What only stacks and products need, which come after all measurements of a tile or of all tiles."""

_LATER, _OF_GRAPH = "1", "2"

_GIVE_WAY = 19
"""By so much a child lowers its priority when the run no longer waits for it."""


class Listed(NamedTuple):
    """A function to be compiled for one list of arguments.

    Attributes
    ----------
    turn
        "0" is what a run needs at once, "1" what it needs late, "2" what its graph and its products need.
    module, function
        Where it is.
    arguments
        Their types, as numba writes them.
    """

    turn: str
    module: str
    function: str
    arguments: str

    @property
    def name(self) -> tuple[str, str]:
        """Module and function."""
        return self.module, self.function


class CompileAhead:
    """The child processes; they end when their work is done, with this process, or by :meth:`stop`."""

    def __init__(self) -> None:
        self._process = _started()
        self._rest: subprocess.Popen[bytes] | None = None
        self._ready = threading.Thread(target=_until_closed, args=(self._process.stdout,), daemon=True)
        self._ready.start()

    def wait(self, files: int) -> None:
        """Wait until what every run needs at once is compiled, or the children have ended for another reason.

        Parameters
        ----------
        files
            Number of input files. For many of them all that the graph needs is compiled beside the run.
        """
        self._ready.join(_LONGEST)
        if self._ready.is_alive():
            self.stop()
        elif files > FEW_FILES:
            self._rest = _started(_REST)
            threading.Thread(target=_until_closed, args=(self._rest.stdout,), daemon=True).start()

    def stop(self) -> None:
        """End the children at once."""
        for process in (self._process, self._rest):
            if process is not None and process.stdin is not None:
                process.stdin.close()
                process.kill()
                process.wait()


def _until_closed(told: IO[bytes]) -> None:
    """Read what children tell, which is nothing, until the last of them has closed it."""
    with told:
        told.read()


def _started(*arguments: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-P", "-m", __name__, *arguments]
    # numba raises and catches hundreds of errors while it looks for types, and colours each
    environ = os.environ | {"NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING": "1"}
    # the child ends when the pipe does, however this process ends
    return subprocess.Popen(  # noqa: S603 - our own module
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
    )


@contextmanager
def compiling_ahead(files: int, size: int) -> Iterator[CompileAhead | None]:
    """Compile beside what is done in the context; None if that was done on this machine before, or is not worth it.

    Parameters
    ----------
    files, size
        Number of input files, and of their bytes.
    """
    is_large = files > FEW_FILES or size > FEW_BYTES
    ahead = CompileAhead() if is_large and is_cold() else None
    try:
        yield ahead
    finally:
        if ahead is not None:
            ahead.stop()


def listed_kernels() -> Iterator[Listed]:
    """Yield what a run compiles."""
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield Listed(*line.split(" ", 3))


def compile_entry(entry: Listed) -> bool:
    """Compile a function for one list of arguments.

    Returns
    -------
    bool
        Whether the compiled code is kept; if not, it is of no use to other processes.
    """
    from levelmatch_core.process.small_work import dispatcher_of  # noqa: PLC0415 - numba takes a second to import

    dispatcher = dispatcher_of(getattr(importlib.import_module(entry.module), entry.function))
    if type(dispatcher._cache).__name__ == "NullCache":  # noqa: SLF001 - numba has no other way to ask
        return False
    dispatcher.compile(types_of(entry.arguments))
    return True


def types_of(arguments: str) -> tuple[Any, ...]:
    """Return the types that an entry names, in numba's words."""
    import numba  # noqa: PLC0415 - takes a second

    names: dict[str, Any] = {name: getattr(numba.types, name) for name in dir(numba.types) if not name.startswith("_")}
    names["of"] = lambda module, name: getattr(importlib.import_module(module), name)  # the class of a named tuple
    found: tuple[Any, ...] = eval(arguments, {"__builtins__": {}}, names)  # noqa: S307 - from our own file
    return found


def main() -> None:
    """Compile the list, spread over as many processes as there are processors."""
    os.nice(1)  # the command's own imports first
    from levelmatch_core.process.quicker_numba import quicken  # noqa: PLC0415 - numba takes a second to import

    quicken()
    listed = [entry for entry in listed_kernels() if (entry.turn == _OF_GRAPH) is (_REST in sys.argv[1:])]
    for module in dict.fromkeys(entry.module for entry in listed):
        importlib.import_module(module)  # once, for all children
    # several lists of arguments of one function go to one process: they share a file in the cache
    turns = {entry.name: entry.turn for entry in listed}
    functions = [
        [entry for entry in listed if entry.name == name] for name in sorted(turns, key=lambda each: turns[each])
    ]
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(processors, MOST_CHILDREN)
    waiting, put = os.pipe()
    os.write(put, bytes(range(1, len(functions))))  # a byte is a function that nobody has taken yet
    os.close(put)
    gc.freeze()
    gc.disable()  # a child has memory enough for the little that it does, and collecting takes a tenth of its time
    # the first function is compiled once for all children, too, with what of numba's own it shares with the others;
    # the command has its imports to do meanwhile
    if not _compiled(functions[0]):
        return
    children = []
    for _ in range(count):
        child = os.fork()
        if not child:
            threading.Thread(target=_end_with_parent, daemon=True).start()
            _compile_from(waiting, functions)
            os._exit(0)
        children.append(child)
    _tell()
    threading.Thread(target=_end_with_parent, daemon=True).start()  # after the forks, which copy no other thread
    for child in children:
        os.waitpid(child, 0)


def _compile_from(waiting: int, functions: list[list[Listed]]) -> None:
    """Compile functions that nobody has taken yet; close stdout, and give way, before the first one that can wait."""
    first = True
    while taken := os.read(waiting, 1):
        mine = functions[taken[0]]
        if first and mine[0].turn == _LATER:
            first = False
            _tell()
            os.nice(_GIVE_WAY)
        if not _compiled(mine):
            return


def _compiled(entries: list[Listed]) -> bool:
    """Compile entries; return whether that is kept, or has failed for a reason that the run itself will tell."""
    with suppress(Exception):
        return all(compile_entry(entry) for entry in entries)
    return True


def turn_of(module: str, function: str) -> str:
    """Return the turn of a function; see :class:`Listed`."""
    of_pixels = "levelmatch_core.images.", "levelmatch_core.matching.measure.", "levelmatch_core.sky."
    if not module.startswith(of_pixels):
        return _OF_GRAPH
    return _LATER if function in _LATE else "0"


def _tell() -> None:
    """Close stdout: when the last process has done so, the command reads its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end_with_parent() -> None:
    """End this process when the command has closed its pipe, or has ended."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(0)


if __name__ == "__main__":
    main()
