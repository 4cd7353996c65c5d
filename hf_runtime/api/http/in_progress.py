"""Middleware that counts requests in progress and the memory of their bodies."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from hf_runtime.api.http.body import BodyMemory
from hf_runtime.api.http.refusal import refuse
from hf_runtime.contract.errors import ModelNotReady
from hf_runtime.draining import Drain

#: Liveness probes must not fail while the server stops, or the process is restarted.
_LIVE_PATHS = frozenset({"/", "/v2/health/live"})


class InProgressMiddleware:
    """ASGI middleware that counts requests and the bytes of their bodies until they end.

    New requests are refused while the server stops.
    """

    def __init__(self, app: ASGIApp, drain: Drain, bodies: BodyMemory) -> None:
        self._app = app
        self._drain, self._bodies = drain, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._drain.stopping and scope["path"] not in _LIVE_PATHS:
            error = ModelNotReady("the server is stopping", retry_after=1)
            return await refuse(scope, receive, send, error, {"Connection": "close"})
        with self._drain.count_work(), self._bodies.share_for(scope):
            await self._app(scope, receive, send)
