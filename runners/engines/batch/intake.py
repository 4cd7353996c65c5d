"""Bounded queue of items, which are prepared in a thread next to the event loop."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from time import monotonic
from typing import Any

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.contract.tokenization import TokenizerRequest
from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.observability.item_trace import trace_step
from runners.engines.admission import Admission, Reservation
from runners.engines.runner import Job, Runner

logger = logging.getLogger(__name__)

#: Items prepared per call of the text thread: enough to make the call cheap, few enough to start computing soon.
_PREPARE_CHUNK = 32


class QueuedItem:
    """State of one item in an engine.

    Attributes:
        arrived: time of arrival, by `monotonic`.
        started: whether its first forward pass has begun.
        future: receives the answer or the error.
        reservation: its rows and tokens in the admission control; set once it is queued.
        job: set once it is prepared.
    """

    def __init__(self, item: Item) -> None:
        self.arrived = monotonic()
        self.started = False
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.reservation: Reservation
        self.item = replace(item, is_cancelled=self.future.cancelled)
        self.job: Job[Any, Any]

    def settle(self, result: Any) -> None:
        """Set the result or the error on the future, unless it is done or cancelled."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Intake:
    """Bounded queue that prepares items in order of arrival.

    Attributes:
        text_executor: thread that tokenizes and decodes.
        tokenizer_lock: held while tokenizing or decoding; a tokenizer fails if two threads use it at the same time.
        admission: limit on the rows and tokens of all unfinished items.
    """

    def __init__(self, runner: Runner[Any, Any, Any, Any], max_queue_size: int, observer: EngineObserver) -> None:
        self._observer = observer
        self._unstarted = 0
        self.text_executor = ThreadPoolExecutor(1, thread_name_prefix="text")
        self.tokenizer_lock = Lock()
        self._runner = runner
        self._max_queue_size = max_queue_size
        self._arrived: deque[QueuedItem] = deque()
        self._has_arrived = asyncio.Event()
        self._unfinished = 0
        self._tokenizing = 0
        self._seconds_per_item = 0.05
        settings = runner.settings
        self.admission = runner.admission = Admission(
            settings.max_queue_rows, settings.max_queue_tokens, self._estimate_wait
        )

    def add(self, entry: QueuedItem) -> None:
        """Queue an item; it counts towards the limits until its future is done.

        Raises:
            Overloaded: `max_queue_size` items are unfinished already, or the limit on rows or tokens is reached.
        """
        if self._unfinished >= self._max_queue_size:
            raise Overloaded(
                f"{self._unfinished} instances are waiting already: try again later", retry_after=self._estimate_wait()
            )
        entry.reservation = self.admission.reserve(entry.item.instance)
        self._unfinished += 1
        self._change_unstarted(1)
        entry.future.add_done_callback(lambda _: self._remove(entry))
        self._arrived.append(entry)
        self._has_arrived.set()

    def use_tokenizer(self, request: TokenizerRequest) -> asyncio.Future[Any]:
        """Tokenize or detokenize between two items, and return a future of the answer.

        Raises:
            Overloaded: `max_queue_size` such requests wait already.
        """
        if self._tokenizing >= self._max_queue_size:
            raise Overloaded(f"{self._tokenizing} texts are waiting already: try again later", retry_after=1)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._tokenizing += 1

        def settle(done: asyncio.Future[Any]) -> None:
            self._tokenizing -= 1
            if answer.done():
                return
            if done.cancelled():
                answer.cancel()
            elif isinstance(result := done.result(), ServingError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        loop.run_in_executor(self.text_executor, self._use_tokenizer, request).add_done_callback(settle)
        return answer

    def _use_tokenizer(self, request: TokenizerRequest) -> Any:
        with self.tokenizer_lock:
            return call_guarded("tokenizing", self._runner.use_tokenizer, request)

    def started(self, entry: QueuedItem, at: float) -> None:
        """Record that a forward pass with the item begins; the first one ends its queue wait.

        Args:
            at: time of the start, by `monotonic`.
        """
        if not entry.started and not entry.future.done():
            entry.started = True
            self._change_unstarted(-1)
            self._observer.record_queue_wait(at - entry.arrived)

    def _remove(self, entry: QueuedItem) -> None:
        self._unfinished -= 1
        self.admission.release(entry.reservation)
        if not entry.started:
            self._change_unstarted(-1)

    def _estimate_wait(self) -> int:
        """Estimate the seconds that the unfinished items will take, between 1 and 60."""
        return min(max(math.ceil(self._unfinished * self._seconds_per_item), 1), 60)

    def _change_unstarted(self, change: int) -> None:
        self._unstarted += change
        self._observer.record_waiting(self._unstarted)

    def record_speed(self, seconds_per_item: float) -> None:
        """Update the moving average of the seconds per item."""
        self._seconds_per_item += 0.1 * (seconds_per_item - self._seconds_per_item)

    async def run(
        self,
        enqueue: Callable[[Sequence[QueuedItem]], None],
        start_single_item: Callable[[QueuedItem], bool] = lambda _: False,
    ) -> None:
        """Prepare arriving items until cancelled.

        Args:
            enqueue: called with the items that are ready to be computed; the others are settled with their error.
            start_single_item: called with an item that arrived alone; returns whether it prepares the item itself.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._has_arrived.wait()
                self._has_arrived.clear()
                while self._arrived:
                    entries = [self._arrived.popleft() for _ in range(min(len(self._arrived), _PREPARE_CHUNK))]
                    entries = [entry for entry in entries if not entry.future.done()]
                    if len(entries) == 1 and not self._arrived and start_single_item(entries[0]):
                        continue
                    jobs = await loop.run_in_executor(self.text_executor, self._prepare_all, entries)
                    ready = []
                    for entry, job in zip(entries, jobs, strict=True):
                        if isinstance(job, ServingError):
                            entry.settle(job)
                        else:
                            entry.job = job
                            ready.append(entry)
                    enqueue(ready)
        finally:
            self.text_executor.shutdown(wait=False, cancel_futures=True)

    def _prepare_all(self, entries: Sequence[QueuedItem]) -> list[Job[Any, Any] | ServingError]:
        return [self.prepare(entry) for entry in entries]

    def prepare(self, entry: QueuedItem) -> Job[Any, Any] | ServingError:
        """Prepare an item, and return its job or its error.

        Call it from any thread except that of the event loop.
        """
        with self.tokenizer_lock, trace_step(entry.item, "prepare"):
            self.admission.begin_preparing(entry.reservation)
            return call_guarded("preparing", self._prepare_within_limits, entry.item)  # type: ignore[no-any-return]

    def _prepare_within_limits(self, item: Item) -> Job[Any, Any]:
        job = self._runner.prepare_item(item)
        self.admission.resize(*self._runner.weight(job))
        return job


def call_guarded(what: str, step: Any, *arguments: Any) -> Any:
    """Call a step for one item, and return its result or the item's `ServingError`.

    Args:
        what: the step as a participle, for the log.
    """
    try:
        return step(*arguments)
    except ServingError as error:
        # The frames would keep the item's tokens in memory as long as the error is referenced.
        return error.with_traceback(None)
    except RecursionError:
        return InvalidRequest("is nested too deeply")
    except Exception:
        logger.exception("%s an item failed", what)
        return InferenceFailed("the server failed on this instance; its log has the details")
