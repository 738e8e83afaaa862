"""A process beside a command, which does on another core what holds the interpreter of this one: drawing figures.

It is a fork of the command, made when that has imported what both need and has no thread yet but the one that waits for
signals and the one that works. It writes no file: what it is asked for comes back through a pipe, and if it is lost,
this process does the same itself. It ends with the command, however that ends.
"""

import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)

T = TypeVar("T")

_LONGEST = 120.0
"""Seconds after which an answer is no longer waited for."""


class Beside:
    """The process.

    Parameters
    ----------
    connection
        To it.
    number
        Its process id.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection, self._number = connection, number
        self._one_by_one = threading.Lock()
        self._lost = False

    def prepare(self, function: Callable[[], object]) -> None:
        """Have it call a function, for which nobody waits."""
        with self._one_by_one, suppress(OSError):
            self._connection.send((function, (), False))

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what a function returns there, or here if the process is lost; raise what it raises."""
        with self._one_by_one:
            answer = self._answer(function, arguments)
        if answer is None:
            return function(*arguments)
        done, found = answer
        if not done:
            raise found
        result: T = found
        return result

    def stop(self) -> None:
        """End it at once."""
        self._lost = True
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._number, signal.SIGKILL)
            os.waitpid(self._number, 0)
        self._connection.close()

    def _answer(self, function: Callable[..., object], arguments: tuple[object, ...]) -> tuple[bool, Any] | None:
        """Return whether a function returned, and what, or what it raised; None if the process is lost."""
        if self._lost:
            return None
        try:
            self._connection.send((function, arguments, True))
            if self._connection.poll(_LONGEST):
                answer: tuple[bool, Any] = self._connection.recv()
                return answer
        except (OSError, EOFError, pickle.PickleError) as error:
            logger.info("the process that draws is lost (%s): this one draws", error or type(error).__name__)
        self._lost = True
        return None


_beside: Beside | None = None


def beside() -> Beside | None:
    """Return the process beside this one, if there is one."""
    return _beside


@contextmanager
def working_beside(*, wanted: bool = True) -> Iterator[Beside | None]:
    """Provide a process beside this one during the context; None where it is not wanted, or would be of no use.

    One processor has enough to do without it, and elsewhere than on Linux libraries of the system forbid a fork.
    """
    global _beside  # noqa: PLW0603 - of this process
    if not wanted or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        yield None
        return
    _beside = _forked()
    try:
        yield _beside
    finally:
        ended, _beside = _beside, None
        ended.stop()


def _forked() -> Beside:
    here, there = Pipe()
    alive, held = os.pipe()  # closed when this process ends
    child = os.fork()
    if not child:
        status = 1
        with suppress(BaseException):
            here.close()
            os.close(held)
            _serve(there, alive)
            status = 0
        os._exit(status)  # nothing that this process has registered for its own end
    there.close()
    os.close(alive)
    return Beside(here, child)


def _serve(connection: Connection, alive: int) -> None:
    """Do what is asked for until the connection is closed."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the command hears them, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    gc.freeze()
    with suppress(EOFError):
        while True:
            function, arguments, answered = connection.recv()
            answer: tuple[bool, Any]
            try:
                answer = True, function(*arguments)
            except Exception as error:  # noqa: BLE001 - raised again by who asked
                answer = False, error
            if answered:
                connection.send(answer)


def _end_with(alive: int) -> None:
    """End this process when the other one has ended."""
    os.read(alive, 1)
    os._exit(1)
