"""The commands that look at, take back or repeat a finished run: no engine, no tracking."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from flows.commands.console import OK, UNFINISHED, clean_errors
from flows.commands.options import examples, inputs_argument, output_option, recursive_option, type_of_path

if TYPE_CHECKING:
    from levelmatch_core.products.corrected.undo import GivenBack


_finished = cloup.argument("folder", type=type_of_path, metavar="DIR", help="The output of a finished run.")


@cloup.command(short_help="Check an output against its run.json.", epilog=examples("levelmatch verify matched"))
@_finished
def verify(folder: Path) -> None:
    """Check the finished output DIR against its run.json: every file's digest, the tables, the header cards.

    Exit code: 0 all is as it was written; 3 not so, and every mismatch is named; 2 DIR is no finished output.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.verify import verify as check  # noqa: PLC0415 - help comes at once

        found = check(folder)
        for mismatch in found.mismatches:
            click.echo(f"{mismatch.file}: {mismatch.what}", err=True)
    good = not found.mismatches
    verdict = "all as run.json has it" if good else f"{len(found.mismatches)} mismatches"
    click.echo(f"{folder}: {found.files} files, {found.images} corrected images: {verdict}")
    sys.exit(OK if good else UNFINISHED)


@cloup.command(
    short_help="Give the inputs of an output back.", epilog=examples("levelmatch undo matched --output as_they_came")
)
@_finished
@output_option("Folder that takes the inputs.", "BACK")
def undo(folder: Path, output: Path) -> None:
    """Give the inputs of the finished output DIR back, from DIR alone, to within float rounding.

    What was subtracted is added and the LVL cards go. An image that was stored as integers stays floating point, and
    pixels that were masked because nothing tied them to the rest stay masked (and are named).

    Exit code: 0 all is given back; 3 something is not; 2 DIR is no finished output, or BACK cannot be used.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.undo import undo as give_back  # noqa: PLC0415 - help comes at once

        found = give_back(folder, output)
    _end(found, output)


@cloup.command(
    short_help="Put a known solution on another reduction.",
    epilog=examples("levelmatch apply matched/corrections.ecsv reduced_again/ --output matched_again"),
)
@cloup.argument("table", type=type_of_path, metavar="corrections.ecsv", help="The table of a finished run.")
@inputs_argument
@output_option("Folder that takes the corrected files.")
@recursive_option
def apply(table: Path, inputs: tuple[Path, ...], output: Path, recursive: bool) -> None:
    """Subtract a known solution from another reduction of the same exposures, known by their files' names.

    Exit code: 0 all are corrected; 3 some are not, such as those that the table does not have; 2 bad usage; 1 none is.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.reapply import apply_solution  # noqa: PLC0415 - help comes at once

        found = apply_solution(table, inputs, output, recursive=recursive)
    _end(found, output)


def _end(found: "GivenBack", output: Path) -> None:
    for failure in found.failures:
        click.echo(f"{failure.name}: failed: {failure.reason}", err=True)
    for note in found.notes:
        click.echo(note, err=True)
    click.echo(f"{len(found.files)} files are in {output}" + (f", {len(found.failures)} failed" * bool(found.failures)))
    sys.exit(OK if found.complete else UNFINISHED)
