"""How far the work is: a bar on a terminal, plain log lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]
"""Tells that so many more jobs are done."""


class Reporter(Protocol):
    """Shows how far each step is."""

    def step(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Show a step of `total` jobs while the context lasts."""
        ...


class LineReporter:
    """One line a step, through the log: in a file, under a scheduler, in Prefect's run log."""

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Tell the step's end and how long it took."""
        started = time.monotonic()
        yield lambda _count: None
        logger.info("%s: %d done in %.1f s", title, total, time.monotonic() - started)


class BarReporter:
    """A bar a step, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Show the bar, and take it away at the end."""
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task(title, total=total)
            yield lambda count: progress.advance(bar, count)


REPORTER: ContextVar[Reporter] = ContextVar("reporter", default=LineReporter())  # noqa: B039 - it has no state
"""Who shows progress: whoever starts a flow in this process may set another."""


class ConsoleHandler(logging.Handler):
    """Log lines on the console that the bars live on, so that neither tears the other."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, with its level where that is a warning or worse."""
        try:
            line = self.format(record)
            if record.levelno >= logging.WARNING:
                line = f"{record.levelname.lower()}: {line}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        except Exception:  # noqa: BLE001 - as every logging handler: a log line must not end the work
            self.handleError(record)
