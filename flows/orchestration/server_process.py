"""The process of a web server that a command starts: on the loopback, behind :class:`OwnPages`, gone with the command.

Its standard input is a pipe from who started it. Where that ends, the command is gone, even if it was killed, and the
server ends as well. The embedded Prefect server of a run imports all that it needs and waits for a line on its standard
input before it touches a file.

    python -m flows.orchestration.server_process embedded|prefect|mlflow PORT
"""

import os
import signal
import sys
import threading
import time
from typing import cast

from flows.garbage_collection import collect_rarely
from flows.orchestration.own_pages import LOOPBACK, Application, OwnPages

_GRACE = 5
"""Seconds that what was begun may take when the server is to end."""

STORE, ARTIFACTS = "LEVELMATCH_MLFLOW_STORE", "LEVELMATCH_MLFLOW_ARTIFACTS"
"""Variables that say where MLflow's records and artifacts are. A store's address may hold a password, which every user
of the machine could read among a process's words."""


def main() -> None:
    """Serve what the command line names."""
    collect_rarely()
    what, port = sys.argv[1], int(sys.argv[2])
    import uvicorn  # noqa: PLC0415 - rarely collected

    if what == "embedded":
        import prefect.server.api.server  # noqa: F401, PLC0415 - as above

        if not sys.stdin.readline():
            sys.exit(0)
    threading.Thread(target=_end_with_input, daemon=True).start()
    application = _mlflow() if what == "mlflow" else _prefect()
    level = "error" if what == "embedded" else "info"
    uvicorn.run(
        OwnPages(application, port),
        host=LOOPBACK,
        port=port,
        log_level=level,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE,
    )


def _prefect() -> Application:
    from prefect.server.api.server import create_app  # noqa: PLC0415

    return cast(Application, create_app())


def _mlflow() -> Application:
    """Return MLflow's application on the store that the environment names, as `mlflow server` sets it up."""
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
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock an interpreter that ends would want
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # uvicorn lets what was begun be finished
    time.sleep(2 * _GRACE)
    os._exit(1)


if __name__ == "__main__":
    main()
