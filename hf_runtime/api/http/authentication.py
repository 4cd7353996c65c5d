"""Authentication of clients by API key, and their limit of concurrent streams."""

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

#: Paths of health checks; `/` is KServe's.
HEALTH_PATHS = frozenset({"/", "/livez", "/readyz", "/healthz", "/health", "/v2/health/live", "/v2/health/ready"})
METRICS_PATHS = frozenset({"/metrics"})


def list_public_paths(settings: ServerSettings, health: frozenset[str] = HEALTH_PATHS) -> frozenset[str]:
    """Return the paths that need no key.

    Args:
        health: paths of the service's health checks.
    """
    health = health if settings.public_health else frozenset()
    return health | METRICS_PATHS if settings.public_metrics else health


def get_caller(scope: Scope) -> Caller:
    """Return the sender of a request by its scope.

    Outside `Authentication`, return a sender without limits.
    """
    caller = scope.get(_KEY)
    return caller if isinstance(caller, Caller) else Caller(None)


class Authentication:
    """ASGI middleware that refuses requests without a valid key.

    The key is in `Authorization: Bearer …` or `X-API-Key: …`.

    Args:
        keys: if none is required, every request passes.
        only: the paths that are checked; None is all.
        health: as in `list_public_paths`.
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
        self._public = list_public_paths(settings, health)
        self._max_streams = settings.max_streams_per_key
        self._callers: dict[bytes, Caller] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] not in ("http", "websocket") or (self._only is not None and path not in self._only):
            return await self._app(scope, receive, send)
        key = b""
        if self._keys.required and path not in self._public:
            found = next(filter(None, map(self._keys.find, _read_keys(Headers(scope=scope)))), None)
            if found is None:
                return await refuse(scope, receive, send, Unauthenticated(_NEEDED), {"WWW-Authenticate": "Bearer"})
            key = found
        if (caller := self._callers.get(key)) is None:
            caller = self._callers[key] = Caller(self._max_streams)
        scope[_KEY] = caller
        await self._app(scope, receive, send)


def _read_keys(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield all keys of a request.

    There may be two, because a platform in front of the server may add its own bearer token.
    """
    if found := _BEARER.fullmatch(headers.get("authorization", "")):
        yield _decode_header(found["key"])
    if "x-api-key" in headers:
        yield _decode_header(headers["x-api-key"].strip())


def _decode_header(header: str) -> str:
    """Decode a header as UTF-8, which most clients send; Starlette decoded it as Latin-1."""
    return header.encode("latin-1").decode(errors="surrogateescape")
