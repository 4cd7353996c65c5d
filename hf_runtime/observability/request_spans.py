"""Span of each HTTP request, the parent of its items' spans."""

from __future__ import annotations

from opentelemetry import propagate
from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_SCHEME
from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_runtime.contract.request_context import RequestContext, bind_request_context
from hf_runtime.observability.request_record import RequestRecord
from hf_runtime.observability.requests import get_request_record
from hf_runtime.observability.tracing import Tracing

_REQUEST_ID = "http.request.header.x-request-id"
_MODEL = "gen_ai.request.model"


class TracingMiddleware:
    """ASGI middleware that records a span per request, as a child of the client's span.

    It must be inside `RequestObserverMiddleware`. The attributes follow
    https://opentelemetry.io/docs/specs/semconv/http/http-spans/.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = get_request_record(scope)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracing.tracer.start_span(
            record.method,
            propagate.extract(headers),
            SpanKind.SERVER,
            {
                HTTP_REQUEST_METHOD: record.method,
                URL_PATH: record.path,
                URL_SCHEME: scope.get("scheme", "http"),
                _REQUEST_ID: [record.request_id],
                **({CLIENT_ADDRESS: record.client} if record.client else {}),
                **({USER_AGENT_ORIGINAL: headers["user-agent"]} if "user-agent" in headers else {}),
            },
        )
        request_context = _request_context(record, span)
        record.trace_id = request_context.trace_id
        bind_request_context(request_context)
        failed = True
        try:
            await self._app(scope, receive, send)
            failed = False
        finally:
            _end_span(span, scope, record, failed=failed)


def _request_context(record: RequestRecord, span: Span) -> RequestContext:
    """Return the context for the runner, in W3C format whichever format the client uses."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return RequestContext(record.request_id, carrier.get("traceparent"), carrier.get("tracestate"))


def _end_span(span: Span, scope: Scope, record: RequestRecord, *, failed: bool) -> None:
    status = 500 if failed else record.status
    route = scope.get("route")
    if isinstance(route, Route):
        template = scope.get("root_path", "") + route.path_format
        span.update_name(f"{record.method} {template}")
        span.set_attribute(HTTP_ROUTE, template)
    if record.model_name is not None:
        span.set_attribute(_MODEL, record.model_name)
    span.set_attribute(HTTP_RESPONSE_STATUS_CODE, status)
    if status >= 500:
        span.set_attribute(ERROR_TYPE, record.error or str(status))
        span.set_status(Status(StatusCode.ERROR))
    span.end()
