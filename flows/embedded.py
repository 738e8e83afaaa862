"""The embedded Prefect server of a command, started before Prefect is imported, so that both take their time at once.

Prefect would start the same server by itself, but only when its own import is over, and would import the server's code
into this process, too, to learn the command line. Where a server, a profile or any other configuration of Prefect is
at hand, all is left to it.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from levelmatch_core.errors import ServerError

_NAMES = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "PREFECT_SERVER_EPHEMERAL_ENABLED",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE",
    "PREFECT_SERVER_API_BASE_PATH",
)
"""Variables that say where a server is, or whether one may be started."""

_PATIENCE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
_PAUSE = 0.05
"""Seconds between two looks whether it answers."""
_STOPPING = 5.0
"""Seconds that it has to end by itself, as with Prefect."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that was started and may not answer yet."""

    process: subprocess.Popen[bytes]
    url: str
    """Of its API."""
    patience: float
    """Seconds within which it has to answer: a new database is made first."""

    def wait(self) -> None:
        """Wait until it answers.

        Raises
        ------
        ServerError
            If it ended, or does not answer in time.
        """
        started = time.monotonic()
        while not self._answers():
            if self.process.poll() is not None:
                message = (
                    f"Prefect's embedded server ended with code {self.process.returncode} before it answered; see what "
                    f"it wrote above, or set PREFECT_API_URL to a server that runs"
                )
                raise ServerError(message)
            if time.monotonic() - started > self.patience:
                message = f"Prefect's embedded server does not answer after {self.patience:g} s; set {_PATIENCE} higher"
                raise ServerError(message)
            time.sleep(_PAUSE)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):  # noqa: S310 - http, on the loopback
                return True
        except (urllib.error.URLError, OSError):
            return False


def start(environ: MutableMapping[str, str] = os.environ) -> EmbeddedServer | None:
    """Start a server and tell Prefect, which must not be imported yet, of it; it ends with this process.

    Parameters
    ----------
    environ
        As :func:`flows.home.prepare_environment` left it; PREFECT_API_URL is added.

    Returns
    -------
    The server, or None where Prefect is to find or start one by itself.
    """
    package = find_spec("prefect")
    if "prefect" in sys.modules or _configured(environ) or package is None or package.origin is None:
        return None
    port = _free_port()
    command = [sys.executable, "-m", "flows.serving", "--app-dir", str(Path(package.origin).parent.parent)]
    command += ["--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", "error", "--lifespan", "on"]
    # as Prefect starts its own: without the UI, and with the services of a temporary server only
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    process = subprocess.Popen(command, env={**environ, **own})  # noqa: S603 - our own interpreter
    server = EmbeddedServer(process, f"http://127.0.0.1:{port}/api", float(environ.get(_PATIENCE, "180")))
    # Prefect's own calls at exit, which hand in logs and events, are made before: the last comes first
    atexit.register(server.stop)
    environ["PREFECT_API_URL"] = server.url
    return server


def _configured(environ: MutableMapping[str, str]) -> bool:
    """Return whether something may tell Prefect of a server, or how to start one."""
    here = Path.cwd()
    project = here / "pyproject.toml"
    return (
        any(name in environ for name in _NAMES)
        or any((here / name).exists() for name in (".env", "prefect.toml"))
        or (project.is_file() and b"[tool.prefect" in project.read_bytes())
        or (Path(environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml").exists()
    )


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
