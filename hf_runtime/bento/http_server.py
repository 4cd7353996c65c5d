"""uvicorn's HTTP, with an end to how long the head of a request may be, and to how it is refused.

Of uvicorn's two parsers, h11 has such an end and httptools, which is several times faster, has none: a header that
never ends would be kept until there is no memory left.

Whoever is answered while it still sends would lose the answer: a connection that is closed with bytes unread is reset,
and a reset takes along what was not read yet. So the sending half is closed, what still comes is read and dropped, and
then the connection ends, as in https://www.rfc-editor.org/rfc/rfc9112#section-9.6 and nginx's `lingering_close`.

A client that offers another protocol, as Java's and curl's offer HTTP/2, is answered in HTTP/1.1
(https://www.rfc-editor.org/rfc/rfc9110#section-7.8). httptools stops behind the head of such a request, and uvicorn
would lose its body.

A client that does not read its answer would keep it in memory for ever, and keep the server from stopping: its
connection is aborted.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
import uvicorn.config
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Bytes of the request line and all headers; that of h11 in uvicorn.
MAX_HEAD = 64 * 1024

#: A body that is at most so long is read to its end after an early answer, and its connection is used again.
_SMALL = 64 * 1024
#: Of what comes after an answer, so many bytes are dropped, for so many seconds, as long as some come in a few.
_MOST_DROPPED, _LONGEST, _PAUSE = 128 * 2**20, 30.0, 5.0
#: Bytes that are dropped after a head that is too long.
_MOST_DROPPED_OF_HEAD = 2**20
#: Seconds in which a client must read something of its answer, as nginx's `send_timeout`, and once the server stops.
_UNREAD, _UNREAD_AT_STOP = 60.0, 3.0


def limit_heads() -> None:
    """Have uvicorn take this protocol where it would choose by itself; BentoML, which starts it, has no setting."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{LimitedHead.__qualname__}"


