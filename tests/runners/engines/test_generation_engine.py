"""Promise: the engine streams deltas in order, reports each end, and isolates errors."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hf_runtime.contract.errors import InferenceFailed, InvalidRequest, Overloaded
from hf_runtime.contract.item import Item
from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.settings import ModelSettings
from runners.engines.generate import decoder_loop
from runners.engines.generate.transformers_generator import TransformersGenerator
from runners.engines.generation_engine import GenerationEngine
from runners.tasks.text2text_generation import Text2TextGenerationRunner
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.checkpoints import text2text_generation
from tests.generators import generator_of
from tests.tiny import CORPUS, gpt2_model, llama_model

GREEDY = {"ignore_eos": True, "return_full_text": False}


class Listener:
    """Listener that records its calls in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.news = asyncio.Event()

    def on_accepted(self) -> None:
        self._add("accepted")

    def on_delta(self, value: Any) -> None:
        self._add(value)

    def _add(self, value: Any) -> None:
        self.told.append(value)
        self.news.set()

    async def wait_deltas(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.told) <= count:
                self.news.clear()
                await self.news.wait()

    @property
    def text(self) -> str:
        assert self.told[0] == "accepted"
        return "".join(delta["generated_text"] for delta in self.told[1:])


class Counts(EngineObserver):
    def __init__(self) -> None:
        self.first: list[float] = []
        self.next: list[float] = []
        self.waits: list[float] = []
        self.queue: list[int] = []
        self.prompts: list[int] = []
        self.tokens = 0
        self.steps: list[tuple[int, int, int]] = []
        self.ran: list[int] = []
        self.idle = threading.Event()

    def record_waiting(self, items: int) -> None:
        self.queue.append(items)

    def record_queue_wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def record_batch(self, rows: int, tokens: int, padding: int) -> None:
        self.steps.append((rows, tokens, padding))

    def record_prefill(self, tokens: int, cached: int = 0) -> None:
        self.prompts.append(tokens)

    def record_first_token(self, seconds: float) -> None:
        self.first.append(seconds)

    def record_next_token(self, seconds: float) -> None:
        self.next.append(seconds)

    def record_generated(self, tokens: int) -> None:
        self.tokens += tokens

    def record_running(self, sequences: int, cache_usage: float) -> None:
        assert 0 <= cache_usage <= 1
        self.ran.append(sequences)
        (self.idle.set if sequences == 0 else self.idle.clear)()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TextGenerationRunner:
    folder = llama_model(tmp_path_factory.mktemp("llama"))
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation"))
    runner.load()
    return runner


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Text2TextGenerationRunner:
    folder: Path = text2text_generation(tmp_path_factory.mktemp("t5"))
    runner = Text2TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text2text-generation"))
    runner.load()
    return runner


@asynccontextmanager
async def _engine(
    runner: Any, max_queue_size: int = 1000, observer: EngineObserver | None = None
) -> AsyncIterator[GenerationEngine]:
    with ThreadPoolExecutor(1) as compute:
        engine = GenerationEngine(runner, max_queue_size=max_queue_size, compute=compute, observer=observer)
        running = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            compute.shutdown()  # the running step ends
            for sequence in generator_of(runner).decoder.abandon():
                sequence.cancelled = True


