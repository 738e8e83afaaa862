"""`levelmatch settings`: list the settings."""

import click
import cloup

from flows.commands.console import clean_errors
from flows.commands.options import complete_setting_name, examples


@cloup.command(
    short_help="List the settings, or describe some of them.",
    epilog=examples("levelmatch settings", "levelmatch settings rms_sig_limit statistic"),
)
@cloup.argument(
    "names",
    nargs=-1,
    metavar="[NAME]...",
    shell_complete=complete_setting_name,
    help="Only these; a part of a name will do.",
)
def settings(names: tuple[str, ...]) -> None:
    """List the settings with their defaults, and where the preset `best` differs, or tell all of those named.

    Settings are given in a TOML file (--config) or one by one (--set).
    """
    with clean_errors():
        from flows.settings_help import described  # noqa: PLC0415 - slow to import

        for field in described(names):
            best = f"    (best: {field.best})" if field.best != field.default else ""
            click.echo(f"{click.style(field.name, bold=True)} = {field.default}{best}    {field.choices}".rstrip())
            if names:
                click.echo(click.wrap_text(field.meaning, 100, "    ", "    "))
