"""Spans of each item in the runner: queue, prepare, forward and finish.

The spans are created afterwards from the times that the engines report, so that items without a trace cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic, time_ns
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from hf_runtime.contract.errors import InferenceFailed, ServingError
from hf_runtime.contract.request_context import RequestContext
from hf_runtime.observability.tracing import Tracing
from hf_runtime.settings import Task

#: Names of operations in OpenTelemetry's GenAI conventions.
_OPERATIONS: Mapping[str | None, str] = {
    "text-generation": "text_completion",
    "text2text-generation": "text_completion",
    "feature-extraction": "embeddings",
}


class ItemTracing:
    """Factory of the spans of a model's items."""

    def __init__(self, tracing: Tracing, model: str, task: Task | None) -> None:
        self._tracing = tracing
        self._name = f"{task or 'predict'} {model}"
        self._attributes: dict[str, AttributeValue] = {"gen_ai.request.model": model}
        if (operation := _OPERATIONS.get(task)) is not None:
            self._attributes["gen_ai.operation.name"] = operation

    def start_item(self, request_context: RequestContext | None) -> ItemSpans:
        """Start the span of an item that arrives now, as a child of its request's span."""
        parent = _parent_context(request_context) if request_context is not None else Context()
        return ItemSpans(self._tracing, parent, self._name, self._attributes)


class ItemSpans:
    """Span of an item, with one child span per step.

    The attributes for token counts follow https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. Texts are
    never recorded.
    """

    def __init__(self, tracing: Tracing, parent: Context, name: str, attributes: Mapping[str, AttributeValue]) -> None:
        self._tracer = tracing.tracer
        self._arrived = monotonic()
        self._epoch = time_ns() - round(self._arrived * 1e9)
        self._span = self._tracer.start_span(
            name, parent, attributes=attributes, start_time=self._to_epoch_ns(self._arrived)
        )
        self._context = set_span_in_context(self._span)
        self._is_queued = True

    def record_step(self, name: Literal["prepare", "finish"], started: float, ended: float) -> None:
        """Implement `ItemTrace.record_step`."""
        self._add_span(name, started, ended)

    def record_batch(self, started: float, ended: float, *, rows: int, tokens: int, padding: int) -> None:
        """Implement `ItemTrace.record_batch`."""
        self._end_queue_span(started)
        self._add_span(
            "forward", started, ended, {"batch.rows": rows, "batch.tokens": tokens, "batch.padding_tokens": padding}
        )

    def record_sequence(
        self,
        started: float,
        ended: float,
        *,
        first_token: float | None,
        prompt_tokens: int,
        generated_tokens: int,
        cached_tokens: int,
        finish_reason: str | None,
    ) -> None:
        """Implement `ItemTrace.record_sequence`."""
        self._end_queue_span(started)
        attributes: dict[str, AttributeValue] = {
            "gen_ai.usage.input_tokens": prompt_tokens,
            "gen_ai.usage.output_tokens": generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached_tokens,
            "gen_ai.response.finish_reasons": [finish_reason or "cancelled"],
        }
        events = {"first_token": first_token} if first_token is not None else {}
        self._add_span("forward", started, ended, attributes, events)

    def end(self, future: asyncio.Future[object]) -> None:
        """End the spans with the outcome of the item's future: answered, failed or cancelled."""
        if future.cancelled():
            self.fail("cancelled")
        elif (error := future.exception()) is not None:
            self.fail(error.code if isinstance(error, ServingError) else InferenceFailed.code)
        else:
            self._end()

    def fail(self, code: str) -> None:
        """End the spans with an error.

        Args:
            code: code of the error. Its message is not recorded, because it may quote the request.
        """
        self._span.set_attribute(ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR))
        self._end()

    def _end(self) -> None:
        now = monotonic()
        self._end_queue_span(now)
        self._span.end(self._to_epoch_ns(now))

    def _end_queue_span(self, now: float) -> None:
        if self._is_queued:
            self._is_queued = False
            self._add_span("queue", self._arrived, now)

    def _add_span(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Mapping[str, AttributeValue] | None = None,
        events: Mapping[str, float] | None = None,
    ) -> None:
        if self._span.is_recording():
            span = self._tracer.start_span(
                name, self._context, attributes=attributes, start_time=self._to_epoch_ns(started)
            )
            for event, at in (events or {}).items():
                span.add_event(event, timestamp=self._to_epoch_ns(at))
            span.end(self._to_epoch_ns(ended))

    def _to_epoch_ns(self, at: float) -> int:
        return self._epoch + round(at * 1e9)


def _parent_context(request_context: RequestContext) -> Context:
    given = {"traceparent": request_context.traceparent, "tracestate": request_context.tracestate}
    carrier = {name: value for name, value in given.items() if value is not None}
    return TraceContextTextMapPropagator().extract(carrier, Context())
