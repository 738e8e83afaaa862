"""A layer before a web server that lets only its own pages and programs of this machine in.

A browser sends what any page on the net asks it to, to this machine, too. A page of another origin is told by the
Origin header (or by Sec-Fetch-Site, where a browser sends no Origin), and a page whose name was made to lead here (DNS
rebinding) by the Host header. Programs send no Origin.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOOPBACK = "127.0.0.1"

_NAMES = frozenset({LOOPBACK, "localhost", "[::1]"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class OwnPages:
    """Refuses, with status 403 and whatever the method, what another site's page makes a browser send.

    Parameters
    ----------
    application
        The ASGI application behind.
    port
        Where it is served on the loopback.
    """

    def __init__(self, application: Application, port: int) -> None:
        self._application = application
        self._origins = {f"http://{name}:{port}" for name in _NAMES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        problem = self.problem(scope) if scope["type"] in {"http", "websocket"} else None
        if problem is None:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{problem}\n".encode()})

    def problem(self, scope: Scope) -> str | None:
        """Return why a request is refused, None if it is not."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
        hosts = headers.get("host", [])
        if len(hosts) != 1 or _name_of(hosts[0]) not in _NAMES:
            return "refused: the host that was asked for is not this machine's own name"
        origins = headers.get("origin", [])
        if not set(origins) <= {*self._origins, f"http://{hosts[0]}"}:
            return "refused: a page of another origin asks"
        if not origins and _of_another_site(scope, headers):
            return "refused: a page of another site asks"
        return None


def _name_of(host: str) -> str:
    """Return the name in a Host header, which may have a port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _of_another_site(scope: Scope, headers: dict[str, list[str]]) -> bool:
    """Return whether a browser says that another site asks, and not by a link that a person follows."""
    sites = set(headers.get("sec-fetch-site", []))
    followed = (
        headers.get("sec-fetch-mode") == ["navigate"]
        and headers.get("sec-fetch-dest") == ["document"]
        and scope.get("method") in {"GET", "HEAD"}
    )
    return bool(sites - {"same-origin", "none"}) and not followed
