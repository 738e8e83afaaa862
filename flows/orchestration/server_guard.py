"""Guard that ends a server started by Prefect itself, in a script that calls a flow, even if the script is killed.

The server of a command ends with a pipe from the command (:mod:`flows.orchestration.server_process`), but Prefect's own
server does not. Here a small process reads such a pipe on its behalf.
"""

import os
import signal
import sys
import time

_GRACE = 5.0
"""Time limit for the server to end by itself, seconds."""

_guarded: set[int] = set()


def guard_prefects_own() -> None:
    """Ensure that servers that Prefect started in this process end with it."""
    module = sys.modules.get("prefect.server.api.server")  # imported if a server was started
    servers = getattr(getattr(module, "SubprocessASGIServer", None), "_instances", {})
    for server in tuple(servers.values()):
        process = server.server_process
        if process is not None and process.poll() is None and process.pid not in _guarded:
            _guarded.add(process.pid)
            _start(process.pid)


def _start(server: int) -> None:
    """Start the guard; the other end of its pipe remains open as long as this process exists."""
    theirs, _ours = os.pipe()
    words = [sys.executable, "-m", "flows.orchestration.server_guard", str(server)]
    os.posix_spawn(sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0)])
    os.close(theirs)


def main() -> None:
    """Wait until standard input is closed by all writers, and end the server."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent may handle them and continue
        signal.signal(number, signal.SIG_IGN)
    server = int(sys.argv[1])
    try:
        handle = os.pidfd_open(server) if sys.platform == "linux" else None
    except ProcessLookupError:
        return

    def send(number: int) -> None:
        if handle is not None and sys.platform == "linux":
            signal.pidfd_send_signal(handle, number)  # its number may have been reused
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
