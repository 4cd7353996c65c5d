"""Promise: items that are too large, alone or together, are refused before using memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
)

from hf_runtime.contract.errors import InvalidRequest, Overloaded, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.batch.engine import BatchEngine
from runners.engines.runner import Runner
from runners.tasks.fill_mask import FillMaskRunner
from runners.tasks.question_answering import QuestionAnsweringRunner
from runners.tasks.token_classification import TokenClassificationRunner
from tests.scripted import ScriptedRunner
from tests.tiny import bert_config, save, wordpiece_tokenizer


@asynccontextmanager
async def _engine(runner: Runner[Any, Any, Any, Any], gate: Any = None) -> AsyncIterator[BatchEngine]:
    with ThreadPoolExecutor(1) as compute:
        engine = BatchEngine(runner, max_queue_size=10_000, compute=compute)
        running = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            if gate is not None:
                gate.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _scripted(**limits: int) -> ScriptedRunner:
    runner = ScriptedRunner()
    runner.settings = runner.settings.model_copy(update=limits)
    return runner


@asynccontextmanager
async def _occupied(runner: ScriptedRunner, first: str) -> AsyncIterator[tuple[BatchEngine, asyncio.Future[Any]]]:
    """Run an engine whose model computes one item until the gate opens."""
    runner.gate.clear()
    async with _engine(runner, runner.gate) as engine:
        answer = engine.submit(Item(first))
        await asyncio.to_thread(runner.entered.wait, 30)
        yield engine, answer


@pytest.mark.parametrize(
    ("limits", "instance", "named"),
    [
        ({"max_queue_rows": 3}, "a,b,c,d", "makes 4 rows, at most 3 may wait for this model (MAX_QUEUE_ROWS)"),
        ({"max_queue_tokens": 9}, "aaaaa,bbbbb", "makes 10 tokens, at most 9 may wait for this model (MAX_QUEUE_TOK"),
    ],
)
def test_an_item_that_is_too_large_by_itself_gets_no_time_to_retry(
    limits: dict[str, int], instance: str, named: str
) -> None:
    async def scenario() -> None:
        async with _engine(_scripted(**limits)) as engine:
            with pytest.raises(InvalidRequest) as refused:
                await engine.submit(Item(instance))
            assert named in refused.value.message
            assert refused.value.retry_after is None
            assert await engine.submit(Item("a,b")) == "A,B"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("limits", "waits", "more"),
    [({"max_queue_rows": 5}, "a,b,c", "a,b,c"), ({"max_queue_tokens": 20}, "a" * 12, "b" * 12)],
    ids=["rows", "tokens"],
)
def test_items_that_are_too_large_together_are_refused_until_some_are_answered(
    limits: dict[str, int], waits: str, more: str
) -> None:
    async def scenario() -> None:
        async with _occupied(_scripted(**limits), waits) as (engine, first):
            with pytest.raises(Overloaded) as refused:
                await engine.submit(Item(more))
            assert refused.value.retry_after is not None
            assert next(iter(limits)).upper() in refused.value.message
            small = engine.submit(Item("c"))  # there is room for it
            engine._runner.gate.set()  # type: ignore[attr-defined]
            assert await first == waits.upper()
            assert await small == "C"
            assert await engine.submit(Item(more)) == more.upper()

    asyncio.run(scenario())


def test_inputs_before_tokenization_are_counted_by_their_size() -> None:
    async def scenario() -> None:
        async with _occupied(_scripted(max_queue_tokens=1000), "first") as (engine, _):
            large = Item({"text": "x" * 400})
            taken = [engine.submit(large) for _ in range(9)]
            with pytest.raises(Overloaded):
                engine.submit(large)
            for future in taken:
                future.cancel()

    asyncio.run(scenario())


def test_cancelled_and_refused_items_free_their_memory() -> None:
    async def scenario() -> None:
        async with _occupied(_scripted(max_queue_rows=4), "first") as (engine, first):
            for _ in range(10):
                left = engine.submit(Item("a,b,c"))
                left.cancel()
                with pytest.raises(InvalidRequest):
                    await engine.submit(Item("bad"))
            engine._runner.gate.set()  # type: ignore[attr-defined]
            await first
            assert (engine._intake.admission.rows, engine._intake.admission.tokens) == (0, 0)

    asyncio.run(scenario())


_HOSTILE: dict[str, tuple[type[Any], Any, Callable[[], Any], dict[str, Any]]] = {
    "question answering": (
        QuestionAnsweringRunner,
        BertForQuestionAnswering,
        lambda: {"question": "Who?", "context": "the " * 1000},
        {"doc_stride": 58},
    ),
    "token classification": (
        TokenClassificationRunner,
        BertForTokenClassification,
        lambda: "the " * 1000,
        {"stride": 61, "aggregation_strategy": "simple"},
    ),
}


@pytest.mark.parametrize("task", list(_HOSTILE))
def test_items_of_a_thousand_windows_each_need_little_memory(tmp_path: Path, task: str) -> None:
    kind, model, instance, parameters = _HOSTILE[task]
    tokenizer = wordpiece_tokenizer(max_length=64)
    folder = save(tmp_path, model, bert_config(tokenizer), tokenizer)
    runner = kind(ModelSettings(storage_uri=str(folder), task=task.replace(" ", "-")))
    runner.load()
    runner.predict([Item(instance(), {**parameters, next(iter(parameters)): 5})])

    async def scenario() -> tuple[list[Any], int]:
        with ThreadPoolExecutor(1) as compute:
            engine = BatchEngine(runner, max_queue_size=10_000, compute=compute)
            preparing = asyncio.create_task(engine._intake.run(engine._enqueue_rows))  # and nothing is computed
            gc.collect()
            tracemalloc.start()
            futures = [engine.submit(Item(instance(), parameters)) for _ in range(256)]
            last = engine.submit(Item(None))
            with pytest.raises(InvalidRequest):  # the last item is prepared
                await last
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            outcomes = [future.exception() if future.done() else None for future in futures]
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
            return outcomes, peak

    outcomes, peak = asyncio.run(scenario())
    assert outcomes.count(None) in range(20, 60)
    assert all(isinstance(outcome, Overloaded | None) for outcome in outcomes)
    assert peak < 32 * 2**20, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize(
    ("text", "parameters", "named"),
    [
        ("[MASK] " * 20, {"top_k": 20}, "parameters.top_k: 20 for each of 20 masks are 400 answers, at most 100"),
        ("[MASK] " * 40, {"top_k": 1}, "text: has 40 masks, at most 30 are computed (MAX_ROWS_PER_INSTANCE)"),
        ("[MASK] " * 20, {"top_k": 10**9, "targets": ["the", "a"]}, None),
    ],
)
def test_masks_and_their_targets_are_bounded_together(
    tmp_path: Path, text: str, parameters: dict[str, Any], named: str | None
) -> None:
    tokenizer = wordpiece_tokenizer(max_length=64)
    folder = save(tmp_path, BertForMaskedLM, bert_config(tokenizer), tokenizer)
    limits = {"MAX_ROWS_PER_INSTANCE": 30, "MAX_ANSWERS_PER_INSTANCE": 100}
    runner = FillMaskRunner(ModelSettings(storage_uri=str(folder), task="fill-mask", **limits))  # type: ignore[arg-type]
    runner.load()
    (answer,) = runner.predict([Item(text, parameters)])
    if named is None:
        assert not isinstance(answer, ServingError)
    else:
        assert isinstance(answer, InvalidRequest)
        assert named in answer.message
