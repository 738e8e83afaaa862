"""What a survey of the whole sky costs: `levelmatch run` on simulated exposures, and where the time goes.

    python -m tests.benchmarks.all_sky 100 1000 5000 [--size 128] [--days] [--second 1000] [--steps]

For each number of exposures, in a home of its own: CPU seconds of the command with all of its processes, wall time, the
largest resident memory of the command itself and of any of its workers, and the size of its store; then the rms of the
levels, that which independent overlaps would leave, each with the noise of the mean of its pixels, and their ratio.
`--days`: then the same with nothing new, and with a tenth of the exposures more. `--second M`: then with a second visit
to the first M places, with other levels and position angles. `--steps`: then the CPU seconds of each step in the
library, without an engine, one job after the other.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.pipeline import Request, run
from levelmatch_core.products.tables import read_corrections, read_pairs
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SkySurvey, simulate_survey
from levelmatch_core.simulate.survey import SurveySky, survey_file, survey_shots
from levelmatch_core.sky.store import CutoutStore

MB = 1 << 20
COMMAND = 'import sys; from flows.cli import main; sys.argv.insert(1, "run"); main()'


def resident(pid: int) -> float:
    """Return the largest resident memory that a process has had, MB."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


def command(folder: Path, place: Path, name: str) -> None:
    """Run the command, and print what it cost."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "LEVELMATCH_HOME": str(place / "home"), "LEVELMATCH_PROGRESS": "0"}
    with (place / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(folder), "--output", str(place / "out")],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        main, workers = 0.0, 0.0
        while process.poll() is None:
            main = max(main, resident(process.pid))
            workers = max([workers, *map(resident, children(process.pid))])
            time.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    store = sum(path.stat().st_size for path in (place / "home").rglob("*") if path.is_file()) / MB
    output = sum(path.stat().st_size for path in (place / "out").rglob("*") if path.is_file()) / MB
    print(
        f"{name:28s} CPU {cpu:8.1f} s  wall {time.monotonic() - started:8.1f} s  main {main:6.0f} MB  "
        f"any other {workers:6.0f} MB  store {store:7.0f} MB  output {output:7.0f} MB  exit {process.returncode}",
        flush=True,
    )


def levels(place: Path, true: dict[str, float], noise: float) -> None:
    """Print how far the levels are off, a constant apart, and the bound of independent overlaps."""
    rows, pairs = read_corrections(place / "out" / "corrections.ecsv"), read_pairs(place / "out" / "pairs.ecsv")
    names = [str(name) for name in rows["exposure"]]
    errors = np.array(rows["level"], dtype=float) - np.array([true[name] for name in names])
    number, used = {name: i for i, name in enumerate(names)}, np.array(pairs["used"], dtype=bool)
    first, second = (np.array([number[str(name)] for name in pairs[end]])[used] for end in ("first", "second"))
    weight = np.array(pairs["npix"], dtype=float)[used] / (2 * noise**2)
    n = len(names)
    entries = np.concatenate([weight, weight, -weight, -weight])
    where = np.concatenate([first, second, first, second]), np.concatenate([first, second, second, first])
    grounded = splu(csc_array((entries, where), shape=(n, n))[1:, 1:].tocsc())
    trace, total = 0.0, 0.0
    for start in range(0, n - 1, 500):
        columns = np.arange(start, min(n - 1, start + 500))
        unit = np.zeros((n - 1, len(columns)))
        unit[columns, np.arange(len(columns))] = 1.0
        solved = grounded.solve(unit)
        trace += float(solved[columns, np.arange(len(columns))].sum())
        total += float(solved.sum())
    bound = np.sqrt((trace - total / n) / n)
    off = float(errors.std())
    print(f"    levels of {n}: rms {off:.5f}, bound {bound:.5f}, ratio {off / bound:.3f}", flush=True)


class Steps:
    """Runs jobs one after the other, and adds up the CPU seconds of each step."""

    def __init__(self, workspace: Workspace) -> None:
        self.runner = PlainRunner(workspace)
        self.seconds: Counter[str] = Counter()
        self.jobs: Counter[str] = Counter()

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        started = time.process_time()
        results = self.runner(jobs, title)
        for job in jobs[:1]:
            self.seconds[job.step] += time.process_time() - started
            self.jobs[job.step] += len(jobs)
        return results


def steps(folder: Path, place: Path) -> None:
    """Match in the library, and print the CPU seconds of each step."""
    found: list[Steps] = []

    def runner(workspace: Workspace) -> Steps:
        found.append(Steps(workspace))
        return found[-1]

    started = time.process_time()
    settings = MatchSettings(preset="best", figures="none")
    run(Request(inputs=(folder,), output=place / "steps", settings=settings), CutoutStore(place / "store"), runner)
    total = time.process_time() - started
    (each,) = found
    for step, seconds in each.seconds.most_common():
        print(f"    {step:16s} {seconds:8.1f} s  {each.jobs[step]:7d} jobs")
    print(f"    {'between jobs':16s} {total - sum(each.seconds.values()):8.1f} s of {total:.1f} s", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exposures", type=int, nargs="+")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--days", action="store_true")
    parser.add_argument("--second", type=int, default=0)
    parser.add_argument("--steps", action="store_true")
    options = parser.parse_args()
    for count in options.exposures:
        place = Path(tempfile.mkdtemp(prefix="levelmatch-sky-"))
        try:
            survey = SkySurvey(exposures=count, size=options.size)
            true = {one.name: one.plane.level for one in simulate_survey(place / "in", survey).exposures}
            more = sorted((place / "in").glob("*.fits"))[-count // 10 :]
            if options.days:
                (place / "later").mkdir()
                for path in more:
                    path.rename(place / "later" / path.name)
            command(place / "in", place, f"{count - len(more) * options.days} exposures")
            if options.days:
                command(place / "in", place, "nothing new")
                for path in (place / "later").iterdir():
                    path.rename(place / "in" / path.name)
                command(place / "in", place, f"{len(more)} more")
            levels(place, true, survey.noise)
            if options.second:
                visit = SkySurvey(exposures=count, size=options.size, seed=1, first=options.second)
                for shot in survey_shots(visit):
                    name = shot.file.replace("sky", "visit2")
                    survey_file(visit, shot, SurveySky(survey)).writeto(place / "in" / name)
                    true[name] = shot.plane.level
                command(place / "in", place, f"{options.second} of a second visit")
                levels(place, true, survey.noise)
            if options.steps:
                shutil.rmtree(place / "home")
                shutil.rmtree(place / "out")
                steps(place / "in", place)
        finally:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
