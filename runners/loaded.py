"""One loading of a model: its engine at work, until its last answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hf_runtime.contract.errors import InferenceFailed, ModelNotReady, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import Signature
from runners.engines.device_errors import broken_by
from runners.engines.engine import Engine


class LoadedModel:
    """Answers items. Whoever drops the last reference to it, after `stop`, drops the model.

    Args:
        signature: what the model takes and gives.
        on_failure: is called with the error if the engine stops by itself.
    """

    def __init__(
        self, engine: Engine, signature: Signature, on_failure: Callable[[BaseException | None], None]
    ) -> None:
        self.signature = signature
        self._engine = engine
        self._on_failure = on_failure
        self._unfinished: set[asyncio.Future[Any]] = set()
        self._working = asyncio.create_task(engine.run())
        self._working.add_done_callback(self._ended)

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """As `Engine.submit`."""
        future = self._engine.submit(item, listener)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    async def finish(self) -> None:
        """Wait until every item is answered or given up, then stop."""
        while self._unfinished:
            await asyncio.wait(set(self._unfinished))
        await self.stop()

    async def stop(self) -> None:
        """Stop, whatever is unfinished."""
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)

    def _ended(self, working: asyncio.Task[None]) -> None:
        if working.cancelled():
            return
        error = working.exception()
        told: ServingError = InferenceFailed("the model stopped; the server's log has the details")
        if broken_by(error) is not None:
            told = ModelNotReady("The device of the model failed while it computed.", retry_after=5)
        for future in list(self._unfinished):
            if not future.done():
                future.set_exception(told)
        self._on_failure(error)
