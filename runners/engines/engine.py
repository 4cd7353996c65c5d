"""Interface of an engine, and the choice of the engine for a runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.tokenization import TokenizerRequest
from hf_runtime.observability.engine_observer import EngineObserver
from runners.engines.generation_engine import GenerationEngine
from runners.engines.generator import GenerativeRunner
from runners.engines.runner import Runner


class Engine(Protocol):
    """Scheduler that decides when a runner computes an item, and in which batch.

    An engine may also wrap another library or process. An async iterator of deltas maps to calls of the listener, and
    its end to the result of the future.
    """

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item.

        Args:
            listener: receives `accepted` when the item is queued, then each delta of its answer.

        Returns:
            A future of the answer; with a listener, it is done when the answer ends. Cancelling it cancels the item.

        Raises:
            InvalidRequest: there is a listener, but the task does not stream.
            Overloaded: the queue is full.
        """

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        """Tokenize or detokenize, and return a future of the answer.

        Raises:
            Overloaded: the queue of such requests is full.
        """

    async def run(self) -> None:
        """Process items until cancelled."""


def get_engine_factory(
    runner: Runner[Any, Any, Any, Any], observer: EngineObserver | None = None
) -> Callable[..., Engine]:
    """Return a constructor of the engine for a runner.

    The caller passes it the size of the queue and the thread that computes.
    """
    if isinstance(runner, GenerativeRunner):
        return partial(GenerationEngine, runner, observer=observer)
    # Imported here: it needs torch, and a generator may need none.
    from runners.engines.batch.engine import BatchEngine

    return partial(BatchEngine, runner, observer=observer)
