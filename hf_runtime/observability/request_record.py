"""Outcome of one HTTP request, for metrics, traces and the access log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. Times are those of `perf_counter`, in seconds.

    Attributes:
        request_id: the client's `X-Request-Id`, else a new one; sent back in the same header.
        model_name: of the model that was asked, if there is one of that name.
        instances: how many were given to the model.
        predict_started, predict_ended: while the model had them; None if it never did.
        error: `code` of the `ServingError` that was answered; in a stream, of the last that ended an instance.
        status: of the answer; 499 if the client left before it.
        client: its address, or that of the last proxy.
        trace_id: 32 hexadecimal digits; None if requests are not traced.
    """

    method: str
    path: str
    request_id: str
    started: float = field(default_factory=perf_counter)
    ended: float | None = None
    model_name: str | None = None
    instances: int = 0
    predict_started: float | None = None
    predict_ended: float | None = None
    error: str | None = None
    status: int = 499
    client: str | None = None
    trace_id: str | None = None


Observer = Callable[[RequestRecord], None]
