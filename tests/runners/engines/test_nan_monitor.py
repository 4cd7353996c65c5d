"""Promise: a model that computes only NaN is reported once, and no other model is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_runtime.contract.errors import InferenceFailed
from hf_runtime.contract.item import Item
from hf_runtime.observability.engine_observer import EngineObserver
from hf_runtime.settings import ModelSettings
from runners.engines.batch.engine import BatchEngine
from runners.engines.generation_engine import GenerationEngine
from runners.engines.nan_monitor import NanMonitor, only_nan
from runners.engines.rows import Row
from runners.tasks.text2text_generation import Text2TextGenerationRunner
from runners.tasks.text_generation import TextGenerationRunner
from tests.e2e.checkpoints import text2text_generation
from tests.generators import generator_of
from tests.scripted import ScriptedRunner
from tests.tiny import llama_model

NAN = float("nan")


class _RecordingObserver(EngineObserver):
    def __init__(self) -> None:
        self.only: list[bool] = []

    def record_only_nan(self, only: bool) -> None:
        self.only.append(only)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "nothing but NaN" in record.getMessage()]


@pytest.mark.parametrize(
    ("outputs", "only"),
    [
        ([np.array([NAN, NAN]), np.array([NAN])], True),
        ([np.full((2, 3), NAN, np.float32)], True),
        ([np.array([NAN, 1.0])], False),
        ([np.array([1.0, NAN])], False),
        ([np.array([NAN, NAN]), np.array([0.0])], False),
        ([np.array([np.inf])], False),
        # A failed batch has no outputs.
        ([InferenceFailed("x"), np.array([NAN])], True),
        ([InferenceFailed("x")], None),
        (["text", {"score": NAN}, np.array([1]), np.array([])], None),
        ([], None),
    ],
)
def test_a_batch_is_nan_if_all_of_its_values_are(outputs: list[Any], only: bool | None) -> None:
    assert only_nan(outputs) is only


def test_consecutive_nan_batches_and_their_end_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    told = _RecordingObserver()
    watch = NanMonitor("x", told)
    for only in (True, True, False, True, None, True):
        watch.record(only)
    assert (told.only, _warnings(caplog)) == ([], [])
    for _ in range(10):
        watch.record(True)
    assert told.only == [True]
    watch.record(False)
    assert told.only == [True, False]
    for _ in range(10):
        watch.record(True)
    assert told.only == [True, False, True]
    [warning] = _warnings(caplog)
    assert "model x" in warning


class _NanRunner(ScriptedRunner):
    """Runner whose outputs are only NaN, except for `fine`; `half` has some."""

    def forward(self, rows: Sequence[Row[str]]) -> Sequence[Any]:
        numbers = {"fine": [1.0, 2.0], "half": [NAN, 2.0]}
        return [np.array(numbers.get(row.inputs, [NAN, NAN]), np.float32) for row in rows]

    def finish(self, job: Any, outputs: Sequence[Any]) -> Any:
        return outputs


@pytest.mark.parametrize(("text", "told"), [("bad,bad", [True]), ("nan", [True]), ("half", []), ("nan,fine", [])])
def test_the_batch_engine_reports_nan(text: str, told: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    observer = _RecordingObserver()

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as compute:
            engine = BatchEngine(_NanRunner(), max_queue_size=100, compute=compute, observer=observer)
            running = asyncio.create_task(engine.run())
            for _ in range(6):
                await engine.submit(Item(text))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert observer.only == told
    assert len(_warnings(caplog)) == len(told)


@pytest.mark.parametrize("kind", ["steps", "batches that start together"])
def test_the_generation_engine_reports_nan(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    observer = _RecordingObserver()
    runner: Any
    if kind == "steps":
        settings = ModelSettings(storage_uri=str(llama_model(tmp_path)), task="text-generation", acceleration=False)
        runner = TextGenerationRunner(settings)
    else:
        folder: Path = text2text_generation(tmp_path / "t5")
        runner = Text2TextGenerationRunner(
            ModelSettings(storage_uri=str(folder), task="text2text-generation", acceleration=False)
        )
    runner.load()

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as compute:
            engine = GenerationEngine(runner, max_queue_size=100, compute=compute, observer=observer)
            running = asyncio.create_task(engine.run())
            await engine.submit(Item("Hello", {"max_new_tokens": 3}))
            assert observer.only == []
            with torch.no_grad():
                for weights in generator_of(runner).model.model.parameters():
                    weights.fill_(NAN)
            for _ in range(6):
                with pytest.raises(InferenceFailed, match="overflowed"):
                    await engine.submit(Item("Hello again", {"max_new_tokens": 3}))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert observer.only == [True]
    assert len(_warnings(caplog)) == 1
