"""The command as a process of its own, with a home of its own: to be killed, starved and started again."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from levelmatch_core.simulate import SimulatedProgram, simulate

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]
TEMPORARY = ("*.part", ".levelmatch-*", "unfinished.json", "*.tmp*")


def digests(folder: Path, *, leave_out: tuple[str, ...] = ("log.json",)) -> dict[str, str]:
    """Return relative name -> sha256 of all files."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave_out
    }


@dataclass
class World:
    """A home and an output folder, and runs of the command in them."""

    root: Path
    inputs: Path
    options: tuple[str, ...] = ("--set", "figures='none'", "--workers", "2")
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def start(self, *, preexec: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        arguments = ["run", str(self.inputs), "--output", str(self.out), "--program", "p", *self.options]
        self.root.mkdir(exist_ok=True)
        with (self.root / "stderr.txt").open("w") as errors:
            return subprocess.Popen(
                [*COMMAND, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=kept | {"LEVELMATCH_HOME": str(self.home)} | self.environment,
                start_new_session=True,
                preexec_fn=preexec,  # noqa: PLW1509 - only to set limits, in a test
            )

    def run(self, **options: Callable[[], object]) -> int:
        """Run to the end, and return the exit code."""
        return self.start(**options).wait(600)

    @property
    def said(self) -> str:
        return (self.root / "stderr.txt").read_text()

    def events(self) -> int:
        """Count the finished files: how far the work is."""
        folders = (self.home / "cutouts", self.home / "results", self.out)
        return sum(
            not name.startswith(".") and not name.endswith(".part")
            for folder in folders
            for _, _, names in os.walk(folder)
            for name in names
        )

    def left_over(self) -> list[str]:
        """Return the temporary files in output and store."""
        return [
            str(path)
            for folder in (self.out, self.home / "cutouts", self.home / "results")
            for pattern in TEMPORARY
            for path in folder.rglob(pattern)
        ]


def kill_tree(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started, at once and without a word."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        parent.suspend()  # so that it starts no more
        family = [*parent.children(recursive=True), parent]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=30)
    process.wait(30)


def kill_at(world: World, events: int, delay: float) -> bool:
    """Start a run and kill it once so many files are finished, and a moment later; return whether it still ran."""
    process = world.start()
    while process.poll() is None and world.events() < events:
        time.sleep(0.001)
    time.sleep(delay)
    alive = process.poll() is None
    kill_tree(process)
    return alive


class Reliability:
    """The helpers above, for tests (which are no package and cannot import this file)."""

    world = World
    digests = staticmethod(digests)
    kill_at = staticmethod(kill_at)
    kill_tree = staticmethod(kill_tree)


@pytest.fixture(scope="session")
def reliability() -> type[Reliability]:
    return Reliability


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small exposures of four tiles. To be read only."""
    folder = tmp_path_factory.mktemp("kill") / "input"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 2), dithers=2, size=96))
    return folder


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    world: World
    files: dict[str, str]
    events: int
    """Files that it made in output and stores."""
    blank: Path
    """A home in which the databases are made, and nothing else."""

    def fresh(self, root: Path) -> World:
        """Return a world in which nothing was done yet."""
        shutil.copytree(self.blank, root / "home")
        return World(root, self.world.inputs, self.world.options)


@pytest.fixture(scope="session")
def undisturbed(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    root = tmp_path_factory.mktemp("undisturbed")
    world = World(root, program)
    assert world.run() == 0, world.said
    blank = root / "blank"
    shutil.copytree(world.home, blank, ignore=shutil.ignore_patterns("cutouts", "results", "artifacts"))
    yield Undisturbed(world, digests(world.out), world.events(), blank)
    shutil.rmtree(root, ignore_errors=True)
