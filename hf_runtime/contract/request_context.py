"""HTTP request of the current thread or task, for logs and traces in every process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec


class RequestContext(msgspec.Struct, array_like=True, frozen=True):
    """HTTP request that an item belongs to.

    Attributes:
        traceparent, tracestate: headers of the request's span (https://www.w3.org/TR/trace-context), or None if the
            request is not traced.
    """

    request_id: str
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def trace_id(self) -> str | None:
        """ID of the trace as 32 hexadecimal digits."""
        return self.traceparent[3:35] if self.traceparent is not None else None

    @property
    def span_id(self) -> str | None:
        """ID of the span as 16 hexadecimal digits."""
        return self.traceparent[36:52] if self.traceparent is not None else None


_CURRENT: ContextVar[tuple[RequestContext | None, ...]] = ContextVar("request_contexts", default=())


@contextmanager
def request_context(*contexts: RequestContext | None) -> Iterator[None]:
    """Attribute logs and spans of this thread or task to these requests.

    None in `contexts` stands for an item without a request.
    """
    token = _CURRENT.set(contexts)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def bind_request_context(context: RequestContext) -> None:
    """Attribute all later logs and spans of this task to one request."""
    _CURRENT.set((context,))


def current_request_contexts() -> list[RequestContext]:
    """Return the requests of the current thread or task, without duplicates."""
    return [context for context in dict.fromkeys(_CURRENT.get()) if context is not None]


def current_request_context() -> RequestContext | None:
    """Return the first request of the current thread or task, or None."""
    contexts = _CURRENT.get()
    return contexts[0] if contexts else None
