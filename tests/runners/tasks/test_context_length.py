"""Promise: an input that is too long for its model is an error of its own kind, with both lengths, on every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_runtime.contract.errors import ERROR_BY_CODE, HTTP_STATUS, ContextLengthExceeded, InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings, Task
from runners.engines.runner import Runner
from runners.models.pretrained import prepare_torch
from runners.registry import create_runner
from tests.e2e.checkpoints import feature_extraction, text2text_generation, text_classification
from tests.tiny import llama_model

MODELS: dict[str, tuple[Task, Callable[[Path], Path], Any]] = {
    "completion": ("text-generation", lambda folder: llama_model(folder, context=64), "word " * 500),
    "chat": (
        "text-generation",
        lambda folder: llama_model(folder, context=64),
        [{"role": "user", "content": "word " * 500}],
    ),
    "token ids": ("text-generation", lambda folder: llama_model(folder, context=64), [5] * 100),
    "source": ("text2text-generation", text2text_generation, "word " * 500),
    "text to embed": ("feature-extraction", feature_extraction, "the " * 200),
    "token ids to embed": ("feature-extraction", feature_extraction, [5] * 100),
    "text to classify": ("text-classification", text_classification, "the " * 200),
}


@pytest.fixture(params=MODELS, ids=str)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Runner[Any, Any, Any, Any], Any]:
    task, make, instance = MODELS[request.param]
    settings = ModelSettings(storage_uri=str(make(tmp_path / "model")), task=task, calibration_seconds=0)
    prepare_torch(settings)
    runner = create_runner(settings, None)
    runner.load()
    return runner, instance


def test_too_long_an_input_is_a_kind_of_error_with_both_lengths(served: tuple[Runner[Any, Any, Any, Any], Any]) -> None:
    runner, instance = served
    (error,) = runner.predict([Item(instance, {})])
    assert type(error) is ContextLengthExceeded
    limit = runner.context_length
    assert limit is not None
    assert f"this model's maximum context length is {limit} tokens" in error.message
    if isinstance(instance, list) and isinstance(instance[0], int):
        assert f"has {len(instance)} tokens" in error.message
    (cut,) = runner.predict([Item(instance, {"truncation": True})])
    assert not isinstance(cut, Exception)


def test_the_kind_travels_by_its_code() -> None:
    assert ERROR_BY_CODE["context_length_exceeded"] is ContextLengthExceeded
    assert HTTP_STATUS[ContextLengthExceeded] == 400
    named = ContextLengthExceeded("too long").with_path("messages").with_known_field({"messages": None})
    assert (type(named), named.field) == (ContextLengthExceeded, "messages")
    assert isinstance(named, InvalidRequest)


def test_memory_for_less_than_the_context_is_the_length_that_counts(tmp_path: Path) -> None:
    settings = ModelSettings(
        storage_uri=str(llama_model(tmp_path, context=4096)), task="text-generation", kv_cache_memory=1
    )
    runner = create_runner(settings, None)
    runner.load()
    assert runner.context_length is not None
    assert runner.context_length < 4096
    (error,) = runner.predict([Item("a", {"max_new_tokens": 4000})])
    assert type(error) is ContextLengthExceeded
    assert f"maximum context length is {runner.context_length} tokens" in error.message
