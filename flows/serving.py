"""The process of the embedded Prefect server: uvicorn, in an interpreter that imports fast.

It imports all that it needs and waits for a line on its standard input before it touches a file. Where none comes, it
is not wanted, or who started it is gone.
"""

import sys

from flows.memory import collect_rarely


def main() -> None:
    """Serve what the command line names, as `python -m uvicorn` does."""
    collect_rarely()
    import prefect.server.api.server  # noqa: F401, PLC0415 - rarely collected
    from uvicorn import main as serve  # noqa: PLC0415

    sys.exit(serve() if sys.stdin.readline() else 0)


if __name__ == "__main__":
    main()
