"""Refusals by middleware, in the shape of the protocol that the path belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from hf_runtime.api.http.error_formats import find_error_format
from hf_runtime.api.http.error_response import error_response
from hf_runtime.contract.errors import ServingError
from hf_runtime.observability.requests import get_request_record


async def refuse(scope: Scope, receive: Receive, send: Send, error: ServingError, headers: Mapping[str, str]) -> None:
    """Answer a request with an error; the handshake of a WebSocket gets a plain 403."""
    if scope["type"] == "websocket":
        # uvicorn would log a response with a body as an error of this server.
        return await send({"type": "websocket.close", "code": 1008})
    get_request_record(scope).error = error.code
    describe = find_error_format(scope["path"])
    await error_response(error, describe(error), headers)(scope, receive, send)
