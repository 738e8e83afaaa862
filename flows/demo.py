"""The demo: a simulated program with known levels, and how well a match recovers them."""

from collections.abc import Iterator
from pathlib import Path

from flows.summary import Summary
from levelmatch_core.errors import UsageError
from levelmatch_core.products.tables import read_corrections
from levelmatch_core.simulate import SimulatedProgram, Truth, score, simulate

PROGRAM = SimulatedProgram(instrument="miri", tiles=(3, 3), dithers=4, size=256)
"""Nebula, stars, noise, bad pixels, and levels with a scatter of 10 between tiles and 1 between dithers."""


def simulated(folder: Path) -> Truth:
    """Return the truth of the folder if it contains the simulated demo already, else simulate it.

    Raises
    ------
    UsageError
        If the folder contains another simulated program.
    """
    if (folder / "truth.json").exists():
        truth = Truth.load(folder)
        if truth.program == PROGRAM:
            return truth
        message = f"{folder}: contains another simulated program; choose another folder"
        raise UsageError(message)
    return simulate(folder, PROGRAM)


def recovery(truth: Truth, inputs: Path, output: Path, summary: Summary) -> Iterator[str]:
    """Yield lines on how well the known levels were recovered, and on where to find the results."""
    table = read_corrections(output / "corrections.ecsv")
    components = {
        str(row["exposure"]): f"{row['field']} {row['component']}" for row in table if row["status"] != "failed"
    }
    found = score(truth, output / "tiles", inputs, components, planes=False)
    unit = summary.residuals[0].unit
    yield (
        f"truth:   the known levels (spread {PROGRAM.level_sd:g} {unit}) were recovered to {found.rms:.2g} {unit} rms, "
        f"{found.worst:.2g} at worst ({found.worst_name})"
    )
    yield f"look at: {output / 'figures'} (pictures), corrections.ecsv and pairs.ecsv next to it (tables)"
    if summary.tracking is not None and not summary.tracking.lost:
        yield f"         mlflow ui --backend-store-uri '{summary.tracking.store}', then {summary.tracking.url}"
