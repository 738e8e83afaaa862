"""ASGI middleware that only admits a server's own pages and programs on this machine.

A browser sends requests on behalf of any web page, also to this machine. Pages of another origin are recognised by the
Origin header (or by Sec-Fetch-Site, if a browser sends no Origin), and pages whose host name resolves to this machine
(DNS rebinding) by the Host header. Programs send no Origin.
"""

import os
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, cast

LOOPBACK = "127.0.0.1"

_NAMES = frozenset({LOOPBACK, "localhost", "[::1]"})

_ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
"""MLflow's assistant, which runs commands on this machine for whoever reaches its port."""

_SERVED_NAMES = "LEVELMATCH_PREFECT_NAMES"

_NO_ASSISTANT = "refused: MLflow's assistant runs commands on this machine; it is off here"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class OwnPages:
    """Refuses requests that a page of another site makes a browser send, with status 403 for every method.

    Parameters
    ----------
    application
        The ASGI application to protect.
    port
        Its port on the loopback; None if only pages under the address that was asked for are its own.
    names
        Host names under which it is asked besides the loopback's: by workers, or by browsers through a proxy.
    """

    def __init__(self, application: Application, port: int | None = None, names: Collection[str] = ()) -> None:
        self._application = application
        self._names = _NAMES | {name.lower() for name in names}
        self._origins = {f"http://{name}:{port}" for name in _NAMES if port is not None}
        self._proxies = self._names - _NAMES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        problem = self.problem(scope) if scope["type"] in {"http", "websocket"} else None
        if problem is None:
            await self._application(scope, receive, send)
        else:
            await _refuse(scope, send, problem)

    def problem(self, scope: Scope) -> str | None:
        """Return the reason to refuse a request; None to accept it."""
        if _is_assistant(scope):
            return _NO_ASSISTANT
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
        hosts = headers.get("host", [])
        if len(hosts) != 1 or _name_of(hosts[0]) not in self._names:
            return "refused: the host that was asked for is not this machine's own name"
        origins = headers.get("origin", [])
        secure = {f"https://{hosts[0]}"} if _name_of(hosts[0]) in self._proxies else set()
        if not set(origins) <= {*self._origins, *secure, f"http://{hosts[0]}"}:
            return "refused: a page of another origin asks"
        if not origins and _of_another_site(scope, headers):
            return "refused: a page of another site asks"
        return None


class WithoutAssistant:
    """Refuses MLflow's assistant, with status 403, and nothing else: who else may come in, MLflow decides itself.

    Parameters
    ----------
    application
        MLflow's ASGI application.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if _is_assistant(scope):
            await _refuse(scope, send, _NO_ASSISTANT)
        else:
            await self._application(scope, receive, send)


def mlflow_without_assistant() -> Application:
    """Return MLflow's application without its assistant: what `mlflow server --app-name levelmatch` serves."""
    from mlflow.server.fastapi_app import app  # noqa: PLC0415 - it reads the environment

    return WithoutAssistant(cast(Application, app))


def prefect_for_own_pages() -> Application:
    """Return Prefect's application behind :class:`OwnPages`: what a service serves instead of `prefect server start`.

    ``LEVELMATCH_PREFECT_NAMES`` lists the host names besides the loopback's, separated by commas.
    """
    os.environ.pop("PREFECT_API_URL", None)  # the server must not be the client of another
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    from prefect.server.api.server import create_app  # noqa: PLC0415 - it reads the environment

    names = [name.strip() for name in os.environ.get(_SERVED_NAMES, "").split(",")]
    return OwnPages(cast(Application, create_app()), names=[name for name in names if name])


def _is_assistant(scope: Scope) -> bool:
    return _ASSISTANT in str(scope.get("path", ""))  # there may be a prefix before it


async def _refuse(scope: Scope, send: Send, problem: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": f"{problem}\n".encode()})


def _name_of(host: str) -> str:
    """Return the host name of a Host header, which may contain a port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _of_another_site(scope: Scope, headers: dict[str, list[str]]) -> bool:
    """Return whether a request comes from another site, according to the browser, other than by following a link."""
    sites = set(headers.get("sec-fetch-site", []))
    followed = (
        headers.get("sec-fetch-mode") == ["navigate"]
        and headers.get("sec-fetch-dest") == ["document"]
        and scope.get("method") in {"GET", "HEAD"}
    )
    return bool(sites - {"same-origin", "none"}) and not followed
