"""Model without a runner, whose answers follow from its instances."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded
from hf_runtime.contract.listener import StreamListener
from hf_runtime.rpc.client import RunnerClient
from hf_runtime.rpc.messages import ModelState


class ScriptedClient(RunnerClient):
    """Client that answers each instance with itself and its parameters, or fails if it says so."""

    def __init__(self, name: str, state: ModelState) -> None:
        super().__init__(name, lambda: None)
        self.state = state
        self.settled = state.status != "loading"
        self._outbox = object()  # type: ignore[assignment]  # stands for a connection
        self.cancelled: list[Any] = []

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        self.check_ready()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        match instance:
            case "wrong":
                future.set_exception(InvalidRequest("must be right"))
            case "parameter":
                future.set_exception(InvalidRequest("must be 1", field="parameters.top_k"))
            case "bug":
                future.set_exception(InferenceFailed("the log has the details"))
            case "full":
                raise Overloaded("too much", retry_after=3)
            case "never":
                future.add_done_callback(lambda done: self.cancelled.extend([instance] * done.cancelled()))
            case "array":
                future.set_result(np.array([[0.5, 1.5]], dtype=np.float32))
            case _:
                future.set_result([instance, parameters])
        return future
