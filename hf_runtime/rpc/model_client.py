"""What the protocols know of a model: how it is, and that it answers items."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import Signature
from hf_runtime.rpc.messages import ModelState


class ModelClient(Protocol):
    """One model, however many runners it has."""

    name: str

    @property
    def state(self) -> ModelState:
        """Loading, ready, failed or unloaded."""

    @property
    def signature(self) -> Signature | None:
        """What the model takes and gives; None until it has been ready once."""

    @property
    def settled(self) -> bool:
        """Whether the model has been anything but loading since the start."""

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""

    async def wait_settled(self) -> ModelState:
        """Wait while the model is loading."""

    async def wait_final(self) -> None:
        """Wait until the model has failed for good."""

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """Send one item.

        Args:
            listener: is told the answer piece by piece; the future then tells no more than that it has ended.

        Returns:
            A future of its answer or its `ServingError`. Cancelling it tells the runner to forget the item.

        Raises:
            ModelNotReady: the model is loading or unloaded, or its runner is away.
            InvalidRequest, RequestTooLarge: the item cannot be sent.
        """

    async def load(self) -> None:
        """Load the model wherever it is not loaded, and wait until it is.

        Raises:
            ModelNotReady: it could not be loaded, or a runner is away; those that are there are told all the same.
        """

    async def unload(self) -> None:
        """Let the model finish what it has, drop it, and wait until that is done.

        Raises:
            ModelNotReady: a runner is away; those that are there are told all the same.
        """

    async def run(self) -> None:
        """Stay connected until cancelled."""
