"""`levelmatch explain`: describe the quality of an output, and the reasons, in words."""

from pathlib import Path

import cloup

from flows.commands.console import clean_errors, say_lines
from flows.commands.options import examples, finished_argument


@cloup.command(
    short_help="Describe in words how good an output is, and why.", epilog=examples("levelmatch explain matched")
)
@finished_argument
def explain(folder: Path) -> None:
    """Describe the output folder DIR in words.

    Why this reference was chosen, why pairs were rejected, how good the result is, and what to try.
    """
    with clean_errors():
        from levelmatch_core.products.explain import explain as tell  # noqa: PLC0415 - slow to import

        say_lines(tell(folder))
