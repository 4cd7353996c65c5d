"""Call context of an HTTP request."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request

from hf_runtime.api.call import CallContext
from hf_runtime.api.http.authentication import get_caller
from hf_runtime.observability.requests import get_request_record
from hf_runtime.settings import ServerSettings


def make_call_context(request: Request, settings: ServerSettings) -> CallContext:
    """Return the call context of an HTTP request."""
    wait = partial(_wait_until_disconnect, request)
    return CallContext(get_request_record(request.scope), get_caller(request.scope), settings.request_timeout, wait)


async def _wait_until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
