"""Compiling beforehand what the first run on a machine would compile: numba keeps it for all later ones."""

import tempfile
import time
from pathlib import Path

from levelmatch_core.library import match_levels
from levelmatch_core.process.small_work import everything_compiled
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate


def warm_up() -> float:
    """Match tiny programs, of every type of pixel and fit, so that all that a run needs is compiled.

    Returns
    -------
    float
        Seconds that it took.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="levelmatch-") as scratch, everything_compiled():
        for instrument, dtype in (("miri", "float32"), ("generic", "float64"), ("generic", "float32")):
            folder = Path(scratch) / f"{instrument}_{dtype}"
            options = {"tiles": (2, 2), "dithers": 2, "size": 96, "overlap": 0.4, "stars": 5}
            simulate(folder, SimulatedProgram.of(instrument=instrument, dtype=dtype, **options))
            for fit_type in ("level", "level+slope"):
                settings = MatchSettings(
                    preset="best", figures="none", fit_type_dithers=fit_type, fit_type_mosaic_tiles=fit_type
                )
                match_levels(folder, Path(scratch) / f"{instrument}_{dtype}_{fit_type}", settings)
    return time.monotonic() - started
