"""Interface through which the API protocols use a model."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.signature import Signature
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from hf_runtime.rpc.messages import ModelState


class ModelClient(Protocol):
    """Client of one model, which may have several runners."""

    name: str

    @property
    def state(self) -> ModelState:
        """State of the model: loading, ready, failed, unloading or unloaded."""

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs of the model; None until it has been ready once."""

    @property
    def settled(self) -> bool:
        """True once the model has left the state loading for the first time."""

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""

    async def wait_until_loaded(self) -> ModelState:
        """Wait while the model is loading."""

    async def wait_final(self) -> None:
        """Wait until the model has failed for good."""

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """Send one item.

        Args:
            listener: receives the deltas of the answer; the future then only marks the end of the stream.

        Returns:
            A future of its answer or its `ServingError`. Cancelling the future cancels the item in the runner.

        Raises:
            ModelNotReady: the model is loading or unloaded, or its runner is not connected.
            InvalidRequest, RequestTooLarge: the item cannot be sent.
        """

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[TokenizerAnswer]:
        """Tokenize or detokenize, without waiting for items that are computed.

        Returns:
            A future of the answer or its `ServingError`.

        Raises:
            ModelNotReady, InvalidRequest, RequestTooLarge: as `submit`.
        """

    async def load(self) -> None:
        """Load the model in each runner where it is not loaded, and wait until it is.

        Raises:
            ModelNotReady: loading failed, or a runner is not connected; the other runners load it anyway.
        """

    async def unload(self) -> None:
        """Finish all items, unload the model, and wait until that is done.

        Raises:
            ModelNotReady: a runner is not connected; the other runners unload the model anyway.
        """

    async def run(self) -> None:
        """Stay connected until cancelled."""
