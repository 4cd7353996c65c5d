"""What stands between a runner and the items that arrive for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.observability.engine_observer import EngineObserver
from runners.engines.runner import Runner


class Engine(Protocol):
    """Decides which items a runner computes when, and which together.

    One that computes elsewhere, in another library or process, fits as well: an async iterator of pieces becomes calls
    of the listener and, at its end, the future's result.
    """

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item.

        Args:
            listener: is told when the item is accepted, then every piece of its answer.

        Returns:
            A future of the answer, or of its end if there is a listener; cancel it and the item is given up.

        Raises:
            InvalidRequest: there is a listener, and the task's answers have no pieces.
            Overloaded: the queue is full.
        """

    async def run(self) -> None:
        """Work until cancelled."""


def engine_for(runner: Runner[Any, Any, Any, Any], observer: EngineObserver | None = None) -> Callable[..., Engine]:
    """What makes the engine of a runner's kind, given the size of its queue and the thread that computes."""
    # Imported here: they need torch.
    from runners.engines.batch.engine import BatchEngine
    from runners.engines.generate.engine import GenerationEngine
    from runners.engines.generate.runner import GenerativeRunner

    if isinstance(runner, GenerativeRunner):
        return partial(GenerationEngine, runner, observer=observer)
    return partial(BatchEngine, runner, observer=observer)
