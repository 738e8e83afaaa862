"""`levelmatch explain`: how good an output is, and why, in words."""

from pathlib import Path

import click
import cloup

from flows.commands.console import clean_errors
from flows.commands.options import examples, finished_argument


@cloup.command(
    short_help="Tell in words how good an output is, and why.", epilog=examples("levelmatch explain matched")
)
@finished_argument
def explain(folder: Path) -> None:
    """Tell in words what the output folder DIR holds.

    Why this reference, why pairs were rejected, how good the result is, and what to try.
    """
    with clean_errors():
        from levelmatch_core.products.explain import explain as tell  # noqa: PLC0415 - help comes at once

        click.echo(tell(folder))
