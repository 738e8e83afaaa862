"""Ctrl-C and SIGTERM: a command ends within two seconds, whatever it is doing, with one line on stderr.

The work is done in a separate thread, and the main thread, in which Python handles signals, only waits for it. Signals
are therefore handled while the work computes, waits for a server or holds a lock. Threads cannot be stopped, so that
the process exits as if it were killed, after final actions for the workers, Prefect and MLflow. Finished work is in the
stores and the output folder, as after a kill, and the next run continues from there.
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
from importlib import import_module
from types import FrameType
from typing import Any, TypeVar

from levelmatch_core.process.ending import ending, wait_if_ending

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

LINE = "levelmatch: interrupted; run again to go on"

_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
"""Warning option for the process in which multiprocessing removes what ended workers left: it would speak after us."""

PATIENCE = 1.5
"""Time limit for all final actions together, seconds."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLEAR_LINE, _SHOW_CURSOR = "\r\x1b[2K", "\x1b[?25h"

_farewells: list[Callable[[], object]] = []
_ends: list[Callable[[], object]] = []
_ends_itself: list[threading.Event] = []


def main() -> None:
    """Run the command `levelmatch`, which hears signals from here on: its modules take a while to import."""
    listen()
    import_module("flows.cli").main()


def work_interruptibly(work: Callable[[], T]) -> T:
    """Do some work in such a way that a signal can end this process at any time.

    Parameters
    ----------
    work
        Called in another thread, with the context variables of this one.

    Returns
    -------
    The result of the work; its exceptions are raised here.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are handled by the main thread only
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


def add_end(end: Callable[[], object]) -> None:
    """Register what ends a server, for the lifetime of this process: it follows the final actions, which use it."""
    _ends.append(end)


@contextmanager
def farewell(say: Callable[[], object]) -> Iterator[None]:
    """Register an action for an interruption during the context; all of them are run at the same time.

    They get most of :data:`PATIENCE`, and their errors are ignored: the process ends in any case. Work that enters the
    context after an interruption waits here for that end: what it would open then, nothing would close.
    """
    there = partial(copy_context().run, say)  # with the context variables of the caller
    _farewells.append(there)  # before the question: the actions are taken from the list after the event is set
    wait_if_ending()
    try:
        yield
    finally:
        _farewells.remove(there)


@contextmanager
def ending_itself() -> Iterator[threading.Event]:
    """Let the work end by itself during the context: a first signal only sets the event that is yielded."""
    asked = threading.Event()
    _ends_itself.append(asked)
    try:
        yield asked
    finally:
        _ends_itself.remove(asked)


def at_end(process: "subprocess.Popen[bytes]") -> Callable[[], object]:
    """Return a final action that kills a process."""

    def end() -> None:
        process.kill()
        process.wait(PATIENCE)

    return end


@contextmanager
def _listening() -> Iterator[None]:
    before = listen()
    if _QUIET_TRACKER not in sys.warnoptions:  # it begins with the options of this process
        sys.warnoptions.append(_QUIET_TRACKER)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> dict[signal.Signals, Any]:
    """Install the signal handlers, and return the previous ones.

    Signals that are being ignored (by nohup) remain ignored.
    """
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, _interrupt) for number in heard}


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End after the final actions at the first signal, and immediately at the second."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _give_up)
    if _ends_itself:
        _ends_itself[-1].set()
        return
    ending.set()
    _say()
    end = time.monotonic() + PATIENCE
    _kill_workers()  # they have no final actions, and free the processor for what follows
    sys.setswitchinterval(0.0005)  # while the work goes on, each answer that an action gets would wait 5 ms for it
    _attempt(_farewells, until=end - PATIENCE / 10)  # a server that does not answer is ended all the same
    _attempt(_ends, until=end)
    _kill_workers()  # those that the work, which goes on, has started since
    os._exit(INTERRUPTED)


def _kill_workers() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()


def _attempt(actions: list[Callable[[], object]], *, until: float) -> None:
    """Run some actions at the same time, each in a thread of its own, and wait for them no longer than to a time."""

    def attempt(action: Callable[[], object]) -> None:
        with suppress(Exception):
            action()

    threads = [threading.Thread(target=attempt, args=(action,), daemon=True) for action in tuple(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.05, until - time.monotonic()))


def _give_up(_number: int, _frame: FrameType | None) -> None:
    _kill_workers()
    os._exit(INTERRUPTED)  # servers end with their standard input


def _say() -> None:
    """Suppress all further output of threads that are still running, and print the line, which is thus the last."""
    bars = _CLEAR_LINE + _SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError, ValueError):
        shown = os.dup(2)
        silent = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(silent, descriptor)
        os.write(shown, f"{bars}{LINE}\n".encode())
