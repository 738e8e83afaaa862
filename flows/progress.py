"""Display of the progress: a bar on a terminal, plain log lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from levelmatch_core.process.log_context import logger_of
from levelmatch_core.text.plain_text import one_line

logger = logger_of(__name__)

Advance = Callable[[int], None]
"""Reports that this many more jobs are done."""


class Reporter(Protocol):
    """Shows the progress of each step."""

    def step(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Show the progress of a step of `total` jobs during the context."""
        ...


class LineReporter:
    """One log line per step: for files, schedulers, and Prefect's run log."""

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Report the end of the step and its duration."""
        started = time.monotonic()
        yield lambda _count: None
        logger.info("%s: %d done in %.1f s", title, total, time.monotonic() - started)


class BarReporter:
    """One progress bar per step, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Show the bar, and remove it at the end."""
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task(one_line(title), total=total)
            yield lambda count: progress.advance(bar, count)


REPORTER: ContextVar[Reporter] = ContextVar("reporter", default=LineReporter())  # noqa: B039 - it has no state
"""The reporter that shows the progress; the caller of a flow in this process may set another."""
