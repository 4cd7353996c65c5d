"""A loaded model with its running engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hf_runtime.contract.errors import InferenceFailed, ModelNotReady, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import Signature
from runners.engines.device_errors import find_broken_device
from runners.engines.engine import Engine


class LoadedModel:
    """Loaded model that answers items until it is stopped.

    The model's memory is freed after `stop`, with the last reference to this object.

    Args:
        signature: inputs and outputs of the model.
        on_failure: called with the error if the engine stops by itself.
    """

    def __init__(
        self, engine: Engine, signature: Signature, on_failure: Callable[[BaseException | None], None]
    ) -> None:
        self.signature = signature
        self._engine = engine
        self._on_failure = on_failure
        self._pending: set[asyncio.Future[Any]] = set()
        self._engine_task = asyncio.create_task(engine.run())
        self._engine_task.add_done_callback(self._on_engine_end)

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item, as `Engine.submit` does."""
        future = self._engine.submit(item, listener)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def drain(self) -> None:
        """Wait until every item is answered or cancelled, then stop."""
        while self._pending:
            await asyncio.wait(set(self._pending))
        await self.stop()

    async def stop(self) -> None:
        """Stop the engine without waiting for pending items."""
        self._engine_task.cancel()
        await asyncio.gather(self._engine_task, return_exceptions=True)

    def _on_engine_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        answer: ServingError = InferenceFailed("the model stopped; the server's log has the details")
        if find_broken_device(error) is not None:
            answer = ModelNotReady("The device of the model failed while it computed.", retry_after=5)
        for future in list(self._pending):
            if not future.done():
                future.set_exception(answer)
        self._on_failure(error)
