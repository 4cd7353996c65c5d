"""Refusals from before the routes, in the shape of the protocol that the path belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.openai.errors import error_object
from hf_runtime.contract.errors import HTTP_STATUS, ServingError
from hf_runtime.observability.requests import record_of


async def refuse(scope: Scope, receive: Receive, send: Send, error: ServingError, headers: Mapping[str, str]) -> None:
    """Answer a request with an error; the handshake of a WebSocket gets a plain 403."""
    if scope["type"] == "websocket":
        # An answer with a body would be right as well, and uvicorn would log it as an error of ours.
        return await send({"type": "websocket.close", "code": 1008})
    record_of(scope).error = error.code
    body = error_object(error) if scope["path"].startswith("/openai/") else {"error": error.message}
    later = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    response = json_response(body, HTTP_STATUS[type(error)], {**later, **headers})
    await response(scope, receive, send)
