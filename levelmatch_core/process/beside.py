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
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)

T = TypeVar("T")

_THREADS = 2
"""Threads of a command at its beginning: one waits for signals, and one works."""

_NOT_HEARD = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all."""

_LONGEST = 120.0
"""Seconds after which an answer is no longer waited for."""


class Beside:
    """The process, and what it was asked for: one thing after another.

    Parameters
    ----------
    connection
        To it.
    number
        Its process id.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection, self._number = connection, number
        self._asking = ThreadPoolExecutor(1)
        self._begun: dict[bytes, Future[Any]] = {}
        self._lost = self._stopped = False

    def begin(self, function: Callable[[], object]) -> None:
        """Have it call a function, whose result :meth:`ask` may want later."""
        words = pickle.dumps(function)
        self._begun[sha256(words).digest()] = self._asking.submit(self._called, function, words)

    def ask(self, function: Callable[[], T]) -> "Future[T]":
        """Have it call a function; if just that was begun, this gives the result of it."""
        words = pickle.dumps(function)
        begun = self._begun.pop(sha256(words).digest(), None)
        return begun or self._asking.submit(self._called, function, words)

    def stop(self) -> None:
        """End it at once."""
        self._stopped = True
        self._asking.shutdown(wait=False, cancel_futures=True)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._number, signal.SIGKILL)
            os.waitpid(self._number, 0)

    def _called(self, function: Callable[[], T], words: bytes) -> T:
        """Return what a function returns there, or here if the process is lost; raise what it raises."""
        answer = self._answer(words)
        if answer is None:
            return function()
        done, found = answer
        if not done:
            raise found
        result: T = found
        return result

    def _answer(self, words: bytes) -> tuple[bool, Any] | None:
        """Return whether a function returned, and what, or what it raised; None if the process is lost."""
        try:
            if not self._lost:
                self._connection.send_bytes(words)
                if self._connection.poll(_LONGEST):
                    answer: tuple[bool, Any] = self._connection.recv()
                    return answer
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            if self._stopped:
                raise CancelledError from error
            logger.info("the process that draws is lost (%s): this one draws", str(error) or type(error).__name__)
        self._lost = True
        return None


_beside: Beside | None = None


def process_beside() -> Beside | None:
    """Return the process beside this one, if there is one."""
    return _beside


@contextmanager
def working_beside(*, wanted: bool = True) -> Iterator[Beside | None]:
    """Provide a process beside this one during the context; None where it is not wanted, or would be of no use.

    One processor has enough to do without it, elsewhere than on Linux libraries of the system forbid a fork, and a
    fork of a process with more threads than a command has may hang.
    """
    global _beside  # noqa: PLW0603 - of this process
    few = threading.active_count() <= _THREADS
    if not (wanted and few) or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_HEARD)
    child = os.fork()
    if not child:
        with suppress(BaseException):
            for number in _NOT_HEARD:  # the command hears them, and ends this process
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            here.close()
            os.close(held)
            _serve(there, alive)
        os._exit(0)  # nothing that this process has registered for its own end
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    os.close(alive)
    return Beside(here, child)


def _serve(connection: Connection, alive: int) -> None:
    """Do what is asked for until the connection is closed."""
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    gc.freeze()
    with suppress(EOFError):
        while True:
            function = pickle.loads(connection.recv_bytes())  # noqa: S301 - of the process that made this one
            answer: tuple[bool, Any]
            try:
                answer = True, function()
            except Exception as error:  # noqa: BLE001 - raised again by who asked
                answer = False, error
            connection.send(answer)


def _end_with(alive: int) -> None:
    """End this process when the other one has ended."""
    os.read(alive, 1)
    os._exit(1)
