"""What the library costs beside the floor: reading and writing the files, and one bilinear pass over the pixels.

Run it as `python -m tests.benchmarks.speed [--quick]`. Floor and library are measured in one run, in turn, each in
this process alone; CPU seconds count (the machine may be shared), the best of a few rounds. The library's mosaics,
tables and figures are reported apart.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from astropy.io import fits
from scipy.ndimage import map_coordinates

from levelmatch_core import pipeline
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.pipeline import Request, RunResult, peak_memory, run
from levelmatch_core.process.small_work import everything_compiled
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore

PROGRAMS = {
    "100 tiles of 512 (10x10)": {"instrument": "generic", "tiles": (10, 10), "size": 512},
    "16 exposures of 2048 (2x2x4, TAN-SIP, ERR and DQ)": {
        "instrument": "miri",
        "tiles": (2, 2),
        "dithers": 4,
        "size": 2048,
        "columns": 2048,
    },
}
QUICK = {"9 tiles of 256 (3x3)": {"instrument": "generic", "tiles": (3, 3), "size": 256}}

APART = ("mosaic", "tables", "figures")
"""Steps that are not counted."""


@dataclass(frozen=True)
class TimedEach(PlainRunner):
    """The plain runner with a clock."""

    cpu: Counter[str] = field(default_factory=Counter)

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Do all jobs, and count the CPU seconds of their step."""
        started = time.process_time()
        results = super().__call__(jobs, title)
        if jobs:
            self.cpu[jobs[0].step] += time.process_time() - started
        return results


@dataclass(frozen=True)
class Timing:
    """CPU seconds of the floor and of the library, by step."""

    floor: float
    library: dict[str, float]

    @property
    def counted(self) -> float:
        """The library's CPU seconds without what is reported apart."""
        return sum(seconds for step, seconds in self.library.items() if step not in APART)

    @property
    def ratio(self) -> float:
        """Library over floor."""
        return self.counted / self.floor


def floor(folder: Path, out: Path) -> float:
    """Read and write every file, and resample as many planes as the library does: CPU seconds."""
    out.mkdir()
    started = time.process_time()
    for path in sorted(folder.glob("*.fits")):
        with fits.open(path, memmap=False) as hdus:
            for hdu in hdus:
                _ = hdu.data
            names = [name for name in ("SCI", "ERR") if name in hdus] or [0]
            coordinates = None
            for name in names:
                image = hdus[name].data
                if coordinates is None:
                    coordinates = np.indices(image.shape, dtype=float) + 0.3
                map_coordinates(image, coordinates, order=1)
            hdus.writeto(out / path.name)
    return time.process_time() - started


def library(folder: Path, place: Path) -> tuple[dict[str, float], RunResult]:
    """Match the folder with default settings, without figures: CPU seconds by step."""
    runners: list[TimedEach] = []

    def runner_of(workspace: Workspace) -> TimedEach:
        runners.append(TimedEach(workspace))
        return runners[-1]

    request = Request(inputs=(folder,), output=place / "out", settings=MatchSettings(figures="none"))
    with _tables_timed() as tables:
        started = time.process_time()
        result = run(request, CutoutStore(place / "store"), runner_of)
        total = time.process_time() - started
    steps = {**runners[0].cpu, **tables}
    return {**steps, "inventory, record": total - sum(steps.values())}, result


@contextmanager
def _tables_timed() -> Iterator[Counter[str]]:
    """Count the CPU seconds of the two tables, which are no jobs."""
    cpu: Counter[str] = Counter()

    def timed(write: Callable[..., None]) -> Callable[..., None]:
        def work(*arguments: object) -> None:
            started = time.process_time()
            write(*arguments)
            cpu["tables"] += time.process_time() - started

        return work

    with (
        patch.object(pipeline, "write_corrections", timed(pipeline.write_corrections)),
        patch.object(pipeline, "write_pairs", timed(pipeline.write_pairs)),
    ):
        yield cpu


def measure(options: dict[str, Any], rounds: int) -> Timing:
    """Measure one program, best of some rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        simulate(root / "in", SimulatedProgram.of(**options))
        with everything_compiled():  # as it is after the first run on a machine
            library(root / "in", root / "warm-up")
        floors, libraries = [], []
        for number in range(rounds):
            floors.append(floor(root / "in", root / f"floor{number}"))
            libraries.append(library(root / "in", root / f"library{number}")[0])
    return Timing(min(floors), min(libraries, key=lambda steps: sum(steps.values())))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small program only")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for name, options in (QUICK if asked.quick else PROGRAMS).items():
        timing = measure(options, asked.rounds)
        print(f"{name}: floor {timing.floor:.2f} CPU s, library {timing.counted:.2f}, ratio {timing.ratio:.2f}")
        for step, seconds in timing.library.items():
            print(f"    {step:<28} {seconds:7.2f}{'  (apart)' if step in APART else ''}")
    print(f"peak memory of this process: {peak_memory():.0f} MB")


if __name__ == "__main__":
    main()
