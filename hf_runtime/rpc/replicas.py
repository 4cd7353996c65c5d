"""Client of a model that has several runners."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import Signature
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from hf_runtime.rpc.client import RunnerClient
from hf_runtime.rpc.messages import ModelState
from hf_runtime.rpc.model_client import ModelClient


class Replicas:
    """Load balancer that sends each item to the runner with the fewest unanswered items.

    All runners return the same answers.

    Args:
        clients: at least one; all for runners of the same model.
    """

    def __init__(self, clients: Sequence[RunnerClient]) -> None:
        self.name = clients[0].name
        self._clients = clients

    @property
    def state(self) -> ModelState:
        """Ready if any replica is: the model is served even while others load or have failed."""
        states = [client.state for client in self._clients]
        for status in ("ready", "loading", "unloading", "unloaded"):
            if found := [state for state in states if state.status == status]:
                return found[0]
        return next((state for state in states if not state.is_final), states[0])

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs of the model, from the first replica that knows them."""
        return next((client.signature for client in self._clients if client.signature is not None), None)

    @property
    def settled(self) -> bool:
        """True once one replica is ready or all have left the state loading."""
        return self.state.status == "ready" or all(client.settled for client in self._clients)

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""
        if not any(client.ready for client in self._clients):
            raise self.state.refusal(self.name)

    async def wait_until_loaded(self) -> ModelState:
        """Wait while any replica is loading."""
        await asyncio.gather(*(client.wait_until_loaded() for client in self._clients))
        return self.state

    async def wait_final(self) -> None:
        """Wait until all replicas have failed for good."""
        await wait_all_final(self._clients)

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """Submit the item to one replica, as `ModelClient.submit`."""
        return self._least_busy().submit(instance, parameters, listener)

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[TokenizerAnswer]:
        """Send the request to one replica, as `ModelClient.use_tokenizer`."""
        return self._least_busy().use_tokenizer(request)

    async def load(self) -> None:
        """Load the model in all replicas in parallel, as `ModelClient.load`."""
        await _gather_all(client.load() for client in self._clients)

    async def unload(self) -> None:
        """Unload the model in all replicas in parallel, as `ModelClient.unload`."""
        await _gather_all(client.unload() for client in self._clients)

    async def run(self) -> None:
        """Stay connected to all replicas until cancelled."""
        await asyncio.gather(*(client.run() for client in self._clients))

    def _least_busy(self) -> RunnerClient:
        return min(self._clients, key=lambda client: (not client.ready, client.unanswered))


async def wait_all_final(clients: Iterable[ModelClient]) -> None:
    """Wait until all models have failed for good at the same time."""
    clients = list(clients)
    while not all(client.state.is_final for client in clients):
        for client in clients:
            await client.wait_final()


async def _gather_all(steps: Iterable[Awaitable[None]]) -> None:
    """Wait for all steps, even if one fails, then raise the first error."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
