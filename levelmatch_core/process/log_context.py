"""Log lines: their context, that is the tile and the stage in front of the message, and how lines are collected.

A job sets its context while it is running (:func:`log_context`). All lines of loggers from :func:`logger_of` in that
thread or task then start with it, for every handler: `[jw01234001001_02101, dithers solve] ...`.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from levelmatch_core.text.plain_text import lines_of, one_line

_PLACE: ContextVar[tuple[str, str] | None] = ContextVar("place", default=None)


class _WithContext(logging.Filter):
    """Puts the place in front of a message, and gives the record `tile` and `stage` for handlers that want them.

    A message is one line, in which no text from a file hides what it does to a terminal.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Accept every record."""
        place = _PLACE.get()
        if place is not None:
            put_in_front(record, *place)
        make_plain(record)
        return True


def make_plain(record: logging.LogRecord) -> None:
    """Let a record be one line that hides nothing, whoever shows it: names and headers come from files."""
    record.msg, record.args = one_line(record.getMessage()), ()
    if record.exc_info and not record.exc_text:
        record.exc_text = lines_of(logging.Formatter().formatException(record.exc_info))


def put_in_front(record: logging.LogRecord, tile: str, stage: str) -> None:
    """Prepend tile and stage to the message of a record."""
    record.msg, record.args = f"[{tile}, {stage}] {record.getMessage()}", ()
    record.tile, record.stage = tile, stage


def logger_of(name: str) -> logging.Logger:
    """Return the logger of a module, whose lines start with their context."""
    found = logging.getLogger(name)
    if not any(isinstance(each, _WithContext) for each in found.filters):
        found.addFilter(_WithContext())
    return found


@contextmanager
def log_context(tile: str, stage: str) -> Iterator[None]:
    """Set the tile (or field) and the stage of log lines during the context."""
    before = _PLACE.set((tile, stage))
    try:
        yield
    finally:
        _PLACE.reset(before)


class Without(logging.Filter):
    """Drops the lines that contain a text.

    Parameters
    ----------
    text
        The text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        """Accept a record without the text."""
        return self._text not in record.getMessage()


class _Collecting(logging.Handler):
    """Collects log records: of one thread, or of all."""

    def __init__(self, level: int, thread: int | None) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []
        self._thread = thread

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a record."""
        if self._thread in (None, record.thread):
            self.records.append(record)


@contextmanager
def collected(name: str, level: int, *, all_threads: bool = False) -> Iterator[list[logging.LogRecord]]:
    """Collect the records that a logger, or one below it, is given during the context.

    Parameters
    ----------
    name
        The logger.
    level
        The lowest level to collect.
    all_threads
        Whether to collect from all threads, not only from the one that calls.
    """
    handler = _Collecting(level, None if all_threads else threading.get_ident())
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
