"""Promise: the engine batches without waiting, isolates errors and bounds its queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded
from hf_runtime.contract.item import Item
from hf_runtime.observability.engine_observer import EngineObserver
from runners.engines.batch.engine import BatchEngine
from runners.engines.rows import Parallelism, Row
from runners.engines.runner import Job
from tests.scripted import ScriptedParameters, ScriptedRunner


@asynccontextmanager
async def _engine(
    runner: ScriptedRunner, max_queue_size: int = 100, observer: EngineObserver | None = None
) -> AsyncIterator[BatchEngine]:
    with ThreadPoolExecutor(1) as compute:
        engine = BatchEngine(runner, max_queue_size=max_queue_size, compute=compute, observer=observer)
        running = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            runner.gate.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _busy(engine: BatchEngine, runner: ScriptedRunner) -> asyncio.Future[Any]:
    """Occupy the model with one item until the gate opens."""
    runner.gate.clear()
    first = engine.submit(Item("first"))
    await asyncio.to_thread(runner.entered.wait, 30)
    return first


def test_items_that_arrive_while_the_model_is_busy_are_computed_together() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner()
        async with _engine(runner) as engine:
            first = await _busy(engine, runner)
            others = [engine.submit(Item(text)) for text in ("aaaa", "b", "cc")]
            refused = engine.submit(Item("bad"))
            with pytest.raises(InvalidRequest):  # the last item is prepared: now all others wait for the model
                await refused
            runner.gate.set()
            assert await first == "FIRST"
            assert await asyncio.gather(*others) == ["AAAA", "B", "CC"]
        assert runner.batches == [["first"], ["b", "cc", "aaaa"]]

    asyncio.run(scenario())


class _Counts(EngineObserver):
    def __init__(self) -> None:
        self.queue: list[int] = []
        self.waits: list[float] = []
        self.batches: list[tuple[int, int, int]] = []

    def record_waiting(self, items: int) -> None:
        self.queue.append(items)

    def record_queue_wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def record_batch(self, rows: int, tokens: int, padding: int) -> None:
        self.batches.append((rows, tokens, padding))


def test_batches_the_queue_and_cancelled_items_are_counted() -> None:
    async def scenario() -> None:
        runner, counts = ScriptedRunner(), _Counts()
        async with _engine(runner, observer=counts) as engine:
            first = await _busy(engine, runner)
            assert counts.queue[-1] == 0
            others = [engine.submit(Item(text)) for text in ("aaaa", "b", "cc,d")]
            gone, refused = engine.submit(Item("gone")), engine.submit(Item("bad"))
            assert counts.queue[-1] == 5
            with pytest.raises(InvalidRequest):
                await refused
            gone.cancel()
            await asyncio.sleep(0)
            assert counts.queue[-1] == 3
            runner.gate.set()
            await asyncio.gather(first, *others)
            assert counts.queue[-1] == 0
        assert counts.batches == [(1, 5, 0), (4, 8, 8)]
        assert len(counts.waits) == 4
        assert all(seconds >= 0 for seconds in counts.waits)

    asyncio.run(scenario())


def test_a_single_item_is_computed_immediately() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner()
        async with _engine(runner) as engine:
            assert await engine.submit(Item("alone")) == "ALONE"
        assert runner.batches == [["alone"]]

    asyncio.run(scenario())


class _Watched(ScriptedRunner):
    """Runner that records which thread does what; a preparation waits until the test says so."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps: list[tuple[str, str]] = []
        self.at_once, self.most_at_once = 0, 0
        self.prepares, self.preparing = threading.Event(), threading.Event()
        self.preparing.set()

    def _note(self, step: str) -> None:
        self.steps.append((step, threading.current_thread().name.split("_")[0]))

    def prepare(self, instance: Any, parameters: ScriptedParameters) -> Job[str, int]:
        self._note("prepare")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.prepares.set()
        assert self.preparing.wait(30), "the test forgot to let it go on"
        self.at_once -= 1
        return super().prepare(instance, parameters)

    def forward(self, rows: Sequence[Row[str]]) -> Sequence[str]:
        self._note("forward")
        return super().forward(rows)

    def finish(self, job: Job[str, int], outputs: Sequence[str]) -> Any:
        self._note("finish")
        return super().finish(job, outputs)


def test_a_single_item_stays_in_the_compute_thread() -> None:
    async def scenario() -> None:
        runner = _Watched()
        async with _engine(runner) as engine:
            assert await engine.submit(Item("alone")) == "ALONE"
            assert len({thread for _, thread in runner.steps}) == 1
            runner.steps.clear()
            both = [engine.submit(Item(text)) for text in ("a", "b")]
            assert [await future for future in both] == ["A", "B"]
        assert len({thread for _, thread in runner.steps}) == 2

    asyncio.run(scenario())


