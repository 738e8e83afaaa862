"""Results of task runs that could not be stored: Prefect says so in its log, and goes on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER, _SAID = "prefect.task_runs", "committing transaction"
"""Where Prefect says it, and how."""


class _Listener(logging.Handler):
    """Keeps the errors that Prefect tells of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error of a line."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _SAID in record.getMessage():
            self.heard.append(error)


@contextmanager
def unstored() -> Iterator[list[BaseException]]:
    """Collect, while the context lasts, the errors for which results were not stored: a later run would miss them."""
    listener = _Listener()
    logger = logging.getLogger(_LOGGER)
    logger.addHandler(listener)
    try:
        yield listener.heard
    finally:
        logger.removeHandler(listener)
