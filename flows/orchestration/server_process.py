"""The process of the embedded Prefect server: uvicorn, in an interpreter that imports fast.

It imports all that it needs and waits for a line on its standard input before it touches a file. Where that input ends,
before or after, who started it is gone, even if it was killed, and the server ends as well.
"""

import os
import signal
import sys
import threading

from flows.garbage_collection import collect_rarely


def main() -> None:
    """Serve what the command line names, as `python -m uvicorn` does."""
    collect_rarely()
    import prefect.server.api.server  # noqa: F401, PLC0415 - rarely collected
    from uvicorn import main as serve  # noqa: PLC0415

    if not sys.stdin.readline():
        sys.exit(0)
    threading.Thread(target=_end_with_input, daemon=True).start()
    sys.exit(serve())


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock an interpreter that ends would want
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # uvicorn lets what was begun be finished


if __name__ == "__main__":
    main()
