"""Where a piece of work comes from: known to whatever is logged or traced while it is done, in each process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec


class Origin(msgspec.Struct, array_like=True, frozen=True):
    """The HTTP request that an item belongs to.

    Attributes:
        traceparent, tracestate: of the request's span (https://www.w3.org/TR/trace-context); None if it is not traced.
    """

    request_id: str
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits."""
        return self.traceparent[3:35] if self.traceparent is not None else None

    @property
    def span_id(self) -> str | None:
        """16 hexadecimal digits."""
        return self.traceparent[36:52] if self.traceparent is not None else None


_ORIGINS: ContextVar[tuple[Origin | None, ...]] = ContextVar("origins", default=())


@contextmanager
def about(*origins: Origin | None) -> Iterator[None]:
    """While the context lasts, what this thread or task logs is about these requests; None stands for no request."""
    token = _ORIGINS.set(origins)
    try:
        yield
    finally:
        _ORIGINS.reset(token)


def enter(origin: Origin) -> None:
    """From now on, this task works for that request alone."""
    _ORIGINS.set((origin,))


def current_origins() -> list[Origin]:
    """The requests that are worked for, each once."""
    return [origin for origin in dict.fromkeys(_ORIGINS.get()) if origin is not None]


def current_origin() -> Origin | None:
    """The request that is worked for, or the first of them."""
    origins = _ORIGINS.get()
    return origins[0] if origins else None
