"""The process of a web server of a command: on the loopback, protected by :class:`OwnPages`, ending with the command.

Its standard input is a pipe from the command. If the pipe is closed, the command has ended, even if it was killed, and
the server ends as well. The embedded Prefect server of a run imports its modules, makes a new database in memory if
there is none, and waits for a line on its standard input before it writes any file; the command passes it a socket that
is bound to the port.

    python -m flows.orchestration.server_process prefect|mlflow PORT
    python -m flows.orchestration.server_process embedded PORT DESCRIPTOR
"""

import os
import signal
import socket
import sys
import threading
import time
from typing import cast

from flows.garbage_collection import collect_rarely, importing
from flows.home import Home
from flows.orchestration.own_pages import LOOPBACK, Application, OwnPages

_GRACE = 5
"""Time limit for requests in progress when the server has to end, seconds."""

_NOT_STARTED = 3
"""Exit code of a server that could not start, as that of uvicorn."""

STORE, ARTIFACTS = "LEVELMATCH_MLFLOW_STORE", "LEVELMATCH_MLFLOW_ARTIFACTS"
"""Variables with the locations of MLflow's records and artifacts. The address of a store may contain a password, which
every user of the machine could read on the command line of a process."""


def main() -> None:
    """Start the server named on the command line."""
    collect_rarely()
    what, port = sys.argv[1], int(sys.argv[2])
    with importing():
        import uvicorn  # noqa: PLC0415 - rarely collected

        if what == "embedded":
            import prefect.server.api.server  # noqa: F401, PLC0415 - as above
    if what == "embedded":
        from flows.new_databases.making import prefects_in_memory, put_prefects  # noqa: PLC0415 - as above

        home = Home.of()
        new = prefects_in_memory(home)
        if not sys.stdin.readline():
            sys.exit(0)
        if new is not None:
            put_prefects(home, new)
    threading.Thread(target=_end_with_input, daemon=True).start()
    application = _mlflow() if what == "mlflow" else _prefect()
    level = "error" if what == "embedded" else "info"
    config = uvicorn.Config(
        OwnPages(application, port),
        host=LOOPBACK,
        port=port,
        log_level=level,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE,
    )
    server = uvicorn.Server(config)
    server.run([socket.socket(fileno=int(sys.argv[3]))] if what == "embedded" else None)
    if not server.started:
        sys.exit(_NOT_STARTED)


def _prefect() -> Application:
    """Return Prefect's application; what migrates its database looks for modules in the current folder first of all."""
    from prefect.server.api.server import create_app  # noqa: PLC0415
    from prefect.settings import get_current_settings  # noqa: PLC0415

    # what files of that folder say, which is told, is kept
    os.environ |= get_current_settings().to_environment_variables(exclude_unset=True, include_secrets=True)
    os.chdir("/")
    return cast(Application, create_app())


def _mlflow() -> Application:
    """Return MLflow's application for the store named in the environment, set up as by `mlflow server`."""
    from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, REGISTRY_STORE_URI_ENV_VAR  # noqa: PLC0415
    from mlflow.server.handlers import initialize_backend_stores  # noqa: PLC0415

    store, artifacts = os.environ[STORE], os.environ[ARTIFACTS]
    os.environ |= {
        BACKEND_STORE_URI_ENV_VAR: store,
        REGISTRY_STORE_URI_ENV_VAR: store,
        ARTIFACT_ROOT_ENV_VAR: artifacts,
    }
    initialize_backend_stores(store, store, artifacts)
    from mlflow.server.fastapi_app import app  # noqa: PLC0415 - it reads the environment

    return cast(Application, app)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: the interpreter would need the lock of a buffer when it ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # uvicorn finishes requests in progress
    time.sleep(2 * _GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
