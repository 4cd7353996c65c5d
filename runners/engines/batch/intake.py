"""What comes before any computing: a bounded number of items, made ready one thread away from the event loop."""

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
from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.observability.item_trace import working_on
from runners.engines.admission import Admission, Reservation
from runners.engines.runner import Job, Runner

logger = logging.getLogger(__name__)

#: Items prepared in one visit to the other thread: enough to make the visit cheap, few enough to start soon.
_PREPARE_AT_ONCE = 32


class QueuedItem:
    """An item on its way through an engine.

    Attributes:
        arrived: when, by `monotonic`.
        claim: its share of the room for what waits; set once it is queued.
        job: set once it is prepared.
        started: whether its first forward pass has begun.
    """

    def __init__(self, item: Item) -> None:
        self.arrived = monotonic()
        self.started = False
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.reservation: Reservation
        self.item = replace(item, is_cancelled=self.future.cancelled)
        self.job: Job[Any, Any]

    def settle(self, result: Any) -> None:
        """Hand the result, or the error, to whoever still waits for it."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Intake:
    """Takes items while there is room, and prepares them in order.

    Attributes:
        text: the thread for tokenizing and decoding.
        one_at_a_time: held by whoever tokenizes or decodes: a tokenizer refuses to be used by two threads at once.
    """

    def __init__(self, runner: Runner[Any, Any, Any, Any], max_queue_size: int, observer: EngineObserver) -> None:
        self._observer = observer
        self._waiting = 0
        self.text = ThreadPoolExecutor(1, thread_name_prefix="text")
        self.tokenizer_lock = Lock()
        self._runner = runner
        self._max_queue_size = max_queue_size
        self._arrived: deque[QueuedItem] = deque()
        self._news = asyncio.Event()
        self._unfinished = 0
        self._seconds_per_item = 0.05
        settings = runner.settings
        self.admission = runner.admission = Admission(
            settings.max_queue_rows, settings.max_queue_tokens, self._wait_seconds
        )

    def add(self, entry: QueuedItem) -> None:
        """Queue an item; it counts until its future is done.

        Raises:
            Overloaded: `max_queue_size` items are unfinished already, or as many rows or tokens as may be.
        """
        if self._unfinished >= self._max_queue_size:
            raise Overloaded(
                f"{self._unfinished} instances are waiting already: try again later", retry_after=self._wait_seconds()
            )
        entry.reservation = self.admission.enter(entry.item.instance)
        self._unfinished += 1
        self._wait(1)
        entry.future.add_done_callback(lambda _: self._one_less(entry))
        self._arrived.append(entry)
        self._news.set()

    def started(self, entry: QueuedItem, at: float) -> None:
        """An item's forward pass begins; the first one ends its waiting."""
        if not entry.started and not entry.future.done():
            entry.started = True
            self._wait(-1)
            self._observer.started(at - entry.arrived)

    def _one_less(self, entry: QueuedItem) -> None:
        self._unfinished -= 1
        self.admission.leave(entry.reservation)
        if not entry.started:
            self._wait(-1)

    def _wait_seconds(self) -> int:
        """Estimate how long the waiting items will take."""
        return min(max(math.ceil(self._unfinished * self._seconds_per_item), 1), 60)

    def _wait(self, change: int) -> None:
        self._waiting += change
        self._observer.waiting(self._waiting)

    def learn_speed(self, seconds_per_item: float) -> None:
        """Take a measurement into the estimate of how long a full queue lasts."""
        self._seconds_per_item += 0.1 * (seconds_per_item - self._seconds_per_item)

    async def run(
        self, prepared: Callable[[Sequence[QueuedItem]], None], taken: Callable[[QueuedItem], bool] = lambda _: False
    ) -> None:
        """Prepare what arrives until cancelled; those that can be computed are handed on, the others settled.

        Args:
            taken: told of an item that has arrived alone; whether it was taken to be prepared elsewhere.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._arrived:
                    entries = [self._arrived.popleft() for _ in range(min(len(self._arrived), _PREPARE_AT_ONCE))]
                    entries = [entry for entry in entries if not entry.future.done()]
                    if len(entries) == 1 and not self._arrived and taken(entries[0]):
                        continue
                    jobs = await loop.run_in_executor(self.text, self._prepare, entries)
                    ready = []
                    for entry, job in zip(entries, jobs, strict=True):
                        if isinstance(job, ServingError):
                            entry.settle(job)
                        else:
                            entry.job = job
                            ready.append(entry)
                    prepared(ready)
        finally:
            self.text.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, entries: Sequence[QueuedItem]) -> list[Job[Any, Any] | ServingError]:
        return [self.prepare(entry) for entry in entries]

    def prepare(self, entry: QueuedItem) -> Job[Any, Any] | ServingError:
        """Make an item ready, in any thread but the event loop's; the error of a step as a value."""
        with self.tokenizer_lock, working_on(entry.item, "prepare"):
            self.admission.prepare(entry.reservation)
            return guarded("preparing", self._within_room, entry.item)  # type: ignore[no-any-return]

    def _within_room(self, item: Item) -> Job[Any, Any]:
        job = self._runner.prepare_item(item)
        self.admission.hold(*self._runner.weight(job))
        return job


def guarded(what: str, step: Any, *arguments: Any) -> Any:
    """The step's result, or the error of this one item as a value."""
    try:
        return step(*arguments)
    except ServingError as error:
        # Its frames hold the tokens of a text for as long as anybody has the error.
        return error.with_traceback(None)
    except RecursionError:
        return InvalidRequest("is nested too deeply")
    except Exception:
        logger.exception("%s an item failed", what)
        return InferenceFailed("the server failed on this instance; its log has the details")
