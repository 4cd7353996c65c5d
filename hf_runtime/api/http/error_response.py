"""Error responses and the exception handlers that send them, for all protocols."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from hf_runtime.api.call import ClientLeft
from hf_runtime.api.http.json_body import json_response
from hf_runtime.contract.answer_type import answer_type
from hf_runtime.contract.errors import HTTP_STATUS, InferenceFailed, MethodNotAllowed, RouteNotFound, ServingError
from hf_runtime.observability.requests import get_request_record

logger = logging.getLogger(__name__)

ExceptionHandler = Callable[[Request, Exception], Awaitable[Response]]


@answer_type
class Error(TypedDict):
    """One sentence that says what is wrong and names the field."""

    error: str


def describe_error(error: ServingError) -> Error:
    """Return the body of an error in KServe's protocols."""
    return {"error": error.message}


def error_response(error: ServingError, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response with an error's body, status and `Retry-After`."""
    retry = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    return json_response(body, HTTP_STATUS[type(error)], {**retry, **(headers or {})})


def make_exception_handlers(describe: Callable[[ServingError], Any]) -> dict[Any, ExceptionHandler]:
    """Return the exception handlers of an application.

    Args:
        describe: returns the body of an error in the application's protocol.
    """

    def respond(request: Request, error: ServingError) -> Response:
        get_request_record(request.scope).error = error.code
        return error_response(error, describe(error))

    async def handle_serving_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServingError)
        return respond(request, error)

    async def handle_routing_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return respond(request, MethodNotAllowed(f"{path} does not take {request.method}"))
        return respond(request, RouteNotFound(f"{path} is not a route of this server"))

    async def handle_bug(request: Request, error: Exception) -> Response:
        logger.error("%s failed", request.url.path, exc_info=error)
        response = respond(request, InferenceFailed("the server failed; its log has the details"))
        # Starlette calls this handler outside the middleware that adds the request id.
        response.headers["X-Request-Id"] = get_request_record(request.scope).request_id
        return response

    return {
        ServingError: handle_serving_error,
        HTTPException: handle_routing_error,
        ClientDisconnect: _handle_disconnect,
        ClientLeft: _handle_disconnect,
        Exception: handle_bug,
    }


async def _handle_disconnect(_: Request, __: Exception) -> Response:
    # nginx's status for a client that left. Only the access log shows it.
    return Response(status_code=499)
