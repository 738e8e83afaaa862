"""`levelmatch verify`: whether an output is as its run left it."""

import sys
from pathlib import Path

import click
import cloup

from flows.commands.console import OK, UNFINISHED, clean_errors
from flows.commands.options import examples, finished_argument


@cloup.command(short_help="Check an output against its run.json.", epilog=examples("levelmatch verify matched"))
@finished_argument
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
