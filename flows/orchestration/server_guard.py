"""A server that Prefect starts by itself, in a script that calls a flow, ends with the script even if that is killed.

A command's own server reads from a pipe whose end tells it (:mod:`flows.orchestration.server_process`); Prefect's does
not. A small process holds that pipe for it.
"""

import os
import signal
import sys
import time

_GRACE = 5.0
"""Seconds that the server has to end by itself."""

_guarded: set[int] = set()


def guard_prefects_own() -> None:
    """Have the servers that Prefect started in this process ended once the process is gone."""
    module = sys.modules.get("prefect.server.api.server")  # it is imported by whoever starts one
    servers = getattr(getattr(module, "SubprocessASGIServer", None), "_instances", {})
    for server in tuple(servers.values()):
        process = server.server_process
        if process is not None and process.poll() is None and process.pid not in _guarded:
            _guarded.add(process.pid)
            _start(process.pid)


def _start(server: int) -> None:
    """Start the process; the other end of its pipe stays open for as long as this process lives."""
    theirs, _ours = os.pipe()
    words = [sys.executable, "-m", "flows.orchestration.server_guard", str(server)]
    os.posix_spawn(sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)])
    os.close(theirs)


def main() -> None:
    """Wait until nobody is left who may write to our standard input, and end the server."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # who started us may hear them and go on
        signal.signal(number, signal.SIG_IGN)
    server = int(sys.argv[1])
    try:
        handle = os.pidfd_open(server) if sys.platform == "linux" else None
    except ProcessLookupError:
        return

    def send(number: int) -> None:
        if handle is not None and sys.platform == "linux":
            signal.pidfd_send_signal(handle, number)  # another process may have got its number
        else:
            os.kill(server, number)

    while os.read(0, 1):
        pass
    try:
        send(signal.SIGTERM)
        end = time.monotonic() + _GRACE
        while time.monotonic() < end:
            time.sleep(0.1)
            send(0)
        send(signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
