"""Outcome of one HTTP request, for metrics, traces and the access log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(slots=True)
class RequestRecord:
    """Record of one HTTP request. Times are from `perf_counter`, in seconds.

    Attributes:
        request_id: the client's `X-Request-Id`, else a new one; sent back in the same header.
        model_name: name of the requested model, if that model exists.
        instances: number of instances that were sent to the model.
        predict_started, predict_ended: when they were sent and answered; None if they never were.
        error: `code` of the `ServingError` in the response; in a stream, of the last instance that failed.
        status: HTTP status of the response; 499 if the client disconnected before it.
        client: address of the client, or of the last proxy.
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
