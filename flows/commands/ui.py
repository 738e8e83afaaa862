"""`levelmatch ui`: Prefect's and MLflow's web pages over LEVELMATCH_HOME, on the loopback only."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import click
import cloup

from flows.commands.console import clean_errors
from flows.home import Home, prepare_environment
from levelmatch_core.errors import LevelMatchError, UsageError

LOOPBACK = "127.0.0.1"

_PATIENCE = 300.0
"""Seconds until both answer: a new database is migrated first."""

_GRACE = 15.0
"""Seconds that a server has to end by itself."""


class ServerError(LevelMatchError):
    """A server did not start, or ended by itself."""


class _StopError(BaseException):
    """We were asked to stop."""


@cloup.command(short_help="Open Prefect's and MLflow's pages over past and present runs.")
@cloup.option("--prefect-port", type=click.IntRange(1, 65535), default=4200, show_default=True)
@cloup.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(prefect_port: int, mlflow_port: int) -> None:
    """Show past and present runs: Prefect's pages and MLflow's, over LEVELMATCH_HOME, until Ctrl-C.

    Both listen on the loopback only. Programs that are deployed to this Prefect server run while a worker does.
    """
    with clean_errors():
        home = prepare_environment()
        for port in (prefect_port, mlflow_port):
            _refuse_taken(port)
        prefect, mlflow = (f"http://{LOOPBACK}:{port}" for port in (prefect_port, mlflow_port))
        with _stopping(), ExitStack() as stack:
            try:
                logs = [home.root / f"{name}-ui.log" for name in ("prefect", "mlflow")]
                servers = [
                    stack.enter_context(_running(_prefect(prefect_port), _prefect_environ(prefect_port), logs[0])),
                    stack.enter_context(
                        _running(_mlflow(home, mlflow_port), _mlflow_environ(home, mlflow_port), logs[1])
                    ),
                ]
                _await(servers, [f"{prefect}/api/health", f"{mlflow}/health"])
                click.echo(f"Prefect: {prefect}")
                click.echo(f"MLflow:  {mlflow}")
                click.echo(f"state:   {home.root}")
                click.echo(f"to run there: export PREFECT_API_URL={prefect}/api")
                click.echo("Ctrl-C stops both.")
                _watch(servers)
            except _StopError:
                click.echo("stopping")
        click.echo("stopped")


def _prefect(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]


def _mlflow(home: Home, port: int) -> list[str]:
    files = home.artifacts.as_uri()
    words = ["server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", *words, "--default-artifact-root", files, "--no-serve-artifacts"]


def _names(port: int) -> tuple[str, str]:
    """Return the names under which a browser on this machine may ask for a server."""
    return f"{LOOPBACK}:{port}", f"localhost:{port}"


def _prefect_environ(port: int) -> dict[str, str]:
    """Return what Prefect's server is told: pages of other sites may not read its answers, nor ask for changes."""
    return {
        "PREFECT_SERVER_UI_API_URL": f"http://{LOOPBACK}:{port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}" for name in _names(port)),
    }


def _mlflow_environ(home: Home, port: int) -> dict[str, str]:
    """Return what MLflow's server is told: the same, other names of its host are refused, and the store's address.

    That may hold a password, which every user of the machine could read among a process's words.
    """
    return {
        "MLFLOW_BACKEND_STORE_URI": home.tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes more, for judging language models
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(_names(port)),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}" for name in _names(port)),
    }


def _refuse_taken(port: int) -> None:
    """Refuse a port that is in use.

    Raises
    ------
    UsageError
        If it is.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            message = f"port {port}: {error.strerror}; stop what listens there, or name another port"
            raise UsageError(message) from error


@contextmanager
def _stopping() -> Iterator[None]:
    """Turn the signals that ask us to stop into an exception, once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for kind in before:
            signal.signal(kind, signal.SIG_IGN)  # a second Ctrl-C must not leave a server behind
        raise _StopError

    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _running(words: Sequence[str], environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in a session of its own, where Ctrl-C does not reach it, and end all of it."""
    # a server must not be the client of another
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our words
            words, env={**inherited, **environ}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started: first the whole session politely, then by force."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue


def _await(servers: Sequence[subprocess.Popen[bytes]], addresses: Sequence[str]) -> None:
    """Wait until all addresses answer.

    Raises
    ------
    ServerError
        If a server ends before, or does not answer.
    """
    deadline = time.monotonic() + _PATIENCE
    for address in addresses:
        while not _answers(address):
            _refuse_ended(servers)
            if time.monotonic() > deadline:
                message = f"{address}: no answer after {_PATIENCE:.0f} s"
                raise ServerError(message)
            time.sleep(0.3)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - http on loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _watch(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    while True:
        _refuse_ended(servers)
        time.sleep(0.5)


def _refuse_ended(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        if server.poll() is not None:
            name = str(list(server.args)[2])  # type: ignore[arg-type]  # we gave a list
            message = f"{name} ended by itself (code {server.returncode}); its log: {name}-ui.log in LEVELMATCH_HOME"
            raise ServerError(message)
