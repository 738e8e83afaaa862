"""Ctrl-C and SIGTERM: a command ends within two seconds, whatever it is doing, and says so in one line.

The work is done in a thread of its own, and the main thread, in which Python handles signals, only waits for it: a
signal is heard while the work computes, waits for a server or holds a lock. No thread can be made to stop, so that the
process ends as if it were killed, once farewells are said: to the workers, to Prefect, to MLflow. What is finished is
in the stores and the output folder, as after a kill, and the next run goes on from there.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

LINE = "levelmatch: interrupted; run again to go on"

PATIENCE = 1.5
"""Seconds that all farewells may take together."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLEAR_LINE, _SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25h"

_farewells: list[Callable[[], object]] = []
_ends_itself: list[threading.Event] = []


def work_interruptibly(work: Callable[[], T]) -> T:
    """Do some work so that a signal ends this process at any time.

    Parameters
    ----------
    work
        Is called in another thread, with the context variables of this one.

    Returns
    -------
    What the work returns; what it raises is raised here.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are for the main thread
        return work()
    results: list[T] = []
    errors: list[BaseException] = []
    context = copy_context()

    def do() -> None:
        try:
            results.append(context.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)

    thread = threading.Thread(target=do, name="command")
    with _listening():
        thread.start()
        thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


def add_farewell(say: Callable[[], object]) -> None:
    """Have something done when we are interrupted, as :func:`farewell` does, for as long as this process lives."""
    _farewells.append(say)


@contextmanager
def farewell(say: Callable[[], object]) -> Iterator[None]:
    """Have something done when we are interrupted while the context lasts: the last that was entered comes first.

    It has a part of :data:`PATIENCE`, and an error in it is passed over: the process ends in any case.
    """
    there = partial(copy_context().run, say)  # with the settings of whoever says it
    _farewells.append(there)
    try:
        yield
    finally:
        _farewells.remove(there)


@contextmanager
def ending_itself() -> Iterator[threading.Event]:
    """Leave the end to the work while the context lasts: a first signal only sets the event that is given."""
    asked = threading.Event()
    _ends_itself.append(asked)
    try:
        yield asked
    finally:
        _ends_itself.remove(asked)


def at_end(process: "subprocess.Popen[bytes]") -> Callable[[], object]:
    """Return a farewell that ends a process at once."""

    def end() -> None:
        process.kill()
        process.wait(PATIENCE)

    return end


@contextmanager
def _listening() -> Iterator[None]:
    before = listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> dict[signal.Signals, Any]:
    """Hear signals from now on, and return who heard them before.

    One that we were told to pass over (by nohup) is passed over.
    """
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, _interrupt) for number in heard}


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End at the first signal; at the second at once."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _give_up)
    if _ends_itself:
        _ends_itself[-1].set()
        return
    _say()
    end = time.monotonic() + PATIENCE
    for worker in multiprocessing.active_children():
        worker.kill()  # they have nothing to say, and leave the processor to what follows
    for say in reversed(tuple(_farewells)):
        thread = threading.Thread(target=_attempt, args=(say,), daemon=True)
        thread.start()
        # a server that answers late must not keep the others from being ended
        thread.join(max(0.05, (end - time.monotonic()) * 2 / 3))
    os._exit(INTERRUPTED)


def _attempt(say: Callable[[], object]) -> None:
    with suppress(Exception):
        say()


def _give_up(_number: int, _frame: FrameType | None) -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(INTERRUPTED)  # servers end with their standard input


def _say() -> None:
    """Say the one line, and let nothing be said after it by threads that still work."""
    bars = _CLEAR_LINE + _SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError, ValueError):
        os.write(2, f"{bars}{LINE}\n".encode())
        silent = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(silent, descriptor)