class _Parser(httptools.HttpRequestParser):
    """Parses the body of a request that offers another protocol, which is not taken.

    The parser stops behind the head of such a request; its body is fed as that of a request of its own.

    Args:
        protocol: gets what is parsed.
    """

    def __init__(self, protocol: LimitedHead) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse bytes of a connection.

        Raises:
            httptools.HttpParserError: they are no HTTP.
            httptools.HttpParserUpgrade: an offer is taken.
        """
        while True:
            try:
                super().feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                if self._protocol.takes_offer():
                    raise
                data = self._protocol.head_of_body() + data[stopped.args[0] :]


class LimitedHead(HttpToolsProtocol):
    """Answers a request whose head is too long with 400, and reads no more of it."""

    #: Bytes that were received while the head was not complete, and those of its parts that are.
    _received = _parsed = 0
    _in_head = True
    _answered: RequestResponseCycle | None = None
    #: Bytes that may still be dropped; None while they are read.
    _to_drop: int | None = None
    #: That the connection ends with the answer that is written, and its request is not complete.
    _lingers = False
    #: That the body of an answered request is dropped until its end, after which the connection goes on.
    _drops_body = False
    _latest: asyncio.TimerHandle | None = None
    _patience: asyncio.TimerHandle | None = None
    #: The head of a body that is parsed by itself, until it is read; None for most requests.
    _head_of_body: bytes | None = None
    _reads_body = False

    #: Ends the connection of a client that does not read.
    _reader: asyncio.TimerHandle | None = None
    _stops = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _Parser(self)

    def data_received(self, data: bytes) -> None:
        """As uvicorn does, and see that a head that is not complete does not grow for ever."""
        if self._to_drop is not None:
            self._drop(len(data))
            return
        super().data_received(data)
        self._received = self._received + len(data) if self._in_head else 0
        if self._received > MAX_HEAD and self._to_drop is None and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def takes_offer(self) -> bool:
        """Return whether the request opens a WebSocket (https://www.rfc-editor.org/rfc/rfc6455#section-4.1)."""
        return self._should_upgrade()

    def head_of_body(self) -> bytes:
        """The head under which the body of a request that offers another protocol is parsed."""
        return self._head_of_body or b""

    def on_message_begin(self) -> None:
        """A head begins."""
        if self._head_of_body is not None:
            return
        self._in_head, self._received, self._parsed = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Another part of the URL."""
        if self._head_of_body is not None:
            return
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._head_of_body is not None:
            return
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        if self._head_of_body is not None:
            return
        self._in_head = False
        super().on_headers_complete()
        if self.parser.should_upgrade() and not self.takes_offer() and self.scope["method"] != "CONNECT":
            size = _announced(self.scope)
            if size != 0:
                header = b"transfer-encoding: chunked" if size is None else b"content-length: %d" % size
                self._head_of_body = b"POST / HTTP/1.1\r\n%b\r\n\r\n" % header

    def on_message_complete(self) -> None:
        """A body is complete."""
        if self._head_of_body is not None and not self._reads_body:
            self._reads_body = True  # its head only
            return
        self._head_of_body, self._reads_body = None, False
        super().on_message_complete()
        if self._drops_body:
            self._drops_body = False
            self._stop_timers()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and end the connection."""
        text = msg.encode("ascii")
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (lines, text))
        self._give_up()
        self._linger(_MOST_DROPPED_OF_HEAD)

    def on_response_complete(self) -> None:
        """An answer is complete; if its request is not, see to the rest of that."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._lingers:
            self._linger(_MOST_DROPPED)
        elif self._answered is not None and self._answered.more_body:
            self._unset_keepalive_if_required()
            self._drops_body = True
            self._latest = self.loop.call_later(_LONGEST, self.transport.close)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has read most of what was written."""
        super().resume_writing()
        if not self._stops:
            self._stop_watching()

    def shutdown(self) -> None:
        """The server stops: an answer that is not read does not keep it."""
        super().shutdown()
        self._stops = True
        self._watch_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._stop_timers()
        self._stop_watching()
        self._give_up()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        return self.scope["method"] == "GET" and super()._should_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, self._seeing_to_the_rest(cycle, app))

    def _seeing_to_the_rest(self, cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
        """An application whose early answers say that the connection ends, and do not end it yet."""
        announced = _announced(cycle.scope)
        if announced == 0:
            return app
        ends_soon = announced is not None and announced <= _SMALL and not cycle.waiting_for_100_continue

        async def answering(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            async def sending(message: ASGISendEvent) -> None:
                if cycle.more_body and message["type"] == "http.response.start" and not ends_soon:
                    cycle.keep_alive = False
                elif cycle.more_body and message["type"] == "http.response.body" and not cycle.keep_alive:
                    # uvicorn would close the connection at once; the header that says so has been written.
                    self._lingers, cycle.keep_alive = True, True
                await send(message)

            await app(scope, receive, sending)

        return answering

    def _linger(self, most: int) -> None:
        """Send no more, and drop what still comes, within bounds, until the client has heard of it."""
        self._to_drop = most
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._latest = self.loop.call_later(_LONGEST, self.transport.close)
        self._drop(0)

    def _drop(self, size: int) -> None:
        assert self._to_drop is not None, "this is a bug: what comes is still read"
        self._to_drop -= size
        if self._patience is not None:
            self._patience.cancel()
        if self._to_drop < 0:
            self.transport.close()
        else:
            self._patience = self.loop.call_later(_PAUSE, self.transport.close)

    def _watch_reader(self) -> None:
        """End the connection unless something of what is written now is read in time."""
        self._stop_watching()
        unread = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(_UNREAD_AT_STOP if self._stops else _UNREAD, self._check_reader, unread)

    def _check_reader(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() >= max(unread, 1):
            self.transport.abort()
        else:
            self._watch_reader()

    def _stop_watching(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _stop_timers(self) -> None:
        for timer in (self._latest, self._patience):
            if timer is not None:
                timer.cancel()
        self._latest = self._patience = None

    def _give_up(self) -> None:
        """Nobody waits for the answers to what was asked on this connection.

        uvicorn knows that of the last request alone; the others would fail to be written, each with a page in the log.
        """
        waiting = [cycle for cycle, _ in self.pipeline]
        for cycle in waiting if self._answered is None else [self._answered, *waiting]:
            cycle.disconnected = True
            cycle.message_event.set()

    def _count(self, part: bytes) -> None:
        self._parsed += len(part)
        if self._parsed > MAX_HEAD:
            raise httptools.HttpParserError("the head of the request is too long")


def _announced(scope: Scope) -> int | None:
    """Bytes of a request's body; None if they come in chunks."""
    size: int | None = 0
    for name, value in scope["headers"]:  # type: ignore[typeddict-item]
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            size = int(value)
    return size
