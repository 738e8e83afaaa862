"""Log lines in Prefect's run log and on the terminal. Nothing here imports Prefect before it is used.

Prefect sends each entry of its log to its server separately. For thousands of tiles this keeps both busy, and nobody
reads pages of lines on tiles without problems: :func:`gathered` combines the lines of a batch of tiles into one entry.
Lines above the level info remain separate entries and are sent immediately; other handlers, such as that of the
terminal, receive each line when it is written.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby

from rich.console import Console

from flows.home import LOGGERS
from levelmatch_core.errors import LevelMatchError
from levelmatch_core.process.log_context import make_plain, put_in_front
from levelmatch_core.text.plain_text import lines_of

MOST_LINES = 500
"""Largest number of lines per entry: Prefect accepts a million characters."""

ONCE = {"of_one_run": True}
"""What a log line has as `extra` that does not belong to the result: it is not told again."""

_Held = list[tuple[logging.Handler, logging.LogRecord]]
_HELD: ContextVar[_Held | None] = ContextVar("held", default=None)


class _Holding(logging.Filter):
    """Withholds lines from its handler while they are collected."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass a record, unless it is withheld."""
        held = _HELD.get()
        if held is None or record.levelno > logging.INFO:
            return True
        held.append((self._handler, record))
        return False


@contextmanager
def gathered() -> Iterator[None]:
    """Combine the lines of this thread, and of threads that work for it, into one entry during the context."""
    from prefect.logging.handlers import APILogHandler  # noqa: PLC0415 - after the environment is set

    for handler in {handler for name in LOGGERS for handler in logging.getLogger(name).handlers}:
        if isinstance(handler, APILogHandler) and not any(isinstance(each, _Holding) for each in handler.filters):
            handler.addFilter(_Holding(handler))
    held: _Held = []
    before = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(before)
        for handler, record in _entries(held):
            handler.handle(record)


def _entries(held: _Held) -> Iterator[tuple[logging.Handler, logging.LogRecord]]:
    """Yield for each logger and level one record with all its lines."""

    def kind(one: tuple[logging.Handler, logging.LogRecord]) -> tuple[int, int, str]:
        return id(one[0]), one[1].levelno, one[1].name

    for _, group in groupby(sorted(held, key=kind), key=kind):
        alike = list(group)
        for start in range(0, len(alike), MOST_LINES):
            handler, first = alike[start]
            record = copy.copy(first)
            record.msg = "\n".join(each.getMessage() for _, each in alike[start : start + MOST_LINES])
            record.args = ()
            yield handler, record


# -- Prefect's own lines -----------------------------------------------------------------------------------------------
class TaskRunLines(logging.Filter):
    """Adds tile and stage to Prefect's own log lines on a task run, such as on a retry.

    The end of a task run is shown by its state; lines on it would hide the others, and are kept for debugging only. So
    are the tracebacks of errors of data and disks, whose messages say it all.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Prepend the name and step of the task run, and drop the line on its end unless debug lines are requested."""
        debugging = logging.getLogger(LOGGERS[0]).getEffectiveLevel() <= logging.DEBUG
        if (
            record.getMessage().startswith(("Finished in state Completed", "Finished in state Cached"))
            and not debugging
        ):
            return False
        expected = record.exc_info and isinstance(record.exc_info[1], LevelMatchError | OSError)
        if expected and record.getMessage().startswith("Task run failed") and not debugging:
            record.exc_info = None
        name, step = getattr(record, "task_run_name", None), getattr(record, "task_name", None)
        if name and step:
            stage, _, tile = name.partition(": ")
            put_in_front(record, tile or name, stage.replace(",", "") if tile else step)
        make_plain(record)
        return True


class FlowRunLines(logging.Filter):
    """Takes the tracebacks from Prefect's own lines on a flow run that ended with an error of data, requests or disks.

    Parameters
    ----------
    silent
        Errors on which there is no line at all, since the state of the flow run says it all.
    """

    def __init__(self, silent: type[Exception]) -> None:
        super().__init__()
        self.silent = silent

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the first line on such an error to its message, and drop the others."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, self.silent):
            return False
        debugging = logging.getLogger(LOGGERS[0]).getEffectiveLevel() <= logging.DEBUG
        if not isinstance(error, LevelMatchError | OSError) or debugging:
            return True
        if not record.getMessage().startswith("Encountered exception"):
            return False  # that of the process, which says the same
        record.msg, record.args, record.exc_info = f"{type(error).__name__}: {error}", (), None
        return True


# -- the terminal ------------------------------------------------------------------------------------------------------
class ConsoleHandler(logging.Handler):
    """Writes log lines to the console of the progress bars, so that they do not disturb each other."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, with its level if that is a warning or worse."""
        try:
            line = lines_of(self.format(record))
            if record.levelno >= logging.WARNING:
                line = f"{record.levelname.lower()}: {line}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        except Exception:  # noqa: BLE001 - like every logging handler: a log line must not stop the work
            self.handleError(record)


# -- what is told again ------------------------------------------------------------------------------------------------
class _Hearing(logging.Handler):
    """Notes warnings."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Note one."""
        if not any(hasattr(record, name) for name in ONCE):
            self._lines.append(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def hearing(lines: list[str]) -> Iterator[None]:
    """Add all warnings of the context to a list, with their level in front.

    To be used where something shows them: Python itself shows a line that no handler takes.
    """
    handler = _Hearing(lines)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
