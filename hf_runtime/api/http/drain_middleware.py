"""While the server stops, what was begun is finished and nothing new is begun."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from hf_runtime.api.http.refusal import refuse
from hf_runtime.contract.errors import ModelNotReady
from hf_runtime.draining import Drain

#: Whoever asks whether the process is well must not hear that it is to be started anew.
_LIVE_PATHS = frozenset({"/", "/v2/health/live"})


class DrainMiddleware:
    """ASGI middleware that counts requests, streams to their end, and refuses them while the server stops."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._drain.stopping and scope["path"] not in _LIVE_PATHS:
            error = ModelNotReady("the server is stopping", retry_after=1)
            return await refuse(scope, receive, send, error, {"Connection": "close"})
        with self._drain.one_more():
            await self._app(scope, receive, send)
