"""Record of each HTTP request, passed at its end to observers that count or log it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.request_context import RequestContext, bind_request_context

_KEY = "request_record"

#: Request ids that clients may choose. They are sent back and logged, so only printable ASCII is accepted.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of the request with this scope.

    Outside `ObservedRequests`, return a new record that is not observed.
    """
    record = scope.get(_KEY)
    return record if isinstance(record, RequestRecord) else _new_record(scope)


class ObservedRequests:
    """ASGI middleware that records each request until the last byte of its response.

    Args:
        observers: called with each record once it is complete.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer] = ()) -> None:
        self._app = app
        self._observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = scope[_KEY] = _new_record(scope)
        # Never reset: each request has its own task, and errors logged after it has failed belong to it, too.
        bind_request_context(RequestContext(record.request_id))
        has_started = False

        async def note_status(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.request_id
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except Exception:
            if not has_started:  # an outer layer sends the response
                record.status, record.error = 500, InferenceFailed.code
            raise
        finally:
            record.ended = perf_counter()
            for observer in self._observers:
                observer(record)


def _new_record(scope: Scope) -> RequestRecord:
    given = Headers(scope=scope).get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    client = scope.get("client")
    return RequestRecord(scope["method"], scope["path"], request_id, client=client[0] if client else None)
