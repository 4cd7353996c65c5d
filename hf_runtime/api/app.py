"""The HTTP application of the entry service: all protocols, and errors in the shape they share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPMethod, HTTPStatus

from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route

from hf_runtime.api import kserve_v1, model_repository
from hf_runtime.api.call import ClientLeft
from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.http.authentication import Authentication
from hf_runtime.api.http.body import BodyMemory
from hf_runtime.api.http.drain_middleware import DrainMiddleware
from hf_runtime.api.http.json_body import json_response
from hf_runtime.api.inference import Models
from hf_runtime.api.open_inference_v2 import routes as open_inference_v2
from hf_runtime.api.openai.routes import openai_app
from hf_runtime.api.openapi import routes as openapi
from hf_runtime.contract.errors import HTTP_STATUS, InferenceFailed, MethodNotAllowed, RouteNotFound, ServingError
from hf_runtime.draining import Drain
from hf_runtime.observability.request_record import Observer
from hf_runtime.observability.request_spans import TracedRequests
from hf_runtime.observability.requests import ObservedRequests, record_of
from hf_runtime.observability.tracing import Tracing
from hf_runtime.settings import ServerSettings

logger = logging.getLogger(__name__)


class _AnyPath(PathConvertor):
    """The rest of a path, line breaks included: without, BentoML's mount would answer those paths in plain text."""

    regex = "(?s:.*)"


# In place of Starlette's, which BentoML uses too.
register_url_convertor("path", _AnyPath())

_METHODS = [method.value for method in HTTPMethod]

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def create_app(
    models: Models,
    settings: ServerSettings,
    lifespan: Lifespan,
    observers: Sequence[Observer] = (),
    tracing: Tracing | None = None,
    keys: KeyRing | None = None,
    drain: Drain | None = None,
) -> Starlette:
    """The application that the entry service mounts at its root.

    Args:
        observers: are told what became of each request.
        tracing: makes a span of each request.
        keys: of which requests need one; None if they need none.
        drain: says when the server stops.
    """
    routes: list[BaseRoute] = [
        *kserve_v1.routes(models, settings),
        *model_repository.routes(models, settings),
        *open_inference_v2.routes(models, settings),
        *(_nothing_else(f"/{version}/{{path:path}}") for version in ("v1", "v2")),
        Mount("/openai", openai_app(models, settings)),
    ]
    return Starlette(
        routes=[*routes, *openapi.routes(models, settings, routes)],
        exception_handlers={
            ServingError: _serving_error,
            HTTPException: _http_exception,
            ClientDisconnect: _client_gone,
            ClientLeft: _client_gone,
            Exception: _bug,
        },
        middleware=[
            Middleware(ObservedRequests, observers=observers),
            *([Middleware(TracedRequests, tracing=tracing)] if tracing is not None else []),
            Middleware(DrainMiddleware, drain=drain or Drain()),
            Middleware(Authentication, keys=keys or KeyRing(()), settings=settings),
            Middleware(BodyMemory, limit=settings.bodies_size),
        ],
        lifespan=lifespan,
    )


def _error_response(request: Request, error: ServingError) -> Response:
    record_of(request.scope).error = error.code
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return json_response({"error": error.message}, HTTP_STATUS[type(error)], headers)


def _nothing_else(path: str) -> Route:
    return Route(path, _no_route, methods=_METHODS, include_in_schema=False)


async def _no_route(request: Request) -> Response:
    """Catches what no route takes, and BentoML would answer in plain text."""
    if any(route.matches(request.scope)[0] is Match.PARTIAL for route in request.app.routes):
        raise MethodNotAllowed(f"{request.url.path} does not take {request.method}")
    raise RouteNotFound(f"{request.url.path} is not a route of this server")


async def _serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return _error_response(request, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _error_response(request, MethodNotAllowed(f"{request.url.path} does not take {request.method}"))
    return json_response({"error": error.detail}, error.status_code)


async def _client_gone(_: Request, __: Exception) -> Response:
    # nginx's status for it; nobody reads this, the access log does.
    return Response(status_code=499)


async def _bug(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    response = _error_response(request, InferenceFailed("the server failed; its log has the details"))
    response.headers["X-Request-Id"] = record_of(request.scope).request_id
    return response
