"""Servers that tests start: a free port, and the wait for the first answer."""

import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from typing import Any


def free_port() -> int:
    """Return a port of the loopback that nobody holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_answer(process: subprocess.Popen[Any], url: str, patience: float = 240) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + patience
    while True:
        assert process.poll() is None, f"the server at {url} ended by itself"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - http on loopback
            if answer.status == 200:
                return
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.2)
