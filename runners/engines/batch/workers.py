"""Threads that compute batches side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from runners.engines.batch.thread_choice import ThreadChoice
from runners.engines.rows import Parallelism

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Worker:
    """A place for one batch.

    Attributes:
        number: the first lane is 0.
        threads: that the batch is computed with; None leaves the number as it is.
    """

    number: int
    threads: int | None
    executor: ThreadPoolExecutor
    use_threads: Callable[[int], None]

    async def run(self, compute: Callable[[ArgumentT], ResultT], batch: ArgumentT) -> ResultT:
        """Compute a batch in the lane's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, self._run, compute, batch)

    def _run(self, compute: Callable[[ArgumentT], ResultT], batch: ArgumentT) -> ResultT:
        if self.threads is not None:
            self.use_threads(self.threads)
        return compute(batch)


class WorkerPool:
    """Gives out lanes to batches.

    Args:
        first: the thread of the first lane. It alone is ever given several threads of its own: libraries keep such
            threads for each thread that asked for them, and more of them than cores wait for each other asleep.
        use_threads: sets how many threads compute what the calling thread starts.
    """

    def __init__(self, first: ThreadPoolExecutor, parallelism: Parallelism, use_threads: Callable[[int], None]) -> None:
        others = [ThreadPoolExecutor(1, f"compute-{number}") for number in range(1, parallelism.lanes)]
        self.number = parallelism.lanes
        self._executors = [first, *others]
        self._parallelism = parallelism
        self._use_threads = use_threads
        alone = parallelism.threads_alone
        self._choice = ThreadChoice(alone) if alone is not None else None
        self._undisturbed: Worker | None = None
        self._free = set(range(self.number))
        self._some_free = asyncio.Event()
        self._some_free.set()

    @property
    def idle(self) -> int:
        """How many compute nothing."""
        return len(self._free)

    async def wait_idle(self) -> None:
        """Wait until one of them computes nothing."""
        await self._some_free.wait()

    def take(self, *, alone: bool) -> Worker:
        """One that computes nothing.

        Args:
            alone: no other batch waits to be computed.
        """
        alone = alone and self.idle == self.number
        number = min(self._free)
        self._free.remove(number)
        if not self._free:
            self._some_free.clear()
        threads = self._choice.choose() if alone and self._choice is not None else self._parallelism.threads
        lane = Worker(number, threads, self._executors[number], self._use_threads)
        self._undisturbed = lane if alone else None
        return lane

    def learn(self, lane: Worker, tokens: int, seconds: float) -> None:
        """Take note of what a batch has taken, if no other was computed beside it."""
        if lane is self._undisturbed and self._choice is not None and lane.threads is not None:
            self._choice.learn(lane.threads, tokens, seconds)

    def give_back(self, lane: Worker) -> None:
        """It computes nothing any more."""
        self._free.add(lane.number)
        self._some_free.set()

    def shutdown(self) -> None:
        """End the threads; that of the first lane is somebody else's."""
        for executor in self._executors[1:]:
            executor.shutdown(wait=False, cancel_futures=True)
