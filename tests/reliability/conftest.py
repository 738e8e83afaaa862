"""The command as a process of its own, with a home of its own: to be killed, starved and started again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.folders import digests
from tests.reliability.places import Place
from tests.servers import await_answer, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]
TEMPORARY = ("*.part", ".levelmatch-*", "unfinished.json", "*.tmp*")


def bare() -> dict[str, str]:
    """Return our environment without what the engines read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}


@dataclass
class World:
    """A home and an output folder, and runs of the command in them."""

    root: Path
    inputs: Path
    options: tuple[str, ...] = ("--preset", "pjpipe", "--set", "figures='none'", "--workers", "2")
    environment: dict[str, str] = field(default_factory=dict)
    name: str = "out"
    _said: Path = field(init=False)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def out(self) -> Path:
        return self.root / self.name

    def start(self, *, preexec: Callable[[], object] | None = None) -> subprocess.Popen[str]:
        arguments = ["run", str(self.inputs), "--output", str(self.out), "--program", "p", *self.options]
        self.root.mkdir(exist_ok=True)
        self._said = self.root / f"{self.name}-{time.monotonic_ns()}.txt"
        with self._said.open("w") as errors:
            return subprocess.Popen(
                [*COMMAND, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=bare() | {"LEVELMATCH_HOME": str(self.home)} | self.environment,
                start_new_session=True,
                preexec_fn=preexec,  # noqa: PLW1509 - only to set limits, in a test
            )

    def run(self, **options: Callable[[], object]) -> int:
        """Run to the end, and return the exit code."""
        return self.start(**options).wait(600)

    @property
    def said(self) -> str:
        return self._said.read_text()

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


@contextmanager
def prefect_server(home: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[Any]]]:
    """Have a Prefect server; yield what its clients' environment says, and its process."""
    home.mkdir(exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = bare() | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        await_answer(process, f"{url}/health")
        yield {"PREFECT_API_URL": url}, process
    finally:
        kill_tree(process)


@dataclass
class Mlflow:
    """MLflow's server over a folder, which can be stopped, frozen and started again."""

    folder: Path
    port: int
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = bare() | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # as `levelmatch ui` has it: eight processes less
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        await_answer(self.process, f"{self.url}/health")

    def signal(self, kind: int) -> None:
        for each in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
            each.send_signal(kind)


def mlflow_server(folder: Path) -> Mlflow:
    """Start MLflow's server over a folder."""
    made = Mlflow(folder, free_port())
    made.start()
    return made


class Reliability:
    """The helpers above, for tests (which are no package and cannot import this file)."""

    world = World
    digests = staticmethod(digests)
    bare = staticmethod(bare)
    free_port = staticmethod(free_port)
    await_answer = staticmethod(await_answer)
    prefect_server = staticmethod(prefect_server)
    mlflow = staticmethod(mlflow_server)
    command = COMMAND
    kill_at = staticmethod(kill_at)
    kill_tree = staticmethod(kill_tree)


@pytest.fixture(scope="session")
def reliability() -> type[Reliability]:
    return Reliability


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server that runs share, as its environment: four times as fast as one for every run."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as (environment, _):
        yield environment


@pytest.fixture
def world(undisturbed: "Undisturbed", server: dict[str, str], tmp_path: Path) -> World:
    """A world in which nothing was done yet, and whose runs share a server."""
    fresh = undisturbed.fresh(tmp_path / "world")
    fresh.environment = dict(server)
    return fresh


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place with four small exposures of two tiles."""
    return Place(tmp_path)


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
