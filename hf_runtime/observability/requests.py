"""Record of each HTTP request, passed at its end to observers that count or log it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.request_context import RequestContext, bind_request_context
from hf_runtime.observability.request_record import Observer, RequestRecord

_KEY = "request_record"

#: Request ids that clients may choose. They are sent back and logged, so only printable ASCII is accepted.
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def get_request_record(scope: Scope) -> RequestRecord:
    """Return the record of the request with this scope.

    Outside `RequestObserverMiddleware`, return a new record that is not observed.
    """
    record = scope.get(_KEY)
    return record if isinstance(record, RequestRecord) else _new_record(scope)


class RequestObserverMiddleware:
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
