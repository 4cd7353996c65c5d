"""Engine for generative tasks: it carries items from their arrival to their last delta."""

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


class _GenerationItem(QueuedItem):
    """Queued item with the sequences generated for it."""

    def __init__(self, item: Item, listener: StreamListener | None) -> None:
        super().__init__(item)
        self.listener = listener
        self.sequences: list[_ItemSequence] = []
        self.unfinished = 0


class _ItemSequence:
    """One sequence of an item, with the times and counts of its tokens.

    Attributes:
        make_delta: makes a delta of the stream.
        first_token, last_token: times of these tokens by `monotonic`.
        tokens: new tokens that were reported to the observer.
    """

    def __init__(
        self, queued: _GenerationItem, sequence: SequenceState, make_delta: Callable[..., dict[str, Any] | None]
    ) -> None:
        self.queued = queued
        self.sequence = sequence
        self.make_delta = make_delta
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.tokens = 0

    def record_trace(self) -> None:
        """Record the sequence in the item's trace, at its end."""
        trace, sequence = self.queued.item.trace, self.sequence
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
    """Progress of one sequence in a step.

    Attributes:
        generated: the sequence.
        delta: text and log probabilities that are new; None without a listener or without new text.
        output: the whole sequence if it is complete.
        tokens: its new tokens so far.
        time: time of the step by `monotonic`.
    """

    generated: _ItemSequence
    delta: tuple[str, list[TokenLogprob]] | None
    output: SequenceOutput | None
    tokens: int
    time: float


class GenerationEngine:
    """Engine that runs a runner's decoder in a thread.

    The thread steps the decoder while there are unfinished sequences. New and cancelled sequences take effect between
    two steps. After each step the thread reports all updates to the event loop in one call.
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
        self._nan_monitor = NanMonitor(runner.settings.name, self._observer)
        self._compute = compute
        self._sequences: dict[SequenceState, _ItemSequence] = {}
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
            listener: gets a call when the item is accepted, and one for each delta.

        Returns:
            A future of the result, or of None at the end of a stream; cancelling it ends the item's sequences.

        Raises:
            Overloaded: the queue is full.
        """
        queued = _GenerationItem(item, listener)
        self._intake.add(queued)
        queued.future.add_done_callback(lambda _: self._release(queued))
        return queued.future

    async def run(self) -> None:
        """Prepare and generate items until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(self._start_prepared))
                group.create_task(self._run_decoder())
        finally:
            self._stopping = True

    def _start_prepared(self, entries: Sequence[QueuedItem]) -> None:
        for queued in entries:
            assert isinstance(queued, _GenerationItem)
            if queued.future.done():
                continue
            with request_context(queued.item.request_context):
                error = guarded("starting", self._start_sequences, queued)
            if error is not None:
                queued.settle(error)
        self._work.set()

    def _start_sequences(self, queued: _GenerationItem) -> None:
        for number, row in enumerate(queued.job.rows):
            sequence = SequenceState(
                row.inputs, self._runner.model, queued.item.request_context, streamed=queued.listener is not None
            )
            self._sequences[sequence] = generated = _ItemSequence(
                queued, sequence, self._runner.deltas(queued.job, number)
            )
            queued.sequences.append(generated)
        queued.unfinished = len(queued.sequences)
        if queued.listener is not None:
            queued.listener.accepted()
        self._inbox.extend(generated.sequence for generated in queued.sequences)

    def _release(self, queued: _GenerationItem) -> None:
        for generated in queued.sequences:
            generated.sequence.cancelled = generated.sequence.finish_reason is None
            self._sequences.pop(generated.sequence, None)
            generated.record_trace()

    async def _run_decoder(self) -> None:
        decoder = self._runner.decoder
        decoder.on_nan_check = self._nan_monitor.saw
        decoder.on_start, decoder.on_batch, decoder.on_tokens = self._record_start, self._record_batch, self._publish
        while True:
            await self._work.wait()
            self._work.clear()
            await self._loop.run_in_executor(self._compute, self._decode_until_idle)

    def _handle_updates(self, updates: list[_StepUpdate]) -> None:
        for update in updates:
            queued = update.generated.queued
            if queued.future.done():
                continue
            if (error := update.generated.sequence.error) is not None:
                queued.settle(error)
                continue
            self._measure(update)
            with request_context(queued.item.request_context):
                error = guarded("streaming", self._send_delta, update)
            if error is not None:
                queued.settle(error)
            elif update.output is not None:
                queued.unfinished -= 1
                if queued.unfinished == 0:
                    self._finish(queued)

    def _send_delta(self, update: _StepUpdate) -> None:
        listener = update.generated.queued.listener
        if listener is not None and update.delta is not None:
            delta = update.generated.make_delta(*update.delta, update.output)
            if delta is not None:
                listener.delta(delta)

    def _finish(self, queued: _GenerationItem) -> None:
        now = monotonic()
        self._intake.learn_speed(min(now - self._last_end, now - queued.arrived))
        self._last_end = now
        if queued.listener is not None:
            queued.settle(None)
        else:
            outputs = [generated.sequence.output for generated in queued.sequences]
            with working_on(queued.item, "finish"):
                result = guarded("finishing", self._runner.finish, queued.job, outputs)
            queued.settle(result)

    def _measure(self, update: _StepUpdate) -> None:
        queued = update.generated.queued
        if update.generated.last_token is None:
            if all(generated.last_token is None for generated in queued.sequences):
                self._observer.read(
                    len(update.generated.sequence.request.input_ids), update.generated.sequence.cached_tokens
                )
            self._observer.first_token(update.time - queued.arrived)
        else:
            self._observer.next_token(update.time - update.generated.last_token)
        self._observer.written(update.tokens - update.generated.tokens)
        update.generated.tokens = update.tokens
        update.generated.first_token = update.generated.first_token or update.time
        update.generated.last_token = update.time

    # The methods below run on the computing thread.

    def _decode_until_idle(self) -> None:
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
                    logger.exception("Generation failed; its sequences end with an error")
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

    def _record_batch(self, rows: int, tokens: int, padding: int) -> None:
        self._step_tokens += tokens
        self._observer.batch(rows, tokens, padding)

    def _record_start(self, sequence: SequenceState) -> None:
        if (generated := self._sequences.get(sequence)) is not None and not self._stopping:
            self._loop.call_soon_threadsafe(self._intake.started, generated.queued, monotonic())

    def _publish(self, sequences: list[SequenceState]) -> None:
        now = monotonic()
        self._observer.running(self._runner.decoder.running, self._runner.decoder.cache_usage)
        updates = []
        for sequence in sequences:
            if (generated := self._sequences.get(sequence)) is not None:
                delta = sequence.take_delta() if generated.queued.listener is not None else None
                output = sequence.output if sequence.finish_reason is not None else None
                updates.append(_StepUpdate(generated, delta, output, len(sequence.tokens), now))
        if updates and not self._stopping:
            self._loop.call_soon_threadsafe(self._handle_updates, updates)
