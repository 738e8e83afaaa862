"""Servers that tests start: a free port, and the wait for the first answer."""

import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from typing import Any

import pytest
import urllib3.util.connection


def free_port() -> int:
    """Return a port of the loopback that nobody holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connections(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that gets, for each connection of a client of urllib3, the seconds that it waits for an answer."""
    waited: list[float] = []
    connect = urllib3.util.connection.create_connection

    def noted(address: tuple[str, int], timeout: float, *rest: Any, **options: Any) -> socket.socket:
        waited.append(timeout)
        return connect(address, timeout, *rest, **options)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", noted)
    return waited


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
