"""Bodies of requests: all of them, within the limit, compressed or not."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from starlette.requests import Request

from errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType
from settings import ServerSettings

#: zlib's for data that begins as gzip's or its own format does.
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


async def read_body(request: Request, settings: ServerSettings) -> bytes:
    """The whole body, as it was before `Content-Encoding: gzip` or `deflate`.

    Raises:
        RequestTooLarge: it is over the limit; the rest is neither read nor inflated.
        UnsupportedMediaType: it has another encoding.
        InvalidRequest: it is not what its encoding says.
        ClientDisconnect: it will never be whole.
    """
    limit = settings.max_body_size
    message = f"the body is larger than {limit} bytes (MAX_BODY_SIZE)"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise RequestTooLarge(message)
    inflate = _inflater(request.headers.get("content-encoding", "identity").strip().lower())
    chunks, size = [], 0
    async for received in request.stream():
        chunk = inflate(received, limit - size + 1) if inflate is not None else received
        size += len(chunk)
        if size > limit:
            raise RequestTooLarge(message)
        chunks.append(chunk)
    return b"".join(chunks)


def _inflater(encoding: str) -> Callable[[bytes, int], bytes] | None:
    """What makes plain bytes of the next compressed ones, up to a number; the last call has no bytes."""
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
