"""A real Prefect server and a process worker, on loopback, with a home of their own; spoken to over HTTP only."""

import json
import logging
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0
"""Seconds; the machine may be busy with other things."""


@dataclass(frozen=True)
class Server:
    """A running Prefect server."""

    url: str
    environ: dict[str, str]
    log: Path | None = None

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer of the API to one request."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **({} if method == "GET" else self.token())}
        request = urllib.request.Request(  # noqa: S310 - http on loopback
            f"{self.url}{path}", data=data, method=method, headers=headers
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # its database is busy, and nothing was done: Prefect's own clients come again, too
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
                error.close()
                time.sleep(1)
            except TimeoutError as error:
                # Prefect's own clients come again after a read that took too long, too; here where nothing is changed
                told = f"{method} {path}: no answer in a minute; the server's log ends with\n{self.log_end()}"
                error.add_note(told)
                if not (method == "GET" or path.endswith("/filter")) or time.monotonic() > deadline:
                    raise
                logging.getLogger(__name__).warning(told)  # which a test that fails after it shows

    def log_end(self) -> str:
        """Return the last lines of the server's log."""
        return "" if self.log is None else "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def token(self) -> dict[str, str]:
        """Return the headers that a server wants of a request for a change: none, where it does not ask for them."""
        try:
            return {
                "Prefect-Csrf-Token": self.ask("GET", "/csrf-token?client=tests")["token"],
                "Prefect-Csrf-Client": "tests",
            }
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.UNPROCESSABLE_ENTITY:
                raise
            error.close()
            return {}

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
            # one that crashed or was cancelled before it began has not been counted
            return run if final and (tries == 1 or run["run_count"] >= tries) else None

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


def ended(process: subprocess.Popen[Any]) -> None:
    """End a process that we started, and its children."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, kind)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                continue


def launched(words: list[str], environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            words, env=environ, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def environ_of(home: Path, port: int, **more: str) -> dict[str, str]:
    """Return the environment of a server, its workers and our command: a home and a port of their own."""
    unwanted = ("PREFECT_", "MLFLOW_", "LEVELMATCH_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    url = f"http://127.0.0.1:{port}/api"
    return {
        **environ,
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
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **more,
    }


@contextmanager
def running(words: list[str], environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that is to last as long as the context does."""
    process = launched(words, environ, log)
    try:
        yield process
        assert process.poll() is None, log.read_text()
    finally:
        ended(process)


PREFECT_SERVER = (sys.executable, "-m", "prefect", "server", "start")


@contextmanager
def serving(environ: dict[str, str], log: Path, command: Sequence[str] | None = None) -> Iterator[Server]:
    """Run a Prefect server where the environment says that it is, whose scheduler looks every two seconds."""
    server = Server(environ["PREFECT_API_URL"], environ, log)
    port = server.url.rpartition(":")[2].removesuffix("/api")
    words = [*(command or PREFECT_SERVER), "--host", "127.0.0.1", "--port", port]
    with running(words, environ, log) as process:

        def up() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return server.ask("GET", "/health") is True
            except OSError:
                return False

        server.wait_for(up, "the Prefect server")
        yield server


WORKER = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "levelmatch", "--type", "process"]


