"""What `levelmatch run` adds to the library on the same input, and what of that is Prefect's.

    python -m tests.benchmarks.command [--tiles 16x16] [--size 256] [--rounds 3]

In turn, each in a process of its own, nothing being stored of the work before:

- library: `match_levels` without figures, once all is imported;
- with figures: the same with its figures;
- without Prefect: what the command does where Prefect cannot be used, the whole process, imports and MLflow counted in;
- command: `levelmatch run` with a LEVELMATCH_HOME that is there, server and all;
- new home: the first run in a LEVELMATCH_HOME.

Orchestration is the command less what it takes without Prefect, both measured one after the other, and the median of
some rounds: a machine changes its speed in minutes, by more than that, and a round by itself says little. Beside it
stands what one command by itself tells: all of its time in which it neither starts, imports what it imports without
Prefect, too, does jobs, writes to MLflow, nor does what lies between jobs. Prefect's import, its server's start and
end, keys, task runs and artifacts are in that part; what its server, on another processor, costs the work is not. What
others had of the processors meanwhile is printed: with more than a few per cent of it, seconds say little.
"""

import argparse
import itertools
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.benchmarks.workers import Run, busy, own

LIBRARY, FIGURES, ALONE, COMMAND, NEW = "library", "with figures", "without Prefect", "command", "new home"

_LIBRARY = """
import sys
from pathlib import Path
from levelmatch_core import MatchSettings, match_levels
from tests.benchmarks.workers import timed
folder, place, figures = sys.argv[1:]
settings = MatchSettings(figures=figures)
with timed():
    match_levels(folder, output=Path(place) / "out", cache=Path(place) / "store", settings=settings)
"""
_ALONE = """
from flows import cli, launch
from flows.orchestration import ephemeral_server
from levelmatch_core.errors import EngineError

def refused(home):
    raise EngineError("it is not to be used")

ephemeral_server.start = lambda: None
launch.prepare_engine = refused
cli.main()
"""
_COMMAND = """
import sys, time
started = time.monotonic()
from flows import cli, garbage_collection  # and nothing that takes long: the server is started by cli
from flows.orchestration import ephemeral_server
seconds = dict.fromkeys(("open", "imports", "run", "each", "do", "log"), 0.0)

def timed(owner, name, into):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        begun = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[into] += time.monotonic() - begun
    setattr(owner, name, call)

def opened(server, was=ephemeral_server.EmbeddedServer.open):
    seconds["open"] = time.monotonic() - started
    was(server)
    begun = time.monotonic()
    import mlflow.store.tracking.sqlalchemy_store
    import flows.without_prefect, flows.tracking.tracker, levelmatch_core.products.report.images
    seconds["imports"] = time.monotonic() - begun

def imported(was=garbage_collection.pass_over_imports):
    from flows import level_match
    from flows.orchestration.task_runner import PrefectEach, Work
    from flows.tracking.tracker import Tracker
    timed(level_match, "run", "run")
    timed(PrefectEach, "__call__", "each")
    timed(Work, "do", "do")
    timed(Tracker, "log", "log")
    was()

ephemeral_server.EmbeddedServer.open = opened
garbage_collection.pass_over_imports = imported
try:
    cli.main()
finally:
    library = seconds["open"] + seconds["imports"] + seconds["run"] - seconds["each"] + seconds["do"] + seconds["log"]
    print("library", library, file=sys.stderr)
"""


