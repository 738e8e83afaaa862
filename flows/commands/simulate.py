"""`levelmatch simulate`: simulate an observing program with known levels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import cloup
from click.core import ParameterSource

from flows.commands.console import clean_errors, say
from flows.commands.options import examples, type_of_path
from levelmatch_core.errors import UsageError

LYOT_REACHES = 900
"""Rows of an image of which the window is higher than dithers are apart, by a good margin."""


@cloup.command(
    short_help="Simulate an observing program with known levels.",
    epilog=examples(
        "levelmatch simulate sim --tiles 2x2 --size 256",
        "levelmatch simulate sim --lyot --planes",
        "levelmatch simulate sky --all-sky 5000 --size 128",
    ),
)
@cloup.argument("folder", type=type_of_path, metavar="DIR", help="Folder for the program.")
@cloup.option("--instrument", type=click.Choice(["miri", "nircam_short", "generic"]), default="miri", show_default=True)
@cloup.option("--tiles", default="3x3", show_default=True, metavar="NXxNY", help="Tiles along x and y.")
@cloup.option("--dithers", type=int, help="Exposures per tile: 4 of JWST's, 1 of a generic program.")
@cloup.option("--size", type=int, default=512, show_default=True, help="Rows of a detector image.")
@cloup.option("--lyot", is_flag=True, help="MIRI: give the Lyot window levels of its own.")
@cloup.option("--planes", is_flag=True, help="Add planes instead of levels only.")
@cloup.option("--all-sky", type=int, metavar="N", help="A survey of the whole sky instead, of N exposures.")
@cloup.option("--first", type=int, metavar="M", help="Only the first M of them, from the south pole on.")
@cloup.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.pass_context
def simulate(  # noqa: PLR0917 - click's
    context: click.Context,
    /,
    folder: Path,
    tiles: str,
    dithers: int | None,
    all_sky: int | None,
    first: int | None,
    **options: Any,  # noqa: ANN401 - click's
) -> None:
    """Simulate an observing program with known levels in DIR, together with the truth."""
    with clean_errors():
        from levelmatch_core.simulate import SimulatedProgram, SkySurvey, simulate_survey  # noqa: PLC0415
        from levelmatch_core.simulate import simulate as write  # noqa: PLC0415

        if all_sky is not None or first is not None:
            _refuse_others(context)
            survey = SkySurvey.of(exposures=all_sky, first=first, **{name: options[name] for name in ("size", "seed")})
            truth = simulate_survey(folder, survey)
            say(f"{len(truth.exposures)} files of {survey.width:.2f} degrees and truth.json are in {folder}")
            return
        if dithers is not None:
            options["dithers"] = dithers
        _refuse_unseen(options)
        truth = write(folder, SimulatedProgram.of(tiles=_tiles(tiles), **options))
        say(f"{len({each.file for each in truth.exposures})} files and truth.json are in {folder}")


def _refuse_others(context: click.Context) -> None:
    """Refuse options of a program for a survey.

    Raises
    ------
    UsageError
        If one is given, or --first without --all-sky.
    """
    if context.params["all_sky"] is None:
        message = "--first: only a survey is made in part; give --all-sky N, too"
        raise UsageError(message)
    names = ("instrument", "tiles", "dithers", "lyot", "planes")
    given = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        message = f"--{given[0]}: not for a survey (--all-sky), whose exposures are all alike; leave it out"
        raise UsageError(message)


def _refuse_unseen(options: Mapping[str, Any]) -> None:
    """Refuse what the program would not show.

    Raises
    ------
    UsageError
        If a generic program is to have dithers, or the Lyot window of a dither would not reach that of the next.
    """
    if options["instrument"] == "generic" and options.get("dithers", 1) != 1:
        message = f"--dithers {options['dithers']}: a generic program has one exposure a tile; leave it out"
        raise UsageError(message)
    if options["lyot"] and options["size"] < LYOT_REACHES:
        message = (
            f"--lyot --size {options['size']}: windows of two dithers would not overlap, and nothing could match them; "
            f"expected --size {LYOT_REACHES} or more (1024 is the real detector)"
        )
        raise UsageError(message)


def _tiles(text: str) -> tuple[int, int]:
    across, sign, up = text.lower().partition("x")
    if not (sign and across.isdigit() and up.isdigit()):
        message = f"--tiles {text!r}: expected two numbers such as 3x3"
        raise UsageError(message)
    return int(across), int(up)
