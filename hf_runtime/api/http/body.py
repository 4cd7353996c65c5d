"""Request bodies: reading, decompression and limits."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.types import Scope

from hf_runtime.contract.errors import BodyTooSlow, InvalidRequest, RequestTooLarge, ServerBusy, UnsupportedMediaType
from hf_runtime.settings import ServerSettings

#: zlib option: detect the format, gzip or zlib, from the first bytes.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32

_KEY = "body_share"

#: Decompresses the next bytes to at most a number of plain bytes; the last call has no bytes.
_Inflate = Callable[[bytes, int], bytes]


class BodyShare:
    """Memory of one request's body, part of the memory for all bodies of this process.

    Args:
        bodies: memory of all requests; None is no limit.
    """

    def __init__(self, bodies: BodyMemory | None) -> None:
        self._bodies = bodies
        self._size = 0

    def cap_size(self, size: int) -> int:
        """Return a number of bytes, or fewer if there is less memory left."""
        return size if self._bodies is None else min(size, self._bodies.limit - self._bodies.held)

    def add(self, size: int) -> None:
        """Count bytes that were received or decompressed.

        Raises:
            ServerBusy: the bodies of other requests leave no memory for them.
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

    def release(self) -> None:
        """Release the memory at the end of the request."""
        if self._bodies is not None:
            self._bodies.held -= self._size
        self._size = 0


class BodyMemory:
    """Memory of the bodies of all requests of this process.

    A body counts until its request is answered, because the objects parsed from it take as much memory or more.

    Attributes:
        limit: bytes.
        held: bytes of bodies at present.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def share_for(self, scope: Scope) -> Iterator[None]:
        """Store the share of a request in its scope until the end of the context."""
        share = scope[_KEY] = BodyShare(self)
        try:
            yield
        finally:
            share.release()


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """Return the whole body, decompressed if it is gzip or deflate.

    Raises:
        RequestTooLarge: it is over the limit; the rest is neither received nor decompressed.
        ServerBusy: the bodies of other requests leave no memory for it.
        BodyTooSlow: it is not received in time.
        UnsupportedMediaType: it has another encoding.
        InvalidRequest: its data is not valid in its encoding.
        ClientDisconnect: the client left before the body was complete.
    """
    limit, name = settings.max_body_size, "MAX_BODY_SIZE"
    if settings.max_bodies_size is not None and settings.max_bodies_size < limit:
        limit, name = settings.max_bodies_size, "MAX_BODIES_SIZE"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _make_size_error(limit, name)
    inflate = _make_inflate(request.headers.get("content-encoding", "identity").strip().lower())
    share: BodyShare = request.scope.get(_KEY) or BodyShare(None)
    # Not a list of chunks: a body in millions of chunks would take twenty times its size.
    body: bytes | bytearray = b""
    deadline = asyncio.timeout(None)
    # Most bodies have already arrived. A timer for each would cost more than the rest of this function.
    timer = asyncio.get_running_loop().call_soon(_start_timer, deadline, settings.body_timeout)
    try:
        async with deadline:
            async for received in request.stream():
                # One byte more than allowed, so that the check below can refuse the body.
                chunk = inflate(received, share.cap_size(limit - len(body)) + 1) if inflate is not None else received
                if len(body) + len(chunk) > limit:
                    raise _make_size_error(limit, name)
                share.add(len(chunk))
                if not body:
                    body = chunk
                elif chunk:
                    body = body if isinstance(body, bytearray) else bytearray(body)
                    body += chunk
    except TimeoutError:
        if not deadline.expired():
            raise
        raise BodyTooSlow(f"the body was not received within {settings.body_timeout:g} s (BODY_TIMEOUT)") from None
    finally:
        timer.cancel()
    return bytes(body)


def _start_timer(deadline: asyncio.Timeout, seconds: float) -> None:
    deadline.reschedule(asyncio.get_running_loop().time() + seconds)


def _make_size_error(limit: int, name: str) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than {limit} bytes ({name})")


def _make_inflate(encoding: str) -> _Inflate | None:
    """Return a function that decompresses the next bytes; None if the body is not compressed."""
    if encoding == "identity":
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMediaType(f"Content-Encoding: {encoding[:100]} is not read; gzip and deflate are")
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)

    def inflate(compressed: bytes, max_size: int) -> bytes:
        if not compressed and not stream.eof:
            raise InvalidRequest(f"the body ends within its {encoding} data")
        try:
            return stream.decompress(compressed, max_size)
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {encoding}: {error}") from None

    return inflate
