"""Who is asking: a client without a valid key is refused, and one has no more streams at a time than it may."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_runtime.api.call import Caller
from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.http.refusal import refuse
from hf_runtime.contract.errors import Unauthenticated
from hf_runtime.settings import ServerSettings

_KEY = "caller"

_NEEDED = "a valid API key is needed, as Authorization: Bearer KEY or as X-API-Key: KEY"
_BEARER = re.compile(r"(?i:bearer) +(?P<key>\S+) *")

#: What tells how the server is; `/` is KServe's name for it.
HEALTH_PATHS = frozenset({"/", "/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
METRICS_PATHS = frozenset({"/metrics"})


def public_paths(settings: ServerSettings, health: frozenset[str] = HEALTH_PATHS) -> frozenset[str]:
    """The paths that need no key where others do.

    Args:
        health: where the service tells how it is.
    """
    health = health if settings.public_health else frozenset()
    return health | METRICS_PATHS if settings.public_metrics else health


def caller_of(scope: Scope) -> Caller:
    """Who sent the request that a scope belongs to; one without limits, outside of `Authentication`."""
    caller = scope.get(_KEY)
    return caller if isinstance(caller, Caller) else Caller(None)


class Authentication:
    """ASGI middleware that lets requests pass with a valid key: `Authorization: Bearer …` or `X-API-Key: …`.

    Args:
        keys: if none is required, every request passes.
        only: the paths that are looked at; None is all.
        health: as in `public_paths`.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        settings: ServerSettings,
        only: Collection[str] | None = None,
        health: frozenset[str] = HEALTH_PATHS,
    ) -> None:
        self._app = app
        self._keys = keys
        self._only = only
        self._public = public_paths(settings, health)
        self._max_streams = settings.max_streams_per_key
        self._callers: dict[bytes, Caller] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] not in ("http", "websocket") or (self._only is not None and path not in self._only):
            return await self._app(scope, receive, send)
        key = b""
        if self._keys.required and path not in self._public:
            found = next(filter(None, map(self._keys.find, _shown(Headers(scope=scope)))), None)
            if found is None:
                return await refuse(scope, receive, send, Unauthenticated(_NEEDED), {"WWW-Authenticate": "Bearer"})
            key = found
        scope[_KEY] = self._callers.setdefault(key, Caller(self._max_streams))
        await self._app(scope, receive, send)


def _shown(headers: Mapping[str, str]) -> Iterator[str]:
    """Read the keys of a request: a platform between client and server may add a bearer token of its own."""
    if found := _BEARER.fullmatch(headers.get("authorization", "")):
        yield _text(found["key"])
    if "x-api-key" in headers:
        yield _text(headers["x-api-key"].strip())


def _text(header: str) -> str:
    """Decode a header as UTF-8, which most clients send; Starlette has decoded its bytes as Latin-1."""
    return header.encode("latin-1").decode(errors="surrogateescape")
