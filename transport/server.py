"""The runner's end of the wire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from errors import InferenceFailed, ServingError
from observability.origin import Origin, about
from transport.listener import StreamListener
from transport.messages import (
    Accepted,
    Cancel,
    Failure,
    Load,
    ModelState,
    Piece,
    Result,
    Submit,
    Unload,
    decode_to_runner,
)
from transport.outbox import Outbox

logger = logging.getLogger(__name__)


class ItemHost(Protocol):
    """What answers the items."""

    state: ModelState

    def submit(
        self,
        instance: Any,
        parameters: dict[str, Any],
        listener: StreamListener | None = None,
        origin: Origin | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one item and return the future of its answer, or, with a listener, of its end."""

    def load(self) -> asyncio.Future[None]:
        """Load the model if it is not loaded; the future tells when it is."""

    def unload(self) -> asyncio.Future[None]:
        """Drop the model once its items are finished; the future tells when that is done."""

    def states(self) -> AsyncIterator[ModelState]:
        """The state of the model now, then each new one."""


async def serve_connection(websocket: WebSocket, host: ItemHost) -> None:
    """Answer one entry worker until it leaves; what it still waited for is then cancelled."""
    await websocket.accept()
    outbox = Outbox(websocket.send_bytes)
    running: dict[int, asyncio.Future[Any]] = {}
    helpers = [asyncio.create_task(outbox.run()), asyncio.create_task(_tell_states(host, outbox))]
    try:
        given_up = False
        while True:
            for message in decode_to_runner(await websocket.receive_bytes()):
                match message:
                    case Submit():
                        if given_up:
                            # What was cancelled leaves the queue in a callback: before it counts against newcomers.
                            await asyncio.sleep(0)
                            given_up = False
                        _start(message, host, running, outbox)
                    case Cancel():
                        if (future := running.get(message.id)) is not None:
                            given_up = future.cancel() or given_up
                    case Load() | Unload():
                        done = host.load() if isinstance(message, Load) else host.unload()
                        # Before the answer: who hears it must know the state that it tells of.
                        done.add_done_callback(lambda _: outbox.put(host.state))
                        _follow(message.id, done, running, outbox)
    except WebSocketDisconnect:
        pass
    finally:
        for helper in helpers:
            helper.cancel()
        for future in list(running.values()):
            future.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _tell_states(host: ItemHost, outbox: Outbox) -> None:
    async with contextlib.aclosing(host.states()) as states:  # type: ignore[type-var]
        async for state in states:
            outbox.put(state)


class _Forward:
    """Sends what happens to one stream over the wire."""

    def __init__(self, item: int, outbox: Outbox) -> None:
        self._item = item
        self._outbox = outbox

    def accepted(self) -> None:
        self._outbox.put(Accepted(self._item))

    def piece(self, value: Any) -> None:
        self._outbox.put(Piece(self._item, value))


def _start(message: Submit, host: ItemHost, running: dict[int, asyncio.Future[Any]], outbox: Outbox) -> None:
    with about(message.origin):  # what comes of it as well: callbacks keep the context that they are added in
        try:
            listener = _Forward(message.id, outbox) if message.stream else None
            future = host.submit(message.instance, message.parameters, listener, message.origin)
        except ServingError as error:
            outbox.put(_failure(message.id, error))
            return
        _follow(message.id, future, running, outbox)


def _follow(item: int, future: asyncio.Future[Any], running: dict[int, asyncio.Future[Any]], outbox: Outbox) -> None:
    """Answer with what becomes of the future."""
    running[item] = future

    def settled(done: asyncio.Future[Any]) -> None:
        del running[item]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            outbox.put(Result(item, done.result()))
        elif isinstance(error, ServingError):
            outbox.put(_failure(item, error))
        else:
            logger.error("an item failed", exc_info=error)
            outbox.put(_failure(item, InferenceFailed("the server failed; its log has the details")))

    future.add_done_callback(settled)


def _failure(item: int, error: ServingError) -> Failure:
    return Failure(item, error.code, error.message, error.retry_after)
