"""The entry service's end of the wire: one connection to one runner, shared by all requests of this process."""

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
    cannot_be_sent,
)
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import current_request_context
from hf_runtime.contract.signature import Signature
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
    decode_frame,
    decode_from_runner,
    encode_frame,
    item_of,
)
from hf_runtime.rpc.outbox import MAX_FRAME, Outbox

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Answer(asyncio.Future[Any]):
    """Future of an item's answer.

    Attributes:
        size: bytes that the answer had on the wire.
    """

    size = 0


class RunnerClient:
    """Sends items to the runner of one model and knows how that model is.

    Args:
        name: the model's name.
        url: gives the runner's address, `file://` for a Unix socket or `http://`; None until it is known.
        key: that it is shown.
    """

    def __init__(self, name: str, url: Callable[[], str | None], key: str | None = None) -> None:
        self.name = name
        self.state = ModelState("loading")
        self.settled = False
        self.signature: Signature | None = None
        self._url = url
        # `Authorization` is what platforms between services use for keys of their own.
        self._headers = {"X-API-Key": key} if key is not None else {}
        self._refused = False
        self._ids = itertools.count()
        self._pending: dict[int, Answer] = {}
        self._listeners: dict[int, StreamListener] = {}
        self._outbox: Outbox | None = None
        self._state_changed = asyncio.Condition()

    @property
    def ready(self) -> bool:
        """Whether items can be answered now."""
        return self.state.status == "ready" and self._outbox is not None

    @property
    def unanswered(self) -> int:
        """How many items wait for their answers."""
        return len(self._pending)

    def check_ready(self) -> None:
        """Raise `ModelNotReady` unless items can be answered now."""
        if not self.ready:
            raise self.state.refusal(self.name)

    async def wait_settled(self) -> ModelState:
        """As `ModelClient.wait_settled`."""
        async with self._state_changed:
            while self.state.status == "loading":
                await self._state_changed.wait()
            return self.state

    async def wait_final(self) -> None:
        """As `ModelClient.wait_final`."""
        async with self._state_changed:
            await self._state_changed.wait_for(lambda: self.state.is_final)

    def submit(
        self, instance: Any, parameters: dict[str, Any], listener: StreamListener | None = None
    ) -> asyncio.Future[Any]:
        """As `ModelClient.submit`."""
        self.check_ready()
        assert self._outbox is not None, "this is a bug: check_ready passed without a connection"
        number = next(self._ids)
        try:
            encoded = encode_frame(
                Submit(number, instance, parameters, listener is not None, current_request_context())
            )
        except (RecursionError, OverflowError, TypeError, ValueError) as error:
            raise InvalidRequest(f"cannot be read: {error}") from None
        if len(encoded) > MAX_FRAME:
            raise RequestTooLarge(f"has {len(encoded)} bytes, one instance may have {MAX_FRAME}")
        self._outbox.put_encoded(encoded)
        if listener is not None:
            self._listeners[number] = listener
        return self._answer(number)

    async def load(self) -> None:
        """As `ModelClient.load`."""
        await self._ask(Load)

    async def unload(self) -> None:
        """As `ModelClient.unload`."""
        await self._ask(Unload)

    async def _ask(self, kind: type[Load | Unload]) -> None:
        if self._outbox is None:
            raise ModelNotReady(f"The runner of model {self.name} is starting.", retry_after=5)
        number = next(self._ids)
        self._outbox.put(kind(number))
        await self._answer(number)

    def _answer(self, number: int) -> asyncio.Future[Any]:
        future = Answer(loop=asyncio.get_running_loop())
        self._pending[number] = future
        future.add_done_callback(lambda done: self._settled(number, done))
        return future

    def _settled(self, number: int, future: asyncio.Future[Any]) -> None:
        self._listeners.pop(number, None)
        if self._pending.pop(number, None) is not None and future.cancelled() and self._outbox is not None:
            self._outbox.put(Cancel(number))

    async def run(self) -> None:
        """Stay connected until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._connect_once()
                pause = _FIRST_PAUSE
            except aiohttp.WSServerHandshakeError as error:
                self._told_no(error.status)
            except (aiohttp.ClientError, OSError) as error:
                logger.debug("no connection to the runner of %s: %s", self.name, error)
            except Exception:
                logger.exception("the connection to the runner of %s failed", self.name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _told_no(self, status: int) -> None:
        if status not in (401, 403):
            logger.debug("no connection to the runner of %s: it answered %d", self.name, status)
        elif not self._refused:
            self._refused = True
            logger.error(
                "the runner of %s refuses this entry service (%d): they need the same RUNNER_KEY", self.name, status
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
            self._refused = False
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
                await self._lost()

    async def _receive(self, frame: bytes) -> None:
        for message in decode_frame(frame):
            try:
                await self._heed(decode_from_runner(message), len(message))
            except Exception as error:
                self._fail(item_of(message), error)

    async def _heed(self, message: FromRunner, size: int) -> None:
        match message:
            case ModelState():
                await self._become(message)
            case Accepted():
                if (listener := self._listeners.get(message.id)) is not None:
                    listener.accepted()
            case Delta():
                if (listener := self._listeners.get(message.id)) is not None:
                    listener.delta(message.value)
            case Result() | Failure():
                self._settle(message, size)

    def _fail(self, number: int, error: Exception) -> None:
        """What was heard of an item is nothing that can be passed on: the item fails, and no other."""
        logger.error("an answer of model %s cannot be passed on: %s", self.name, type(error).__name__)
        self._listeners.pop(number, None)
        future = self._pending.pop(number, None)
        if future is not None and not future.done():
            future.set_exception(cannot_be_sent(error))
            assert self._outbox is not None, "this is a bug: messages come without a connection"
            self._outbox.put(Cancel(number))

    def _settle(self, message: Result | Failure, size: int) -> None:
        future = self._pending.pop(message.id, None)
        if future is None or future.done():
            return
        future.size = size
        if isinstance(message, Result):
            future.set_result(message.value)
        else:
            future.set_exception(_error(message))

    async def _lost(self) -> None:
        """The runner has gone: nothing is answered any more until a new one says that it is ready."""
        self._outbox = None
        await self._become(ModelState("loading"))
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(
                    ModelNotReady(f"The runner of model {self.name} stopped while it computed.", retry_after=5)
                )

    async def _become(self, state: ModelState) -> None:
        async with self._state_changed:
            self.state = state
            self.settled |= state.status != "loading"
            self.signature = state.signature or self.signature
            self._state_changed.notify_all()


def _error(failure: Failure) -> ServingError:
    return ERROR_BY_CODE.get(failure.code, InferenceFailed)(
        failure.reason, field=failure.field, retry_after=failure.retry_after
    )
