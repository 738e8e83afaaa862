"""Log lines that say where they were written: the tile and the stage, in front of the message.

A job sets its place while it is done (:func:`log_context`); every line that a logger of :func:`logger_of` takes
meanwhile, in that thread or task, begins with it, whatever handler shows it: `[jw01234001001_02101, dithers solve]
...`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLACE: ContextVar[tuple[str, str] | None] = ContextVar("place", default=None)


class _Placing(logging.Filter):
    """Puts the place in front of a message, and gives the record `tile` and `stage` for handlers that want them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take every record."""
        place = _PLACE.get()
        if place is not None:
            put_in_front(record, *place)
        return True


def put_in_front(record: logging.LogRecord, tile: str, stage: str) -> None:
    """Let a record begin with its tile and stage."""
    record.msg, record.args = f"[{tile}, {stage}] {record.getMessage()}", ()
    record.tile, record.stage = tile, stage


def logger_of(name: str) -> logging.Logger:
    """Return the logger of a module, whose lines say where they were written."""
    found = logging.getLogger(name)
    if not any(isinstance(each, _Placing) for each in found.filters):
        found.addFilter(_Placing())
    return found


@contextmanager
def log_context(tile: str, stage: str) -> Iterator[None]:
    """Let lines say, while the context lasts, on which tile (or field) and at which stage they were written."""
    before = _PLACE.set((tile, stage))
    try:
        yield
    finally:
        _PLACE.reset(before)
