"""`levelmatch apply`: apply a known solution to another reduction."""

from pathlib import Path

import cloup

from flows.commands.console import clean_errors, end_restored
from flows.commands.options import examples, inputs_argument, located, output_option, recursive_option, type_of_path


@cloup.command(
    short_help="Apply a known solution to another reduction.",
    epilog=examples("levelmatch apply matched/corrections.ecsv reduced_again/ --output matched_again"),
)
@cloup.argument("table", type=type_of_path, metavar="corrections.ecsv", help="The table of a finished run.")
@inputs_argument
@output_option("Folder for the corrected files.")
@recursive_option
def apply(table: Path, inputs: tuple[Path, ...], output: Path, recursive: bool) -> None:
    """Subtract a known solution from another reduction of the same exposures, which are identified by file name.

    Exit code: 0 all are corrected; 3 some are not, such as those missing in the table; 2 bad usage; 1 none is
    corrected.
    """
    with clean_errors():
        from levelmatch_core.products.corrected.reapply import apply_solution  # noqa: PLC0415 - slow to import

        given = located(inputs, recursive=recursive)
        found = apply_solution(table, given.paths, output, recursive=recursive, missing=given.missing)
    end_restored(found, output)
