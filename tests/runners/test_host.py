"""Promise: models load, unload and load again in a process; no item meets half a model."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, LoadError, ModelNotReady
from hf_runtime.contract.item import Item
from hf_runtime.observability.model_metrics import ModelMetrics
from hf_runtime.rpc.messages import ModelState, ModelStatus
from hf_runtime.settings import ModelSettings
from runners.host import ModelHost
from runners.kernels.fallbacks import Optimization
from runners.retry_schedule import retry_delays
from runners.storage.source import UnreachableError
from tests.scripted import ScriptedRunner
from tests.tiny import llama_model


class Storage:
    """Storage of scripted runners, which counts them, may fail, and knows the living ones."""

    def __init__(self) -> None:
        self.made: weakref.WeakSet[ScriptedRunner] = weakref.WeakSet()
        self.loads = 0
        self.broken: Callable[[], Exception] | None = None
        self.gate = threading.Event()
        self.gate.set()

    def runner(self, _: ModelSettings, compiler: None) -> ScriptedRunner:
        storage = self

        class Loaded(ScriptedRunner):
            def load(self) -> None:
                storage.loads += 1
                assert storage.gate.wait(30), "the test forgot to open the gate"
                if storage.broken is not None:
                    raise storage.broken()

        runner = Loaded()
        self.made.add(runner)
        return runner

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make a host load its runners from here."""
        monkeypatch.setattr("runners.start.create_runner", self.runner)
        monkeypatch.setattr("runners.host.preload_model", lambda _: None)

    @property
    def living(self) -> list[ScriptedRunner]:
        gc.collect()
        return list(self.made)


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    storage = Storage()
    storage.install(monkeypatch)
    return storage


async def _until(host: ModelHost, status: ModelStatus) -> None:
    async with asyncio.timeout(60):
        async for state in host.states():
            if state.status == status:
                return


@asynccontextmanager
async def _hosting(
    settings: ModelSettings | None = None, ended: list[ModelState] | None = None
) -> AsyncIterator[ModelHost]:
    """Run a host; add its state to `ended` each time that it wants its process to end."""
    ends = [] if ended is None else ended
    settings = settings or ModelSettings(storage_uri="nowhere", task="text-classification", model_name="x")
    host = ModelHost(settings, on_broken=lambda: ends.append(host.state))
    running = asyncio.create_task(host.run())
    try:
        yield host
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _scenario(steps: Callable[[ModelHost], Awaitable[None]], first: ModelStatus = "ready") -> None:
    async def scenario() -> None:
        async with _hosting() as host:
            await _until(host, first)
            async with asyncio.timeout(60):
                await steps(host)

    asyncio.run(scenario())


def test_an_unloaded_model_is_freed_and_answers_again_once_loaded(storage: Storage) -> None:
    async def steps(host: ModelHost) -> None:
        for loads in range(1, 4):
            assert await host.submit("a", {}) == "A"
            assert (storage.loads, len(storage.living)) == (loads, 1)
            await host.unload()
            assert host.state == ModelState("unloaded", "unloaded")
            assert storage.living == []
            with pytest.raises(ModelNotReady, match="It was unloaded") as refused:
                host.submit("a", {})
            assert refused.value.retry_after is None
            await host.load()
            assert host.state.status == "ready"

    _scenario(steps)


def test_an_unload_finishes_running_items_and_refuses_later_ones(storage: Storage) -> None:
    async def steps(host: ModelHost) -> None:
        (runner,) = storage.living
        runner.gate.clear()
        answers = [host.submit(text, {}) for text in ("a", "b,c")]
        unloaded = host.unload()
        await _until(host, "unloading")
        with pytest.raises(ModelNotReady, match="It was unloaded"):
            host.submit("late", {})
        assert not unloaded.done()
        runner.gate.set()
        assert await asyncio.gather(*answers) == ["A", "B,C"]
        await unloaded

    _scenario(steps)


def test_a_client_that_leaves_does_not_delay_an_unload(storage: Storage) -> None:
    async def steps(host: ModelHost) -> None:
        (runner,) = storage.living
        runner.gate.clear()
        answer = host.submit("a", {})
        unloaded = host.unload()
        await _until(host, "unloading")
        answer.cancel()
        runner.gate.set()
        await unloaded

    _scenario(steps)


