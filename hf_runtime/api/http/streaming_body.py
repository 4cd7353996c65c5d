"""HTTP response whose body is sent while its answers are generated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hf_runtime.api.call import ClientLeft
from hf_runtime.api.streaming import AnswerStreams, Chunk

logger = logging.getLogger(__name__)


class StreamingBody(Response):
    """200 response whose body is sent chunk by chunk; it ends early only if the client left.

    Args:
        streams: closed when the response ends.
        render: returns the bytes of chunks that arrived together.
        end: returns the last bytes of a complete body.
    """

    def __init__(
        self,
        streams: AnswerStreams,
        render: Callable[[Sequence[Chunk]], bytes],
        media_type: str,
        end: Callable[[], bytes] = bytes,
    ) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams
        self._render = render
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunks in self._streams:
                if body := self._streams.render(chunks, self._render):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": self._render_end(), "more_body": False})
        except ClientLeft:
            pass
        finally:
            self._streams.close()

    def _render_end(self) -> bytes:
        try:
            return self._end()
        except Exception:
            logger.exception("the end of a stream cannot be written")
            return b""
