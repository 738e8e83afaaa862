"""The command `levelmatch`. Imports are made where they are needed: help and version come at once."""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
import cloup

from flows.commands.console import OK, UNFINISHED, clean_errors, report
from flows.commands.options import (
    examples,
    inputs_argument,
    log_level_option,
    matching_options,
    output_option,
    type_of_path,
)
from flows.garbage_collection import collect_rarely, end_at_once
from levelmatch_core.errors import UsageError

if TYPE_CHECKING:
    from levelmatch_core.pipeline import Request


class _Lazy(cloup.Group):
    """A group whose further commands are imported when they are called, and whose help has sections."""

    further: ClassVar[dict[str, str]] = {
        "deploy": "flows.commands.deploy",
        "explain": "flows.commands.looking",
        "log": "flows.commands.log",
        "settings": "flows.commands.looking",
        "sweep": "flows.commands.sweep",
        **{name: f"flows.{name}" for name in ("cache", "completion", "ui")},
        **dict.fromkeys(("verify", "undo", "apply"), "flows.commands.undoing"),
    }
    """Command -> the module that holds it, under the same name."""
    sections: ClassVar[dict[str, tuple[str, ...]]] = {
        "Match": ("run", "sweep", "settings"),
        "Look at a result": ("explain", "verify", "ui"),
        "Take it elsewhere": ("undo", "apply", "log"),
        "Try it": ("demo", "simulate"),
    }
    """Titles of the help, and their commands; what is in none comes last."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.further])

    def list_sections(self, ctx: click.Context, include_default_section: bool = True) -> list[cloup.Section]:
        titles = dict(self.sections)
        if include_default_section:
            placed = {name for names in self.sections.values() for name in names}
            titles["Keep it running"] = tuple(name for name in self.list_commands(ctx) if name not in placed)
        return [
            cloup.Section(title, {name: command for name in names if (command := self.get_command(ctx, name))})
            for title, names in titles.items()
        ]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.further:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(self.further[cmd_name]), cmd_name)
        return command


@cloup.group(
    cls=_Lazy,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "formatter_settings": cloup.HelpFormatter.settings(max_width=110),
    },
    epilog=examples("levelmatch demo", "levelmatch run FOLDER --output OUT", "levelmatch explain OUT"),
)
@click.version_option(package_name="levelmatch")
def main() -> None:
    """Match the sky levels of overlapping astronomical exposures."""
    collect_rarely()
    end_at_once()


@main.command(
    short_help="Match exposures, and write them corrected.",
    epilog=examples(
        "levelmatch run cal/ --output matched",
        "levelmatch run cal/ --output matched --dry-run",
        "levelmatch run cal/ --output matched --set recombine_lyot=true --set fit_type_mosaic_tiles=level+slope",
        "levelmatch run cal/ --output matched --config m33.toml --program m33 --band F770W --workers 4",
        "levelmatch run survey/ --output matched --group-by 'field_[0-9]+'",
    ),
)
@inputs_argument
@output_option("Folder that takes the results.")
@matching_options
@cloup.option("--dry-run", is_flag=True, help="Show tiles, fields, pairs, references and cost; write nothing.")
def run(inputs: tuple[Path, ...], output: Path, log_level: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Match the exposures of INPUT (files, or folders of FITS files) and write the results to DIR.

    Exit code: 0 all matched, reference or alone; 3 finished, but some are untied or failed; 2 bad usage, settings or
    DIR, nothing written; 1 anything else.
    """
    with clean_errors(log_level):
        if options["dry_run"]:
            from flows.commands.looking import show_plan  # noqa: PLC0415 - as the module says

            return show_plan(_request(inputs, output, options))
        from flows import home  # noqa: PLC0415 - as the module says
        from flows.orchestration import ephemeral_server  # noqa: PLC0415 - as the module says

        home.set_environment(quiet=True)
        server = ephemeral_server.start()  # it takes as long as all that follows
        from flows.commands.launch import launch  # noqa: PLC0415

        summary = launch(_request(inputs, output, options), log_level, server)
        report(summary)
    sys.exit(OK if summary.complete else UNFINISHED)


@main.command(
    short_help="Write an observing program with known levels.",
    epilog=examples("levelmatch simulate sim --tiles 2x2 --size 256", "levelmatch simulate sim --lyot --planes"),
)
@cloup.argument("folder", type=type_of_path, metavar="DIR", help="Folder that takes the program.")
@cloup.option("--instrument", type=click.Choice(["miri", "nircam_short", "generic"]), default="miri", show_default=True)
@cloup.option("--tiles", default="3x3", show_default=True, metavar="NXxNY", help="Tiles along x and y.")
@cloup.option("--dithers", type=int, default=4, show_default=True, help="Exposures a tile.")
@cloup.option("--size", type=int, default=512, show_default=True, help="Rows of a detector image.")
@cloup.option("--lyot", is_flag=True, help="MIRI: give the Lyot window levels of its own.")
@cloup.option("--planes", is_flag=True, help="Add planes, not levels only.")
@cloup.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn at random.")
def simulate(folder: Path, tiles: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Write an observing program with known levels into DIR, and the truth beside it."""
    with clean_errors():
        from levelmatch_core.simulate import SimulatedProgram  # noqa: PLC0415
        from levelmatch_core.simulate import simulate as write  # noqa: PLC0415

        truth = write(folder, SimulatedProgram.of(tiles=_tiles(tiles), **options))
        click.echo(f"{len({each.file for each in truth.exposures})} files and truth.json are in {folder}")


@main.command(short_help="Simulate, match, and see known levels come back.")
@cloup.option(
    "--output",
    type=type_of_path,
    default=Path("levelmatch-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder that takes input and results.",
)
@log_level_option
def demo(output: Path, log_level: str | None) -> None:
    """Simulate a MIRI program, match it, and show how well the known levels come back."""
    with clean_errors(log_level):
        from flows.commands.demo import run_demo  # noqa: PLC0415

        summary = run_demo(output, log_level)
    sys.exit(OK if summary.complete else UNFINISHED)


def _request(inputs: tuple[Path, ...], output: Path, options: dict[str, Any]) -> "Request":
    from levelmatch_core.pipeline import Request  # noqa: PLC0415
    from levelmatch_core.settings import MatchSettings  # noqa: PLC0415

    settings = MatchSettings.load(
        options["config"], options["assignments"], procs=options["workers"], band=options["band"]
    )
    return Request(
        inputs=tuple(path.absolute() for path in inputs),
        output=output.absolute(),
        settings=settings,
        program=options["program"],
        recursive=options["recursive"],
        group_by=options["group_by"],
    )


def _tiles(text: str) -> tuple[int, int]:
    across, sign, up = text.lower().partition("x")
    if not (sign and across.isdigit() and up.isdigit()):
        message = f"--tiles {text!r}: expected two numbers such as 3x3"
        raise UsageError(message)
    return int(across), int(up)
