"""Bodies of requests: all of them, within the limits, compressed or not."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_runtime.contract.errors import BodyTooSlow, InvalidRequest, RequestTooLarge, ServerBusy, UnsupportedMediaType
from hf_runtime.settings import ServerSettings

#: zlib's for data that begins as gzip's or its own format does.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32

_KEY = "body_share"

#: Inflates the next compressed bytes, up to a number of plain ones; the last call has no bytes.
_Inflate = Callable[[bytes, int], bytes]


class BodyShare:
    """Memory of one request's body, out of that for all bodies of this process.

    Args:
        bodies: those of all requests; None is no limit.
    """

    def __init__(self, bodies: BodyMemory | None) -> None:
        self._bodies = bodies
        self._size = 0

    def at_most(self, size: int) -> int:
        """Return that many bytes, or fewer if no more may be added."""
        return size if self._bodies is None else min(size, self._bodies.limit - self._bodies.held)

    def add(self, size: int) -> None:
        """Note bytes that were received, or inflated.

        Raises:
            ServerBusy: there is no memory for them beside the bodies of others.
        """
        if self._bodies is None:
            return
        if self._bodies.held + size > self._bodies.limit:
            raise ServerBusy(
                f"bodies of requests hold {self._bodies.held} bytes already, "
                f"{self._bodies.limit} may be held together (MAX_BODIES_SIZE): try again later",
                retry_after=1,
            )
        self._size += size
        self._bodies.held += size

    def give_back(self) -> None:
        """The request has ended."""
        if self._bodies is not None:
            self._bodies.held -= self._size
        self._size = 0


class BodyMemory:
    """ASGI middleware that bounds the memory of the bodies of all requests of this process.

    A body counts while it is received and until its request is answered: what is made of it takes as much and more.

    Attributes:
        limit: bytes.
        held: bytes of bodies at present.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self.limit = limit
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        share = scope[_KEY] = BodyShare(self)
        try:
            await self._app(scope, receive, send)
        finally:
            share.give_back()


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """The whole body, as it was before `Content-Encoding: gzip` or `deflate`.

    Raises:
        RequestTooLarge: it is over the limit; the rest is neither read nor inflated.
        ServerBusy: there is no memory for it beside those of others.
        BodyTooSlow: it is not received in time.
        UnsupportedMediaType: it has another encoding.
        InvalidRequest: it is not what its encoding says.
        ClientDisconnect: it will never be whole.
    """
    limit, name = settings.max_body_size, "MAX_BODY_SIZE"
    if settings.max_bodies_size is not None and settings.max_bodies_size < limit:
        limit, name = settings.max_bodies_size, "MAX_BODIES_SIZE"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit, name)
    inflate = _inflater(request.headers.get("content-encoding", "identity").strip().lower())
    share: BodyShare = request.scope.get(_KEY) or BodyShare(None)
    # In one piece from the start: what comes in millions of pieces would take twenty times its size.
    body: bytes | bytearray = b""
    in_time = asyncio.timeout(None)
    # Most bodies are there already: a timer for each would cost more than all else does here.
    waits = asyncio.get_running_loop().call_soon(_set_deadline, in_time, settings.body_timeout)
    try:
        async with in_time:
            async for received in request.stream():
                # One more than there may be: who sees it refuses the body.
                chunk = inflate(received, share.at_most(limit - len(body)) + 1) if inflate is not None else received
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit, name)
                share.add(len(chunk))
                if not body:
                    body = chunk
                elif chunk:
                    body = body if isinstance(body, bytearray) else bytearray(body)
                    body += chunk
    except TimeoutError:
        if not in_time.expired():
            raise
        raise BodyTooSlow(f"the body was not received within {settings.body_timeout:g} s (BODY_TIMEOUT)") from None
    finally:
        waits.cancel()
    return bytes(body)


def _set_deadline(in_time: asyncio.Timeout, seconds: float) -> None:
    in_time.reschedule(asyncio.get_running_loop().time() + seconds)


def _too_large(limit: int, name: str) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than {limit} bytes ({name})")


def _inflater(encoding: str) -> _Inflate | None:
    """Return a function that decompresses the next bytes."""
    if encoding == "identity":
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMediaType(f"Content-Encoding: {encoding[:100]} is not read; gzip and deflate are")
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)

    def inflate(compressed: bytes, most: int) -> bytes:
        if not compressed and not stream.eof:
            raise InvalidRequest(f"the body ends within its {encoding} data")
        try:
            return stream.decompress(compressed, most)
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {encoding}: {error}") from None

    return inflate
