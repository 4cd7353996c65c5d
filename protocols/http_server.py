"""uvicorn's HTTP, with an end to how long the head of a request may be.

Of uvicorn's two parsers, h11 has such an end and httptools, which is several times faster, has none: a header that
never ends would be kept until there is no memory left.
"""

from __future__ import annotations

import httptools
import uvicorn.config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Bytes of the request line and all headers; that of h11 in uvicorn.
MAX_HEAD = 64 * 1024


def limit_heads() -> None:
    """Have uvicorn take this protocol where it would choose by itself; BentoML, which starts it, has no setting."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{LimitedHead.__qualname__}"


class LimitedHead(HttpToolsProtocol):
    """Answers a request whose head is too long with 400, and reads no more of it."""

    #: Bytes that were received while the head was not complete, and those of its parts that are.
    _received = _parsed = 0
    _in_head = True
    _answered: RequestResponseCycle | None = None

    def data_received(self, data: bytes) -> None:
        """As uvicorn does, and see that a head that is not complete does not grow for ever."""
        super().data_received(data)
        self._received = self._received + len(data) if self._in_head else 0
        if self._received > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._received, self._parsed = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Another part of the URL."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close the connection."""
        super().send_400_response(msg)
        self._give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._give_up()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

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
