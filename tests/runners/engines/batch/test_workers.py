"""Promise: workers run batches in parallel, one batch gets all threads, rows run once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hf_runtime.contract.item import Item
from runners.engines.batch.engine import BatchEngine
from runners.engines.batch.workers import WorkerPool
from runners.engines.rows import Parallelism, Row
from tests.scripted import ScriptedRunner


class _ParallelRunner(ScriptedRunner):
    """Runner whose forward passes wait until a number of them run at the same time."""

    def __init__(self, together: int, parallelism: Parallelism) -> None:
        super().__init__(max_rows=8, parallelism=parallelism)
        self.barrier = threading.Barrier(together)

    def forward(self, rows: Sequence[Row[str]]) -> Sequence[str]:
        self.barrier.wait(30)
        return super().forward(rows)


async def _answers(runner: ScriptedRunner, texts: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(1, "first") as compute:
        engine = BatchEngine(runner, max_queue_size=10_000, compute=compute)
        running = asyncio.create_task(engine.run())
        try:
            return list(await asyncio.gather(*(engine.submit(Item(text)) for text in texts)))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def test_waiting_rows_are_split_among_all_workers() -> None:
    runner = _ParallelRunner(2, Parallelism(workers=2, threads=1, threads_alone=4))
    assert asyncio.run(_answers(runner, ["a", "b", "c", "d"])) == ["A", "B", "C", "D"]
    assert sorted(map(len, runner.batches)) == [2, 2]
    assert runner.threads.count(("first_0", 1)) == 1
    assert {number for _, number in runner.threads} == {1}


def test_a_single_batch_uses_all_threads_and_the_first_worker() -> None:
    runner = ScriptedRunner(parallelism=Parallelism(workers=3, threads=1, threads_alone=4))
    assert asyncio.run(_answers(runner, ["alone"])) == ["ALONE"]
    assert runner.threads == [("first_0", 4)]


def test_the_duration_of_parallel_batches_does_not_count_for_single_ones() -> None:
    with ThreadPoolExecutor(1) as compute:
        pool = WorkerPool(compute, Parallelism(workers=2, threads=1, threads_alone=4), lambda _: None)
        for seconds, threads in (1.0, 4), (1.0, 4), (1.0, 4), (2.0, 1), (2.0, 1):
            alone = pool.acquire(alone=True)
            assert alone.threads == threads
            pool.record_duration(alone, 10, seconds)
            pool.release(alone)
        slow = pool.acquire(alone=True)
        assert slow.threads == 1  # one more trial
        other = pool.acquire(alone=True)
        pool.record_duration(slow, 10, 1000.0)
        for worker in (slow, other):
            pool.release(worker)
        assert pool.acquire(alone=True).threads == 1  # still not known
        pool.shutdown()


def test_one_worker_keeps_the_number_of_threads() -> None:
    runner = ScriptedRunner()
    assert asyncio.run(_answers(runner, ["a", "b"])) == ["A", "B"]
    assert runner.threads == []


def test_every_item_gets_its_own_answer_once_from_any_worker() -> None:
    runner = ScriptedRunner(max_rows=3, parallelism=Parallelism(workers=3, threads=1, threads_alone=1))
    texts = [f"{i},{'x' * (i % 7)}y" for i in range(400)]
    assert asyncio.run(_answers(runner, texts)) == [text.upper() for text in texts]
    assert sum(map(len, runner.batches)) == 800
    assert max(map(len, runner.batches)) <= 3


def test_a_failure_in_one_worker_fails_its_item_only() -> None:
    async def scenario() -> list[object]:
        with ThreadPoolExecutor(1) as compute:
            runner = ScriptedRunner(parallelism=Parallelism(workers=2, threads=1, threads_alone=1))
            engine = BatchEngine(runner, max_queue_size=100, compute=compute)
            running = asyncio.create_task(engine.run())
            futures = [engine.submit(Item(text)) for text in ("a", "crash", "b", "c", "crash", "d")]
            results = await asyncio.gather(*futures, return_exceptions=True)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            return results

    results = asyncio.run(scenario())
    assert [type(result).__name__ for result in results] == [
        "str",
        "InferenceFailed",
        "str",
        "str",
        "InferenceFailed",
        "str",
    ]
