"""Computes items that arrive while the model is busy together, without one of them waiting for company."""

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
from hf_runtime.observability.engine_observer import EngineObserver, Unobserved
from hf_runtime.observability.item_trace import working_on
from runners.engines.batch.bisect import error_for_item, retry_in_halves
from runners.engines.batch.intake import Intake, QueuedItem, guarded
from runners.engines.batch.workers import Worker, WorkerPool
from runners.engines.nan_monitor import NanMonitor, only_nan
from runners.engines.rows import Row, select_batch
from runners.engines.runner import Runner

logger = logging.getLogger(__name__)


class _Waiting:
    """A row of an item, and where its output belongs."""

    __slots__ = ("entry", "index", "row")

    def __init__(self, entry: _RowsEntry, index: int, row: Row[Any]) -> None:
        self.entry = entry
        self.index = index
        self.row = row


class _RowsEntry(QueuedItem):
    """An item whose rows are computed on their own."""

    def wait(self) -> list[_Waiting]:
        """Its rows, none of which has an output yet."""
        self.outputs: list[Any] = [None] * len(self.job.rows)
        self.missing = len(self.job.rows)
        return [_Waiting(self, i, row) for i, row in enumerate(self.job.rows)]


@dataclass(frozen=True, slots=True)
class _Pass:
    """A batch with an output for each row, and when it was computed."""

    batch: list[_Waiting]
    outputs: Sequence[Any]
    started: float
    ended: float


