"""A webhook on the loopback that runs a command for each alert: Prefect's server runs none.

Prefect delivers an alert at least once: if its database is busy when an automation has fired, it fires again. An alert
whose event was heard before is passed over here, so that nobody is told twice.
"""

import json
import os
import secrets
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flows.home import Home
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.text.plain_text import one_line

logger = logger_of(__name__)

LOOPBACK = "127.0.0.1"
FIELDS = ("text", "program", "state", "message", "flow_run", "url", "event")
"""What an alert holds: strings."""

_LARGEST = 1 << 20
"""Bytes of an alert."""
_REMEMBERED = 10_000
"""Number of events that are known when they come again."""
_PATIENCE = 300.0
"""Time limit of a command, seconds."""


class Receiver:
    """Hears alerts and runs the command for each one once, one after the other.

    Parameters
    ----------
    command
        The words of the command; the alert is its standard input, as JSON, and in `ALERT_TEXT`, `ALERT_STATE`, ...
    home
        Holds the word without which nobody can make it tell anything.
    port
        Port on the loopback, 0 for a free one.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(self, command: Sequence[str], home: Home, port: int = 0) -> None:
        self._command = tuple(command)
        self._word = _word_of(home)
        self._heard: OrderedDict[str, None] = OrderedDict()
        self._one_at_a_time = threading.Lock()
        self._server = ThreadingHTTPServer((LOOPBACK, port), self._handler())

    @property
    def url(self) -> str:
        """The address for the block of Prefect that calls it."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}/{self._word}"

    def serve(self) -> None:
        """Listen until :meth:`stop` is called from another thread."""
        self._server.serve_forever(poll_interval=0.2)
        self._server.server_close()

    def stop(self) -> None:
        """End :meth:`serve`."""
        self._server.shutdown()

    def hear(self, alert: Mapping[str, Any]) -> bool:
        """Run the command for an alert, and return whether it did; an alert that was heard before is passed over."""
        found = {name: str(alert.get(name) or "") for name in FIELDS}
        with self._one_at_a_time:
            if found["event"] and found["event"] in self._heard:
                logger.info("again, and told once: %s", one_line(found["text"]))
                return False
            self._heard[found["event"]] = None
            while len(self._heard) > _REMEMBERED:
                self._heard.popitem(last=False)
            self._run(found)
        return True

    def _run(self, alert: dict[str, str]) -> None:
        environ = {f"ALERT_{name.upper()}": value.replace("\0", "") for name, value in alert.items()}
        logger.info("%s", one_line(alert["text"]))
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command; an alert is data, and no part of it
                self._command,
                input=json.dumps(alert),
                env={**os.environ, **environ},
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            logger.error("%s: %s; nobody was told", self._command[0], error)  # noqa: TRY400 - it says all
            return
        if done.returncode:
            logger.error("%s ended with code %d; was anybody told?", self._command[0], done.returncode)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_POST(self) -> None:
                if not secrets.compare_digest(self.path.encode(), f"/{receiver._word}".encode()):
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > _LARGEST:
                    self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return
                try:
                    alert = json.loads(self.rfile.read(int(length)))
                except (ValueError, RecursionError):
                    alert = None
                if not isinstance(alert, dict):
                    self.send_error(HTTPStatus.BAD_REQUEST)
                    return
                self.send_response(HTTPStatus.ACCEPTED)  # the server does not wait for the command
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.wfile.flush()
                receiver.hear(alert)

            def log_message(self, *_: object) -> None:
                """Say nothing of requests: their path holds the word."""

        return Handler


def _word_of(home: Home) -> str:
    """Return the word in the address, which stays the same when the service is started again."""
    file = home.root / "alerts-word"
    with home.alone("alerts"):
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as opened:
                opened.write(secrets.token_urlsafe(24))
    return file.read_text(encoding="ascii").strip()
