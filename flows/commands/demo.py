"""The demo: a program whose levels are known, matched, and how well they came back."""

from pathlib import Path

import click

from flows.commands.console import report
from flows.commands.launch import launch
from flows.summary import Summary
from levelmatch_core.errors import UsageError
from levelmatch_core.pipeline import Request
from levelmatch_core.products.tables import read_corrections
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, Truth, score, simulate

PROGRAM = SimulatedProgram(instrument="miri", tiles=(3, 3), dithers=4, size=256)
"""Nebula, stars, noise, bad pixels, and levels that differ by ten between tiles and one between dithers."""


def run_demo(folder: Path, log_level: str | None = None) -> Summary:
    """Simulate, match, and print how well the truth was recovered.

    Parameters
    ----------
    folder
        Takes `input` and `output`; a demo that was run there before is used again.
    log_level
        As for :func:`flows.commands.launch.launch`.

    Raises
    ------
    UsageError
        If the folder holds anything else.
    """
    inputs, output = folder.absolute() / "input", folder.absolute() / "output"
    truth = _simulated(inputs)
    click.echo(f"simulated: {len(truth.exposures)} exposures of a MIRI program in {inputs}")
    summary = launch(Request(inputs=(inputs,), output=output, settings=MatchSettings(), program="demo"), log_level)
    report(summary)
    table = read_corrections(output / "corrections.ecsv")
    components = {
        str(row["exposure"]): f"{row['field']} {row['component']}" for row in table if row["status"] != "failed"
    }
    recovery = score(truth, output / "tiles", inputs, components, planes=False)
    unit = summary.residuals[0].unit
    click.echo(
        f"truth:   the known levels (spread {PROGRAM.level_sd:g} {unit}) came back to {recovery.rms:.2g} {unit} rms, "
        f"{recovery.worst:.2g} at worst ({recovery.worst_name})"
    )
    click.echo(f"look at: {output / 'figures'} (pictures), corrections.ecsv and pairs.ecsv beside it (tables)")
    if summary.tracking is not None and not summary.tracking.lost:
        click.echo(f"         mlflow ui --backend-store-uri '{summary.tracking.store}', then {summary.tracking.url}")
    return summary


def _simulated(folder: Path) -> Truth:
    """Return the truth of the folder if the same demo was simulated there, else simulate it."""
    if (folder / "truth.json").exists():
        truth = Truth.load(folder)
        if truth.program == PROGRAM:
            return truth
        message = f"{folder}: holds another simulated program; name another folder"
        raise UsageError(message)
    return simulate(folder, PROGRAM)