class BatchEngine:
    """Adaptive batching around a runner.

    One thread prepares and finishes items, the others do nothing but forward passes, so the text of the next batch is
    tokenized while the present ones are computed. The event loop decides what goes where. An item that is alone is
    prepared, computed and finished by one thread: each change of threads takes a third of a millisecond.
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
        self._observer = observer or Unobserved()
        self._intake = Intake(runner, max_queue_size, self._observer)
        self._lanes = WorkerPool(compute, runner.parallelism, runner.use_threads)
        self._numbers = NanMonitor(runner.settings.name, self._observer)
        self._waiting: list[_Waiting] = []
        self._rows_wait = asyncio.Event()
        self._finishing: set[asyncio.Task[None]] = set()

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item.

        Returns:
            A future of its answer; cancel it and the item is not computed, or its result is dropped.

        Raises:
            InvalidRequest: there is a listener; answers of one forward pass have no pieces.
            Overloaded: the queue is full.
        """
        if listener is not None:
            raise InvalidRequest("only tasks that generate text stream, this model does not", field="parameters.stream")
        entry = _RowsEntry(item)
        self._intake.add(entry)
        return entry.future

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._intake.run(self._prepared, partial(self._start_single_item, group)))
                group.create_task(self._compute_what_waits(group))
        finally:
            self._lanes.shutdown()

    def _prepared(self, entries: Sequence[QueuedItem]) -> None:
        for entry in entries:
            assert isinstance(entry, _RowsEntry)
            self._waiting.extend(entry.wait())
        self._rows_wait.set()

    async def _compute_what_waits(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._lanes.wait_idle()
            await self._rows_wait.wait()
            if not self._lanes.idle:
                continue  # meanwhile an item alone has taken the last one
            self._waiting = [waiting for waiting in self._waiting if not waiting.entry.future.done()]
            if not self._waiting:
                self._rows_wait.clear()
                continue
            batch = self._next_batch()
            group.create_task(self._compute(batch, self._lanes.take(alone=not self._waiting)))

    def _next_batch(self) -> list[_Waiting]:
        limits = self._runner.limits
        # Two lanes with half of what waits each are done before one that has all of it.
        share = math.ceil(len(self._waiting) / self._lanes.idle)
        picked = select_batch(
            [waiting.row for waiting in self._waiting], replace(limits, max_rows=min(limits.max_rows, share))
        )
        batch = [self._waiting[i] for i in picked]
        chosen = set(picked)
        self._waiting = [waiting for i, waiting in enumerate(self._waiting) if i not in chosen]
        return batch

    async def _compute(self, batch: list[_Waiting], lane: Worker) -> None:
        started = monotonic()
        for waiting in batch:
            self._intake.started(waiting.entry, started)
        try:
            computed = await lane.run(self._pass, batch)
        finally:
            self._lanes.give_back(lane)
        self._tell(computed, lane)
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
        if self._waiting or self._lanes.idle < self._lanes.number:
            return False
        group.create_task(self._compute_alone(entry, self._lanes.take(alone=True)))
        return True

    async def _compute_alone(self, entry: _RowsEntry, lane: Worker) -> None:
        self._intake.started(entry, monotonic())
        try:
            answered = await lane.run(self._answer, entry)
        finally:
            self._lanes.give_back(lane)
        if answered is None:
            self._prepared([entry])
            return
        result, computed = answered
        if computed is not None:
            self._tell(computed, lane)
        entry.settle(result)

    async def _finish_all(self, entries: list[_RowsEntry]) -> None:
        loop = asyncio.get_running_loop()
        wanted = [entry for entry in entries if not entry.future.done()]
        results = await loop.run_in_executor(self._intake.text, self._finish, wanted)
        for entry, result in zip(wanted, results, strict=True):
            entry.settle(result)

    def _tell(self, computed: _Pass, lane: Worker) -> None:
        """Tell of a batch whoever measures, counts, follows an item or reads the log."""
        batch, started, ended = computed.batch, computed.started, computed.ended
        seconds = ended - started
        items = sum(1 / len(waiting.entry.job.rows) for waiting in batch)
        self._intake.learn_speed(seconds / items / self._lanes.number)
        lengths = [waiting.row.length for waiting in batch]
        tokens = sum(lengths)
        self._lanes.learn(lane, tokens, seconds)
        padding = max(lengths) * len(lengths) - tokens if self._runner.limits.padded else 0
        self._observer.batch(len(batch), tokens, padding)
        self._observer.read(tokens)
        self._numbers.saw(only_nan(computed.outputs))
        traces = {waiting.entry: trace for waiting in batch if (trace := waiting.entry.item.trace) is not None}
        for trace in traces.values():
            trace.batch(started, ended, rows=len(batch), tokens=tokens, padding=padding)
        if logger.isEnabledFor(logging.DEBUG):
            with _about(batch):
                logger.debug(
                    "batch of %d rows, %d tokens, %.0f %% padding, %.1f ms, %d rows wait",
                    len(batch), tokens, 100 * padding / max(tokens + padding, 1), 1000 * seconds, len(self._waiting),
                )  # fmt: skip

    # The rest runs on the other threads.

    def _finish(self, entries: Sequence[_RowsEntry]) -> list[Any]:
        return [self._finish_one(entry) for entry in entries]

    def _finish_one(self, entry: _RowsEntry) -> Any:
        with self._intake.tokenizer_lock, working_on(entry.item, "finish"):
            return guarded("finishing", self._runner.finish, entry.job, entry.outputs)

    def _answer(self, entry: _RowsEntry) -> tuple[Any, _Pass | None] | None:
        """An item's result or error, with its pass if there was one; None if lanes may share its rows."""
        job = self._intake.prepare(entry)
        if isinstance(job, ServingError):
            return job, None
        entry.job = job
        rows = entry.wait()
        if len(rows) != 1:
            return None
        computed = self._pass(rows)
        [output] = entry.outputs = list(computed.outputs)
        return output if isinstance(output, ServingError) else self._finish_one(entry), computed

    def _pass(self, batch: list[_Waiting]) -> _Pass:
        started = monotonic()
        outputs = self._forward(batch)
        return _Pass(batch, outputs, started, monotonic())

    def _forward(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        with _about(batch):
            try:
                return self._runner.forward([waiting.row for waiting in batch])
            except Exception as error:
                failed = error
            # Outside of the handler, which would keep what the failed pass holds.
            if len(batch) == 1:
                return [error_for_item(failed)]
            first, second = retry_in_halves(batch, "rows", self._forward, failed)
            return [*first, *second]


def _about(batch: Sequence[_Waiting]) -> AbstractContextManager[None]:
    return request_context(*(waiting.entry.item.request_context for waiting in batch))
