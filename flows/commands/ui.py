"""`levelmatch ui`: Prefect's and MLflow's web pages for LEVELMATCH_HOME, on the loopback only."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import click
import cloup

from flows.commands.console import clean_errors, say
from flows.home import Home, prepare_environment, private_files
from flows.interruption import ending_itself
from flows.orchestration.own_pages import LOOPBACK
from flows.orchestration.server_process import ARTIFACTS, STORE
from levelmatch_core.errors import ServerError, UsageError

_PATIENCE = 300.0
"""Time limit until both answer, seconds; a new database is migrated first."""

_GRACE = 15.0
"""Time limit for a server to end by itself, seconds."""


@cloup.command(short_help="Start Prefect's and MLflow's pages on past and present runs.")
@cloup.option("--prefect-port", type=click.IntRange(1, 65535), default=4200, show_default=True)
@cloup.option("--mlflow-port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(prefect_port: int, mlflow_port: int) -> None:
    """Show past and present runs in Prefect's and MLflow's web pages, for LEVELMATCH_HOME, until Ctrl-C.

    Both listen on the loopback only. Programs deployed to this Prefect server run as long as a worker is running.
    """
    with clean_errors():
        home = prepare_environment()
        for port in (prefect_port, mlflow_port):
            _refuse_taken(port)
        prefect, mlflow = (f"http://{LOOPBACK}:{port}" for port in (prefect_port, mlflow_port))
        with private_files(), ending_itself() as asked, ExitStack() as stack:
            servers = [
                stack.enter_context(_running("prefect", prefect_port, _prefect_environ(prefect_port), home)),
                stack.enter_context(_running("mlflow", mlflow_port, _mlflow_environ(home, mlflow_port), home)),
            ]
            if _await(servers, [f"{prefect}/api/health", f"{mlflow}/health"], asked):
                say(f"Prefect: {prefect}")
                say(f"MLflow:  {mlflow}")
                home.mlflow_pages.write_text(mlflow, encoding="ascii")  # for the links of runs
                say(f"state:   {home.root}")
                say(f"to run there: export PREFECT_API_URL={prefect}/api")
                say("Ctrl-C stops both.")
            while not asked.wait(0.5):
                _refuse_ended(servers)
            say("stopping")
        say("stopped")


def _names(port: int) -> tuple[str, str]:
    """Return the host names under which a browser on this machine may address a server."""
    return f"{LOOPBACK}:{port}", f"localhost:{port}"


def _prefect_environ(port: int) -> dict[str, str]:
    """Return the environment of Prefect's server: pages of other sites can neither read nor change anything."""
    return {
        "PREFECT_SERVER_UI_API_URL": f"http://{LOOPBACK}:{port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}" for name in _names(port)),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT__SERVER_FINAL": "1",
    }


def _mlflow_environ(home: Home, port: int) -> dict[str, str]:
    """Return the environment of MLflow's server: the same, the accepted host names, and the location of its data."""
    return {
        STORE: home.tracking_uri,
        ARTIFACTS: home.artifacts.as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves eight processes, for judging language models
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
def _running(what: str, port: int, environ: dict[str, str], home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in a new session, which Ctrl-C does not reach, and end all its processes after the context.

    Should this process be killed, the server ends with its standard input.
    """
    # a server must not be the client of another
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    words = [sys.executable, "-m", "flows.orchestration.server_process", what, str(port)]
    with (home.root / f"{what}-ui.log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our words
            words,
            env={**inherited, **environ},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and its processes: first terminate the whole session, then kill it."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue


def _await(servers: Sequence[subprocess.Popen[bytes]], addresses: Sequence[str], asked: threading.Event) -> bool:
    """Wait until all addresses answer, and return whether they do; False if a signal asked to end meanwhile.

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
            if asked.wait(0.3):
                return False
    return True


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - http on loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _refuse_ended(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        if server.poll() is not None:
            name = str(list(server.args)[-2])  # type: ignore[arg-type]  # we gave a list
            message = f"{name} ended by itself (code {server.returncode}); its log: {name}-ui.log in LEVELMATCH_HOME"
            raise ServerError(message)
