"""A real Prefect server and a process worker, on loopback, with a home of their own; spoken to over HTTP only."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from levelmatch_core.simulate import SimulatedProgram, simulate

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds; the machine may be busy with other things."""


@dataclass(frozen=True)
class Server:
    """A running Prefect server."""

    url: str
    environ: dict[str, str]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer of the API to one request."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - http on loopback
            f"{self.url}{path}", data=data, method=method, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
            text = answer.read()
        return json.loads(text) if text else None

    def runs(self, **filters: object) -> list[dict[str, Any]]:
        """Return flow runs, the newest first."""
        return self.ask("POST", "/flow_runs/filter", {"flow_runs": filters, "sort": "START_TIME_DESC"})

    def tasks(self, flow_run: str) -> list[dict[str, Any]]:
        """Return the task runs of a flow run."""
        return self.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200})

    def start(self, deployment: str, **parameters: object) -> str:
        """Start a deployment by hand and return the flow run's id."""
        found = self.ask("GET", f"/deployments/name/{deployment}")
        body = {"parameters": {**found["parameters"], **parameters}, "state": {"type": "SCHEDULED"}}
        return str(self.ask("POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])

    def retry(self, flow_run: str) -> None:
        """Do what the button Retry does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from a test"}
        answer = self.ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})
        assert answer["status"] == "ACCEPT", answer

    def ended(self, flow_run: str, tries: int = 1) -> dict[str, Any]:
        """Return a flow run once it has ended for the `tries`-th time."""

        def done() -> dict[str, Any] | None:
            run = self.ask("GET", f"/flow_runs/{flow_run}")
            final = run["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
            return run if final and run["run_count"] >= tries else None

        return self.wait_for(done, f"flow run {flow_run}")

    @staticmethod
    def wait_for(condition: Callable[[], Any], what: str) -> Any:
        """Return the first true value of `condition()`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.5)
        pytest.fail(f"{what}: not in {PATIENCE:g} s")

    def cli(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run our command against this server, from the repository's root."""
        return self._run("levelmatch", *words, **environ)

    def prefect(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run Prefect's command, in the same way."""
        return self._run(sys.executable, "-m", "prefect", "--no-prompt", *words, **environ)

    def _run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        found = Path(sys.executable).parent / words[0]
        return subprocess.run(
            [str(found) if found.exists() else words[0], *words[1:]],
            cwd=ROOT,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


def free_port() -> int:
    """Return a port of the loopback that nobody holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[Any]) -> None:
    """End a process that we started, and its children."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, kind)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                continue


def launched(words: list[str], environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            words, env=environ, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose scheduler looks every two seconds."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    unwanted = ("PREFECT_", "MLFLOW_", "LEVELMATCH_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    url = f"http://127.0.0.1:{port}/api"
    environ |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LEVELMATCH_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "results"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = launched(words, environ, home / "server.log")
    server = Server(url, environ)
    try:

        def up() -> bool:
            assert process.poll() is None, (home / "server.log").read_text()
            try:
                return server.ask("GET", "/health") is True
            except OSError:
                return False

        server.wait_for(up, "the Prefect server")
        yield server
    finally:
        ended(process)


@pytest.fixture(scope="session")
def worker(prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """A process worker of the pool `levelmatch`."""
    log = tmp_path_factory.mktemp("worker") / "log"
    words = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "levelmatch", "--type", "process"]
    process = launched(words, prefect_server.environ, log)
    try:
        yield process
        assert process.poll() is None, log.read_text()
    finally:
        ended(process)


@pytest.fixture
def exposures(tmp_path: Path) -> Path:
    """Four small MIRI exposures of two tiles."""
    folder = tmp_path / "data" / "in"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=96))
    return folder


@pytest.fixture
def programs(tmp_path: Path, exposures: Path) -> Path:  # noqa: ARG001 - they are what the program reads
    """A folder with one program file, `$DATA` being where its exposures lie."""
    folder = tmp_path / "deployments" / "programs"
    folder.mkdir(parents=True)
    (folder / "small.toml").write_text(
        'inputs = ["$DATA/in"]\noutput = "$DATA/out"\nband = "f770w"\n[settings]\nfigures = "none"\n'
    )
    return folder
