"""Two workers beside one: wall time of the library, runner by runner, in turn.

    python -m tests.benchmarks.workers [--exposures 2x2x16] [--size 2048] [--rounds 3] [--runner threads processes]

Each run is that of :func:`levelmatch_core.match_levels` with default settings and no figures, into folders of its own,
in one process (and its workers), once all is imported and compiled; the start of workers in other processes is counted
in. What others had of the processors meanwhile is printed: with more than a few per cent of it, a ratio says little.
The files lie in the folder for temporary files (TMPDIR): a slow disk is felt by two workers more than by one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from levelmatch_core.library import match_levels
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate

ONE, TWO = 1, 2
"""Workers."""


@dataclass(frozen=True)
class Run:
    """What one run took."""

    wall: float
    """Seconds."""
    cpu: float
    """CPU seconds of this process and its workers."""
    others: float
    """Part of all processors that other programs had meanwhile."""

    @classmethod
    def since(cls, started: float, cpu: float, load: float) -> Self:
        """Return what it took since the clocks :func:`time.monotonic`, :func:`own` and :func:`busy` showed these."""
        wall, cpu, load = time.monotonic() - started, own() - cpu, busy() - load
        return cls(wall, cpu, max(0.0, load - cpu) / (wall * (os.cpu_count() or 1)))

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.wall:6.2f} s wall, {self.cpu:6.2f} CPU s; others had {self.others:.0%} of the machine"


def own() -> float:
    """Return the CPU seconds of this process and of the processes that it has waited for."""
    used = psutil.Process().cpu_times()
    return used.user + used.system + used.children_user + used.children_system


def busy() -> float:
    """Return the CPU seconds that all programs of the machine have had."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


@contextmanager
def timed() -> Iterator[None]:
    """Print wall time, CPU time and what others had while the block runs."""
    started, cpu, load = time.monotonic(), own(), busy()
    yield
    run = Run.since(started, cpu, load)
    print(run.wall, run.cpu, run.others)


def measured(folder: Path, place: Path, workers: int, runner: str) -> Run:
    """Match a folder."""
    settings = MatchSettings.from_mapping({"figures": "none", "procs": workers, "runner": runner})
    load, cpu, started = busy(), own(), time.monotonic()
    match_levels(folder, output=place / "out", cache=place / "store", settings=settings)
    return Run.since(started, cpu, load)


def compare(folder: Path, root: Path, runner: str, rounds: int) -> tuple[Run, Run]:
    """Return the best run of one worker and of two, of some rounds in turn."""
    best: dict[int, Run] = {}
    for number in range(rounds):
        for workers in (ONE, TWO):
            with tempfile.TemporaryDirectory(dir=root, prefix=f"{runner}{number}") as place:
                run = measured(folder, Path(place), workers, runner if workers == TWO else "threads")
            print(f"    {runner}, {workers} worker{'s' if workers > 1 else ''}: {run}", flush=True)
            best[workers] = min(best.get(workers, run), run, key=lambda each: each.wall)
    return best[ONE], best[TWO]


def program(exposures: str, size: int) -> SimulatedProgram:
    """Return the program of such as 2x2x16: tiles across and up, dithers."""
    across, up, dithers = (int(part) for part in exposures.split("x"))
    return SimulatedProgram.of(instrument="miri", tiles=(across, up), dithers=dithers, size=size, columns=size)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", default="2x2x16", help="tiles across x up x dithers")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runner", nargs="*", default=["threads", "processes"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        simulate(root / "first", program("1x1x2", 256))
        match_levels(root / "first", settings=MatchSettings(figures="none"))  # imports, and loads what is compiled
        simulate(root / "in", program(asked.exposures, asked.size))
        print(f"{asked.exposures} exposures of {asked.size} pixels on {os.cpu_count()} processors")
        for runner in asked.runner:
            one, two = compare(root / "in", root, runner, asked.rounds)
            print(f"{runner}: one worker {one.wall:.2f} s, two {two.wall:.2f} s: {one.wall / two.wall:.2f} times")


if __name__ == "__main__":
    main()
