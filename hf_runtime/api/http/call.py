"""The call context of an HTTP request."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.authentication import caller_of
from hf_runtime.observability.requests import record_of
from hf_runtime.settings import ServerSettings


def http_call(request: Request, settings: ServerSettings) -> CallContext:
    """Return the call that an HTTP request makes."""
    wait = partial(_wait_until_disconnect, request)
    return CallContext(record_of(request.scope), caller_of(request.scope), settings.request_timeout, wait)


async def _wait_until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
