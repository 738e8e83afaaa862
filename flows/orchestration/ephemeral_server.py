"""The embedded Prefect server of a command, started first, so that both processes import their modules in parallel.

Prefect would start the same server by itself, but only after its own import, and would also import the server's code
into this process to determine the command line. If there is a server, a profile or any other configuration of Prefect,
everything is left to Prefect.

Other users of this machine can reach its port, too. It answers nobody but this process, and those that it starts, by a
password that is made for every server and handed over in the environment, which only their owner can read.
"""

import atexit
import base64
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from flows.home import Home
from flows.interruption import add_end, at_end
from flows.orchestration.availability import making_database
from flows.orchestration.own_pages import LOOPBACK
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
"""Variables that give the address of a server, or whether one may be started."""

_PATIENCE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
_CREDENTIALS, _ASKED_FOR = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
"""Variables of what clients say, and of what a server asks for."""
_NO_BLOCKS = {"PREFECT_API_BLOCKS_REGISTER_ON_START": "false", "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false"}
"""Variables of a run's server: types of blocks, for pages and alerts, are listed by servers of `ui` and `deploy`. In a
new database that takes half a second. Prefect must not note either that it was done."""
_PAUSE = 0.05
"""Seconds between two requests while waiting for an answer."""
_STOPPING = 5.0
"""Time limit for the server to end by itself, as with Prefect, seconds."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A started server. It accesses no files before it is opened, and may take a while to answer afterwards."""

    process: subprocess.Popen[bytes]
    url: str
    """URL of its API."""
    patience: float
    """Time limit for its first answer, seconds; a new database is created first."""
    credentials: str = field(repr=False)
    """What it asks for: name and password, with a colon between them."""

    _answered: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    """Set when the server answers, or has ended."""

    def open(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Start serving, and set the address and credentials in `environ` for Prefect, which is not yet imported."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended; wait() reports why
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()  # not closed, since the server ends with its input
        environ["PREFECT_API_URL"] = self.url
        environ[_CREDENTIALS] = self.credentials
        # in parallel with our imports: the first call of the API takes a quarter of a second
        threading.Thread(target=self._call, daemon=True).start()

    def wait(self) -> None:
        """Wait until the opened server answers.

        Raises
        ------
        ServerError
            If the server has ended, or does not answer in time.
        """
        if not self._answered.wait(self.patience):
            message = f"Prefect's embedded server does not answer after {self.patience:g} s; set {_PATIENCE} higher"
            raise ServerError(message)
        if self.process.poll() is not None:
            message = (
                f"Prefect's embedded server ended with code {self.process.returncode} before it answered; see its "
                f"output above, or set PREFECT_API_URL to a running server"
            )
            raise ServerError(message)

    def stop(self) -> None:
        """Stop the server."""
        self.process.terminate()
        patience = time.monotonic() + _STOPPING
        while self.process.poll() is None and time.monotonic() < patience:  # Popen.wait only checks every 50 ms
            time.sleep(_PAUSE / 10)
        self.process.kill()  # no effect if it has ended
        self.process.wait()

    def _call(self) -> None:
        """Send requests until the server answers or has ended."""
        while self.process.poll() is None and not self._answers():
            time.sleep(_PAUSE)
        self._answered.set()

    def _answers(self) -> bool:
        """Send the first request of Prefect's client."""
        word = base64.b64encode(self.credentials.encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - http, on the loopback
            f"{self.url}/admin/version", headers={"Authorization": f"Basic {word}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - as above
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500
        except (urllib.error.URLError, OSError):
            return False


def start(environ: Mapping[str, str] = os.environ) -> EmbeddedServer | None:
    """Start a server, which has to be opened; it ends with this process.

    Parameters
    ----------
    environ
        As set by :func:`flows.home.set_environment`.

    Returns
    -------
    The server, or None if Prefect has to find or start one by itself.
    """
    if "prefect" in sys.modules or _configured(environ) or find_spec("prefect") is None:
        return None
    return _begin({**_NO_BLOCKS, **environ})


@contextmanager
def in_place_of_prefects(server: EmbeddedServer | None) -> Iterator[EmbeddedServer | None]:
    """Provide a server during the context where Prefect would start its own, which would survive if we were killed.

    Prefect must have been imported: its settings, which may come from a profile or a file, are known only then.

    Parameters
    ----------
    server
        The server that was started before, if there is one.

    Yields
    ------
    That server, or one that is started and opened here, or None if Prefect has a server or may not start one.
    """
    from prefect.settings import (  # noqa: PLC0415 - the module is imported before Prefect
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_EPHEMERAL_ENABLED,
        temporary_settings,
    )

    if server is not None or PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        yield server
        return
    server = _begin(os.environ)
    server.open({})
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.credentials}):
        yield server


@contextmanager
def any_server(home: Home) -> Iterator[dict[str, str]]:
    """Provide a server during the context, and yield the variables that name it to Prefect's commands.

    Prefect would start one for each of its commands, which would survive if we were killed; this one does not.
    """
    with ExitStack() as stack:
        with making_database(home):
            server = stack.enter_context(in_place_of_prefects(None))
            if server is not None:
                server.wait()
        yield {} if server is None else {"PREFECT_API_URL": server.url, _CREDENTIALS: server.credentials}


def _begin(environ: Mapping[str, str]) -> EmbeddedServer:
    # like Prefect's own: without the UI, and only with the services of a temporary server
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    credentials = f"levelmatch:{secrets.token_urlsafe(32)}"
    own |= {_CREDENTIALS: credentials, _ASKED_FOR: credentials}
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.bind((LOOPBACK, 0))  # here, so that nobody else can take the port before the server does
        port, number = bound.getsockname()[1], bound.fileno()
        words = [sys.executable, "-m", "flows.orchestration.server_process", "embedded", str(port), str(number)]
        process = subprocess.Popen(  # noqa: S603 - our own; in a new session, since we have to report the end of the run after Ctrl-C
            words, env={**environ, **own}, stdin=subprocess.PIPE, start_new_session=True, pass_fds=(number,)
        )
    add_end(at_end(process))
    server = EmbeddedServer(process, f"http://{LOOPBACK}:{port}/api", float(environ.get(_PATIENCE, "180")), credentials)
    # Prefect's own exit handlers, which send logs and events, run before this one: the order is reversed
    atexit.register(server.stop)
    return server


def _configured(environ: Mapping[str, str]) -> bool:
    """Return whether there is any configuration of a Prefect server, or of how to start one."""
    here = Path.cwd()
    project = here / "pyproject.toml"
    return (
        any(name in environ for name in _NAMES)
        or any((here / name).exists() for name in (".env", "prefect.toml"))
        or (project.is_file() and b"[tool.prefect" in project.read_bytes())
        or (Path(environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml").exists()
    )
