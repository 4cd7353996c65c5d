"""Send queue of a connection: messages are combined while the previous frame is sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hf_runtime.rpc.messages import encode_frame

#: Most bytes of a frame, under the 16 MiB that uvicorn accepts. Only a frame with a single message to the entry service
#: may be larger.
MAX_FRAME = 15 * 2**20


class Outbox:
    """Queue of encoded messages that are sent as frames over one connection."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._encoded: deque[bytes] = deque()
        self._has_messages = asyncio.Event()

    def put(self, message: Any) -> None:
        """Encode a message and queue it for sending.

        Encoding here makes an invalid message fail only its own sender.

        Raises:
            TypeError, OverflowError, RecursionError: MessagePack cannot encode the message.
        """
        self.put_encoded(encode_frame(message))

    def put_encoded(self, encoded: bytes) -> None:
        """Queue an encoded message for sending."""
        self._encoded.append(encoded)
        self._has_messages.set()

    async def run(self) -> None:
        """Send frames until cancelled or the connection breaks."""
        while True:
            await self._has_messages.wait()
            self._has_messages.clear()
            while self._encoded:
                await self._send(self._next_frame())

    def _next_frame(self) -> bytes:
        messages: list[msgspec.Raw] = []
        size = 0
        while self._encoded and (not messages or size + len(self._encoded[0]) <= MAX_FRAME):
            encoded = self._encoded.popleft()
            size += len(encoded)
            messages.append(msgspec.Raw(encoded))
        return encode_frame(messages)
