"""`levelmatch verify`: check that an output is unchanged since its run."""

import sys
from pathlib import Path

import cloup

from flows.commands.console import OK, UNFINISHED, clean_errors, say
from flows.commands.options import examples, finished_argument


@cloup.command(short_help="Check an output against its run.json.", epilog=examples("levelmatch verify matched"))
@finished_argument
def verify(folder: Path) -> None:
    """Check the finished output DIR against its run.json: every file's digest, the tables, the header cards.

    Exit code: 0 no mismatch; 3 mismatches, which are listed; 2 DIR is not a finished output.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.verify import verify as check  # noqa: PLC0415 - slow to import

        found = check(folder)
        for mismatch in found.mismatches:
            say(f"{mismatch.file}: {mismatch.what}", err=True)
    good = not found.mismatches
    verdict = "all as in run.json" if good else f"{len(found.mismatches)} mismatches"
    say(f"{folder}: {found.files} files, {found.images} corrected images: {verdict}")
    sys.exit(OK if good else UNFINISHED)
