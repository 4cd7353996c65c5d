"""The spans of each item in the runner: how long it waited, was prepared, computed and finished.

They are made after the fact, with the times that the engines tell, so that what is not traced costs nothing.
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

#: Operations that GenAI's conventions name.
_OPERATIONS: Mapping[str | None, str] = {
    "text-generation": "text_completion",
    "text2text-generation": "text_completion",
    "feature-extraction": "embeddings",
}


class ItemTracing:
    """Makes the spans of a model's items."""

    def __init__(self, tracing: Tracing, model: str, task: Task | None) -> None:
        self._tracing = tracing
        self._name = f"{task or 'predict'} {model}"
        self._attributes: dict[str, AttributeValue] = {"gen_ai.request.model": model}
        if (operation := _OPERATIONS.get(task)) is not None:
            self._attributes["gen_ai.operation.name"] = operation

    def item(self, request_context: RequestContext | None) -> ItemSpans:
        """The spans of an item that arrives now, beneath that of its request."""
        parent = _context(request_context) if request_context is not None else Context()
        return ItemSpans(self._tracing, parent, self._name, self._attributes)


class ItemSpans:
    """An item's own span and, beneath it, one for each of its steps.

    Token counts are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/; texts are never told.
    """

    def __init__(self, tracing: Tracing, parent: Context, name: str, attributes: Mapping[str, AttributeValue]) -> None:
        self._tracer = tracing.tracer
        self._arrived = monotonic()
        self._epoch = time_ns() - round(self._arrived * 1e9)
        self._span = self._tracer.start_span(name, parent, attributes=attributes, start_time=self._ns(self._arrived))
        self._context = set_span_in_context(self._span)
        self._waits = True

    def step(self, name: Literal["prepare", "finish"], started: float, ended: float) -> None:
        """As `ItemTrace.step`."""
        self._child(name, started, ended)

    def batch(self, started: float, ended: float, *, rows: int, tokens: int, padding: int) -> None:
        """As `ItemTrace.batch`."""
        self._leave_queue(started)
        self._child(
            "forward", started, ended, {"batch.rows": rows, "batch.tokens": tokens, "batch.padding_tokens": padding}
        )

    def sequence(
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
        """As `ItemTrace.sequence`."""
        self._leave_queue(started)
        attributes: dict[str, AttributeValue] = {
            "gen_ai.usage.input_tokens": prompt_tokens,
            "gen_ai.usage.output_tokens": generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached_tokens,
            "gen_ai.response.finish_reasons": [finish_reason or "cancelled"],
        }
        events = {"first_token": first_token} if first_token is not None else {}
        self._child("forward", started, ended, attributes, events)

    def ended(self, future: asyncio.Future[object]) -> None:
        """The item is answered, has failed, or was given up."""
        if future.cancelled():
            self.failed("cancelled")
        elif (error := future.exception()) is not None:
            self.failed(error.code if isinstance(error, ServingError) else InferenceFailed.code)
        else:
            self._end()

    def failed(self, code: str) -> None:
        """The item has no answer.

        Args:
            code: of the error; its message may quote the client.
        """
        self._span.set_attribute(ERROR_TYPE, code)
        self._span.set_status(Status(StatusCode.ERROR))
        self._end()

    def _end(self) -> None:
        now = monotonic()
        self._leave_queue(now)
        self._span.end(self._ns(now))

    def _leave_queue(self, now: float) -> None:
        if self._waits:
            self._waits = False
            self._child("queue", self._arrived, now)

    def _child(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Mapping[str, AttributeValue] | None = None,
        events: Mapping[str, float] | None = None,
    ) -> None:
        if self._span.is_recording():
            span = self._tracer.start_span(name, self._context, attributes=attributes, start_time=self._ns(started))
            for event, at in (events or {}).items():
                span.add_event(event, timestamp=self._ns(at))
            span.end(self._ns(ended))

    def _ns(self, at: float) -> int:
        return self._epoch + round(at * 1e9)


def _context(request_context: RequestContext) -> Context:
    given = {"traceparent": request_context.traceparent, "tracestate": request_context.tracestate}
    carrier = {name: value for name, value in given.items() if value is not None}
    return TraceContextTextMapPropagator().extract(carrier, Context())
