"""Commands that look and write nothing: the plan of a run, the story of an output, the settings there are."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from flows.commands.console import clean_errors
from flows.commands.options import complete_setting_name, examples, type_of_path

if TYPE_CHECKING:
    from levelmatch_core.pipeline import Request


def show_plan(request: "Request") -> None:
    """Print what a run would do."""
    from levelmatch_core.plan import describe, plan_run  # noqa: PLC0415 - help and version come at once

    click.echo(describe(plan_run(request)))


@cloup.command(
    short_help="Tell in words how good an output is, and why.", epilog=examples("levelmatch explain matched")
)
@cloup.argument("folder", type=type_of_path, metavar="DIR", help="The output of a finished run.")
def explain(folder: Path) -> None:
    """Tell in words what the output folder DIR holds.

    Why this reference, why pairs were rejected, how good the result is, and what to try.
    """
    with clean_errors():
        from levelmatch_core.products.explain import explain as tell  # noqa: PLC0415 - as above

        click.echo(tell(folder))


@cloup.command(
    short_help="List the settings, or tell all of some.",
    epilog=examples("levelmatch settings", "levelmatch settings rms_sig_limit statistic"),
)
@cloup.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_setting_name, help="Only these.")
def settings(names: tuple[str, ...]) -> None:
    """List the settings with their defaults, or tell all of those named.

    They go into a TOML file (--config) or come one by one (--set).
    """
    with clean_errors():
        from levelmatch_core.settings import described  # noqa: PLC0415 - as above

        for field in described(names):
            click.echo(f"{click.style(field.name, bold=True)} = {field.default}    {field.choices}".rstrip())
            if names:
                click.echo(click.wrap_text(field.meaning, 100, "    ", "    "))
