"""Computes items that arrive while the model is busy together, without one of them waiting for company."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

from batching.rows import Row, select_batch
from errors import InferenceFailed, InvalidRequest, Overloaded, ServingError
from runners.base import Item, Job, Runner
from transport.listener import StreamListener

logger = logging.getLogger(__name__)

#: Items prepared in one visit to the other thread: enough to make the visit cheap, few enough to start soon.
_PREPARE_AT_ONCE = 32


class _Entry:
    """An item on its way through the engine."""

    __slots__ = ("future", "item", "job", "missing", "outputs")

    def __init__(self, item: Item, future: asyncio.Future[Any]) -> None:
        self.item = item
        self.future = future
        self.job: Job[Any, Any]
        self.outputs: list[Any]
        self.missing: int

    def prepared(self, job: Job[Any, Any]) -> None:
        self.job = job
        self.outputs = [None] * len(job.rows)
        self.missing = len(job.rows)

    def settle(self, result: Any) -> None:
        """Hand the result, or the error, to whoever still waits for it."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class _WaitingRow:
    __slots__ = ("entry", "index", "row")

    def __init__(self, entry: _Entry, index: int, row: Row[Any]) -> None:
        self.entry = entry
        self.index = index
        self.row = row


class BatchEngine:
    """Adaptive batching around a runner.

    Two threads work: one prepares and finishes items, the other does nothing but forward passes, so the text of the
    next batch is tokenized while the present one is computed. The event loop decides what goes where.
    """

    def __init__(self, runner: Runner[Any, Any, Any, Any], *, max_queue_size: int, compute: ThreadPoolExecutor) -> None:
        self._runner = runner
        self._max_queue_size = max_queue_size
        self._compute = compute
        self._text = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._arrived: deque[_Entry] = deque()
        self._waiting: list[_WaitingRow] = []
        self._news = asyncio.Event()
        self._rows_wait = asyncio.Event()
        self._unfinished = 0
        self._seconds_per_item = 0.05
        self._finishing: set[asyncio.Task[None]] = set()

    def submit(self, item: Item, listener: StreamListener | None = None) -> asyncio.Future[Any]:
        """Queue an item.

        Returns:
            A future of its answer; cancel it and the item is not computed, or its result is dropped.

        Raises:
            InvalidRequest: there is a listener; answers of one forward pass have no pieces.
            Overloaded: `max_queue_size` items are unfinished already.
        """
        if listener is not None:
            raise InvalidRequest("parameters.stream: only tasks that generate text stream, this model does not")
        if self._unfinished >= self._max_queue_size:
            wait = math.ceil(self._unfinished * self._seconds_per_item)
            raise Overloaded(
                f"{self._unfinished} instances are waiting already: try again later", retry_after=min(max(wait, 1), 60)
            )
        entry = _Entry(item, asyncio.get_running_loop().create_future())
        self._unfinished += 1
        entry.future.add_done_callback(self._one_less)
        self._arrived.append(entry)
        self._news.set()
        return entry.future

    def _one_less(self, _: asyncio.Future[Any]) -> None:
        self._unfinished -= 1

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prepare_what_arrives())
                group.create_task(self._compute_what_waits())
        finally:
            self._text.shutdown(wait=False, cancel_futures=True)

    async def _prepare_what_arrives(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            while self._arrived:
                entries = [self._arrived.popleft() for _ in range(min(len(self._arrived), _PREPARE_AT_ONCE))]
                entries = [entry for entry in entries if not entry.future.done()]
                jobs = await loop.run_in_executor(self._text, self._prepare, [entry.item for entry in entries])
                for entry, job in zip(entries, jobs, strict=True):
                    if isinstance(job, ServingError):
                        entry.settle(job)
                    else:
                        entry.prepared(job)
                        self._waiting.extend(_WaitingRow(entry, i, row) for i, row in enumerate(job.rows))
                self._rows_wait.set()

    async def _compute_what_waits(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._rows_wait.wait()
            self._waiting = [waiting for waiting in self._waiting if not waiting.entry.future.done()]
            if not self._waiting:
                self._rows_wait.clear()
                continue
            picked = select_batch([waiting.row for waiting in self._waiting], self._runner.limits)
            batch = [self._waiting[i] for i in picked]
            chosen = set(picked)
            self._waiting = [waiting for i, waiting in enumerate(self._waiting) if i not in chosen]
            started = monotonic()
            outputs = await loop.run_in_executor(self._compute, self._forward, [waiting.row for waiting in batch])
            self._learn_speed(batch, monotonic() - started)
            complete = []
            for waiting, output in zip(batch, outputs, strict=True):
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

    async def _finish_all(self, entries: list[_Entry]) -> None:
        loop = asyncio.get_running_loop()
        wanted = [entry for entry in entries if not entry.future.done()]
        results = await loop.run_in_executor(self._text, self._finish, wanted)
        for entry, result in zip(wanted, results, strict=True):
            entry.settle(result)

    def _learn_speed(self, batch: list[_WaitingRow], seconds: float) -> None:
        items = sum(1 / len(waiting.entry.job.rows) for waiting in batch)
        self._seconds_per_item += 0.1 * (seconds / items - self._seconds_per_item)
        if logger.isEnabledFor(logging.DEBUG):
            lengths = [waiting.row.length for waiting in batch]
            padded = max(lengths) * len(lengths)
            logger.debug(
                "batch of %d rows, %d tokens, %.0f %% padding, %.1f ms, %d rows wait",
                len(batch), sum(lengths), 100 * (1 - sum(lengths) / max(padded, 1)), 1000 * seconds, len(self._waiting),
            )  # fmt: skip

    # The rest runs on the other threads.

    def _prepare(self, items: Sequence[Item]) -> list[Job[Any, Any] | ServingError]:
        return [_guarded("preparing", self._runner.prepare_item, item) for item in items]

    def _finish(self, entries: Sequence[_Entry]) -> list[Any]:
        return [_guarded("finishing", self._runner.finish, entry.job, entry.outputs) for entry in entries]

    def _forward(self, rows: Sequence[Row[Any]]) -> Sequence[Any]:
        try:
            return self._runner.forward(rows)
        except Exception:
            if len(rows) > 1:
                # Whose fault it was is not known: alone, only the culprit fails.
                logger.warning("a batch of %d rows failed, computing them one by one", len(rows), exc_info=True)
                return [self._forward([row])[0] for row in rows]
            logger.exception("computing an item failed")
            return [InferenceFailed("the model failed on this instance; the server's log has the details")]


def _guarded(what: str, step: Any, *arguments: Any) -> Any:
    """The step's result, or the error of this one item as a value."""
    try:
        return step(*arguments)
    except ServingError as error:
        return error
    except RecursionError:
        return InvalidRequest("is nested too deeply")
    except Exception:
        logger.exception("%s an item failed", what)
        return InferenceFailed("the server failed on this instance; its log has the details")
