"""Combination of the log lines of a batch of tiles into one entry of Prefect's run log.

Prefect sends each entry to its server separately. For thousands of tiles this keeps both busy, and nobody reads pages
of lines on tiles without problems. Lines above the level info remain separate entries and are sent immediately; other
handlers, such as that of the terminal, receive each line when it is written.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby

from prefect.logging.handlers import APILogHandler

from flows.home import LOGGERS

MOST_LINES = 500
"""Largest number of lines per entry: Prefect accepts a million characters."""

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
