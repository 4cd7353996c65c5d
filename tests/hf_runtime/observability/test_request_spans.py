"""Promise: requests' spans are named after routes, marked by 5xx, absent unless enabled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from hf_runtime.api.app import create_app
from hf_runtime.api.inference import Models
from hf_runtime.contract.request_context import RequestContext, current_request_context
from hf_runtime.observability.request_record import RequestRecord
from hf_runtime.observability.request_spans import TracingMiddleware
from hf_runtime.observability.requests import RequestObserverMiddleware
from hf_runtime.observability.tracing import Tracing
from hf_runtime.settings import ServerSettings


@pytest.fixture
def tracing() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    tracing, exporter = Tracing("http://nowhere"), InMemorySpanExporter()
    tracing.start("test", exporter)
    yield tracing, exporter
    asyncio.run(tracing.stop())


def _client(tracing: Tracing, records: list[RequestRecord], contexts: list[RequestContext | None]) -> TestClient:
    async def answer(request: Request) -> Response:
        contexts.append(current_request_context())
        if request.path_params["name"] == "bug":
            raise KeyError("a client's text")
        return Response(status_code=int(request.path_params["name"]))

    route = Route("/v1/{name:str}:ask", answer)
    middleware = [
        Middleware(RequestObserverMiddleware, observers=[records.append]),
        Middleware(TracingMiddleware, tracing=tracing),
    ]
    app = Starlette(routes=[route, Mount("/openai", Starlette(routes=[route]))], middleware=middleware)
    return TestClient(app, raise_server_exceptions=False)


def test_spans_are_named_after_routes_and_marked_by_5xx(
    tracing: tuple[Tracing, InMemorySpanExporter],
) -> None:
    ours, exporter = tracing
    records: list[RequestRecord] = []
    contexts: list[RequestContext | None] = []
    client = _client(ours, records, contexts)
    for path in ("/v1/200:ask", "/openai/v1/400:ask", "/v1/503:ask", "/v1/bug:ask", "/nowhere"):
        client.get(path)
    asyncio.run(ours.stop())
    spans = exporter.get_finished_spans()
    attributes = [span.attributes or {} for span in spans]
    assert [(span.name, span.status.status_code is StatusCode.ERROR) for span in spans] == [
        ("GET /v1/{name}:ask", False),
        ("GET /openai/v1/{name}:ask", False),
        ("GET /v1/{name}:ask", True),
        ("GET /v1/{name}:ask", True),
        ("GET", False),
    ]
    assert [one["http.response.status_code"] for one in attributes] == [200, 400, 503, 500, 404]
    assert [one.get("error.type") for one in attributes] == [None, None, "503", "500", None]
    assert [record.trace_id for record in records[:4]] == [o.trace_id for o in contexts if o is not None]
    assert [o.request_id for o in contexts if o is not None] == [record.request_id for record in records[:4]]
    assert "client's text" not in str([span.to_json() for span in spans])


def test_requests_pass_through_no_tracing_unless_enabled() -> None:
    @asynccontextmanager
    async def nothing(_: Starlette) -> AsyncIterator[None]:
        yield

    def layers(tracing: Tracing | None) -> list[object]:
        app = create_app(Models({}), ServerSettings(), nothing, tracing=tracing)
        return [layer.cls for layer in app.user_middleware]

    assert TracingMiddleware not in layers(None)
    traced = layers(Tracing("http://nowhere"))
    assert traced.index(TracingMiddleware) == traced.index(RequestObserverMiddleware) + 1