def test_repeated_loads_and_unloads_change_nothing(storage: Storage) -> None:
    async def steps(host: ModelHost) -> None:
        await host.load()
        assert storage.loads == 1
        await host.unload()
        await host.unload()
        assert host.state.status == "unloaded"

    _scenario(steps)


def test_concurrent_loads_and_unloads_run_in_order(storage: Storage) -> None:
    async def steps(host: ModelHost) -> None:
        steps = [host.unload(), host.load(), host.load(), host.unload(), host.unload(), host.load()]
        steps[1].cancel()  # the caller has left; later callers still find the whole model
        await asyncio.gather(*steps, return_exceptions=True)
        assert storage.loads == 3
        assert await host.submit("a", {}) == "A"
        await asyncio.gather(host.load(), host.unload())
        assert host.state.status == "unloaded"
        assert storage.living == []

    _scenario(steps)


def test_an_unload_during_a_load_waits_for_it(storage: Storage) -> None:
    storage.gate.clear()

    async def steps(host: ModelHost) -> None:
        unloaded = host.unload()
        with pytest.raises(ModelNotReady) as refused:
            host.submit("a", {})
        assert refused.value.retry_after
        storage.gate.set()
        await unloaded
        assert storage.living == []

    _scenario(steps, "loading")


def test_optimizations_that_failed_are_counted(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fallen(ScriptedRunner):
        def load(self) -> None:
            self.fallbacks.report(Optimization.PACK, "no reason")

    monkeypatch.setattr("runners.start.create_runner", lambda *_: Fallen())
    metrics = create_autospec(ModelMetrics, instance=True)

    async def scenario() -> None:
        settings = ModelSettings(storage_uri="nowhere", task="text-classification", model_name="x")
        host = ModelHost(settings, metrics=metrics)
        running = asyncio.create_task(host.run())
        await _until(host, "ready")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    metrics.record_failed_optimizations.assert_called_once_with(Optimization, [Optimization.PACK])


@pytest.mark.parametrize(
    ("kind", "reason"), [(LoadError, "no such file"), (RuntimeError, "RuntimeError: no such file")]
)
def test_a_load_that_fails_keeps_only_its_reason_and_may_be_retried(
    storage: Storage, kind: type[Exception], reason: str
) -> None:
    async def steps(host: ModelHost) -> None:
        assert storage.living == []
        with pytest.raises(ModelNotReady, match=reason):
            await host.load()
        assert host.state.reason is not None
        assert reason in host.state.reason
        storage.broken = None
        await host.load()
        assert await host.submit("a", {}) == "A"

    storage.broken = lambda: kind("no such file")
    _scenario(steps, "failed")


def test_a_model_that_failed_can_be_unloaded(storage: Storage) -> None:
    async def steps(host: ModelHost) -> None:
        await host.unload()
        assert host.state == ModelState("unloaded", "unloaded")

    storage.broken = lambda: LoadError("no such file")
    _scenario(steps, "failed")


def test_an_engine_that_stops_fails_its_items_and_ends_its_process(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping:
        def __init__(self, *_: Any, **__: Any) -> None:
            self._asked = asyncio.Event()

        def submit(self, item: Item, *_: Any) -> asyncio.Future[Any]:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if item.instance == ScriptedRunner.example:
                future.set_result("EXAMPLE")
            else:
                self._asked.set()
            return future

        async def run(self) -> None:
            await self._asked.wait()
            raise RuntimeError("a bug")

    ended: list[ModelState] = []

    async def scenario() -> None:
        async with _hosting(ended=ended) as host:
            await _until(host, "ready")
            with pytest.raises(InferenceFailed, match="the model stopped"):
                await host.submit("a", {})
            await _until(host, "failed")
            with pytest.raises(ModelNotReady, match="It stopped: it stopped, and its runner starts again") as late:
                host.submit("late", {})
            assert late.value.retry_after

    monkeypatch.setattr("runners.host.get_engine_factory", lambda *_: Stopping)
    asyncio.run(scenario())
    assert len(ended) == 1


@pytest.mark.parametrize("company", [(), ("a",), ("a", "b,c", "d")])
def test_a_broken_device_fails_all_items_and_ends_the_process(
    storage: Storage, caplog: pytest.LogCaptureFixture, company: tuple[str, ...]
) -> None:
    ended: list[ModelState] = []

    async def scenario() -> None:
        async with _hosting(ended=ended) as host:
            await _until(host, "ready")
            (runner,) = storage.living
            runner.gate.clear()
            # While the first item blocks the device, no failure is known.
            answers = [host.submit(text, {}) for text in (*company, "break", *company)]
            await asyncio.get_running_loop().run_in_executor(None, runner.entered.wait, 30)
            runner.gate.set()
            results = await asyncio.gather(*answers, return_exceptions=True)
            assert isinstance(results[len(company)], ModelNotReady)
            # Results that were computed before are returned.
            assert all(isinstance(result, ModelNotReady) or str(result).isupper() for result in results)
            assert all(result.retry_after for result in results if isinstance(result, ModelNotReady))
            await _until(host, "failed")
            with pytest.raises(ModelNotReady, match="It stopped: its device failed") as late:
                host.submit("late", {})
            assert late.value.retry_after
            with pytest.raises(ModelNotReady):
                await host.load()  # the load would fail in this process as well.
            assert storage.loads == 1

    asyncio.run(scenario())
    assert [state.status for state in ended] == ["failed"]
    [told] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert "illegal memory access" in told.getMessage()


def test_a_device_that_breaks_during_a_load_ends_the_process_too(storage: Storage) -> None:
    ended: list[ModelState] = []

    async def scenario() -> None:
        async with _hosting(ended=ended) as host:
            await _until(host, "failed")

    storage.broken = lambda: RuntimeError("CUDA error: device-side assert triggered")
    asyncio.run(scenario())
    assert [state.status for state in ended] == ["failed"]


@pytest.mark.parametrize("beams", [1, 2])
def test_a_device_that_breaks_during_generation_ends_the_process_too(tmp_path: Path, beams: int) -> None:
    llama_model(tmp_path)
    config = tmp_path / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_beams": beams}))
    ended: list[ModelState] = []

    async def scenario() -> None:
        settings = ModelSettings(storage_uri=str(tmp_path), task="text-generation", torch_threads=1)
        async with _hosting(settings, ended) as host:
            await _until(host, "ready")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("torch.Tensor.argmax", _fail)
                patch.setattr("torch.Tensor.tolist", _fail)
                waiting = [host.submit("Hello", {"max_new_tokens": 50}) for _ in range(3)]
                for answer in waiting:
                    with pytest.raises(ModelNotReady) as refused:
                        await answer
                    assert refused.value.retry_after
                await _until(host, "failed")

    asyncio.run(scenario())
    assert [state.status for state in ended] == ["failed"]


def _fail(*_: Any, **__: Any) -> None:
    """Raise the error of any call on a broken device."""
    raise RuntimeError("CUDA error: unspecified launch failure")


class Clock:
    """Clock whose pauses end when a test says so, and which reports each as it begins."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self.left = 0
        self._passed = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        self._passed.clear()
        try:
            await self._passed.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise

    def tick(self) -> None:
        """End the current pause."""
        self._passed.set()


def _run_with_retries(steps: Callable[[ModelHost, Clock], Awaitable[None]]) -> None:
    """Run a scenario in which a model failed at first, with pauses of 1, 2, 3 … seconds."""

    async def scenario() -> None:
        clock = Clock()
        settings = ModelSettings(storage_uri="nowhere", task="text-classification", model_name="x")
        host = ModelHost(settings, retry_delays=lambda: iter(map(float, count(1))), sleep=clock.sleep)
        running = asyncio.create_task(host.run())
        try:
            await _until(host, "failed")
            async with asyncio.timeout(60):
                await steps(host, clock)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_model_with_an_unreachable_source_is_retried_until_it_is_ready(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps(host: ModelHost, clock: Clock) -> None:
        for tries in (1, 2, 3):
            assert await clock.asked.get() == tries
            assert storage.loads == tries
            assert host.state == ModelState("failed", f"the hub is away. It is tried again in {tries} s.", retried=True)
            assert not host.state.is_final
            assert f"Model x: next attempt to load in {tries} s" in caplog.messages
            with pytest.raises(ModelNotReady, match=rf"It could not be loaded: the hub is away\. .* in {tries} s"):
                host.submit("a", {})
            if tries == 3:
                storage.broken = None
            clock.tick()
            await _until(host, "loading")
            await _until(host, "ready" if tries == 3 else "failed")
        assert await host.submit("a", {}) == "A"
        # When the source is unreachable another time, pauses are short again.
        await host.unload()
        storage.broken = lambda: UnreachableError("the hub is away.")
        with pytest.raises(ModelNotReady):
            await host.load()
        assert await clock.asked.get() == 1

    storage.broken = lambda: UnreachableError("the hub is away.")
    _run_with_retries(steps)


@pytest.mark.parametrize("error", [LoadError("no such model."), RuntimeError("a bug"), InvalidRequest("too long")])
def test_a_permanent_error_is_not_retried(storage: Storage, error: Exception) -> None:
    async def steps(host: ModelHost, clock: Clock) -> None:
        assert host.state.is_final
        with pytest.raises(ModelNotReady):
            await host.load()
        assert clock.asked.empty()
        assert storage.loads == loads + (2 if isinstance(error, RuntimeError) else 1)

    loads = 2 if isinstance(error, RuntimeError) else 1
    storage.broken = lambda: error
    _run_with_retries(steps)


def test_an_error_that_becomes_permanent_ends_the_retries(storage: Storage) -> None:
    async def steps(host: ModelHost, clock: Clock) -> None:
        await clock.asked.get()
        storage.broken = lambda: LoadError("no such model.")
        clock.tick()
        await _until(host, "loading")
        await _until(host, "failed")
        assert host.state == ModelState("failed", "no such model.")
        await asyncio.sleep(0)
        assert clock.asked.empty()

    storage.broken = lambda: UnreachableError("the hub is away.")
    _run_with_retries(steps)


def test_a_load_may_be_requested_during_a_pause(storage: Storage) -> None:
    async def steps(host: ModelHost, clock: Clock) -> None:
        assert await clock.asked.get() == 1
        with pytest.raises(ModelNotReady, match="tried again in 2 s"):
            await host.load()
        assert await clock.asked.get() == 2
        storage.broken = None
        await host.load()
        assert await host.submit("a", {}) == "A"
        assert (clock.left, storage.loads) == (2, 3)
        assert clock.asked.empty()

    storage.broken = lambda: UnreachableError("the hub is away.")
    _run_with_retries(steps)


def test_an_unload_ends_the_retries(storage: Storage) -> None:
    async def steps(host: ModelHost, clock: Clock) -> None:
        await clock.asked.get()
        await host.unload()
        assert host.state == ModelState("unloaded", "unloaded")
        assert clock.left == 1
        clock.tick()
        await asyncio.sleep(0)
        assert (storage.loads, clock.asked.empty()) == (1, True)

    storage.broken = lambda: UnreachableError("the hub is away.")
    _run_with_retries(steps)


def test_pauses_grow_to_five_minutes_and_are_not_the_same_for_all() -> None:
    assert list(islice(retry_delays(lambda: 0.5), 9)) == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert next(retry_delays(lambda: 0.0)) == 3.75
    assert next(retry_delays(lambda: 1.0)) == 6.25


class RecordingListener:
    """Listener that collects the text of a stream."""

    def __init__(self) -> None:
        self.text = ""

    def on_accepted(self) -> None:
        pass

    def on_delta(self, value: Any) -> None:
        self.text += value["generated_text"]


def test_a_stream_ends_before_its_model_unloads_and_repeats_after_a_second_load(tmp_path: Path) -> None:
    llama_model(tmp_path)

    async def scenario() -> None:
        settings = ModelSettings(storage_uri=str(tmp_path), task="text-generation", torch_threads=1)
        async with _hosting(settings) as host:
            parameters = {"max_new_tokens": 50, "ignore_eos": True}
            answers = []
            for _ in range(2):
                await host.load()
                (whole,) = await host.submit("Hello", {**parameters, "return_full_text": False})
                heard = RecordingListener()
                end = host.submit("Hello", parameters, heard)
                await host.unload()
                assert end.done()
                assert heard.text == whole["generated_text"]
                answers.append(heard.text)
            assert answers[0] == answers[1] != ""

    asyncio.run(scenario())
