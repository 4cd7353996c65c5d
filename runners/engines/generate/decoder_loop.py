"""Token engine that steps a decoder in a thread."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.request_context import RequestContext, request_context
from hf_runtime.observability.engine_observer import EngineObserver
from runners.engines.batch.thread_choice import ThreadChoice
from runners.engines.device_errors import raise_if_broken
from runners.engines.generate.decoder import Decoder
from runners.engines.generate.model import GenerationModel
from runners.engines.generate.sequence import SequenceState
from runners.engines.generation_request import GenerationRequest
from runners.engines.generator import SequenceUpdate, TokenEngine
from runners.engines.nan_monitor import NanMonitor
from runners.kernels.cores import set_thread_count

logger = logging.getLogger(__name__)


class DecoderLoop(TokenEngine):
    """Engine that steps a decoder while there are unfinished sequences.

    New and cancelled sequences take effect between two steps. After each step the thread reports all updates to the
    event loop in one call.

    Args:
        threads: threads of one step, at most; None leaves the number to the library.
    """

    def __init__(
        self,
        name: str,
        model: GenerationModel,
        decoder: Decoder,
        compute: ThreadPoolExecutor,
        observer: EngineObserver,
        threads: int | None,
    ) -> None:
        self._model, self._decoder, self._compute, self._observer = model, decoder, compute, observer
        self._inbox: deque[SequenceState] = deque()
        self._work = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._threads = ThreadChoice(threads) if threads is not None else None
        self._step_tokens = 0
        decoder.on_nan_check = NanMonitor(name, observer).record
        decoder.on_start, decoder.on_batch, decoder.on_tokens = self._record_start, self._record_batch, self._publish

    def add(
        self, requests: Sequence[GenerationRequest], context: RequestContext | None, *, streamed: bool
    ) -> Sequence[SequenceState]:
        """As `TokenEngine`."""
        sequences = [SequenceState(request, self._model, context, streamed=streamed) for request in requests]
        self._inbox.extend(sequences)
        self._work.set()
        return sequences

    async def run(self) -> None:
        """As `TokenEngine`."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                await self._loop.run_in_executor(self._compute, self._decode_until_idle)
        finally:
            self._stopping = True

    # The methods below run on the computing thread.

    def _decode_until_idle(self) -> None:
        decoder = self._decoder
        while not self._stopping:
            while self._inbox:
                decoder.add(self._inbox.popleft())
            if not decoder.busy:
                self._observer.record_running(decoder.running, decoder.cache_usage)
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
            self._decoder.step()
            return
        threads, started, self._step_tokens = self._threads.choose(), monotonic(), 0
        set_thread_count(threads)
        self._decoder.step()
        self._threads.learn(threads, self._step_tokens, monotonic() - started)

    def _record_batch(self, rows: int, tokens: int, padding: int) -> None:
        self._step_tokens += tokens
        self._observer.record_batch(rows, tokens, padding)

    def _record_start(self, sequence: SequenceState) -> None:
        if not self._stopping:
            self._loop.call_soon_threadsafe(self.on_start, sequence, monotonic())

    def _publish(self, sequences: list[SequenceState]) -> None:
        now = monotonic()
        self._observer.record_running(self._decoder.running, self._decoder.cache_usage)
        updates = [
            SequenceUpdate(
                sequence,
                sequence.take_delta() if sequence.streamed else None,
                sequence.output if sequence.finish_reason is not None else None,
                sequence.error,
                len(sequence.tokens),
                now,
            )
            for sequence in sequences
            if not sequence.cancelled
        ]
        if updates and not self._stopping:
            self._loop.call_soon_threadsafe(self.on_updates, updates)
