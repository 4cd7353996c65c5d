"""Stopping in the right order: what was begun is finished first, by the entry service, then by its runners."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: What is given up has so many seconds to say so.
_LAST_WORDS = 2.0


class Drain:
    """Counts what is being done, and holds a stop signal back until nothing is.

    All processes of a server are told to stop at once. A request that was begun is answered all the same, and a runner
    stays until the entry service has left. A second signal stops at once.

    Args:
        seconds: that it takes at most; None is no limit.
        give_up: called when they have passed, to end what is left with an error.

    Attributes:
        stopping: a stop signal is held back.
    """

    def __init__(self, seconds: float | None = None, give_up: Callable[[], None] = lambda: None) -> None:
        self.stopping = False
        self._seconds, self._give_up = seconds, give_up
        self._count = 0
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._waiting: asyncio.Task[None] | None = None

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count something while the context lasts."""
        self._count += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._none_left.set()

    def stop_now(self) -> None:
        """Stop this process, however much is being done; to be called on the main thread."""
        self.stopping = True
        signal.raise_signal(signal.SIGTERM)

    def hold_signals(self) -> None:
        """Put this object before the handlers of SIGTERM and SIGINT; to be called on the main thread's event loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, self._holding(before, loop))

    def _holding(self, before: signal._HANDLER, loop: asyncio.AbstractEventLoop) -> signal._HANDLER:
        assert callable(before)

        def handler(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                before(number, frame)
                return
            self.stopping = True
            loop.call_soon_threadsafe(start)

        def start() -> None:
            self._waiting = loop.create_task(stop())

        async def stop() -> None:
            await self._until_none_is_left()
            before(signal.SIGTERM, None)

        return handler

    async def _until_none_is_left(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._none_left.wait()
                return
        self._give_up()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._none_left.wait()
