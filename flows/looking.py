"""Commands that look and write nothing: the plan of a run, and the story of an output."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli import clean_errors

if TYPE_CHECKING:
    from levelmatch_core.pipeline import Request


def show_plan(request: "Request") -> None:
    """Print what a run would do."""
    from levelmatch_core.plan import describe, plan_run  # noqa: PLC0415 - help and version come at once

    click.echo(describe(plan_run(request)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def explain(folder: Path) -> None:
    """Tell in words what the output folder DIR holds.

    Why this reference, why pairs were rejected, how good the result is, and what to try.
    """
    with clean_errors():
        from levelmatch_core.products.explain import explain as tell  # noqa: PLC0415 - as above

        click.echo(tell(folder))
