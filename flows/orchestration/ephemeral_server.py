"""The embedded Prefect server of a command, started before all else, so that both import at once what they need.

Prefect would start the same server by itself, but only when its own import is over, and would import the server's code
into this process, too, to learn the command line. Where a server, a profile or any other configuration of Prefect is
at hand, all is left to it.
"""

import atexit
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from flows.interruption import add_farewell, at_end
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
    """A server that was started: it touches no file before it is opened, and may not answer yet when it is."""

    process: subprocess.Popen[bytes]
    url: str
    """Of its API."""
    patience: float
    """Seconds within which it has to answer: a new database is made first."""

    _answered: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    """Set when it answers, or has ended."""

    def open(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Let it serve, and tell Prefect, which must not be imported yet, of it by PREFECT_API_URL in `environ`."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended: to wait for it tells why
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()  # and not closed: at its end the server ends, too
        environ["PREFECT_API_URL"] = self.url
        # beside our imports: the first call of its API takes it a quarter of a second
        threading.Thread(target=self._call, daemon=True).start()

    def wait(self) -> None:
        """Wait until it answers, once it is open.

        Raises
        ------
        ServerError
            If it ended, or does not answer in time.
        """
        if not self._answered.wait(self.patience):
            message = f"Prefect's embedded server does not answer after {self.patience:g} s; set {_PATIENCE} higher"
            raise ServerError(message)
        if self.process.poll() is not None:
            message = (
                f"Prefect's embedded server ended with code {self.process.returncode} before it answered; see what "
                f"it wrote above, or set PREFECT_API_URL to a server that runs"
            )
            raise ServerError(message)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        patience = time.monotonic() + _STOPPING
        while self.process.poll() is None and time.monotonic() < patience:  # Popen's own wait looks every 50 ms
            time.sleep(_PAUSE / 10)
        self.process.kill()  # nothing, once it has ended
        self.process.wait()

    def _call(self) -> None:
        """Ask until it answers or has ended."""
        while self.process.poll() is None and not self._answers():
            time.sleep(_PAUSE)
        self._answered.set()

    def _answers(self) -> bool:
        """Ask what Prefect's client asks first."""
        try:
            with urllib.request.urlopen(f"{self.url}/admin/version", timeout=5):  # noqa: S310 - http, on the loopback
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500  # it may want a password
        except (urllib.error.URLError, OSError):
            return False


def start(environ: Mapping[str, str] = os.environ) -> EmbeddedServer | None:
    """Start a server that is to be opened; it ends with this process.

    Parameters
    ----------
    environ
        As :func:`flows.home.set_environment` left it.

    Returns
    -------
    The server, or None where Prefect is to find or start one by itself.
    """
    if "prefect" in sys.modules or _configured(environ) or find_spec("prefect") is None:
        return None
    return _begin(environ)


@contextmanager
def in_place_of_prefects(server: EmbeddedServer | None) -> Iterator[EmbeddedServer | None]:
    """Have a server while the context lasts where Prefect would start one by itself, which would outlive us if killed.

    Prefect's settings, which may come from a profile or a file, are known once it is imported; it must be.

    Parameters
    ----------
    server
        The server that was started before, if one was.

    Yields
    ------
    That one, or one that was begun and opened here, or None where Prefect knows a server or may start none.
    """
    from prefect.settings import (  # noqa: PLC0415 - the module is imported before Prefect
        PREFECT_API_URL,
        PREFECT_SERVER_EPHEMERAL_ENABLED,
        temporary_settings,
    )

    if server is not None or PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        yield server
        return
    server = _begin(os.environ)
    server.open({})
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server


def _begin(environ: Mapping[str, str]) -> EmbeddedServer:
    port = _free_port()
    command = [sys.executable, "-m", "flows.orchestration.server_process", "embedded", str(port)]
    # as Prefect starts its own: without the UI, and with the services of a temporary server only
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    process = subprocess.Popen(  # noqa: S603 - our own; Ctrl-C is for us, who have to tell it how the run ended
        command, env={**environ, **own}, stdin=subprocess.PIPE, start_new_session=True
    )
    add_farewell(at_end(process))
    server = EmbeddedServer(process, f"http://127.0.0.1:{port}/api", float(environ.get(_PATIENCE, "180")))
    # Prefect's own calls at exit, which hand in logs and events, are made before: the last comes first
    atexit.register(server.stop)
    return server


def _configured(environ: Mapping[str, str]) -> bool:
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
