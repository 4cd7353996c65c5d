"""Engine that batches the items that arrive while the model is busy.

No item waits for others to arrive: a batch starts as soon as a worker is idle.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from hf_runtime.contract.errors import InvalidRequest, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.listener import StreamListener
from hf_runtime.contract.request_context import request_context
from hf_runtime.contract.tokenization import TokenizerRequest
from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.observability.item_trace import trace_step
from runners.engines.batch.intake import Intake, QueuedItem, call_guarded
from runners.engines.batch.retry import error_for_item, retry_in_halves
from runners.engines.batch.workers import Worker, WorkerPool
from runners.engines.nan_monitor import NanMonitor, only_nan
from runners.engines.rows import Row, select_batch
from runners.engines.runner import Runner

logger = logging.getLogger(__name__)


class _WaitingRow:
    """Waiting row of an item, and the index of its output."""

    __slots__ = ("entry", "index", "row")

    def __init__(self, entry: _RowsEntry, index: int, row: Row[Any]) -> None:
        self.entry = entry
        self.index = index
        self.row = row


class _RowsEntry(QueuedItem):
    """Queued item whose rows can be computed in different batches."""

    def create_rows(self) -> list[_WaitingRow]:
        """Create the waiting rows of the prepared job, and reset its outputs."""
        self.outputs: list[Any] = [None] * len(self.job.rows)
        self.missing = len(self.job.rows)
        return [_WaitingRow(self, i, row) for i, row in enumerate(self.job.rows)]


@dataclass(frozen=True, slots=True)
class _ComputedBatch:
    """Batch with one output per row, and the times of its start and end by `monotonic`."""

    rows: list[_WaitingRow]
    outputs: Sequence[Any]
    started: float
    ended: float


class BatchEngine:
    """Adaptive batching engine around a runner.

    One thread prepares and finishes items, and worker threads only compute forward passes. So the next batch is
    tokenized while the current ones are computed. The event loop schedules both. An item that arrives while the engine
    is idle is prepared, computed and finished by one worker, because each switch between threads takes 0.3 ms.
    """

    def __init__(
        self,
        runner: Runner[Any, Any, Any, Any],
        *,
        max_queue_size: int,
        compute: ThreadPoolExecutor,
        observer: EngineObserver | None = None,
    ) -> None:
        self._runner = runner
        self._observer = observer or EngineObserver()
        self._intake = Intake(runner, max_queue_size, self._observer)
        self._workers = WorkerPool(compute, runner.parallelism, runner.set_thread_count)
        self._nan_monitor = NanMonitor(runner.settings.name, self._observer)
        self._waiting: list[_WaitingRow] = []
        self._has_waiting = asyncio.Event()
        self._finishing: set[asyncio.Task[None]] = set()

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item.

        Returns:
            A future of its answer. If it is cancelled, the item is not computed, or its result is dropped.

        Raises:
            InvalidRequest: there is a listener, but the answer of a forward pass cannot be streamed.
            Overloaded: the queue is full.
        """
        if listener is not None:
            raise InvalidRequest("only tasks that generate text stream, this model does not", field="parameters.stream")
        entry = _RowsEntry(item)
        self._intake.add(entry)
        return entry.future

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        """Tokenize or detokenize, as `Engine.use_tokenizer`."""
        return self._intake.use_tokenizer(request)

    async def run(self) -> None:
        """Process items until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(self._enqueue_rows, partial(self._start_single_item, group)))
                group.create_task(self._dispatch_batches(group))
        finally:
            self._workers.shutdown()

    def _enqueue_rows(self, entries: Sequence[QueuedItem]) -> None:
        for entry in entries:
            assert isinstance(entry, _RowsEntry)
            self._waiting.extend(entry.create_rows())
        self._has_waiting.set()

    async def _dispatch_batches(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._workers.wait_idle()
            await self._has_waiting.wait()
            if not self._workers.idle:
                continue  # a single item has acquired the last idle worker in the meantime
            self._waiting = [waiting for waiting in self._waiting if not waiting.entry.future.done()]
            if not self._waiting:
                self._has_waiting.clear()
                continue
            batch = self._take_batch()
            group.create_task(self._compute(batch, self._workers.acquire(alone=not self._waiting)))

    def _take_batch(self) -> list[_WaitingRow]:
        limits = self._runner.limits
        # Two workers with half of the rows each finish earlier than one worker with all rows.
        share = math.ceil(len(self._waiting) / self._workers.idle)
        picked = select_batch(
            [waiting.row for waiting in self._waiting], replace(limits, max_rows=min(limits.max_rows, share))
        )
        batch = [self._waiting[i] for i in picked]
        taken = set(picked)
        self._waiting = [waiting for i, waiting in enumerate(self._waiting) if i not in taken]
        return batch

    async def _compute(self, batch: list[_WaitingRow], worker: Worker) -> None:
        started = monotonic()
        for waiting in batch:
            self._intake.started(waiting.entry, started)
        try:
            computed = await worker.run(self._compute_batch, batch)
        finally:
            self._workers.release(worker)
        self._record_batch(computed, worker)
        complete = []
        for waiting, output in zip(batch, computed.outputs, strict=True):
            entry = waiting.entry
            if isinstance(output, ServingError):
                entry.settle(output)
                continue
            entry.outputs[waiting.index] = output
            entry.missing -= 1
            if entry.missing == 0:
                complete.append(entry)
        if complete:
            task = asyncio.create_task(self._finish_all(complete))
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)

    def _start_single_item(self, group: asyncio.TaskGroup, entry: QueuedItem) -> bool:
        assert isinstance(entry, _RowsEntry)
        if self._waiting or self._workers.idle < self._workers.size:
            return False
        group.create_task(self._compute_single_item(entry, self._workers.acquire(alone=True)))
        return True

    async def _compute_single_item(self, entry: _RowsEntry, worker: Worker) -> None:
        self._intake.started(entry, monotonic())
        try:
            answered = await worker.run(self._answer_single_item, entry)
        finally:
            self._workers.release(worker)
        if answered is None:
            self._enqueue_rows([entry])
            return
        result, computed = answered
        if computed is not None:
            self._record_batch(computed, worker)
        entry.settle(result)

    async def _finish_all(self, entries: list[_RowsEntry]) -> None:
        loop = asyncio.get_running_loop()
        unanswered = [entry for entry in entries if not entry.future.done()]
        results = await loop.run_in_executor(self._intake.text_executor, self._finish_in_thread, unanswered)
        for entry, result in zip(unanswered, results, strict=True):
            entry.settle(result)

    def _record_batch(self, computed: _ComputedBatch, worker: Worker) -> None:
        """Report a batch to the wait estimate, thread choice, metrics, NaN monitor, traces and log."""
        batch, started, ended = computed.rows, computed.started, computed.ended
        seconds = ended - started
        items = sum(1 / len(waiting.entry.job.rows) for waiting in batch)
        self._intake.record_speed(seconds / items / self._workers.size)
        lengths = [waiting.row.length for waiting in batch]
        tokens = sum(lengths)
        self._workers.record_duration(worker, tokens, seconds)
        padding = max(lengths) * len(lengths) - tokens if self._runner.limits.padded else 0
        self._observer.record_batch(len(batch), tokens, padding)
        self._observer.record_prefill(tokens)
        self._nan_monitor.record(only_nan(computed.outputs))
        traces = {waiting.entry: trace for waiting in batch if (trace := waiting.entry.item.trace) is not None}
        for trace in traces.values():
            trace.record_batch(started, ended, rows=len(batch), tokens=tokens, padding=padding)
        if logger.isEnabledFor(logging.DEBUG):
            with _batch_context(batch):
                logger.debug(
                    "batch of %d rows, %d tokens, %.0f %% padding, %.1f ms, %d rows waiting",
                    len(batch), tokens, 100 * padding / max(tokens + padding, 1), 1000 * seconds, len(self._waiting),
                )  # fmt: skip

    # The methods below run in worker threads and in the text thread.

    def _finish_in_thread(self, entries: Sequence[_RowsEntry]) -> list[Any]:
        return [self._finish_one(entry) for entry in entries]

    def _finish_one(self, entry: _RowsEntry) -> Any:
        with self._intake.tokenizer_lock, trace_step(entry.item, "finish"):
            return call_guarded("finishing", self._runner.finish, entry.job, entry.outputs)

    def _answer_single_item(self, entry: _RowsEntry) -> tuple[Any, _ComputedBatch | None] | None:
        """Prepare, compute and finish an item of one row.

        Returns:
            The result or the error, and the computed batch if there was one; None if the item has several rows, which
            other workers can share.
        """
        job = self._intake.prepare(entry)
        if isinstance(job, ServingError):
            return job, None
        entry.job = job
        rows = entry.create_rows()
        if len(rows) != 1:
            return None
        computed = self._compute_batch(rows)
        [output] = entry.outputs = list(computed.outputs)
        return output if isinstance(output, ServingError) else self._finish_one(entry), computed

    def _compute_batch(self, batch: list[_WaitingRow]) -> _ComputedBatch:
        started = monotonic()
        outputs = self._forward(batch)
        return _ComputedBatch(batch, outputs, started, monotonic())

    def _forward(self, batch: Sequence[_WaitingRow]) -> Sequence[Any]:
        with _batch_context(batch):
            try:
                return self._runner.forward([waiting.row for waiting in batch])
            except Exception as error:
                failed = error
            # Outside of the handler, which would keep the tensors of the failed pass alive.
            if len(batch) == 1:
                return [error_for_item(failed)]
            first, second = retry_in_halves(batch, "rows", self._forward, failed)
            return [*first, *second]


def _batch_context(batch: Sequence[_WaitingRow]) -> AbstractContextManager[None]:
    return request_context(*(waiting.entry.item.request_context for waiting in batch))
