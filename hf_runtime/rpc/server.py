"""Server side of the connection, in the runner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, ServingError, make_encoding_error
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import RequestContext, request_context
from hf_runtime.contract.tokenization import TokenizerRequest
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
    UseTokenizer,
    decode_frame,
    decode_to_runner,
    item_of,
)
from hf_runtime.rpc.outbox import Outbox

logger = logging.getLogger(__name__)


class ItemHost(Protocol):
    """Host of the model, which answers items."""

    state: ModelState

    def submit(
        self,
        instance: Any,
        parameters: dict[str, Any],
        listener: StreamListener | None = None,
        request_context: RequestContext | None = None,
    ) -> asyncio.Future[Any]:
        """Queue one item and return a future of its answer or, with a listener, of its end."""

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        """Return a future of the answer to a request for the tokenizer."""

    def load(self) -> asyncio.Future[None]:
        """Load the model if it is not loaded; the returned future is done once it is."""

    def unload(self) -> asyncio.Future[None]:
        """Unload the model once its items are finished; the returned future is then done."""

    def states(self) -> AsyncIterator[ModelState]:
        """Yield the current state of the model, then each new one."""


async def serve_connection(websocket: WebSocket, host: ItemHost) -> None:
    """Serve one entry process until it disconnects, then cancel its pending items."""
    await websocket.accept()
    outbox = Outbox(websocket.send_bytes)
    running: dict[int, asyncio.Future[Any]] = {}
    helpers = [asyncio.create_task(outbox.run()), asyncio.create_task(_send_states(host, outbox))]
    try:
        is_cancelled = False
        while True:
            for encoded in decode_frame(await websocket.receive_bytes()):
                match _decode_message(encoded, outbox):
                    case Submit() as message:
                        if is_cancelled:
                            # A cancelled item leaves the queue in a callback. Run it first, so that the queue has room
                            # for this item.
                            await asyncio.sleep(0)
                            is_cancelled = False
                        _start_item(message, host, running, outbox)
                    case UseTokenizer() as message:
                        _start_item(message, host, running, outbox)
                    case Cancel() as message:
                        if (future := running.get(message.id)) is not None:
                            is_cancelled = future.cancel() or is_cancelled
                    case Load() | Unload() as message:
                        done = host.load() if isinstance(message, Load) else host.unload()
                        # Send the state before the reply, so that the client knows the state when the reply arrives.
                        done.add_done_callback(lambda _: outbox.put(_encodable_state(host.state)))
                        _Reply(message.id, outbox).follow(done, running)
    except WebSocketDisconnect:
        pass
    finally:
        for helper in helpers:
            helper.cancel()
        for future in list(running.values()):
            future.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _send_states(host: ItemHost, outbox: Outbox) -> None:
    async with contextlib.aclosing(host.states()) as states:  # type: ignore[type-var]
        async for state in states:
            outbox.put(_encodable_state(state))


def _decode_message(encoded: msgspec.Raw, outbox: Outbox) -> ToRunner | None:
    """Return the decoded message, or send an error to its sender and return None."""
    try:
        message: ToRunner = decode_to_runner(encoded)
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as error:
        logger.error("An item cannot be decoded: %s", type(error).__name__)
        outbox.put(_failure(item_of(encoded), InvalidRequest("cannot be read")))
        return None
    return message


class _Reply:
    """Sender of all replies to one item.

    If a reply cannot be encoded, it sends an error at once instead and cancels the item.
    """

    def __init__(self, item_id: int, outbox: Outbox) -> None:
        self._item_id = item_id
        self._outbox = outbox
        self._future: asyncio.Future[Any] | None = None
        self._closed = False

    def on_accepted(self) -> None:
        self._send(Accepted(self._item_id))

    def on_delta(self, value: Any) -> None:
        self._send(Delta(self._item_id, value))

    def fail(self, error: ServingError) -> None:
        """Send the item's error."""
        self._send(_failure(self._item_id, error))

    def follow(self, future: asyncio.Future[Any], running: dict[int, asyncio.Future[Any]]) -> None:
        """Send the result or the error of the future once it is done."""
        running[self._item_id] = self._future = future

        def send_outcome(done: asyncio.Future[Any]) -> None:
            del running[self._item_id]
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                self._send(Result(self._item_id, done.result()))
            elif isinstance(error, ServingError):
                self.fail(error)
            else:
                logger.error("An item failed", exc_info=error)
                self.fail(_internal_error())

        future.add_done_callback(send_outcome)
        if self._closed:
            future.cancel()

    def _send(self, message: Any) -> None:
        if self._closed:
            return
        try:
            self._outbox.put(message)
        except Exception as error:
            self._closed = True
            logger.error("An answer cannot be sent: %s", type(error).__name__)
            self._outbox.put(_failure(self._item_id, make_encoding_error(error)))
            if self._future is not None:
                self._future.cancel()


def _start_item(
    message: Submit | UseTokenizer, host: ItemHost, running: dict[int, asyncio.Future[Any]], outbox: Outbox
) -> None:
    # Callbacks keep the context in which they are added, so add them inside the request context.
    with request_context(message.request_context):
        reply = _Reply(message.id, outbox)
        try:
            if isinstance(message, UseTokenizer):
                future = host.use_tokenizer(message.request)
            else:
                future = host.submit(
                    message.instance, message.parameters, reply if message.stream else None, message.request_context
                )
        except ServingError as error:
            reply.fail(error)
        except Exception:
            logger.exception("An item failed")
            reply.fail(_internal_error())
        else:
            reply.follow(future, running)


def _failure(item_id: int, error: ServingError) -> Failure:
    field = _replace_surrogates(error.field) if error.field is not None else None
    return Failure(item_id, error.code, _replace_surrogates(error.reason), field, error.retry_after)


def _encodable_state(state: ModelState) -> ModelState:
    return state if state.reason is None else msgspec.structs.replace(state, reason=_replace_surrogates(state.reason))


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates by question marks.

    File names and errors of other code may contain them, and UTF-8 cannot encode them.
    """
    return text.encode("utf-8", "replace").decode()


def _internal_error() -> ServingError:
    return InferenceFailed("the server failed; its log has the details")
