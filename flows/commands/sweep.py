"""`levelmatch sweep`: match with many combinations of settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import cloup

from flows.commands.console import OK, UNFINISHED, clean_errors, say, say_lines
from flows.commands.options import (
    examples,
    inputs_argument,
    located,
    matching_options,
    output_option,
    settings_of,
    type_of_path,
)
from flows.home import prepare_environment
from flows.orchestration import ephemeral_server
from levelmatch_core.errors import SettingsError


@cloup.command(
    short_help="Match with many combinations of settings, and rank them.",
    epilog=examples(
        "levelmatch sweep cal/ --output sweep --grid weight_method=equal,error --grid rms_sig_limit=2,3",
        "levelmatch sweep cal/ --output sweep --grid fit_type_mosaic_tiles=level,level+slope --set figures=none",
    ),
)
@inputs_argument
@output_option("Folder for one subfolder per combination.")
@cloup.option(
    "--grid",
    "grids",
    multiple=True,
    required=True,
    metavar="NAME=V1,V2,...",
    help="A setting and its values. May be repeated.",
)
@matching_options
def sweep(
    inputs: tuple[Path, ...],
    output: Path,
    grids: tuple[str, ...],
    log_level: str | None,
    **options: Any,  # noqa: ANN401 - click's
) -> None:
    """Match INPUT with every combination of some settings, and rank them by how well they predict left-out pairs.

    Each combination is an MLflow run and a folder in DIR; steps that a setting does not affect are done only once. The
    ranking is printed, and written to DIR as ranking.ecsv and ranking.png. Exit code: 3 if a combination failed.
    """
    with clean_errors(log_level):
        from flows.combinations import combinations  # noqa: PLC0415 - slow to import
        from levelmatch_core.images.missing import as_given  # noqa: PLC0415

        settings = settings_of(options)
        grid = grid_of(grids)
        combinations(grid)  # errors of the grid are reported before the engine starts
        found = located(inputs, recursive=options["recursive"])
        home = prepare_environment(quiet=True)
        server = ephemeral_server.start()  # it takes as long as all that follows
        # here and no earlier: Prefect and MLflow take seconds to import
        from flows.launch import engine, private, terminal  # noqa: PLC0415

        with terminal(log_level), private(home), engine(home, server, output.absolute()):
            # once Prefect knows the server
            from flows.orchestration.quarantine import content_of  # noqa: PLC0415
            from flows.sweep import sweep as run_sweep  # noqa: PLC0415
            from flows.tracking.ranking import Ranking  # noqa: PLC0415

            state = run_sweep(
                inputs=as_given(found),
                output=str(output.absolute()),
                grid=grid,
                program=options["program"],
                settings=settings,
                recursive=options["recursive"],
                group_by=options["group_by"],
                return_state=True,
            )
            outcome = content_of(state)
        if isinstance(outcome, BaseException):
            raise outcome
        ranking = Ranking.from_json(outcome)
        say_lines(ranking.text())
        say(f"outputs: {output.absolute()} (ranking.ecsv, ranking.png, and one folder per combination)")
        say(f"to make the best a program's: levelmatch promote {output} PROGRAM.toml")
        if ranking.compare:
            say(f"compare: {ranking.compare}")
    raise SystemExit(UNFINISHED if any(row.failed for row in ranking.rows) else OK)


def grid_of(assignments: Iterable[str]) -> dict[str, list[Any]]:
    """Return the grid of `NAME=V1,V2,...` texts, with values as TOML, and bare words as text.

    Raises
    ------
    SettingsError
        If a text has another form, or a name is repeated.
    """
    from levelmatch_core.settings import toml_value  # noqa: PLC0415 - slow to import

    grid: dict[str, list[Any]] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        values = [value.strip() for value in text.split(",")]
        if not equals or not all(values):
            message = f"--grid {assignment!r}: expected NAME=V1,V2,..."
            raise SettingsError(message)
        if name in grid:
            message = f"--grid {assignment!r}: {name} was given before; give all its values at once"
            raise SettingsError(message)
        grid[name] = [toml_value(name, value) for value in values]
    return grid


@cloup.command(
    short_help="Write the best settings of a sweep into a program file.",
    epilog=examples(
        "levelmatch promote sweep deployments/programs/m33.toml --dry-run",
        "levelmatch promote sweep deployments/programs/m33.toml --rank 2",
    ),
)
@cloup.argument("folder", type=type_of_path, metavar="SWEEP", help="The output of a finished sweep.")
@cloup.argument("program", type=type_of_path, metavar="PROGRAM.toml", help="The program file to be changed.")
@cloup.option("--rank", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@cloup.option("--dry-run", is_flag=True, help="Only show the difference.")
def promote(folder: Path, program: Path, *, rank: int, dry_run: bool) -> None:
    """Write all settings of a combination of SWEEP, those common to all included, into PROGRAM.toml.

    Comments and order of the file stay, and the difference is shown. The settings count from the next `levelmatch
    deploy` on.
    """
    with clean_errors():
        from flows.orchestration.promotion import promotion  # noqa: PLC0415 - slow to import

        found = promotion(folder, rank, program)
        for note in found.notes:
            say(note, err=True)
        if not found.difference:
            say(f"{program}: has these settings already")
            return
        say_lines(found.difference)
        if not dry_run:
            found.write()
            say(f"{program}: written; `levelmatch deploy` puts it to work")
