"""The process of the embedded Prefect server: uvicorn, in an interpreter that imports fast."""

import sys

from flows.memory import collect_rarely


def main() -> None:
    """Serve what the command line names, as `python -m uvicorn` does."""
    collect_rarely()
    from uvicorn import main as serve  # noqa: PLC0415 - rarely collected

    sys.exit(serve())


if __name__ == "__main__":
    main()
