"""A model's life in its process: loading, warm-up, ready or failed; and its items, from wherever they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from errors import ModelNotReady, ServingError
from loading import LoadError
from runners.base import Item
from runners.engines import Engine, engine_for
from runners.registry import create_runner
from runners.signature import Signature
from settings import ModelSettings
from transport.listener import StreamListener
from transport.messages import ModelState

logger = logging.getLogger(__name__)


class ModelHost:
    """Loads one model beside the event loop, then answers its items."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._engine: Engine | None = None
        self._signature: Signature | None = None
        self._changed = asyncio.Condition()
        self.state = ModelState("loading")

    async def run(self) -> None:
        """Load, warm up and serve until cancelled; a model that cannot be loaded leaves the state `failed`."""
        started = monotonic()
        loop = asyncio.get_running_loop()
        try:
            make_engine = await loop.run_in_executor(self._compute, self._load)
        except (LoadError, ServingError) as error:
            logger.error("model %s: %s", self._settings.name, error)
            return await self._become(ModelState("failed", str(error)))
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.error("model %s could not be loaded: %s (LOG_LEVEL=DEBUG shows where)", self._settings.name, what)
            logger.debug("where model %s could not be loaded", self._settings.name, exc_info=True)
            return await self._become(ModelState("failed", "something unforeseen; the server's log has the details"))
        engine = make_engine(max_queue_size=self._settings.max_queue_size, compute=self._compute)
        self._engine = engine
        logger.info("model %s is ready after %.1f s", self._settings.name, monotonic() - started)
        await self._become(ModelState("ready", signature=self._signature))
        try:
            await engine.run()
        except Exception:
            logger.exception("model %s stopped", self._settings.name)
            self._engine = None
            await self._become(ModelState("failed", "it stopped; the server's log has the details"))
        finally:
            self._compute.shutdown(wait=False, cancel_futures=True)

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """Queue one item; cancel the future if nobody wants the answer any more.

        Raises:
            InvalidRequest: the task's answers do not come in pieces.
            ModelNotReady: the model is loading or has failed.
            Overloaded: the queue is full.
        """
        if self._engine is None:
            raise ModelNotReady(f"Model with name {self._settings.name} is not ready.", retry_after=1)
        return self._engine.submit(Item(instance, parameters), listener)

    async def states(self) -> AsyncIterator[ModelState]:
        """The state now, then each new one."""
        while True:
            state = self.state
            yield state
            async with self._changed:
                while self.state is state:
                    await self._changed.wait()

    async def _become(self, state: ModelState) -> None:
        async with self._changed:
            self.state = state
            self._changed.notify_all()

    def _load(self) -> Callable[..., Engine]:
        # Imported here, as the first thing in this process that needs torch: it takes seconds.
        from loading.memory import give_back_memory
        from loading.pretrained import prepare_torch

        prepare_torch(self._settings)
        runner = create_runner(self._settings)
        runner.load()
        runner.warm_up()
        give_back_memory()
        self._signature = runner.signature
        return engine_for(runner)
