"""Threads, processes and Dask, here and beyond this machine: the same bytes, and a worker that dies costs its tasks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from levelmatch_core.errors import SettingsError
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, SkySurvey, simulate, simulate_survey
from levelmatch_core.workers import worker_pool
from tests.folders import contents

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

TIMEOUT = 240


def environment(home: Path) -> dict[str, str]:
    # Dask's own settings and scratch files stay in the test's folder
    return {**os.environ, "LEVELMATCH_HOME": str(home), "DASK_TEMPORARY_DIRECTORY": str(home / "dask")}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program") / "in"
    simulate(folder, SimulatedProgram.of(instrument="generic", tiles=(3, 2), size=128))
    return folder


def in_python(folder: Path, output: Path, patience: float | None = TIMEOUT, **settings: object) -> None:
    """Match in a program of a user's own."""
    code = f"""
from levelmatch_core import MatchSettings, match_levels
if __name__ == "__main__":
    result = match_levels({str(folder)!r}, {str(output)!r}, MatchSettings.from_mapping({settings!r}))
    assert result.complete, result.failures
"""
    script = output.parent / f"match_by_{output.name}.py"
    script.write_text(code)
    home = output.parent / f"{output.name}-home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_the_three_runners_give_the_same_bytes(program: Path, tmp_path: Path) -> None:
    for runner in ("threads", "processes", "dask"):
        in_python(program, tmp_path / runner, runner=runner, procs=2)
    expected = contents(tmp_path / "threads")
    assert len([name for name in expected if name.startswith("tiles/")]) == 6
    for runner in ("processes", "dask"):
        assert contents(tmp_path / runner) == expected


class Cluster:
    """A scheduler and workers, each a process that knows the others by address only."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.workers: list[subprocess.Popen[bytes]] = []
        address = folder / "scheduler.json"
        self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(address))
        deadline = time.monotonic() + 60
        while not address.exists() or not (told := address.read_text()).rstrip().endswith("}"):  # it is being written
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.1)
        self.address = json.loads(told)["address"]

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        home = self.folder / f"{what}{len(self.workers)}"
        home.mkdir()
        log = (self.folder / f"{home.name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + what, "--host", "127.0.0.1", *arguments],
            cwd=home,
            env=environment(home),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.stack.callback(log.close)
        self.stack.callback(end, process)
        return process

    def add_worker(self) -> None:
        arguments = (self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self.workers.append(self._start("worker", *arguments))


def end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@pytest.mark.slow
def test_a_cluster_that_shares_a_folder_and_loses_a_worker(program: Path, tmp_path: Path) -> None:
    """The command on an external scheduler; a worker is killed once files appear."""
    in_python(program, tmp_path / "plain", procs=1)
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, stack)
        for _ in range(3):
            cluster.add_worker()
        home, output = tmp_path / "home", tmp_path / "out"
        with (tmp_path / "run.log").open("wb") as log:
            run = subprocess.Popen(
                [
                    *(
                        Path(sys.executable).with_name("levelmatch"),
                        "run",
                        program,
                        "--output",
                        output,
                        "--preset",
                        "pjpipe",
                    ),
                    *("--set", "runner=dask", "--set", f"scheduler={cluster.address}"),
                ],
                env=environment(home),
                stdout=log,
                stderr=log,
            )
            stack.callback(run.wait, timeout=TIMEOUT)
            deadline = time.monotonic() + TIMEOUT
            while not list((home / "cutouts").rglob("*.npy")) and run.poll() is None:
                assert time.monotonic() < deadline, "nothing was done"
                time.sleep(0.01)
            end(cluster.workers[0])
            assert run.poll() is None, "it was over before the worker died"
            assert run.wait(timeout=TIMEOUT) == 0, (tmp_path / "run.log").read_text()
        assert contents(output) == contents(tmp_path / "plain")
        told = (tmp_path / "worker1.log").read_text() + (tmp_path / "worker2.log").read_text()
        assert "Traceback" not in told, told


@pytest.mark.full
@pytest.mark.parametrize("count", [40, 1000])
def test_a_survey_of_the_whole_sky_on_four_workers_of_an_outside_scheduler(tmp_path: Path, count: int) -> None:
    """The command gives the bytes of threads."""
    simulate_survey(tmp_path / "in", SkySurvey(exposures=count, size=64))
    in_python(tmp_path / "in", tmp_path / "plain", patience=None, procs=2)
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, stack)
        for _ in range(4):
            cluster.add_worker()
        command = [Path(sys.executable).with_name("levelmatch"), "run", tmp_path / "in", "--output", tmp_path / "out"]
        options = ["--set", "runner=dask", "--set", f"scheduler={cluster.address}", "--preset", "pjpipe"]
        with (tmp_path / "run.log").open("wb") as log:
            done = subprocess.run(
                [*command, *options], env=environment(tmp_path / "home"), stdout=log, stderr=log, check=False
            )
        assert done.returncode == 0, (tmp_path / "run.log").read_text()
        shares = [(tmp_path / f"worker{number}.log").read_text() for number in range(4)]
        assert not any("Traceback" in text for text in shares)
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_a_scheduler_needs_its_runner() -> None:
    with pytest.raises(SettingsError, match="scheduler"):
        MatchSettings.from_mapping({"scheduler": "tcp://127.0.0.1:1"})


def test_a_scheduler_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("levelmatch_core.workers.PATIENCE", 2)
    settings = MatchSettings(runner="dask", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(SettingsError, match="does not answer"), worker_pool(settings):
        pass
