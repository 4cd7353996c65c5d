"""One form of each path, for all layers that read it."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_SLASHES = re.compile("/{2,}")


def normalize_path(path: str) -> str:
    """Return a path without doubled slashes and without a slash at its end."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


class PathNormalization:
    """ASGI middleware that normalizes the path of each request.

    Clients join a base URL and a path in many ways, and all of them mean the same route. It is the outermost layer, so
    that authentication, routing, metrics and traces see the same path. Percent escapes are decoded before, by the HTTP
    server; dots are no special names here. `raw_path` stays what the client sent.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "/")
        if (path.endswith("/") and path != "/") or "//" in path:
            scope = {**scope, "path": normalize_path(path)}
        await self._app(scope, receive, send)
