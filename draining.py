"""Stopping in the right order: the entry service first, then the runners it still waits for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Connections:
    """Counts the entry processes that are connected, and holds a stop signal back until the last has left.

    All processes of a server are told to stop at once. The entry service finishes its requests before it leaves; a
    runner that stopped at once would fail them. A second signal stops at once.
    """

    def __init__(self) -> None:
        self._count = 0
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._stopping: asyncio.Task[None] | None = None

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a connection while the context lasts."""
        self._count += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._none_left.set()

    def hold_signals(self) -> None:
        """Put this object before the handlers of SIGTERM and SIGINT; to be called on the main thread's event loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, self._holding(before, loop))

    def _holding(self, before: signal._HANDLER, loop: asyncio.AbstractEventLoop) -> signal._HANDLER:
        def handler(number: int, frame: FrameType | None) -> None:
            assert callable(before)
            if self._stopping is not None:
                before(number, frame)
                return

            async def stop_when_left() -> None:
                await self._none_left.wait()
                assert callable(before)
                before(number, None)

            def start() -> None:
                self._stopping = self._stopping or loop.create_task(stop_when_left())

            loop.call_soon_threadsafe(start)

        return handler
