"""`levelmatch prune`: corrected files whose input is missing, removed from an output."""

from pathlib import Path

import cloup

from flows.commands.console import clean_errors, say
from flows.commands.options import examples, finished_argument


@cloup.command(
    short_help="Remove corrected files whose input is missing now.",
    epilog=examples("levelmatch undo matched --output as_they_came", "levelmatch prune matched"),
)
@finished_argument
def prune(folder: Path) -> None:
    """Remove the stale files of the finished output DIR: corrected by earlier runs, of input that later ones lacked.

    They may be the only copy of that input: `levelmatch undo` gives it back, and not after this.
    """
    with clean_errors():
        from levelmatch_core.products.stale import prune as remove_stale  # noqa: PLC0415 - slow to import

        gone = remove_stale(folder)
        for product in gone:
            say(f"{'removed' if product.kept else 'off the record'}: {product.name}")
            if product.edited:
                say(f"yours, and not touched: {product.edited}")
        say(f"{len(gone)} stale files were removed from {folder}")