def test_all_threads_compute_except_on_busy_cores(llama: TextGenerationRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    now, threads = [0.0], [0]

    def set_thread_count(number: int) -> None:
        threads.append(number)
        now[0] += 9.0 if number == 4 else 1.0  # duration of the step that follows

    monkeypatch.setattr(TransformersGenerator, "_threads", 4)
    monkeypatch.setattr(decoder_loop, "set_thread_count", set_thread_count)
    monkeypatch.setattr(decoder_loop, "monotonic", lambda: now[0])

    async def scenario() -> None:
        async with _engine(llama) as engine:
            await engine.submit(Item(CORPUS[0], {**GREEDY, "max_new_tokens": 20}))

    asyncio.run(scenario())
    assert threads[1:7] == [4, 4, 4, 1, 1, 1]
    assert set(threads[7:15]) == {1}


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_deltas_join_to_the_whole_answer_and_the_last_has_reason_and_usage(
    kind: str, request: pytest.FixtureRequest
) -> None:
    runner = request.getfixturevalue(kind)
    items = [Item(text, {"max_new_tokens": 5 + 3 * i, "return_full_text": False}) for i, text in enumerate(CORPUS)]
    expected = [answer[0]["generated_text"] for answer in runner.predict(items)]

    async def scenario() -> list[Listener]:
        counts = Counts()
        async with _engine(runner, observer=counts) as engine:
            listeners = [Listener() for _ in items]
            ends = [engine.submit(item, listener) for item, listener in zip(items, listeners, strict=True)]
            assert await asyncio.gather(*ends) == [None] * len(items)
            complete = await asyncio.gather(*(engine.submit(item) for item in items))
            assert [answer[0]["generated_text"] for answer in complete] == expected
            assert await asyncio.to_thread(counts.idle.wait, 30)
            assert counts.queue[-1] == 0
            assert max(counts.queue) <= len(items)
        assert len(counts.first) == len(counts.waits) == 2 * len(items)
        assert all(seconds > 0 for seconds in counts.first + counts.next + counts.waits)
        lengths = [len(runner.prepare_item(item).rows[0].inputs.input_ids) for item in items]
        assert sorted(counts.prompts) == sorted(2 * lengths)
        assert all(rows >= 1 and tokens >= rows and padding >= 0 for rows, tokens, padding in counts.steps)
        assert max(counts.ran) > 1
        return listeners

    listeners = asyncio.run(scenario())
    assert [listener.text for listener in listeners] == expected
    for item, listener in zip(items, listeners, strict=True):
        *deltas, last = listener.told[1:]
        assert not any("finish_reason" in delta for delta in deltas)
        assert last["finish_reason"] in ("stop", "length")
        assert last["prompt_tokens"] > 0
        assert last["generated_tokens"] <= item.parameters["max_new_tokens"]
        assert (last["finish_reason"] == "length") == (last["generated_tokens"] == item.parameters["max_new_tokens"])


def test_a_stream_begins_with_the_prompt_on_request_and_numbers_several_sequences(
    llama: TextGenerationRunner,
) -> None:
    async def scenario() -> Listener:
        async with _engine(llama) as engine:
            listener = Listener()
            options = {"do_sample": True, "seed": 1, "num_return_sequences": 2, "return_full_text": True}
            await engine.submit(Item("Paris", {**options, "max_new_tokens": 6}), listener)
            return listener

    told = asyncio.run(scenario()).told[1:]
    for number in range(2):
        text = "".join(delta["generated_text"] for delta in told if delta["sequence"] == number)
        assert text.startswith("Paris")
    assert [delta["sequence"] for delta in told if "finish_reason" in delta] in ([0, 1], [1, 0])


def test_two_hundred_cancelled_items_make_room_immediately(llama: TextGenerationRunner) -> None:
    async def scenario() -> None:
        async with _engine(llama) as engine:
            listeners = [Listener() for _ in range(200)]
            ends = [
                engine.submit(Item(CORPUS[i % 5], {**GREEDY, "max_new_tokens": 90, "seed": i}), listener)
                for i, listener in enumerate(listeners)
            ]
            await listeners[0].wait_deltas(3)
            for end in ends:
                end.cancel()
            steps = 0
            step = generator_of(llama).decoder.step

            def counted() -> None:
                nonlocal steps
                steps += 1
                step()

            generator_of(llama).decoder.step = counted  # type: ignore[method-assign]
            try:
                fresh = Listener()
                end = engine.submit(Item("The", {**GREEDY, "max_new_tokens": 3}), fresh)
                await end
            finally:
                generator_of(llama).decoder.step = step  # type: ignore[method-assign]
            assert steps <= 3 + 2
            told = [len(listener.told) for listener in listeners]
            assert max(told) < 90

    asyncio.run(scenario())


def test_a_refused_item_harms_no_other_and_is_never_accepted(llama: TextGenerationRunner) -> None:
    async def scenario() -> None:
        async with _engine(llama) as engine:
            refused = Listener()
            ends = [
                engine.submit(Item("The", {"max_new_tokens": 4}), Listener()),
                engine.submit(Item("The", {"max_new_tokens": -4}), refused),
                engine.submit(Item("The", {"max_new_tokens": 4})),
            ]
            results: list[Any] = await asyncio.gather(*ends, return_exceptions=True)
            assert results[0] is None
            assert isinstance(results[1], InvalidRequest)
            assert len(results[2]) == 1
            assert refused.told == []

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_error_within_a_stream_ends_it_and_the_others_continue(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = request.getfixturevalue(kind)
    expected = runner.predict([Item("The", {"max_new_tokens": 8, "return_full_text": False})])[0][0]["generated_text"]
    decode = generator_of(runner).model.tokenizer.decode

    def failing(tokens: list[int], **options: Any) -> str:
        if len(tokens) > len(marked) and tokens[: len(marked)] == marked:
            raise RuntimeError("no such text")
        return str(decode(tokens, **options))

    async def scenario() -> None:
        async with _engine(runner) as engine:
            good, bad = Listener(), Listener()
            ends = [
                engine.submit(Item("The", {"max_new_tokens": 8}), good),
                engine.submit(Item(CORPUS[1], {"max_new_tokens": 20}), bad),
            ]
            results = await asyncio.gather(*ends, return_exceptions=True)
            assert results[0] is None
            assert isinstance(results[1], InferenceFailed)
            assert good.text == expected
            assert bad.told[0] == "accepted"
            assert not any("finish_reason" in delta for delta in bad.told[1:])

    if kind == "llama":
        marked = generator_of(runner).pretrained.tokenizer(CORPUS[1])["input_ids"][-8:]
    else:
        (written,) = runner.forward(runner.prepare_item(Item(CORPUS[1], {"max_new_tokens": 20})).rows)
        marked = written.tokens[:2]
        (other,) = runner.forward(runner.prepare_item(Item("The", {"max_new_tokens": 8})).rows)
        assert other.tokens[:2] != marked
    monkeypatch.setattr(generator_of(runner).model.tokenizer, "decode", failing)
    asyncio.run(scenario())


def test_more_than_the_queue_holds_is_refused_with_a_time_to_retry(llama: TextGenerationRunner) -> None:
    async def scenario() -> None:
        async with _engine(llama, max_queue_size=2) as engine:
            ends = [engine.submit(Item("The", {"max_new_tokens": 5})) for _ in range(2)]
            with pytest.raises(Overloaded) as refused:
                engine.submit(Item("The"))
            assert refused.value.retry_after is not None
            await asyncio.gather(*ends)
            assert await engine.submit(Item("The", {"max_new_tokens": 1}))

    asyncio.run(scenario())


def test_an_answer_that_needs_more_memory_than_exists_is_refused_with_all_lengths(tmp_path: Path) -> None:
    folder = llama_model(tmp_path)
    settings = ModelSettings(storage_uri=str(folder), task="text-generation", kv_cache_memory=1)
    runner = TextGenerationRunner(settings)
    runner.load()
    memory = generator_of(runner).decoder.memory
    assert memory is not None
    generator_of(runner).decoder._cache.max_length = 50  # type: ignore[attr-defined]
    (refused,) = runner.predict([Item("The", {"max_new_tokens": 60})])
    assert isinstance(refused, InvalidRequest)
    assert "memory for 50" in refused.message
    assert "KV_CACHE_MEMORY" in refused.message


def test_a_listener_that_fails_ends_only_its_own_stream(llama: TextGenerationRunner) -> None:
    class Failing(Listener):
        def __init__(self, at: str) -> None:
            super().__init__()
            self._at = at

        def on_accepted(self) -> None:
            if self._at == "accepted":
                raise RuntimeError("gone")

        def on_delta(self, value: Any) -> None:
            raise RuntimeError("gone")

    async def scenario() -> None:
        async with _engine(llama) as engine:
            good = Listener()
            ends = [
                engine.submit(Item("The", {"max_new_tokens": 4}), Failing("accepted")),
                engine.submit(Item("The", {"max_new_tokens": 4}), Failing("delta")),
                engine.submit(Item("The", {"max_new_tokens": 4}), good),
            ]
            results = await asyncio.gather(*ends, return_exceptions=True)
            assert [type(result) for result in results] == [InferenceFailed, InferenceFailed, type(None)]
            assert good.text
            assert await engine.submit(Item("The", {"max_new_tokens": 1}))

    asyncio.run(scenario())


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_counted_as_reported_to_clients_also_with_beams(tmp_path: Path, beams: int) -> None:
    folder = text2text_generation(tmp_path / "t5")
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_beams": beams}))
    runner = Text2TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text2text-generation"))
    runner.load()

    async def scenario() -> tuple[int, int]:
        counts = Counts()
        async with _engine(runner, observer=counts) as engine:
            parameters = {"max_new_tokens": 8, "min_new_tokens": 8, "details": True}
            answer = await engine.submit(Item("Paris", parameters))
        return counts.tokens, answer[0]["generated_tokens"]

    assert asyncio.run(scenario()) == (8, 8)


def _searching(make: Callable[[Path], Path], folder: Path) -> Any:
    """Return a runner whose model searches with beams for the maximal time."""
    checkpoint = make(folder)
    config = checkpoint / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_beams": 3, "early_stopping": False}))
    runner: Any
    if make is text2text_generation:
        runner = Text2TextGenerationRunner(ModelSettings(storage_uri=str(checkpoint), task="text2text-generation"))
    else:
        runner = TextGenerationRunner(ModelSettings(storage_uri=str(checkpoint), task="text-generation"))
    runner.load()
    return runner


@pytest.mark.parametrize("make", [text2text_generation, gpt2_model])
def test_a_search_ends_within_a_step_once_all_its_clients_have_left(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    runner = _searching(make, tmp_path)
    parameters = {"max_new_tokens": 60, "min_new_tokens": 60}
    steps: list[int] = []

    async def scenario(leaving: Collection[int]) -> tuple[list[Any], int]:
        """Return the answers to two items, and the passes after some clients left in the fifth."""
        loop, left = asyncio.get_running_loop(), threading.Event()
        async with _engine(runner) as engine:
            futures: list[asyncio.Future[Any]] = []

            def leave() -> None:
                for number in leaving:
                    futures[number].cancel()
                loop.call_soon(left.set)  # after the engine has processed it

            def watch(*_: Any) -> None:
                steps.append(len(steps))
                if len(steps) == 5:
                    loop.call_soon_threadsafe(leave)
                    assert left.wait(30)

            hook = generator_of(runner).model.model.register_forward_pre_hook(watch)
            steps.clear()
            futures += [engine.submit(Item("Paris is", {**parameters, "num_return_sequences": n})) for n in (2, 2)]
            answers = await asyncio.gather(*futures, return_exceptions=True)
            if len(leaving) == 2:
                async with asyncio.timeout(30):
                    await loop.run_in_executor(engine._tokens._compute, int)  # type: ignore[attr-defined]  # the search has ended
            hook.remove()
            return answers, len(steps) - 5

    answers, more = asyncio.run(scenario([0, 1]))
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 2
    assert more <= 1
    whole, many = asyncio.run(scenario([]))
    (gone, stays), as_many = asyncio.run(scenario([0]))
    assert isinstance(gone, asyncio.CancelledError)
    assert stays == whole[1]
    assert as_many == many > 50
