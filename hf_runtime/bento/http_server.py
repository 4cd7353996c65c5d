"""uvicorn's HTTP protocol with limits for request heads, early responses and slow clients.

Of uvicorn's two parsers, h11 limits the size of a head. httptools, which is several times faster, does not: a header
that never ends would be kept until the memory is full.

A response that is sent before the request is complete could get lost: if a connection is closed with unread bytes, it
is reset, and a reset discards data that the client has not read yet. So the server closes only its sending half, reads
and drops the rest of the request, and then ends the connection, as in
https://www.rfc-editor.org/rfc/rfc9112#section-9.6 and nginx's `lingering_close`.

A client that offers to upgrade to another protocol, as Java and curl do for HTTP/2, gets a response in HTTP/1.1
(https://www.rfc-editor.org/rfc/rfc9110#section-7.8). httptools stops after the head of such a request, and uvicorn
would lose its body.

If a client does not read its response, the response would stay in memory forever and block the shutdown. Its connection
is aborted.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
import uvicorn.config
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Most bytes of the request line and all headers, as for h11 in uvicorn.
MAX_HEAD = 64 * 1024

#: Most bytes of a body that is read to its end after an early response, so that the connection can be reused.
_SMALL_BODY = 64 * 1024
#: Limits for dropping the rest of a request after its response: bytes, seconds, and seconds between two packets.
_MAX_DROPPED, _LINGER_SECONDS, _PAUSE_SECONDS = 128 * 2**20, 30.0, 5.0
#: Most bytes that are dropped after a head that is too long.
_MAX_DROPPED_AFTER_HEAD = 2**20
#: Seconds in which a client must read a part of its response, as nginx's `send_timeout`; shorter once the server stops.
_READ_TIMEOUT, _READ_TIMEOUT_AT_STOP = 60.0, 3.0


def install_http_protocol() -> None:
    """Make uvicorn use this protocol by default.

    BentoML, which starts uvicorn, has no setting for it.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{LimitedHttpProtocol.__qualname__}"


