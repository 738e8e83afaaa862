"""`levelmatch undo`: restore the inputs from an output."""

from pathlib import Path

import cloup

from flows.commands.console import clean_errors, end_restored
from flows.commands.options import examples, finished_argument, output_option


@cloup.command(
    short_help="Restore the inputs of an output.", epilog=examples("levelmatch undo matched --output restored")
)
@finished_argument
@output_option("Folder for the inputs.", "BACK")
def undo(folder: Path, output: Path) -> None:
    """Restore the inputs of the finished output DIR, from DIR alone, to within rounding errors.

    The corrections are added again, integers and scaled values come back as they were stored, and the LVL cards are
    removed. What cannot be restored is reported: pixels that were masked because nothing connected them to the rest,
    and the type of integers that were compressed.

    Exit code: 0 everything is restored; 3 something is not; 2 DIR is not a finished output, or BACK cannot be used.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.undo import undo as restore_inputs  # noqa: PLC0415 - slow to import

        found = restore_inputs(folder, output)
    end_restored(found, output)
