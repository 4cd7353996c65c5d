"""Graceful shutdown: the entry service finishes its requests first, then the runners stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Seconds that aborted work has to send its errors.
_ABORT_SECONDS = 2.0


class Drain:
    """Counter of work in progress, which delays a stop signal until all work is done.

    All processes of a server receive the stop signal at the same time. Requests in progress are still answered, and a
    runner stays until the entry service has disconnected. A second signal stops the process immediately.

    Args:
        seconds: most seconds to wait; None is no limit.
        give_up: called after that time, to end the remaining work with an error.

    Attributes:
        stopping: a stop signal has arrived.
    """

    def __init__(self, seconds: float | None = None, give_up: Callable[[], None] = lambda: None) -> None:
        self.stopping = False
        self._seconds, self._give_up = seconds, give_up
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop_task: asyncio.Task[None] | None = None

    @contextmanager
    def count_work(self) -> Iterator[None]:
        """Count one piece of work in progress inside the context."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()

    def stop_now(self) -> None:
        """Stop this process without waiting for work; to be called on the main thread."""
        self.stopping = True
        signal.raise_signal(signal.SIGTERM)

    def hold_signals(self) -> None:
        """Delay SIGTERM and SIGINT until all work is done.

        To be called on the event loop of the main thread, after the handlers to delay are installed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            original = signal.getsignal(number)
            if callable(original):
                signal.signal(number, self._delay_handler(original, loop))

    def _delay_handler(self, original: signal._HANDLER, loop: asyncio.AbstractEventLoop) -> signal._HANDLER:
        assert callable(original)

        def handler(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                original(number, frame)
                return
            self.stopping = True
            loop.call_soon_threadsafe(start_stop_task)

        def start_stop_task() -> None:
            self._stop_task = loop.create_task(stop_when_idle())

        async def stop_when_idle() -> None:
            await self._wait_until_idle()
            original(signal.SIGTERM, None)

        return handler

    async def _wait_until_idle(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._idle.wait()
                return
        self._give_up()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._idle.wait()
