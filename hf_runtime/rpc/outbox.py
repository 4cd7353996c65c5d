"""Sending without waiting: messages gather while the previous frame is on its way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hf_runtime.rpc.messages import encode_frame

#: A frame stays under the 16 MiB that uvicorn accepts; a message alone may be larger only towards the entry service.
MAX_FRAME = 15 * 2**20


class Outbox:
    """The sending side of a connection."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._encoded: deque[bytes] = deque()
        self._news = asyncio.Event()

    def put(self, message: Any) -> None:
        """Encode a message now, so that what cannot be encoded fails its sender alone, and send it soon.

        Raises:
            TypeError, OverflowError, RecursionError: the message holds what MessagePack cannot carry.
        """
        self.put_encoded(encode_frame(message))

    def put_encoded(self, encoded: bytes) -> None:
        """Send a message encoded before."""
        self._encoded.append(encoded)
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled or the connection breaks."""
        while True:
            await self._news.wait()
            self._news.clear()
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
