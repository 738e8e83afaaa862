"""Common parts of the commands: arguments, grouped options, examples, and shell completion."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from levelmatch_core.images.missing import LocalInputs
    from levelmatch_core.settings import MatchSettings


class _Path(click.Path):
    """A path; none of no letters, such as a shell's variable without a value, which would be the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        if value in {"", b""}:
            self.fail(
                "a path without a letter, as of a variable without a value; the current folder is '.'", param, ctx
            )
        return super().convert(value, param, ctx)


type_of_path = _Path(path_type=Path)
Decorator = Callable[[Any], Any]


def complete_setting_name(_context: click.Context, _parameter: click.Parameter, typed: str) -> "list[CompletionItem]":
    """Complete the name of a setting."""
    return _matching(typed, "")


def _complete_assignment(_context: click.Context, _option: click.Parameter, typed: str) -> "list[CompletionItem]":
    """Complete `NAME=`, and `NAME=VALUE` if a setting has few possible values."""
    return _matching(typed, "=")


def _matching(typed: str, sign: str) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only while completing

    from flows.settings_help import described, few_values  # noqa: PLC0415
    from levelmatch_core.settings import MatchSettings  # noqa: PLC0415

    name, equals, _ = typed.partition("=")
    if not equals:
        found = [CompletionItem(each.name + sign, help=each.meaning) for each in described()]
    else:
        values = few_values(name) if name in MatchSettings.model_fields else ()
        found = [CompletionItem(f"{name}={value}") for value in values]
    return [item for item in found if item.value.startswith(typed)]


finished_argument: Decorator = cloup.argument(
    "folder", type=type_of_path, metavar="DIR", help="The output of a finished run."
)


class _Input(_Path):
    """A path, or an address, of which a path would take a slash."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        return value if "://" in str(value) else super().convert(value, param, ctx)


inputs_argument: Decorator = cloup.argument(
    "inputs",
    nargs=-1,
    required=True,
    type=_Input(path_type=Path),
    metavar="INPUT...",
    help="FITS files, folders of them (.fits, .fit, .fts, also .gz, .fz, .bz2, .Z), JWST associations (.json), or "
    "addresses of files and folders (s3://, gs://, https://; with the extra `remote`).",
)


def located(inputs: Sequence[Path | str], *, recursive: bool) -> "LocalInputs":
    """Return inputs as absolute paths, with those fetched that lie elsewhere, as far as their stores give them."""
    from levelmatch_core.images.missing import LocalInputs  # noqa: PLC0415 - slow to import

    if not any(isinstance(entry, str) for entry in inputs):
        return LocalInputs(tuple(Path(entry).absolute() for entry in inputs))
    from flows.home import prepare_environment  # noqa: PLC0415 - only where needed
    from levelmatch_core.images.storage.remote import local_inputs  # noqa: PLC0415
    from levelmatch_core.sky.store import CutoutStore  # noqa: PLC0415

    home = prepare_environment(quiet=True)
    click.get_current_context().with_resource(CutoutStore(home.cutouts).in_use())  # what is fetched stays until the end
    given = [entry if isinstance(entry, str) else entry.absolute() for entry in inputs]
    return local_inputs(given, home.inputs.absolute(), recursive=recursive)


def output_option(text: str, metavar: str = "DIR") -> Decorator:
    """Return the option for the folder of results."""
    return cloup.option_group(
        "Results", cloup.option("--output", "-o", required=True, type=type_of_path, metavar=metavar, help=text)
    )


recursive_option: Decorator = cloup.option("--recursive", is_flag=True, help="Search folders within folders.")

_which_input = cloup.option_group(
    "Which input",
    cloup.option("--band", metavar="NAME", help="Only exposures of this filter, such as F770W."),
    cloup.option(
        "--group-by",
        metavar="REGEX|TABLE",
        help="Which files form a tile: a regular expression whose match is its name, or a table of file and tile.",
    ),
    recursive_option,
)

_settings = cloup.option_group(
    "Settings (`levelmatch settings` lists them)",
    cloup.option(
        "--preset",
        type=click.Choice(["best", "pjpipe"]),
        help="Values of settings that are not given; may also be set in a settings file. [default: best]",
    ),
    cloup.option("--config", type=type_of_path, metavar="FILE.toml", help="Settings, as a TOML file."),
    cloup.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="NAME=VALUE",
        shell_complete=_complete_assignment,
        help="One setting; takes precedence over --config. May be repeated.",
    ),
)

_run = cloup.option_group(
    "How to run",
    cloup.option(
        "--program",
        default="levelmatch",
        show_default=True,
        metavar="NAME",
        help="Observing program; the name of the MLflow experiment.",
    ),
    cloup.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers (the setting procs)."),
)

log_level_option: Decorator = cloup.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Level of the lines shown on stderr. [default: warning on a terminal, else info]",
)


def matching_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of all commands that match exposures: input, settings, and how to run."""
    for decorate in (log_level_option, _run, _settings, _which_input):
        command = decorate(command)
    return command


def settings_of(options: Mapping[str, Any]) -> "MatchSettings":
    """Return the settings that the options of :func:`matching_options` ask for.

    Raises
    ------
    SettingsError
        If one is wrong.
    """
    from levelmatch_core.settings import MatchSettings  # noqa: PLC0415 - slow to import

    return MatchSettings.load(
        options["config"],
        options["assignments"],
        procs=options["workers"],
        band=options["band"],
        preset=options["preset"],
    )


def examples(*lines: str) -> str:
    """Return an epilog in which lines are not wrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
