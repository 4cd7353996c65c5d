"""Routes of a protocol whose paths lie between those of another protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from http import HTTPMethod

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hf_runtime.contract.errors import MethodNotAllowed

Endpoint = Callable[[Request], Awaitable[Response]]

_METHODS = [method.value for method in HTTPMethod]


def make_post_routes(paths: Iterable[str], endpoint: Endpoint) -> Iterator[Route]:
    """Yield routes that answer POST and refuse other methods.

    Without the refusal, a later route for more paths would take these methods.
    """
    for path in paths:
        yield Route(path, endpoint, methods=["POST"])
        yield Route(path, _refuse_method, methods=_METHODS, include_in_schema=False)


async def _refuse_method(request: Request) -> Response:
    raise MethodNotAllowed(f"{request.url.path} does not take {request.method}")