class _Parser(httptools.HttpRequestParser):
    """Parser that also reads the body of a request whose upgrade offer is declined.

    httptools stops after the head of such a request. Its body is parsed as that of a separate request.

    Args:
        protocol: receives the parsed parts.
    """

    def __init__(self, protocol: LimitedHttpProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse bytes of a connection.

        Raises:
            httptools.HttpParserError: the bytes are not HTTP.
            httptools.HttpParserUpgrade: an upgrade is accepted.
        """
        while True:
            try:
                super().feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                if self._protocol.accepts_upgrade():
                    raise
                data = self._protocol.body_head() + data[stopped.args[0] :]


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP protocol that limits heads, lingers after early responses and aborts slow readers.

    A request whose head is too long gets 400.
    """

    #: Bytes received while the head was incomplete, and bytes of its parts that are parsed.
    _head_received = _head_parsed = 0
    _in_head = True
    _active_cycle: RequestResponseCycle | None = None
    #: Bytes that may still be dropped; None while requests are parsed.
    _drop_budget: int | None = None
    #: True if the connection ends after the current response, whose request is incomplete.
    _ends_after_response = False
    #: True while the rest of an answered request is dropped, after which the connection is reused.
    _is_dropping_body = False
    _deadline_timer: asyncio.TimerHandle | None = None
    _pause_timer: asyncio.TimerHandle | None = None
    #: Artificial head to parse a body separately, until the body is complete; None for most requests.
    _body_head: bytes | None = None
    _is_parsing_body = False

    #: Aborts the connection of a client that does not read.
    _read_timer: asyncio.TimerHandle | None = None
    _is_stopping = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _Parser(self)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, or drop them, and refuse a head that grows too long."""
        if self._drop_budget is not None:
            self._drop(len(data))
            return
        super().data_received(data)
        self._head_received = self._head_received + len(data) if self._in_head else 0
        if self._head_received > MAX_HEAD and self._drop_budget is None and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def accepts_upgrade(self) -> bool:
        """Return whether the request opens a WebSocket.

        See https://www.rfc-editor.org/rfc/rfc6455#section-4.1.
        """
        return self._should_upgrade()

    def body_head(self) -> bytes:
        """Return the artificial head for the body of a request whose upgrade offer is declined."""
        return self._body_head or b""

    def on_message_begin(self) -> None:
        """Reset the counters at the start of a head."""
        if self._body_head is not None:
            return
        self._in_head, self._head_received, self._head_parsed = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count and handle a part of the URL."""
        if self._body_head is not None:
            return
        self._count_head_bytes(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count and handle a header."""
        if self._body_head is not None:
            return
        self._count_head_bytes(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Handle a complete head; prepare to parse its body separately if an upgrade is declined."""
        if self._body_head is not None:
            return
        self._in_head = False
        super().on_headers_complete()
        if self.parser.should_upgrade() and not self.accepts_upgrade() and self.scope["method"] != "CONNECT":
            size = _body_size(self.scope)
            if size != 0:
                header = b"transfer-encoding: chunked" if size is None else b"content-length: %d" % size
                self._body_head = b"POST / HTTP/1.1\r\n%b\r\n\r\n" % header

    def on_message_complete(self) -> None:
        """Handle a complete body; reuse the connection if the body was dropped."""
        if self._body_head is not None and not self._is_parsing_body:
            self._is_parsing_body = True  # only its artificial head is complete
            return
        self._body_head, self._is_parsing_body = None, False
        super().on_message_complete()
        if self._is_dropping_body:
            self._is_dropping_body = False
            self._cancel_linger_timers()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Respond with 400 to an invalid request, and end the connection."""
        text = msg.encode("ascii")
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (lines, text))
        self._disconnect_cycles()
        self._linger(_MAX_DROPPED_AFTER_HEAD)

    def on_response_complete(self) -> None:
        """Handle a complete response; if its request is incomplete, drop the rest of the request."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._ends_after_response:
            self._linger(_MAX_DROPPED)
        elif self._active_cycle is not None and self._active_cycle.more_body:
            self._unset_keepalive_if_required()
            self._is_dropping_body = True
            self._deadline_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """Start the read timer, because the client reads too slowly."""
        super().pause_writing()
        self._start_read_timer()

    def resume_writing(self) -> None:
        """Cancel the read timer, because the client has read most of the response."""
        super().resume_writing()
        if not self._is_stopping:
            self._cancel_read_timer()

    def shutdown(self) -> None:
        """Stop the connection, and do not wait long for a client that does not read."""
        super().shutdown()
        self._is_stopping = True
        self._start_read_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers and pending requests after the client has disconnected."""
        self._cancel_linger_timers()
        self._cancel_read_timer()
        self._disconnect_cycles()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        return self.scope["method"] == "GET" and super()._should_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active_cycle = cycle
        super()._start_asgi_task(cycle, self._handle_early_response(cycle, app))

    def _handle_early_response(self, cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
        """Wrap the application to handle responses that are sent before the request is complete.

        Such a response announces the end of the connection, but must not close it yet.
        """
        body_size = _body_size(cycle.scope)
        if body_size == 0:
            return app
        is_small = body_size is not None and body_size <= _SMALL_BODY and not cycle.waiting_for_100_continue

        async def wrapped_app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            async def wrapped_send(message: ASGISendEvent) -> None:
                if cycle.more_body and message["type"] == "http.response.start" and not is_small:
                    cycle.keep_alive = False
                elif cycle.more_body and message["type"] == "http.response.body" and not cycle.keep_alive:
                    # uvicorn would close the connection now. The header `connection: close` is already sent.
                    self._ends_after_response, cycle.keep_alive = True, True
                await send(message)

            await app(scope, receive, wrapped_send)

        return wrapped_app

    def _linger(self, max_bytes: int) -> None:
        """Close the sending half, then drop received bytes, within limits, until the client closes."""
        self._drop_budget = max_bytes
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        self._drop(0)

    def _drop(self, size: int) -> None:
        assert self._drop_budget is not None, "this is a bug: received bytes are still parsed"
        self._drop_budget -= size
        if self._pause_timer is not None:
            self._pause_timer.cancel()
        if self._drop_budget < 0:
            self.transport.close()
        else:
            self._pause_timer = self.loop.call_later(_PAUSE_SECONDS, self.transport.close)

    def _start_read_timer(self) -> None:
        """Start a timer that aborts the connection unless the client reads a part of the response."""
        self._cancel_read_timer()
        unread = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(
            _READ_TIMEOUT_AT_STOP if self._is_stopping else _READ_TIMEOUT, self._check_read_progress, unread
        )

    def _check_read_progress(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() >= max(unread, 1):
            self.transport.abort()
        else:
            self._start_read_timer()

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _cancel_linger_timers(self) -> None:
        for timer in (self._deadline_timer, self._pause_timer):
            if timer is not None:
                timer.cancel()
        self._deadline_timer = self._pause_timer = None

    def _disconnect_cycles(self) -> None:
        """Mark all requests of this connection as disconnected.

        uvicorn marks only the last one. Responses to the others would fail, each with a long error in the log.
        """
        queued = [cycle for cycle, _ in self.pipeline]
        for cycle in queued if self._active_cycle is None else [self._active_cycle, *queued]:
            cycle.disconnected = True
            cycle.message_event.set()

    def _count_head_bytes(self, part: bytes) -> None:
        self._head_parsed += len(part)
        if self._head_parsed > MAX_HEAD:
            raise httptools.HttpParserError("the head of the request is too long")


def _body_size(scope: Scope) -> int | None:
    """Return the bytes of a request's body; None if it is chunked."""
    size: int | None = 0
    for name, value in scope["headers"]:  # type: ignore[typeddict-item]
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            size = int(value)
    return size
