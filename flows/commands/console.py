"""Console output of all commands: exit codes, errors in one line, the summary of a run."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from levelmatch_core.errors import LevelMatchError, NoInputError, UsageError
from levelmatch_core.products.report import REPORT
from levelmatch_core.text.plain_text import lines_of, one_line

if TYPE_CHECKING:
    from flows.summary import Summary
    from levelmatch_core.products.corrected.undo import Restored

OK, TROUBLE, BAD_USAGE, UNFINISHED, BELOW = 0, 1, 2, 3, 4
"""Exit codes: all well; anything else; bad usage with nothing written; finished, but some untied or failed; finished,
but with a lower grade than was required."""


def say(text: str, *, err: bool = False) -> None:
    """Print one line, in which no text from a file hides what it does to a terminal."""
    click.echo(one_line(text), err=err)


def say_lines(text: str) -> None:
    """Print several lines in the same way."""
    click.echo(lines_of(text))


@contextmanager
def clean_errors(log_level: str | None = None) -> Iterator[None]:
    """Turn expected errors into one line and an exit code."""
    try:
        yield
    except LevelMatchError as error:
        if log_level == "debug":
            raise
        shown = lines_of if isinstance(error, NoInputError) else one_line  # a line for each of the first files
        click.echo(shown(f"levelmatch: {error}"), err=True)
        sys.exit(BAD_USAGE if isinstance(error, UsageError) else TROUBLE)
    except OSError as error:  # of the disk: a traceback would not explain it better
        if log_level == "debug":
            raise
        say(f"levelmatch: {error.filename or 'a file'}: {error.strerror or error}; fix that, and run again", err=True)
        sys.exit(TROUBLE)


def report(summary: "Summary") -> None:
    """Print the summary of a run: the verdict on stdout, problems on stderr."""
    for problem in summary.problems:
        say(f"{problem.name}: {problem.status}: {problem.reason}", err=True)
    for line in lines_of_result(summary):
        say(line)
    if summary.tracking is not None and summary.tracking.lost:
        say(summary.tracking.lost, err=True)


def lines_of_result(summary: "Summary") -> list[str]:
    """Return what a run says of its result."""
    lines = [
        f"grade:   {summary.told}",
        summary.verdict,
        "exposures: " + ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count),
    ]
    lines += [
        f"{each.field}: residual rms {each.before:.5g} before, {each.left}, in "
        f"{each.unit or 'the data unit'}, over {each.used} pairs ({sum(each.rejected.values())} rejected)"
        for each in summary.residuals
    ]
    lines.append(f"outputs: {summary.output}{'' if summary.changed else ' (nothing changed)'}")
    if (Path(summary.output) / REPORT).is_file():
        lines.append(f"report:  {Path(summary.output) / REPORT}")
    lines.append(f"in words: levelmatch explain {shlex.quote(str(summary.output))}")
    tracking = summary.tracking
    if tracking is not None and not tracking.lost:
        lines.append(f"MLflow:  run {tracking.run_id}{'' if tracking.new else ' (checked again)'} in {tracking.store}")
    return lines


def end_restored(found: "Restored", output: Path) -> None:
    """Print which files were restored or corrected, and exit with a code for whether all were."""
    for failure in found.failures:
        say(f"{failure.name}: failed: {failure.reason}", err=True)
    for note in found.notes:
        say(note, err=True)
    say(f"{len(found.files)} files are in {output}" + (f", {len(found.failures)} failed" * bool(found.failures)))
    sys.exit(OK if found.complete else UNFINISHED)
