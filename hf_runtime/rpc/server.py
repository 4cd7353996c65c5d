"""The runner's end of the wire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, ServingError, cannot_be_sent
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import RequestContext, request_context
from hf_runtime.rpc.messages import (
    Accepted,
    Cancel,
    Delta,
    Failure,
    Load,
    ModelState,
    Result,
    Submit,
    ToRunner,
    Unload,
    decode_frame,
    decode_to_runner,
    item_of,
)
from hf_runtime.rpc.outbox import Outbox

logger = logging.getLogger(__name__)


class ItemHost(Protocol):
    """What answers the items."""

    state: ModelState

    def submit(
        self,
        instance: Any,
        parameters: dict[str, Any],
        listener: StreamListener | None = None,
        request_context: RequestContext | None = None,
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
        is_cancelled = False
        while True:
            for encoded in decode_frame(await websocket.receive_bytes()):
                match _decoded(encoded, outbox):
                    case Submit() as message:
                        if is_cancelled:
                            # What was cancelled leaves the queue in a callback: before it counts against newcomers.
                            await asyncio.sleep(0)
                            is_cancelled = False
                        _start(message, host, running, outbox)
                    case Cancel() as message:
                        if (future := running.get(message.id)) is not None:
                            is_cancelled = future.cancel() or is_cancelled
                    case Load() | Unload() as message:
                        done = host.load() if isinstance(message, Load) else host.unload()
                        # Before the answer: who hears it must know the state that it tells of.
                        done.add_done_callback(lambda _: outbox.put(_sendable(host.state)))
                        _Reply(message.id, outbox).follow(done, running)
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
            outbox.put(_sendable(state))


def _decoded(encoded: msgspec.Raw, outbox: Outbox) -> ToRunner | None:
    """A message; None if it cannot be read, of which its sender is told."""
    try:
        message: ToRunner = decode_to_runner(encoded)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as error:
        logger.error("an item cannot be read: %s", type(error).__name__)
        outbox.put(_failure(item_of(encoded), InvalidRequest("cannot be read")))
        return None
    return message


class _Reply:
    """Sends what becomes of one item, and what cannot be sent as its error, at once: nobody waits for the rest."""

    def __init__(self, item: int, outbox: Outbox) -> None:
        self._item = item
        self._outbox = outbox
        self._future: asyncio.Future[Any] | None = None
        self._over = False

    def accepted(self) -> None:
        self._send(Accepted(self._item))

    def delta(self, value: Any) -> None:
        self._send(Delta(self._item, value))

    def fail(self, error: ServingError) -> None:
        """Tell the item's error."""
        self._send(_failure(self._item, error))

    def follow(self, future: asyncio.Future[Any], running: dict[int, asyncio.Future[Any]]) -> None:
        """Answer with what becomes of the future."""
        running[self._item] = self._future = future

        def settled(done: asyncio.Future[Any]) -> None:
            del running[self._item]
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                self._send(Result(self._item, done.result()))
            elif isinstance(error, ServingError):
                self.fail(error)
            else:
                logger.error("an item failed", exc_info=error)
                self.fail(_bug())

        future.add_done_callback(settled)
        if self._over:
            future.cancel()

    def _send(self, message: Any) -> None:
        if self._over:
            return
        try:
            self._outbox.put(message)
        except Exception as error:
            self._over = True
            logger.error("the answer to an item cannot be sent: %s", type(error).__name__)
            self._outbox.put(_failure(self._item, cannot_be_sent(error)))
            if self._future is not None:
                self._future.cancel()


def _start(message: Submit, host: ItemHost, running: dict[int, asyncio.Future[Any]], outbox: Outbox) -> None:
    # Callbacks keep the context in which they are added.
    with request_context(message.request_context):
        reply = _Reply(message.id, outbox)
        try:
            future = host.submit(
                message.instance, message.parameters, reply if message.stream else None, message.request_context
            )
        except ServingError as error:
            reply.fail(error)
        except Exception:
            logger.exception("an item failed")
            reply.fail(_bug())
        else:
            reply.follow(future, running)


def _failure(item: int, error: ServingError) -> Failure:
    field = _whole(error.field) if error.field is not None else None
    return Failure(item, error.code, _whole(error.reason), field, error.retry_after)


def _sendable(state: ModelState) -> ModelState:
    return state if state.reason is None else msgspec.structs.replace(state, reason=_whole(state.reason))


def _whole(text: str) -> str:
    """A text whose halves of characters, which names of files and errors of other code may have, are question marks."""
    return text.encode("utf-8", "replace").decode()


def _bug() -> ServingError:
    return InferenceFailed("the server failed; its log has the details")
