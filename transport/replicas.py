"""Several runners of one model, reached as if they were one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from runners.signature import Signature
from transport.client import RunnerClient
from transport.listener import StreamListener
from transport.messages import ModelState


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
        for status in ("ready", "loading"):
            if found := [state for state in states if state.status == status]:
                return found[0]
        return states[0]

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
        self._least_busy().check_ready()

    async def wait_settled(self) -> ModelState:
        """Wait until every replica is ready or has failed."""
        await asyncio.gather(*(client.wait_settled() for client in self._clients))
        return self.state

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """As `ModelClient.submit`, by one replica."""
        return self._least_busy().submit(instance, parameters, listener)

    async def run(self) -> None:
        """Stay connected to all of them until cancelled."""
        await asyncio.gather(*(client.run() for client in self._clients))

    def _least_busy(self) -> RunnerClient:
        return min(self._clients, key=lambda client: (not client.ready, client.unanswered))
