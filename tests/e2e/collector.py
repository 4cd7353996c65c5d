"""OpenTelemetry collector on this machine that stores the received spans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class ReceivedSpan:
    """Span; ids in hexadecimal, times in nanoseconds since the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    started: int
    ended: int
    attributes: dict[str, Any]
    events: dict[str, int]
    failed: bool
    resource: dict[str, Any]


class Collector:
    """Collector that receives OTLP over HTTP at `url`."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self._spans: list[ReceivedSpan] = []
        self._news = threading.Condition()

    def receive(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        with self._news:
            for part in request.resource_spans:
                resource = _attributes(part.resource.attributes)
                self._spans += [_span(span, resource) for scope in part.scope_spans for span in scope.spans]
            self._news.notify_all()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Return all received spans."""
        with self._news:
            return list(self._spans)

    def wait(self, wanted: Callable[[list[ReceivedSpan]], bool], timeout: float = 60) -> list[ReceivedSpan]:
        """Block until the received spans satisfy the condition; return all of them."""
        with self._news:
            assert self._news.wait_for(lambda: wanted(self._spans), timeout), self._spans
            return list(self._spans)

    def trace(self, request_id: str) -> list[ReceivedSpan]:
        """Return the spans of a request once its own and those of all its items have arrived."""

        def own(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            ids = {s.trace_id for s in spans if s.attributes.get("http.request.header.x-request-id") == [request_id]}
            return [span for span in spans if span.trace_id in ids]

        def complete(spans: list[ReceivedSpan]) -> bool:
            trace = own(spans)
            known = {span.span_id for span in trace}
            roots = [span for span in trace if span.kind == "SERVER"]
            return len(trace) > 1 and len(roots) == 1 and all(s.parent_id in known for s in trace if s not in roots)

        return own(self.wait(complete))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.receive(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events={event.name: event.time_unix_nano for event in span.events},
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        resource=resource,
    )


def _attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