class Bench:
    """One folder of exposures, matched in all the ways.

    Parameters
    ----------
    folder
        Of the exposures.
    root
        For homes and outputs.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root
        self._runs: dict[str, list[Run]] = {}
        self._told: list[float] = []
        self._places = itertools.count()
        self._home = root / "home"

    def round(self) -> None:
        """Measure each way once; the first makes the home."""
        for figures, name in (("none", LIBRARY), ("all", FIGURES)):
            self._keep(name, Run(*map(float, self._do([sys.executable, "-c", _LIBRARY], figures)[1].stdout.split())))
        self._keep(NEW, self._command(self._root / f"new{next(self._places)}")[0])
        self.compare()

    def compare(self) -> None:
        """Measure the command, without Prefect and with it; which is first changes from round to round."""
        if not self._home.exists():
            self._command()
        ways = [self._alone, self._whole]
        for way in ways if len(self._told) % 2 == 0 else reversed(ways):
            way()

    def _alone(self) -> None:
        self._keep(ALONE, self._do([sys.executable, "-c", _ALONE, "run"])[0])

    def _whole(self) -> None:
        run, library = self._command()
        self._keep(COMMAND, run)
        self._told.append(1 - library / run.wall)

    @property
    def task_runs(self) -> int:
        """Task runs of one command."""
        last = "SELECT flow_run_id FROM task_run ORDER BY start_time DESC LIMIT 1"
        with closing(sqlite3.connect(self._home / "prefect" / "prefect.db")) as database:
            count: int = database.execute(f"SELECT count(*) FROM task_run WHERE flow_run_id = ({last})").fetchone()[0]  # noqa: S608 - ours
        return count

    @property
    def best(self) -> dict[str, Run]:
        """The quickest run of each way."""
        return {name: min(runs, key=lambda run: run.wall) for name, runs in self._runs.items()}

    @property
    def orchestration(self) -> float:
        """Part of the command's wall time by which it is longer than without Prefect, the median of the rounds."""
        pairs = zip(self._runs[ALONE], self._runs[COMMAND], strict=True)
        return statistics.median(1 - alone.wall / command.wall for alone, command in pairs)

    @property
    def told(self) -> float:
        """Part of the command's wall time that is Prefect's by its own clock, the median of the rounds."""
        return statistics.median(self._told)

    def _command(self, home: Path | None = None) -> tuple[Run, float]:
        """Run the command; return what it took, and how many seconds of that are not Prefect's."""
        run, done = self._do([sys.executable, "-c", _COMMAND, "run"], home=home)
        return run, float(done.stderr.rpartition("library ")[2].split()[0])

    def _do(
        self, words: list[str], *more: str, home: Path | None = None
    ) -> tuple[Run, subprocess.CompletedProcess[str]]:
        """Run a process to its end, nothing being stored; return what it took and what it printed.

        What earlier ones stored and wrote is moved out of the way and emptied, but not deleted: for minutes ext4 goes
        around each inode that was freed, which costs the next thousand files a second or more, and not always the same.
        """
        home = home or self._home
        place = self._root / f"{next(self._places)}"
        place.mkdir()
        for stored in (home / "cutouts", home / "results"):
            if stored.exists():
                stored.rename(place / stored.name)
        for file in self._root.glob("[0-9]*/**/*"):
            if file.is_file():
                os.truncate(file, 0)
        out = ["--output", f"{place}/out"] if words[-1] == "run" else [str(place / "made")]
        environ = os.environ | {"LEVELMATCH_HOME": str(home)}
        os.sync()  # what the run before left to be written is not this one's
        load, cpu, started = busy(), own(), time.monotonic()
        done = subprocess.run(
            [*words, str(self._folder), *out, *more], env=environ, capture_output=True, text=True, check=False
        )
        run = Run.since(started, cpu, load)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return run, done

    def _keep(self, name: str, run: Run) -> None:
        print(f"    {name}: {run}", flush=True)
        self._runs.setdefault(name, []).append(run)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", default="2x2", help="tiles along x and y, of four dithers each")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    across, up = map(int, asked.tiles.split("x"))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "in"
        simulate(folder, SimulatedProgram.of(tiles=(across, up), dithers=4, size=asked.size))
        bench = Bench(folder, Path(root))
        for _ in range(asked.rounds):
            bench.round()
        print(f"{4 * across * up} exposures of {asked.size} pixels: {bench.task_runs} task runs")
        for name, run in bench.best.items():
            print(f"  {name:16} {run.wall:6.1f} s wall {run.cpu:6.1f} CPU s")
        print(f"  orchestration    {bench.orchestration:6.1%} of the command, {bench.told:.1%} by its own clock")


if __name__ == "__main__":
    main()
