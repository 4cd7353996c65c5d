"""Engine for generative tasks: it carries items from their arrival to their last delta."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import request_context
from hf_runtime.contract.tokenization import TokenizerRequest
from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.observability.item_trace import trace_step
from runners.engines.batch.intake import Intake, QueuedItem, call_guarded
from runners.engines.generation_request import SequenceOutput
from runners.engines.generator import GenerativeRunner, RunningSequence, SequenceUpdate


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
        sends_prompt_logprobs: the next delta carries the log probabilities of the prompt.
    """

    def __init__(
        self, queued: _GenerationItem, sequence: RunningSequence, make_delta: Callable[..., dict[str, Any] | None]
    ) -> None:
        self.queued = queued
        self.sequence = sequence
        self.make_delta = make_delta
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.tokens = 0
        self.sends_prompt_logprobs = sequence.request.prompt_logprobs is not None
        self.output: SequenceOutput | None = None
        self._counts_tokens = bool(queued.item.parameters.get("continuous_usage"))

    def add_counts(self, delta: dict[str, Any], update: SequenceUpdate) -> dict[str, Any]:
        """Return a delta with the token counts so far, if the request asks for them."""
        if not self._counts_tokens:
            return delta
        return {"prompt_tokens": len(self.sequence.request.input_ids), "generated_tokens": update.tokens, **delta}

    def record_trace(self) -> None:
        """Record the sequence in the item's trace, at its end."""
        trace, sequence = self.queued.item.trace, self.sequence
        if trace is not None and sequence.started is not None:
            trace.record_sequence(
                sequence.started,
                self.last_token or sequence.started,
                first_token=self.first_token,
                prompt_tokens=len(sequence.request.input_ids),
                generated_tokens=len(sequence.tokens),
                cached_tokens=sequence.cached_tokens,
                finish_reason=sequence.finish_reason,
            )


class GenerationEngine:
    """Engine of a generative task: from items to sequences, and back to answers."""

    def __init__(
        self,
        runner: GenerativeRunner[Any, Any],
        *,
        max_queue_size: int,
        compute: ThreadPoolExecutor,
        observer: EngineObserver | None = None,
    ) -> None:
        self._runner = runner
        self._observer = observer or EngineObserver()
        self._intake = Intake(runner, max_queue_size, self._observer)
        self._tokens = runner.generator.create_engine(compute, self._observer)
        self._tokens.on_start, self._tokens.on_updates = self._record_start, self._handle_updates
        self._sequences: dict[RunningSequence, _ItemSequence] = {}
        self._last_end = monotonic()

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

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        """Tokenize or detokenize, as `Engine.use_tokenizer`."""
        return self._intake.use_tokenizer(request)

    async def run(self) -> None:
        """Prepare and generate items until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._intake.run(self._start_prepared))
            group.create_task(self._tokens.run())

    def _start_prepared(self, entries: Sequence[QueuedItem]) -> None:
        for queued in entries:
            assert isinstance(queued, _GenerationItem)
            if queued.future.done():
                continue
            with request_context(queued.item.request_context):
                error = call_guarded("starting", self._start_sequences, queued)
            if error is not None:
                queued.settle(error)

    def _start_sequences(self, queued: _GenerationItem) -> None:
        makers = [self._runner.create_delta_maker(queued.job, number) for number in range(len(queued.job.rows))]
        sequences = self._tokens.add(
            [row.inputs for row in queued.job.rows], queued.item.request_context, streamed=queued.listener is not None
        )
        queued.sequences = [_ItemSequence(queued, *each) for each in zip(sequences, makers, strict=True)]
        self._sequences.update((generated.sequence, generated) for generated in queued.sequences)
        queued.unfinished = len(queued.sequences)
        if queued.listener is not None:
            queued.listener.on_accepted()

    def _release(self, queued: _GenerationItem) -> None:
        for generated in queued.sequences:
            generated.sequence.cancelled = generated.sequence.finish_reason is None
            self._sequences.pop(generated.sequence, None)
            generated.record_trace()

    def _record_start(self, sequence: RunningSequence, time: float) -> None:
        if (generated := self._sequences.get(sequence)) is not None:
            self._intake.started(generated.queued, time)

    def _handle_updates(self, updates: Sequence[SequenceUpdate]) -> None:
        for update in updates:
            generated = self._sequences.get(update.sequence)
            if generated is None or generated.queued.future.done():
                continue
            queued = generated.queued
            if update.error is not None:
                queued.settle(update.error)
                continue
            self._measure(generated, update)
            with request_context(queued.item.request_context):
                error = call_guarded("streaming", self._send_delta, generated, update)
            if error is not None:
                queued.settle(error)
            elif update.output is not None:
                generated.output = update.output
                queued.unfinished -= 1
                if queued.unfinished == 0:
                    self._finish(queued)

    def _send_delta(self, generated: _ItemSequence, update: SequenceUpdate) -> None:
        listener = generated.queued.listener
        if listener is not None and update.delta is not None:
            delta = generated.make_delta(*update.delta, update.output)
            if delta is not None:
                if generated.sends_prompt_logprobs:
                    delta["prompt_logprobs"] = generated.sequence.prompt_logprobs
                    generated.sends_prompt_logprobs = False
                listener.on_delta(generated.add_counts(delta, update))

    def _finish(self, queued: _GenerationItem) -> None:
        now = monotonic()
        self._intake.record_speed(min(now - self._last_end, now - queued.arrived))
        self._last_end = now
        if queued.listener is not None:
            queued.settle(None)
        else:
            outputs = [generated.output for generated in queued.sequences]
            with trace_step(queued.item, "finish"):
                result = call_guarded("finishing", self._runner.finish, queued.job, outputs)
            queued.settle(result)

    def _measure(self, generated: _ItemSequence, update: SequenceUpdate) -> None:
        queued, sequence = generated.queued, update.sequence
        if not update.tokens:  # only the prompt was asked for
            self._observer.record_prefill(len(sequence.request.input_ids), sequence.cached_tokens)
            return
        if generated.last_token is None:
            if all(other.last_token is None for other in queued.sequences):
                self._observer.record_prefill(len(sequence.request.input_ids), sequence.cached_tokens)
            self._observer.record_first_token(update.time - queued.arrived)
        else:
            self._observer.record_next_token(update.time - generated.last_token)
        self._observer.record_generated(update.tokens - generated.tokens)
        generated.tokens = update.tokens
        generated.first_token = generated.first_token or update.time
        generated.last_token = update.time
