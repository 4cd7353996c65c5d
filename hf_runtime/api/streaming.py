"""Streamed answers to the instances of one request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from hf_runtime.api.call import CallContext, Caller, ClientLeft
from hf_runtime.api.http.payload_log import log_items, log_payload
from hf_runtime.api.inference import take_note
from hf_runtime.contract.errors import DeadlineExceeded, InferenceFailed, ServingError
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings

logger = logging.getLogger(__name__)

_ACCEPTED, _ENDED = object(), object()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Something that happened to one instance.

    Attributes:
        index: of the instance.
        delta: the next part of its answer, or the error that ends it, or None at its end.
    """

    index: int
    delta: Mapping[str, Any] | ServingError | None


class AnswerStreams:
    """Answers to the instances of one request, interleaved as their pieces come.

    Iterating gives the chunks that are there, at least one at a time, until every instance has ended. An instance that
    fails harms no other; a client that leaves cancels all.
    """

    def __init__(self, call: CallContext, model: str, place: Callable[[int], str], settings: ServerSettings) -> None:
        self._place = place
        self._given_up: set[int] = set()
        self._record = call.record
        self._caller: Caller | None = call.caller
        self._caller.begin_stream()
        self._model = model
        self._texts: dict[str, str] = {}
        self._record.predict_started = perf_counter()
        self._settings, self._timeout = settings, call.timeout
        self._events: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._early: list[tuple[int, Any]] = []
        self._ends: list[asyncio.Future[Any]] = []
        self._open: set[int] = set()
        self._watcher = asyncio.ensure_future(call.wait_until_left())
        self._watcher.add_done_callback(self._left)

    @classmethod
    async def start(
        cls,
        call: CallContext,
        client: ModelClient,
        items: Iterable[tuple[Any, dict[str, Any]]],
        *,
        place: Callable[[int], str],
        settings: ServerSettings,
    ) -> AnswerStreams:
        """Submit all items and wait until each is checked and queued, while a refusal can still have its status.

        Args:
            items: instances, each with its parameters.
            place: what the protocol calls the instance of that index, for error messages.

        Raises:
            Overloaded: this client reads as many streams as it may.
            ServingError: one is refused; led by its place, such as `instances[3]`.
            ClientLeft: the client left before that.
        """
        streams = cls(call, client.name, place, settings)
        if settings.log_payloads:
            items = log_items(client.name, items)
        try:
            await streams._submit(client, items)
        except BaseException:
            streams.close()
            raise
        return streams

    async def _submit(self, client: ModelClient, items: Iterable[tuple[Any, dict[str, Any]]]) -> None:
        for index, (instance, parameters) in enumerate(items):
            try:
                end = client.submit(instance, parameters, _Listener(index, self._events))
            except ServingError as error:
                raise error.located(self._place(index)) from None
            self._ends.append(end)
            self._record.instances += 1
            self._open.add(index)
            end.add_done_callback(partial(self._ended, index))
        waiting = set(self._open)
        while waiting:
            index, event = await self._next()
            if event is _ACCEPTED:
                waiting.discard(index)
            elif isinstance(event, ServingError) and index in waiting:
                raise event.located(self._place(index))
            else:
                waiting.discard(index)
                self._early.append((index, event))

    def _left(self, watcher: asyncio.Future[Any]) -> None:
        take_note(watcher)
        self._events.put_nowait((-1, ClientLeft()))

    def _ended(self, index: int, end: asyncio.Future[Any]) -> None:
        if end.cancelled():
            return
        error = end.exception()
        if error is not None and not isinstance(error, ServingError):
            error = _bug()
        self._events.put_nowait((index, error or _ENDED))

    async def _next(self) -> tuple[int, Any]:
        if self._events.empty():
            try:
                async with asyncio.timeout(self._timeout):
                    index, event = await self._events.get()
            except TimeoutError:
                raise DeadlineExceeded(f"nothing came for {self._timeout:g} s (REQUEST_TIMEOUT)") from None
        else:
            index, event = self._events.get_nowait()
        if isinstance(event, ClientLeft):
            raise event
        return index, event

    async def __aiter__(self) -> AsyncIterator[list[Chunk]]:
        """Chunks in order of their making; those that gathered while the last ones were sent come together.

        Raises:
            ClientLeft: the client left.
        """
        chunks = [self._chunk(index, event) for index, event in self._early]
        while True:
            while not self._events.empty():
                chunks.append(self._chunk(*await self._next()))
            if chunks:
                yield chunks
            if not self._open:
                return
            try:
                chunks = [self._chunk(*await self._next())]
            except DeadlineExceeded as late:
                self._record.error = late.code
                yield [Chunk(index, late) for index in sorted(self._open)]
                return

    def _chunk(self, index: int, event: Any) -> Chunk:
        if event is _ENDED or isinstance(event, ServingError):
            self._open.discard(index)
            if isinstance(event, ServingError):
                self._record.error = event.code
        return Chunk(index, None if event is _ENDED else event)

    def write(self, chunks: Sequence[Chunk], render: Callable[[Sequence[Chunk]], bytes]) -> bytes:
        """The bytes of chunks; one that cannot be written is the error of its instance, which ends, and no other."""
        written = []
        for chunk in chunks:
            if chunk.index in self._given_up:
                continue
            try:
                written.append(render([chunk]))
                if self._settings.log_payloads and isinstance(chunk.delta, Mapping):
                    self._gather(chunk.index, chunk.delta)
            except Exception as error:
                told = error if isinstance(error, InferenceFailed) else _bug()
                logger.error("a piece of an answer cannot be written: %s", told.message, exc_info=told is not error)
                told = told.located(self._place(chunk.index))
                self._give_up(chunk.index, told)
                written.append(render([Chunk(chunk.index, told)]))
        return b"".join(written)

    def _give_up(self, index: int, error: ServingError) -> None:
        self._given_up.add(index)
        self._open.discard(index)
        self._record.error = error.code
        self._ends[index].cancel()

    def _gather(self, index: int, delta: Mapping[str, Any]) -> None:
        place = f"{index}.{delta['sequence']}" if "sequence" in delta else str(index)
        said = [delta.get("generated_text", ""), *(str(call) for call in delta.get("tool_calls", ()))]
        self._texts[place] = self._texts.get(place, "") + "".join(said)

    def close(self) -> None:
        """Cancel what is not finished."""
        if self._texts:
            log_payload("answers", self._model, self._texts)
            self._texts = {}
        self._record.predict_ended = perf_counter()
        self._watcher.cancel()
        if self._caller is not None:
            self._caller.end_stream()
            self._caller = None
        for end in self._ends:
            end.cancel()


class _Listener:
    def __init__(self, index: int, events: asyncio.Queue[tuple[int, Any]]) -> None:
        self._index = index
        self._events = events

    def accepted(self) -> None:
        self._events.put_nowait((self._index, _ACCEPTED))

    def delta(self, value: Any) -> None:
        self._events.put_nowait((self._index, value))


def _bug() -> ServingError:
    return InferenceFailed("the server failed; its log has the details")
