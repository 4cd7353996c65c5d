"""Items that write text, from their arrival to the last piece."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import request_context
from hf_runtime.observability.engine_observer import EngineObserver, Unobserved
from hf_runtime.observability.item_trace import working_on
from runners.engines.batch.intake import Intake, QueuedItem, guarded
from runners.engines.batch.thread_choice import ThreadChoice
from runners.engines.device_errors import raise_if_broken
from runners.engines.generate.request import SequenceOutput, TokenLogprob
from runners.engines.generate.runner import GenerativeRunner
from runners.engines.generate.sequence import SequenceState
from runners.engines.nan_monitor import NanMonitor

logger = logging.getLogger(__name__)


class _Answer(QueuedItem):
    """An item whose sequences are written."""

    def __init__(self, item: Item, listener: StreamListener | None) -> None:
        super().__init__(item)
        self.listener = listener
        self.sequences: list[_Part] = []
        self.unfinished = 0


class _Part:
    """One sequence of an answer."""

    def __init__(self, answer: _Answer, sequence: SequenceState, delta: Callable[..., dict[str, Any] | None]) -> None:
        self.answer = answer
        self.sequence = sequence
        self.delta = delta
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.tokens = 0

    def trace(self) -> None:
        """Tell of the sequence, at its end."""
        trace, sequence = self.answer.item.trace, self.sequence
        if trace is not None and sequence.started is not None:
            trace.sequence(
                sequence.started,
                self.last_token or sequence.started,
                first_token=self.first_token,
                prompt_tokens=len(sequence.request.input_ids),
                generated_tokens=len(sequence.tokens),
                cached_tokens=sequence.cached_tokens,
                finish_reason=sequence.finish_reason,
            )


@dataclass(frozen=True, slots=True)
class _StepUpdate:
    """What a step has done to a sequence."""

    part: _Part
    fresh: tuple[str, list[TokenLogprob]] | None
    written: SequenceOutput | None
    tokens: int
    at: float


class GenerationEngine:
    """Continuous batching around a runner.

    A thread of its own steps the decoder for as long as anything is to be written; it takes in newcomers and hears of
    departures between two steps, and tells the event loop once a step what was written.
    """

    def __init__(
        self,
        runner: GenerativeRunner[Any, Any],
        *,
        max_queue_size: int,
        compute: ThreadPoolExecutor,
        observer: EngineObserver | None = None,
    ) -> None:
        self._runner = runner
        self._observer = observer or Unobserved()
        self._intake = Intake(runner, max_queue_size, self._observer)
        self._numbers = NanMonitor(runner.settings.name, self._observer)
        self._compute = compute
        self._parts: dict[SequenceState, _Part] = {}
        self._inbox: deque[SequenceState] = deque()
        self._work = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._last_end = monotonic()
        threads = runner.parallelism.threads_alone
        self._threads = ThreadChoice(threads) if threads is not None else None
        self._step_tokens = 0

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item.

        Args:
            listener: is told when the item is accepted, then every piece of its answer.

        Returns:
            A future of the answer, or of its end if there is a listener; cancel it and its sequences end.

        Raises:
            Overloaded: the queue is full.
        """
        answer = _Answer(item, listener)
        self._intake.add(answer)
        answer.future.add_done_callback(lambda _: self._forget(answer))
        return answer.future

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(self._prepared))
                group.create_task(self._write_what_waits())
        finally:
            self._stopping = True

    def _prepared(self, entries: Sequence[QueuedItem]) -> None:
        for answer in entries:
            assert isinstance(answer, _Answer)
            if answer.future.done():
                continue
            with request_context(answer.item.request_context):
                error = guarded("starting", self._start, answer)
            if error is not None:
                answer.settle(error)
        self._work.set()

    def _start(self, answer: _Answer) -> None:
        for number, row in enumerate(answer.job.rows):
            sequence = SequenceState(
                row.inputs, self._runner.model, answer.item.request_context, in_pieces=answer.listener is not None
            )
            self._parts[sequence] = part = _Part(answer, sequence, self._runner.deltas(answer.job, number))
            answer.sequences.append(part)
        answer.unfinished = len(answer.sequences)
        if answer.listener is not None:
            answer.listener.accepted()
        self._inbox.extend(part.sequence for part in answer.sequences)

    def _forget(self, answer: _Answer) -> None:
        for part in answer.sequences:
            part.sequence.cancelled = part.sequence.finish_reason is None
            self._parts.pop(part.sequence, None)
            part.trace()

    async def _write_what_waits(self) -> None:
        decoder = self._runner.decoder
        decoder.on_numbers = self._numbers.saw
        decoder.on_start, decoder.on_batch, decoder.on_tokens = self._begun, self._computed, self._publish
        while True:
            await self._work.wait()
            self._work.clear()
            await self._loop.run_in_executor(self._compute, self._write)

    def _told(self, news: list[_StepUpdate]) -> None:
        for one in news:
            answer = one.part.answer
            if answer.future.done():
                continue
            if (error := one.part.sequence.error) is not None:
                answer.settle(error)
                continue
            self._measure(one)
            with request_context(answer.item.request_context):
                error = guarded("telling", self._tell, one)
            if error is not None:
                answer.settle(error)
            elif one.written is not None:
                answer.unfinished -= 1
                if answer.unfinished == 0:
                    self._finish(answer)

    def _tell(self, news: _StepUpdate) -> None:
        listener = news.part.answer.listener
        if listener is not None and news.fresh is not None:
            delta = news.part.delta(*news.fresh, news.written)
            if delta is not None:
                listener.delta(delta)

    def _finish(self, answer: _Answer) -> None:
        now = monotonic()
        self._intake.learn_speed(min(now - self._last_end, now - answer.arrived))
        self._last_end = now
        if answer.listener is not None:
            answer.settle(None)
        else:
            outputs = [part.sequence.written for part in answer.sequences]
            with working_on(answer.item, "finish"):
                result = guarded("finishing", self._runner.finish, answer.job, outputs)
            answer.settle(result)

    def _measure(self, news: _StepUpdate) -> None:
        answer = news.part.answer
        if news.part.last_token is None:
            if all(part.last_token is None for part in answer.sequences):
                self._observer.read(len(news.part.sequence.request.input_ids), news.part.sequence.cached_tokens)
            self._observer.first_token(news.at - answer.arrived)
        else:
            self._observer.next_token(news.at - news.part.last_token)
        self._observer.written(news.tokens - news.part.tokens)
        news.part.tokens = news.tokens
        news.part.first_token = news.part.first_token or news.at
        news.part.last_token = news.at

    # The rest runs on the computing thread.

    def _write(self) -> None:
        decoder = self._runner.decoder
        while not self._stopping:
            while self._inbox:
                decoder.add(self._inbox.popleft())
            if not decoder.busy:
                self._observer.running(decoder.running, decoder.cache_usage)
                return
            try:
                self._step()
            except Exception as error:
                raise_if_broken(error)
                abandoned = decoder.abandon()
                with request_context(*(sequence.request_context for sequence in abandoned)):
                    logger.exception("writing failed")
                for sequence in abandoned:
                    sequence.fail(InferenceFailed("the server failed on this instance; its log has the details"))
                    self._publish([sequence])

    def _step(self) -> None:
        if self._threads is None:
            self._runner.decoder.step()
            return
        threads, started, self._step_tokens = self._threads.choose(), monotonic(), 0
        self._runner.use_threads(threads)
        self._runner.decoder.step()
        self._threads.learn(threads, self._step_tokens, monotonic() - started)

    def _computed(self, rows: int, tokens: int, padding: int) -> None:
        self._step_tokens += tokens
        self._observer.batch(rows, tokens, padding)

    def _begun(self, sequence: SequenceState) -> None:
        if (part := self._parts.get(sequence)) is not None and not self._stopping:
            self._loop.call_soon_threadsafe(self._intake.started, part.answer, monotonic())

    def _publish(self, sequences: list[SequenceState]) -> None:
        now = monotonic()
        self._observer.running(self._runner.decoder.running, self._runner.decoder.cache_usage)
        news = []
        for sequence in sequences:
            if (part := self._parts.get(sequence)) is not None:
                fresh = sequence.take_delta() if part.answer.listener is not None else None
                written = sequence.written if sequence.finish_reason is not None else None
                news.append(_StepUpdate(part, fresh, written, len(sequence.tokens), now))
        if news and not self._stopping:
            self._loop.call_soon_threadsafe(self._told, news)
