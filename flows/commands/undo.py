"""`levelmatch undo`: the inputs of an output, restored from it."""

from pathlib import Path

import cloup

from flows.commands.console import clean_errors, end_restored
from flows.commands.options import examples, finished_argument, output_option


@cloup.command(
    short_help="Give the inputs of an output back.", epilog=examples("levelmatch undo matched --output as_they_came")
)
@finished_argument
@output_option("Folder that takes the inputs.", "BACK")
def undo(folder: Path, output: Path) -> None:
    """Give the inputs of the finished output DIR back, from DIR alone, to within float rounding.

    What was subtracted is added and the LVL cards go. An image that was stored as integers stays floating point, and
    pixels that were masked because nothing tied them to the rest stay masked (and are named).

    Exit code: 0 all is given back; 3 something is not; 2 DIR is no finished output, or BACK cannot be used.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.undo import undo as restore_inputs  # noqa: PLC0415 - help comes at once

        found = restore_inputs(folder, output)
    end_restored(found, output)
