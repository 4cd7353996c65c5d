"""HTTP application of the entry service: the routes of all protocols and the middleware."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPMethod
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route

from hf_runtime.api import health, kserve_v1, model_repository, tokenization
from hf_runtime.api.anthropic import routes as anthropic
from hf_runtime.api.http.api_keys import KeyRing
from hf_runtime.api.http.authentication import Authentication
from hf_runtime.api.http.body import BodyMemory
from hf_runtime.api.http.error_formats import ERROR_FORMATS, find_error_format
from hf_runtime.api.http.error_response import ExceptionHandler, make_exception_handlers
from hf_runtime.api.http.in_progress import InProgressMiddleware
from hf_runtime.api.http.paths import PathNormalization
from hf_runtime.api.inference import Models
from hf_runtime.api.open_inference_v2 import routes as open_inference_v2
from hf_runtime.api.openai import responses_routes
from hf_runtime.api.openai.routes import create_openai_app, make_computing_routes
from hf_runtime.api.openapi import routes as openapi
from hf_runtime.contract.errors import MethodNotAllowed, RouteNotFound
from hf_runtime.draining import Drain
from hf_runtime.observability.request_record import Observer
from hf_runtime.observability.request_spans import TracingMiddleware
from hf_runtime.observability.requests import RequestObserverMiddleware
from hf_runtime.observability.tracing import Tracing
from hf_runtime.settings import ServerSettings


class _AnyPath(PathConvertor):
    """Rest of a path, line breaks included.

    Without it, BentoML would answer paths with line breaks in plain text.
    """

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
    """Return the application that the entry service mounts at its root.

    Args:
        observers: receive the record of each request.
        tracing: makes a span of each request.
        keys: API keys, one of which each request needs; None if requests need none.
        drain: counts requests, and knows whether the server stops.
    """
    routes: list[BaseRoute] = [
        *health.make_routes(models),
        *kserve_v1.make_routes(models, settings),
        *make_computing_routes(models, settings),
        *model_repository.make_routes(models, settings),
        *open_inference_v2.make_routes(models, settings),
        *responses_routes.make_routes(models, settings),
        *anthropic.make_routes(models, settings),
        *tokenization.make_routes(models, settings),
        *(
            _make_catch_all(path)
            for path in ("/v1", "/openai", "/v1/{path:path}", "/v2/{path:path}", "/anthropic/{path:path}")
        ),
        Mount("/openai", create_openai_app(models, settings)),
    ]
    bodies = BodyMemory(settings.effective_max_bodies_size)
    app = Starlette(
        routes=[*routes, *openapi.make_routes(models, settings, routes)],
        exception_handlers=_make_exception_handlers(),
        middleware=[
            Middleware(PathNormalization),
            Middleware(RequestObserverMiddleware, observers=observers),
            *([Middleware(TracingMiddleware, tracing=tracing)] if tracing is not None else []),
            Middleware(InProgressMiddleware, drain=drain or Drain(), bodies=bodies),
            Middleware(Authentication, keys=keys or KeyRing(()), settings=settings),
        ],
        lifespan=lifespan,
    )
    # Every path comes here without a slash at its end, so a redirect to one that has it would never end.
    app.router.redirect_slashes = False
    return app


def _make_exception_handlers() -> dict[Any, ExceptionHandler]:
    """Return the exception handlers, which answer in the format of the request's path."""
    handlers = {describe: make_exception_handlers(describe) for describe in ERROR_FORMATS}

    def choose_by_path(kind: Any) -> ExceptionHandler:
        async def handle(request: Request, error: Exception) -> Response:
            return await handlers[find_error_format(request.scope["path"])][kind](request, error)

        return handle

    return {kind: choose_by_path(kind) for kind in handlers[ERROR_FORMATS[0]]}


def _make_catch_all(path: str) -> Route:
    return Route(path, _refuse_route, methods=_METHODS, include_in_schema=False)


async def _refuse_route(request: Request) -> Response:
    """Refuse a path or method without a route, which BentoML would do in plain text."""
    if any(route.matches(request.scope)[0] is Match.PARTIAL for route in request.app.routes):
        raise MethodNotAllowed(f"{request.url.path} does not take {request.method}")
    raise RouteNotFound(f"{request.url.path} is not a route of this server")
