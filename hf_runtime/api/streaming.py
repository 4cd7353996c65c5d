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
from hf_runtime.api.inference import mark_error_retrieved
from hf_runtime.contract.errors import DeadlineExceeded, InferenceFailed, ServingError
from hf_runtime.rpc.model_client import ModelClient
from hf_runtime.settings import ServerSettings

logger = logging.getLogger(__name__)

_ACCEPTED, _ENDED = object(), object()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Event of one instance.

    Attributes:
        index: of the instance.
        delta: the next part of its answer, or the error that ends it, or None at its end.
    """

    index: int
    delta: Mapping[str, Any] | ServingError | None


class AnswerStreams:
    """Answers to the instances of one request, interleaved in the order of their deltas.

    Iterating yields lists of the chunks that are available, at least one at a time, until every instance has ended.
    The error of one instance does not affect the others; if the client leaves, all are cancelled.
    """

    def __init__(self, call: CallContext, model: str, locate: Callable[[int], str], settings: ServerSettings) -> None:
        self._locate = locate
        self._abandoned: set[int] = set()
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
        self._watcher.add_done_callback(self._queue_client_left)

    @classmethod
    async def start(
        cls,
        call: CallContext,
        client: ModelClient,
        items: Iterable[tuple[Any, dict[str, Any]]],
        *,
        locate: Callable[[int], str],
        settings: ServerSettings,
    ) -> AnswerStreams:
        """Submit all items, and wait until each is accepted or refused.

        Until then an error can still set the HTTP status.

        Args:
            items: instances, each with its parameters.
            locate: returns the path of an instance in the request, for error messages.

        Raises:
            Overloaded: the caller has its maximum number of streams open.
            ServingError: an instance is refused; the message begins with its path, such as `instances[3]`.
            ClientLeft: the client left before that.
        """
        streams = cls(call, client.name, locate, settings)
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
                raise error.with_path(self._locate(index)) from None
            self._ends.append(end)
            self._record.instances += 1
            self._open.add(index)
            end.add_done_callback(partial(self._queue_end, index))
        waiting = set(self._open)
        while waiting:
            index, event = await self._get_next_event()
            if event is _ACCEPTED:
                waiting.discard(index)
            elif isinstance(event, ServingError) and index in waiting:
                raise event.with_path(self._locate(index))
            else:
                waiting.discard(index)
                self._early.append((index, event))

    def _queue_client_left(self, watcher: asyncio.Future[Any]) -> None:
        mark_error_retrieved(watcher)
        self._events.put_nowait((-1, ClientLeft()))

    def _queue_end(self, index: int, end: asyncio.Future[Any]) -> None:
        if end.cancelled():
            return
        error = end.exception()
        if error is not None and not isinstance(error, ServingError):
            error = _make_bug_error()
        self._events.put_nowait((index, error or _ENDED))

    async def _get_next_event(self) -> tuple[int, Any]:
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
        """Yield lists of chunks in the order of their events.

        Chunks that arrive while the previous list is sent are yielded together.

        Raises:
            ClientLeft: the client left.
        """
        chunks = [self._to_chunk(index, event) for index, event in self._early]
        while True:
            while not self._events.empty():
                chunks.append(self._to_chunk(*await self._get_next_event()))
            if chunks:
                yield chunks
            if not self._open:
                return
            try:
                chunks = [self._to_chunk(*await self._get_next_event())]
            except DeadlineExceeded as late:
                self._record.error = late.code
                yield [Chunk(index, late) for index in sorted(self._open)]
                return

    def _to_chunk(self, index: int, event: Any) -> Chunk:
        if event is _ENDED or isinstance(event, ServingError):
            self._open.discard(index)
            if isinstance(event, ServingError):
                self._record.error = event.code
        return Chunk(index, None if event is _ENDED else event)

    def render(self, chunks: Sequence[Chunk], render: Callable[[Sequence[Chunk]], bytes]) -> bytes:
        """Return the bytes of chunks.

        A chunk that cannot be rendered ends its instance with an error.
        """
        rendered = []
        for chunk in chunks:
            if chunk.index in self._abandoned:
                continue
            try:
                rendered.append(render([chunk]))
                if self._settings.log_payloads and isinstance(chunk.delta, Mapping):
                    self._collect_text(chunk.index, chunk.delta)
            except Exception as error:
                sent = error if isinstance(error, InferenceFailed) else _make_bug_error()
                logger.error("a chunk of an answer cannot be written: %s", sent.message, exc_info=sent is not error)
                sent = sent.with_path(self._locate(chunk.index))
                self._abandon(chunk.index, sent)
                rendered.append(render([Chunk(chunk.index, sent)]))
        return b"".join(rendered)

    def _abandon(self, index: int, error: ServingError) -> None:
        self._abandoned.add(index)
        self._open.discard(index)
        self._record.error = error.code
        self._ends[index].cancel()

    def _collect_text(self, index: int, delta: Mapping[str, Any]) -> None:
        key = f"{index}.{delta['sequence']}" if "sequence" in delta else str(index)
        parts = [delta.get("generated_text", ""), *(str(call) for call in delta.get("tool_calls", ()))]
        self._texts[key] = self._texts.get(key, "") + "".join(parts)

    def close(self) -> None:
        """Cancel the instances that are not finished."""
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

    def on_accepted(self) -> None:
        self._events.put_nowait((self._index, _ACCEPTED))

    def on_delta(self, value: Any) -> None:
        self._events.put_nowait((self._index, value))


def _make_bug_error() -> ServingError:
    return InferenceFailed("the server failed; its log has the details")
