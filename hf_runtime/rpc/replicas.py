"""Several runners of one model, reached as if they were one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import Signature
from hf_runtime.rpc.client import RunnerClient
from hf_runtime.rpc.messages import ModelState
from hf_runtime.rpc.model_client import ModelClient


class Replicas:
    """Gives each item to the runner that has the fewest unanswered; the answers do not depend on which.

    Args:
        clients: of runners of the same model, at least one.
    """

    def __init__(self, clients: Sequence[RunnerClient]) -> None:
        self.name = clients[0].name
        self._clients = clients

    @property
    def state(self) -> ModelState:
        """Ready while any replica is; the model is served, if slower, while another loads or has failed."""
        states = [client.state for client in self._clients]
        for status in ("ready", "loading", "unloading", "unloaded"):
            if found := [state for state in states if state.status == status]:
                return found[0]
        return next((state for state in states if not state.is_final), states[0])

    @property
    def signature(self) -> Signature | None:
        """What the model takes and gives, as the first replica to be ready says."""
        return next((client.signature for client in self._clients if client.signature is not None), None)

    @property
    def settled(self) -> bool:
        """Whether one replica has been ready, or all have failed, since the start."""
        return self.state.status == "ready" or all(client.settled for client in self._clients)

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""
        if not any(client.ready for client in self._clients):
            raise self.state.refusal(self.name)

    async def wait_settled(self) -> ModelState:
        """Wait while any replica is loading."""
        await asyncio.gather(*(client.wait_settled() for client in self._clients))
        return self.state

    async def wait_final(self) -> None:
        """Wait until all replicas have failed for good."""
        await wait_all_final(self._clients)

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """As `ModelClient.submit`, by one replica."""
        return self._least_busy().submit(instance, parameters, listener)

    async def load(self) -> None:
        """As `ModelClient.load`, all replicas at once."""
        await _all(client.load() for client in self._clients)

    async def unload(self) -> None:
        """As `ModelClient.unload`, all replicas at once."""
        await _all(client.unload() for client in self._clients)

    async def run(self) -> None:
        """Stay connected to all of them until cancelled."""
        await asyncio.gather(*(client.run() for client in self._clients))

    def _least_busy(self) -> RunnerClient:
        return min(self._clients, key=lambda client: (not client.ready, client.unanswered))


async def wait_all_final(clients: Iterable[ModelClient]) -> None:
    """Wait until all have failed for good at the same time."""
    clients = list(clients)
    while not all(client.state.is_final for client in clients):
        for client in clients:
            await client.wait_final()


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """Wait for all, whatever becomes of one, then raise the first error."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