def working(environ: dict[str, str], log: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run a process worker of the pool `levelmatch`."""
    return running(WORKER, environ, log)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an embedded database."""
    home = tmp_path_factory.mktemp("home")
    with serving(environ_of(home, free_port()), home / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def worker(prefect_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """Its worker."""
    with working(prefect_server.environ, tmp_path_factory.mktemp("worker") / "log") as process:
        yield process


@pytest.fixture
def alongside() -> Callable[[list[str], dict[str, str], Path], AbstractContextManager[subprocess.Popen[bytes]]]:
    """Run a process beside the test, with its environment and log."""
    return running


@pytest.fixture
def working_in() -> Callable[[dict[str, str], Path], AbstractContextManager[subprocess.Popen[bytes]]]:
    """Run a worker in an environment, with its log."""
    return working


@pytest.fixture
def mortal_worker(prefect_server: Server, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that a test may kill."""
    process = launched(WORKER, prefect_server.environ, tmp_path / "mortal.log")
    yield process
    ended(process)


@dataclass
class Listener:
    """A webhook on the loopback."""

    url: str
    heard: list[dict[str, Any]]

    def runs_told(self, state: str) -> set[str]:
        """Return the flow runs on which a message told a state, by its name."""
        return {each["flow_run"] for each in self.heard if each["state"] == state}

    def waits_for(self, state: str) -> dict[str, Any]:
        """Return the first message on a state, by its name."""
        return Server.wait_for(
            lambda: next((each for each in self.heard if each["state"] == state), None), f"an alert on {state}"
        )


@pytest.fixture
def listener(prefect_server: Server) -> Iterator[Listener]:
    """A webhook, and the block `webhook/loopback` that calls it."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/alerts"
    script = f"from prefect.blocks.webhook import Webhook; Webhook(url={url!r}).save('loopback', overwrite=True)"
    words = [sys.executable, "-c", script]
    subprocess.run(words, env=prefect_server.environ, check=True, timeout=PATIENCE, capture_output=True)
    yield Listener(url, heard)
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Uis:
    """Both web pages of `levelmatch ui`."""

    server: Server
    prefect: str
    mlflow: str


@pytest.fixture(scope="module")
def uis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uis]:
    """Run `levelmatch ui`."""
    home, ports = tmp_path_factory.mktemp("home"), (free_port(), free_port())
    environ = environ_of(home, ports[0])
    words = ["levelmatch", "ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    log = home / "ui.log"
    with running([str(Path(sys.executable).parent / words[0]), *words[1:]], environ, log):
        Server.wait_for(lambda: "Ctrl-C stops both" in log.read_text(), "both UIs")
        prefect, mlflow = (f"http://127.0.0.1:{port}" for port in ports)
        yield Uis(Server(environ["PREFECT_API_URL"], environ), prefect, mlflow)


@dataclass(frozen=True)
class Observatory:
    """Prefect and MLflow on PostgreSQL."""

    server: Server
    tracking: str
    logs: Path
    """Folder of every process' log."""

    def worker(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a worker."""
        return working(self.server.environ, self.logs / "worker.log")


def of_its_unit(name: str) -> list[str]:
    """Return the words with which systemd starts a server, without its address, for this environment."""
    text = (ROOT / "deployments" / "systemd" / f"{name}.service").read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.partition("=")[2].partition("--host")[0])
    return [word.replace("/opt/levelmatch/bin", str(Path(sys.executable).parent)) for word in words]


@pytest.fixture
def observatory(tmp_path: Path) -> Iterator[Observatory]:
    """Start PostgreSQL, a Prefect server and an MLflow server on it, all on loopback."""
    logs, home = tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    home.mkdir()
    with postgres(logs) as database, ExitStack() as stack:
        tracking = f"http://127.0.0.1:{free_port()}"
        environ = environ_of(
            home,
            free_port(),
            PREFECT_API_DATABASE_CONNECTION_URL=f"postgresql+asyncpg://levelmatch@{database}/prefect",
            MLFLOW_TRACKING_URI=tracking,
        )
        words = [sys.executable, "-m", "mlflow", "server", "--app-name", "levelmatch", "--workers", "2"]
        words += ["--host", "127.0.0.1"]
        words += ["--port", tracking.rpartition(":")[2], "--artifacts-destination", str(home / "artifacts")]
        words += ["--backend-store-uri", f"postgresql://levelmatch@{database}/mlflow"]
        mlflow = stack.enter_context(running(words, environ, logs / "mlflow.log"))
        server = stack.enter_context(serving(environ, logs / "prefect.log", of_its_unit("levelmatch-prefect")))

        def up() -> bool:
            assert mlflow.poll() is None, (logs / "mlflow.log").read_text()
            try:
                with urllib.request.urlopen(f"{tracking}/health", timeout=5) as answer:  # noqa: S310 - http on loopback
                    return answer.status == 200
            except OSError:
                return False

        server.wait_for(up, "the MLflow server")
        yield Observatory(server, tracking, logs)


@contextmanager
def postgres(logs: Path) -> Iterator[str]:
    """Run PostgreSQL from Debian's package, with the databases `prefect` and `mlflow`; yield its host and port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("no PostgreSQL: install Debian's package postgresql")
    pytest.importorskip("psycopg2", reason="no psycopg2: pip install 'levelmatch[postgres]'")
    programs, port = found[-1].parent, str(free_port())
    # it refuses to run as root, and another user does not get into root's folders
    user = next((name for name in ("postgres", "nobody") if _is_user(name)), None) if os.geteuid() == 0 else None
    who: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    with tempfile.TemporaryDirectory(prefix="levelmatch-postgres-") as folder:
        if user:
            shutil.chown(folder, user)

        def call(program: str, *words: str) -> None:
            subprocess.run([str(programs / program), *words], cwd=folder, check=True, capture_output=True, **who)

        call("initdb", "--pgdata", f"{folder}/data", "--username", "levelmatch", "--auth", "trust", "--no-sync")
        words = [str(programs / "postgres"), "-D", f"{folder}/data", "-p", port, "-h", "127.0.0.1", "-k", folder]
        with (logs / "postgres.log").open("wb") as output:
            process = subprocess.Popen(
                words, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True, **who
            )
        try:
            at = ("-h", "127.0.0.1", "-p", port, "-U", "levelmatch")
            Server.wait_for(lambda: _serves(programs / "pg_isready", at), "PostgreSQL")
            for name in ("prefect", "mlflow"):
                call("createdb", *at, name)
            yield f"127.0.0.1:{port}"
            assert process.poll() is None, (logs / "postgres.log").read_text()
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: connections are ended
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                ended(process)


def _serves(program: Path, at: tuple[str, ...]) -> bool:
    return subprocess.run([str(program), *at], check=False, capture_output=True).returncode == 0


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


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
