"""What the protocols know of a model: how it is, and that it answers items."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from runners.signature import Signature
from transport.listener import StreamListener
from transport.messages import ModelState


class ModelClient(Protocol):
    """One model, however many runners it has."""

    name: str

    @property
    def state(self) -> ModelState:
        """Loading, ready or failed."""

    @property
    def signature(self) -> Signature | None:
        """What the model takes and gives; None until it has been ready once."""

    @property
    def settled(self) -> bool:
        """Whether the model has been ready, or has failed, since the start."""

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""

    async def wait_settled(self) -> ModelState:
        """Wait until the model is ready or has failed."""

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """Send one item.

        Args:
            listener: is told the answer piece by piece; the future then tells no more than that it has ended.

        Returns:
            A future of its answer or its `ServingError`. Cancelling it tells the runner to forget the item.

        Raises:
            ModelNotReady: the model is loading, or its runner is away.
            InvalidRequest, RequestTooLarge: the item cannot be sent.
        """

    async def run(self) -> None:
        """Stay connected until cancelled."""
