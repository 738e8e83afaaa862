"""The command `levelmatch`. Imports are made where they are needed: help and version come at once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from levelmatch_core.errors import LevelMatchError, UsageError

if TYPE_CHECKING:
    from flows.summary import Summary
    from levelmatch_core.pipeline import Request

OK, TROUBLE, BAD_USAGE, UNFINISHED = 0, 1, 2, 3
"""Exit codes: all well; anything else; bad usage with nothing written; finished, but some untied or failed."""

_LEVELS = click.Choice(["debug", "info", "warning", "error"])
_FOLDER = click.Path(path_type=Path)


class _Lazy(click.Group):
    """A group whose further commands are imported when they are called."""

    further: ClassVar[dict[str, str]] = {
        "deploy": "flows.deploy",
        "explain": "flows.looking",
        "sweep": "flows.sweeping",
        **{name: f"flows.{name}" for name in ("cache", "ui")},
        **dict.fromkeys(("verify", "undo", "apply"), "flows.undoing"),
    }
    """Command -> the module that holds it, under the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.further])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.further:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(self.further[cmd_name]), cmd_name)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="levelmatch")
def main() -> None:
    """Match the sky levels of overlapping astronomical exposures."""


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=_FOLDER, metavar="INPUT...")
@click.option("--output", required=True, type=_FOLDER, metavar="DIR", help="Folder that takes the results.")
@click.option("--config", type=_FOLDER, metavar="FILE.toml", help="Settings, as a TOML file.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting; wins over --config.")
@click.option("--program", default="levelmatch", show_default=True, help="Observing program: the MLflow experiment.")
@click.option("--band", help="Only exposures of this filter.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers (the setting procs).")
@click.option("--group-by", metavar="REGEX|TABLE", help="Which files make a tile.")
@click.option("--recursive", is_flag=True, help="Search folders within folders.")
@click.option("--dry-run", is_flag=True, help="Show tiles, fields, pairs, references and cost; write nothing.")
@click.option("--log-level", type=_LEVELS, help="Lines shown on stderr. [default: warning on a terminal, else info]")
def run(inputs: tuple[Path, ...], output: Path, log_level: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Match the exposures of INPUT (files, or folders of FITS files) and write the results to DIR.

    Exit code: 0 all matched, reference or alone; 3 finished, but some are untied or failed; 2 bad usage, settings or
    DIR, nothing written; 1 anything else.
    """
    with clean_errors(log_level):
        if options["dry_run"]:
            from flows.looking import show_plan  # noqa: PLC0415 - as the module says

            return show_plan(_request(inputs, output, options))
        from flows.launch import launch  # noqa: PLC0415 - as the module says

        summary = launch(_request(inputs, output, options), log_level)
        report(summary)
    sys.exit(OK if summary.complete else UNFINISHED)


@main.command()
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--instrument", type=click.Choice(["miri", "nircam_short", "generic"]), default="miri", show_default=True)
@click.option("--tiles", default="3x3", show_default=True, metavar="NXxNY", help="Tiles along x and y.")
@click.option("--dithers", type=int, default=4, show_default=True, help="Exposures a tile.")
@click.option("--size", type=int, default=512, show_default=True, help="Rows of a detector image.")
@click.option("--lyot", is_flag=True, help="MIRI: give the Lyot window levels of its own.")
@click.option("--planes", is_flag=True, help="Add planes, not levels only.")
@click.option("--seed", type=int, default=0, show_default=True)
def simulate(folder: Path, tiles: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Write an observing program with known levels into DIR, and the truth beside it."""
    with clean_errors():
        from levelmatch_core.simulate import SimulatedProgram  # noqa: PLC0415
        from levelmatch_core.simulate import simulate as write  # noqa: PLC0415

        truth = write(folder, SimulatedProgram.of(tiles=_tiles(tiles), **options))
        click.echo(f"{len({each.file for each in truth.exposures})} files and truth.json are in {folder}")


@main.command()
@click.option("--output", type=_FOLDER, default=Path("levelmatch-demo"), show_default=True, metavar="DIR")
@click.option("--log-level", type=_LEVELS, help="Lines shown on stderr. [default: warning on a terminal, else info]")
def demo(output: Path, log_level: str | None) -> None:
    """Simulate a MIRI program, match it, and show how well the known levels come back."""
    with clean_errors(log_level):
        from flows.demo import run_demo  # noqa: PLC0415

        summary = run_demo(output, log_level)
    sys.exit(OK if summary.complete else UNFINISHED)


@contextmanager
def clean_errors(log_level: str | None = None) -> Iterator[None]:
    """Turn the errors that we raise on purpose into one line and an exit code."""
    try:
        yield
    except LevelMatchError as error:
        if log_level == "debug":
            raise
        click.echo(f"levelmatch: {error}", err=True)
        sys.exit(BAD_USAGE if isinstance(error, UsageError) else TROUBLE)


def report(summary: "Summary") -> None:
    """Print the end of a run: the verdict on stdout, what went wrong on stderr."""
    for problem in summary.problems:
        click.echo(f"{problem.name}: {problem.status}: {problem.reason}", err=True)
    click.echo(summary.verdict)
    click.echo("exposures: " + ", ".join(f"{count} {status}" for status, count in summary.counts.items() if count))
    for each in summary.residuals:
        click.echo(
            f"{each.field}: residual rms {each.before:.5g} before, {each.after:.5g} {each.unit} after, over "
            f"{each.used} pairs ({sum(each.rejected.values())} rejected)"
        )
    click.echo(f"outputs: {summary.output}{'' if summary.changed else ' (nothing changed)'}")
    tracking = summary.tracking
    if tracking is not None and tracking.lost:
        click.echo(tracking.lost, err=True)
    elif tracking is not None:
        click.echo(f"MLflow:  run {tracking.run_id}{'' if tracking.new else ' (checked again)'} in {tracking.store}")


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
