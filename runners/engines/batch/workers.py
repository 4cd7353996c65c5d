"""Pool of worker threads that compute batches in parallel."""

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
    """Worker of the pool, with the number of threads for its next batch.

    Attributes:
        index: position in the pool, from 0.
        threads: threads to compute the batch with; None keeps the current number.
        executor: the thread that calls `forward`.
        set_thread_count: sets the number of threads of the calling thread.
    """

    index: int
    threads: int | None
    executor: ThreadPoolExecutor
    set_thread_count: Callable[[int], None]

    async def run(self, compute: Callable[[ArgumentT], ResultT], batch: ArgumentT) -> ResultT:
        """Compute a batch in the worker's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, self._run, compute, batch)

    def _run(self, compute: Callable[[ArgumentT], ResultT], batch: ArgumentT) -> ResultT:
        if self.threads is not None:
            self.set_thread_count(self.threads)
        return compute(batch)


class WorkerPool:
    """Pool of workers that compute batches in parallel.

    Args:
        first: thread of the first worker. Only this worker ever uses several threads. Libraries keep a thread pool per
            calling thread, and when there are more threads than cores, they sleep while they wait for each other.
        parallelism: number of workers and their threads.
        set_thread_count: sets the number of threads for computations that the calling thread starts.
    """

    def __init__(
        self, first: ThreadPoolExecutor, parallelism: Parallelism, set_thread_count: Callable[[int], None]
    ) -> None:
        others = [ThreadPoolExecutor(1, f"compute-{index}") for index in range(1, parallelism.workers)]
        self.size = parallelism.workers
        self._executors = [first, *others]
        self._parallelism = parallelism
        self._set_thread_count = set_thread_count
        threads_alone = parallelism.threads_alone
        self._thread_choice = ThreadChoice(threads_alone) if threads_alone is not None else None
        self._only_busy: Worker | None = None
        self._idle = set(range(self.size))
        self._has_idle = asyncio.Event()
        self._has_idle.set()

    @property
    def idle(self) -> int:
        """Number of idle workers."""
        return len(self._idle)

    async def wait_idle(self) -> None:
        """Wait until a worker is idle."""
        await self._has_idle.wait()

    def acquire(self, *, alone: bool) -> Worker:
        """Return an idle worker and mark it as busy.

        Args:
            alone: whether no other batch is waiting.
        """
        alone = alone and self.idle == self.size
        index = min(self._idle)
        self._idle.remove(index)
        if not self._idle:
            self._has_idle.clear()
        choice = self._thread_choice if alone else None
        threads = choice.choose() if choice is not None else self._parallelism.threads
        worker = Worker(index, threads, self._executors[index], self._set_thread_count)
        self._only_busy = worker if alone else None
        return worker

    def record_duration(self, worker: Worker, tokens: int, seconds: float) -> None:
        """Record the duration of a batch, if no other batch was computed in parallel."""
        if worker is self._only_busy and self._thread_choice is not None and worker.threads is not None:
            self._thread_choice.learn(worker.threads, tokens, seconds)

    def release(self, worker: Worker) -> None:
        """Mark a worker as idle."""
        self._idle.add(worker.index)
        self._has_idle.set()

    def shutdown(self) -> None:
        """Stop all threads but the first worker's, which belongs to the caller."""
        for executor in self._executors[1:]:
            executor.shutdown(wait=False, cancel_futures=True)
