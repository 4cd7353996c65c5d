"""Client of the entry service: one connection to one runner, shared by all requests."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from hf_runtime.contract.errors import (
    ERROR_BY_CODE,
    InferenceFailed,
    InvalidRequest,
    ModelNotReady,
    RequestTooLarge,
    ServingError,
    make_encoding_error,
)
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import current_request_context
from hf_runtime.contract.signature import Signature
from hf_runtime.contract.tokenization import TokenizerAnswer, TokenizerRequest
from hf_runtime.rpc import ITEMS_PATH
from hf_runtime.rpc.messages import (
    Accepted,
    Cancel,
    Delta,
    Failure,
    FromRunner,
    Load,
    ModelState,
    Result,
    Submit,
    Unload,
    UseTokenizer,
    decode_frame,
    decode_from_runner,
    encode_frame,
    item_of,
)
from hf_runtime.rpc.outbox import MAX_FRAME, Outbox

logger = logging.getLogger(__name__)

#: Seconds before the first reconnection attempt, and at most between two.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Answer(asyncio.Future[Any]):
    """Future of an item's answer.

    Attributes:
        size: bytes of the encoded answer.
    """

    size = 0


class RunnerClient:
    """Client of one runner, which sends items to it and tracks the state of its model.

    Args:
        name: the model's name.
        url: returns the runner's address, `file://` for a Unix socket or `http://`; None until it is known.
        key: key that authenticates this client to the runner.
    """

    def __init__(self, name: str, url: Callable[[], str | None], key: str | None = None) -> None:
        self.name = name
        self.state = ModelState("loading")
        self.settled = False
        self.signature: Signature | None = None
        self._url = url
        # Not `Authorization`, which platforms between the services use for their own keys.
        self._headers = {"X-API-Key": key} if key is not None else {}
        self._rejected = False
        self._ids = itertools.count()
        self._pending: dict[int, Answer] = {}
        self._listeners: dict[int, StreamListener] = {}
        self._outbox: Outbox | None = None
        self._state_changed = asyncio.Condition()

    @property
    def ready(self) -> bool:
        """True if items can be answered now."""
        return self.state.status == "ready" and self._outbox is not None

    @property
    def unanswered(self) -> int:
        """Number of items without an answer yet."""
        return len(self._pending)

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""
        if not self.ready:
            raise self.state.refusal(self.name)

    async def wait_until_loaded(self) -> ModelState:
        """Implement `ModelClient.wait_until_loaded`."""
        async with self._state_changed:
            while self.state.status == "loading":
                await self._state_changed.wait()
            return self.state

    async def wait_final(self) -> None:
        """Implement `ModelClient.wait_final`."""
        async with self._state_changed:
            await self._state_changed.wait_for(lambda: self.state.is_final)

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """Implement `ModelClient.submit`."""
        self.check_ready()
        item_id = next(self._ids)
        self._send(Submit(item_id, instance, parameters, listener is not None, current_request_context()))
        if listener is not None:
            self._listeners[item_id] = listener
        return self._track_answer(item_id)

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[TokenizerAnswer]:
        """Implement `ModelClient.use_tokenizer`."""
        self.check_ready()
        item_id = next(self._ids)
        self._send(UseTokenizer(item_id, request, current_request_context()))
        return self._track_answer(item_id)

    def _send(self, message: Submit | UseTokenizer) -> None:
        """Send a message with values of a client.

        Raises:
            InvalidRequest, RequestTooLarge: it cannot be sent.
        """
        assert self._outbox is not None, "this is a bug: check_ready passed without a connection"
        try:
            encoded = encode_frame(message)
        except (RecursionError, OverflowError, TypeError, ValueError) as error:
            raise InvalidRequest(f"cannot be read: {error}") from None
        if len(encoded) > MAX_FRAME:
            raise RequestTooLarge(f"has {len(encoded)} bytes, one instance may have {MAX_FRAME}")
        self._outbox.put_encoded(encoded)

    async def load(self) -> None:
        """Implement `ModelClient.load`."""
        await self._request(Load)

    async def unload(self) -> None:
        """Implement `ModelClient.unload`."""
        await self._request(Unload)

    async def _request(self, kind: type[Load | Unload]) -> None:
        if self._outbox is None:
            raise ModelNotReady(f"The runner of model {self.name} is starting.", retry_after=5)
        item_id = next(self._ids)
        self._outbox.put(kind(item_id))
        await self._track_answer(item_id)

    def _track_answer(self, item_id: int) -> asyncio.Future[Any]:
        future = Answer(loop=asyncio.get_running_loop())
        self._pending[item_id] = future
        future.add_done_callback(lambda done: self._on_done(item_id, done))
        return future

    def _on_done(self, item_id: int, future: asyncio.Future[Any]) -> None:
        self._listeners.pop(item_id, None)
        if self._pending.pop(item_id, None) is not None and future.cancelled() and self._outbox is not None:
            self._outbox.put(Cancel(item_id))

    async def run(self) -> None:
        """Stay connected until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._connect_once()
                pause = _FIRST_PAUSE
            except aiohttp.WSServerHandshakeError as error:
                self._log_rejection(error.status)
            except (aiohttp.ClientError, OSError) as error:
                logger.debug("Runner of model %s: connection failed: %s", self.name, error)
            except Exception:
                logger.exception("Runner of model %s: unexpected error on the connection", self.name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _log_rejection(self, status: int) -> None:
        if status not in (401, 403):
            logger.debug("Runner of model %s: connection refused with status %d", self.name, status)
        elif not self._rejected:
            self._rejected = True
            logger.error(
                "Runner of model %s: entry service rejected with status %d; both need the same RUNNER_KEY",
                self.name,
                status,
            )

    async def _connect_once(self) -> None:
        url = self._url()
        if url is None:
            return
        parts = urlsplit(url)
        unix = parts.scheme == "file"
        connector = aiohttp.UnixConnector(unquote(parts.path)) if unix else aiohttp.TCPConnector()
        base = "http://runner" if unix else f"{'https' if parts.scheme == 'https' else 'http'}://{parts.netloc}"
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.ws_connect(base + ITEMS_PATH, headers=self._headers, max_msg_size=0) as socket,
        ):
            self._rejected = False
            outbox = Outbox(socket.send_bytes)
            sending = asyncio.create_task(outbox.run())
            self._outbox = outbox
            try:
                async for frame in socket:
                    if frame.type is not aiohttp.WSMsgType.BINARY:
                        break  # the connection is broken
                    await self._receive(frame.data)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                await self._on_disconnect()

    async def _receive(self, frame: bytes) -> None:
        for message in decode_frame(frame):
            try:
                await self._handle_message(decode_from_runner(message), len(message))
            except Exception as error:
                self._fail_item(item_of(message), error)

    async def _handle_message(self, message: FromRunner, size: int) -> None:
        match message:
            case ModelState():
                await self._set_state(message)
            case Accepted():
                if (listener := self._listeners.get(message.id)) is not None:
                    listener.on_accepted()
            case Delta():
                if (listener := self._listeners.get(message.id)) is not None:
                    listener.on_delta(message.value)
            case Result() | Failure():
                self._complete_item(message, size)

    def _fail_item(self, item_id: int, error: Exception) -> None:
        """Fail one item whose message cannot be decoded or delivered; other items are not affected."""
        logger.error("Model %s: an answer cannot be delivered: %s", self.name, type(error).__name__)
        self._listeners.pop(item_id, None)
        future = self._pending.pop(item_id, None)
        if future is not None and not future.done():
            future.set_exception(make_encoding_error(error))
            assert self._outbox is not None, "this is a bug: a message arrived without a connection"
            self._outbox.put(Cancel(item_id))

    def _complete_item(self, message: Result | Failure, size: int) -> None:
        future = self._pending.pop(message.id, None)
        if future is None or future.done():
            return
        future.size = size
        if isinstance(message, Result):
            future.set_result(message.value)
        else:
            future.set_exception(_to_serving_error(message))

    async def _on_disconnect(self) -> None:
        """Set the state to loading and fail all pending items, because the connection is lost."""
        self._outbox = None
        await self._set_state(ModelState("loading"))
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(
                    ModelNotReady(f"The runner of model {self.name} stopped while it computed.", retry_after=5)
                )

    async def _set_state(self, state: ModelState) -> None:
        async with self._state_changed:
            self.state = state
            self.settled |= state.status != "loading"
            self.signature = state.signature or self.signature
            self._state_changed.notify_all()


def _to_serving_error(failure: Failure) -> ServingError:
    return ERROR_BY_CODE.get(failure.code, InferenceFailed)(
        failure.reason, field=failure.field, retry_after=failure.retry_after
    )
