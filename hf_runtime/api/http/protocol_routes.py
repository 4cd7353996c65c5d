"""Routes of a protocol whose paths lie between those of another protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from http import HTTPMethod
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.api.http.error_response import make_exception_handlers
from hf_runtime.contract.errors import MethodNotAllowed, ServingError

Endpoint = Callable[[Request], Awaitable[Response]]

_METHODS = [method.value for method in HTTPMethod]


def make_post_routes(
    paths: Iterable[str], endpoint: Endpoint, describe: Callable[[ServingError], Any]
) -> Iterator[Route]:
    """Yield routes that answer POST, and refuse other methods in the protocol's error format.

    Args:
        describe: returns the body of an error in the protocol's format.
    """
    middleware = [Middleware(ExceptionMiddleware, handlers=make_exception_handlers(describe))]
    for path in paths:
        yield Route(path, endpoint, methods=["POST"], middleware=middleware)
        yield Route(path, _refuse_method, methods=_METHODS, middleware=middleware, include_in_schema=False)


async def _refuse_method(request: Request) -> Response:
    raise MethodNotAllowed(f"{request.url.path} does not take {request.method}")