def test_rows_of_a_single_item_are_split_among_workers() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner(parallelism=Parallelism(workers=2, threads=1))
        async with _engine(runner) as engine:
            assert await engine.submit(Item("a,b,c,d")) == "A,B,C,D"
        assert sorted(map(len, runner.batches)) == [2, 2]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "error"), [("crash", InferenceFailed), ("bug", InferenceFailed), ("bad", InvalidRequest)]
)
def test_a_single_item_that_fails_harms_no_later_one(text: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        async with _engine(ScriptedRunner()) as engine:
            for _ in range(3):
                with pytest.raises(error):
                    await engine.submit(Item(text))
                assert await engine.submit(Item("good")) == "GOOD"

    asyncio.run(scenario())


def test_a_cancelled_single_item_delays_no_other() -> None:
    async def scenario() -> None:
        runner, counts = ScriptedRunner(), _Counts()
        async with _engine(runner, observer=counts) as engine:
            first = await _busy(engine, runner)
            first.cancel()
            second = engine.submit(Item("second"))
            runner.gate.set()
            assert await second == "SECOND"
        assert counts.queue[-1] == 0
        assert runner.batches == [["first"], ["second"]]

    asyncio.run(scenario())


class _ContendedLock:
    """Lock that sets an event when a second thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.second_waits = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.second_waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_items_that_arrive_while_a_single_item_is_prepared_wait_for_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        turns, runner = _ContendedLock(), _Watched(parallelism=Parallelism(workers=2))
        monkeypatch.setattr("runners.engines.batch.intake.Lock", lambda: turns)
        async with _engine(runner) as engine:
            runner.preparing.clear()
            alone = engine.submit(Item("alone"))
            assert await asyncio.to_thread(runner.prepares.wait, 30)
            others = [engine.submit(Item(text)) for text in ("a", "b", "c")]
            assert await asyncio.to_thread(turns.second_waits.wait, 30)
            runner.preparing.set()
            assert await asyncio.gather(alone, *others) == ["ALONE", "A", "B", "C"]
        assert runner.most_at_once == 1

    asyncio.run(scenario())


def test_each_item_keeps_its_own_parameters_rows_and_position() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner(max_rows=3)
        items = [Item(f"{i},{'x' * (i % 7)}y", {"times": 1 + i % 3}) for i in range(50)]
        async with _engine(runner) as engine:
            answers = await asyncio.gather(*(engine.submit(item) for item in items))
        assert answers == [item.instance.upper() * item.parameters["times"] for item in items]
        assert max(map(len, runner.batches)) <= 3

    asyncio.run(scenario())


def test_an_item_that_fails_harms_no_other() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner()
        async with _engine(runner) as engine:
            first = await _busy(engine, runner)
            texts = ["good", "crash", "bug", "bad", "fine"]
            futures = [engine.submit(Item(text)) for text in texts]
            futures.append(engine.submit(Item("x", {"tims": 1})))
            runner.gate.set()
            await first
            good, crash, bug, bad, fine, parameter = await asyncio.gather(*futures, return_exceptions=True)
        assert good == "GOOD"
        assert fine == "FINE"
        assert isinstance(crash, InferenceFailed)
        assert isinstance(bug, InferenceFailed)
        assert isinstance(bad, InvalidRequest)
        assert isinstance(parameter, InvalidRequest)
        assert "crashed" not in crash.message, "the client sees no internals"

    asyncio.run(scenario())


def test_an_item_whose_client_has_left_is_not_computed() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner(max_rows=1)
        async with _engine(runner) as engine:
            first = await _busy(engine, runner)
            gone, stays = engine.submit(Item("gone")), engine.submit(Item("stays"))
            gone.cancel()
            runner.gate.set()
            await first
            assert await stays == "STAYS"
        assert runner.batches == [["first"], ["stays"]]

    asyncio.run(scenario())


def test_a_full_queue_refuses_with_a_time_to_retry_and_accepts_items_later() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner()
        async with _engine(runner, max_queue_size=2) as engine:
            first = await _busy(engine, runner)
            second = engine.submit(Item("second"))
            with pytest.raises(Overloaded) as refused:
                engine.submit(Item("third"))
            assert refused.value.retry_after is not None
            assert 1 <= refused.value.retry_after <= 60
            runner.gate.set()
            assert [await first, await second] == ["FIRST", "SECOND"]
            assert await engine.submit(Item("fourth")) == "FOURTH"

    asyncio.run(scenario())


def test_nesting_beyond_the_recursion_limit_is_the_clients_mistake() -> None:
    async def scenario() -> None:
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        async with _engine(ScriptedRunner()) as engine:
            with pytest.raises(InvalidRequest, match="nested too deeply"):
                await engine.submit(Item(deep))

    asyncio.run(scenario())


@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_a_batch_without_enough_memory_is_split_until_it_fits(rows_at_once: int) -> None:
    async def scenario() -> None:
        runner = ScriptedRunner(max_rows=16)
        runner.memory_for = rows_at_once
        async with _engine(runner) as engine:
            texts = [f"text {i}" for i in range(16)]
            assert await asyncio.gather(*(engine.submit(Item(text)) for text in texts)) == [t.upper() for t in texts]
        # Halves of halves: no more passes than a tree has nodes.
        assert len(runner.batches) <= 2 * 16

    asyncio.run(scenario())


def test_an_item_without_enough_memory_may_be_retried_and_the_others_are_answered() -> None:
    async def scenario() -> None:
        runner = ScriptedRunner(max_rows=4)
        runner.memory_for = 0
        async with _engine(runner) as engine:
            with pytest.raises(Overloaded, match="memory") as refused:
                await engine.submit(Item("text"))
            assert refused.value.retry_after is not None
            runner.memory_for = None
            assert await engine.submit(Item("text")) == "TEXT"

    asyncio.run(scenario())
