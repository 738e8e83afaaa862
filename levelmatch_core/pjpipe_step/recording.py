"""The record of a run in MLflow, which a plug-in writes: the core itself knows no tracker."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import cast

from levelmatch_core.errors import UsageError
from levelmatch_core.pipeline import RunResult

GROUP = "levelmatch.recorders"
"""Entry points that hold a function (result, send): keep the record of a run, and send it where asked."""


def record_run(result: RunResult, *, send: bool) -> None:
    """Keep the record of a run for `levelmatch log`, and send it to MLflow where asked.

    Raises
    ------
    UsageError
        If it is to be sent, and the package was installed without its recorder.
    """
    found = next(iter(entry_points(group=GROUP)), None)
    if found is not None:
        cast("Callable[[RunResult, bool], None]", found.load())(result, send)
    elif send:
        message = f"tracking=True: no entry point {GROUP!r} is installed; install levelmatch again (pip install .)"
        raise UsageError(message)
