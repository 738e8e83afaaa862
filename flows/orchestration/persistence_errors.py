"""Results of task runs that could not be stored, which Prefect only reports in its log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER, _SAID = "prefect.task_runs", "committing transaction"
"""Logger and text of Prefect's message."""


class _Listener(logging.Handler):
    """Collects the errors that Prefect logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect the error of a log record."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _SAID in record.getMessage():
            self.heard.append(error)


@contextmanager
def unstored() -> Iterator[list[BaseException]]:
    """Collect the errors because of which results were not stored during the context; a later run would miss them."""
    listener = _Listener()
    logger = logging.getLogger(_LOGGER)
    logger.addHandler(listener)
    try:
        yield listener.heard
    finally:
        logger.removeHandler(listener)
