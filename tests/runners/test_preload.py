"""Promise: what starts before a runner is imported is needed by the model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from transformers import BertModel

from hf_runtime.contract.errors import LoadError
from hf_runtime.contract.tasks import GENERATIVE_TASKS, TASKS
from hf_runtime.settings import ModelSettings, Task
from runners import preload
from runners.kernels.host_cpu import supports_tiles
from runners.preload import preload_model
from runners.registry import create_runner
from runners.tasks.generation import GenerationRunner
from tests.tiny import bert_config, llama_model, save, wordpiece_tokenizer


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "_GPU_DEVICES", ())


def _bert(folder: Path) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(folder, BertModel, bert_config(tokenizer, hidden_size=64, num_attention_heads=4), tokenizer)


@pytest.mark.skipif(not supports_tiles(), reason="this CPU has no AVX2")
@pytest.mark.parametrize(("make", "task"), [(_bert, "feature-extraction"), (llama_model, "text-generation")])
def test_all_kernels_of_a_model_are_compiled_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], task: Task
) -> None:
    run: Callable[..., Any] = subprocess.run
    started: list[Any] = []

    def note(command: Any, **options: Any) -> Any:
        started.append(options["input"])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", note)
    settings = ModelSettings(storage_uri=str(make(tmp_path / "model")), task=task, storage_cache=tmp_path / "cache")
    compiler = preload_model(settings)
    assert compiler is not None
    runner = create_runner(settings, compiler)
    runner.load()
    runner.warm_up()
    assert len(started) == 1, started[1:]


@pytest.mark.parametrize("options", [{"acceleration": False}, {"device_map": "auto"}])
def test_nothing_is_compiled_for_a_model_that_computes_without_kernels(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = _bert(tmp_path / "model")
    assert preload_model(ModelSettings(storage_uri=str(folder), storage_cache=tmp_path / "cache", **options)) is None


def test_nothing_is_compiled_if_a_gpu_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "_GPU_DEVICES", (tmp_path,))
    settings = ModelSettings(storage_uri=str(_bert(tmp_path / "model")), storage_cache=tmp_path / "cache")
    assert preload_model(settings) is None


def test_a_missing_model_is_logged(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="nowhere"):
        preload_model(ModelSettings(storage_uri=str(tmp_path / "nowhere"), task="fill-mask"))


@pytest.mark.parametrize("task", TASKS)
def test_the_tasks_that_generate_are_known_without_their_runners(task: str) -> None:
    runner = import_module(f"runners.tasks.{task.replace('-', '_')}").RUNNER
    assert runner.spec is TASKS[task]
    assert runner.parameters_type is TASKS[task].parameters
    assert issubclass(runner, GenerationRunner) == (task in GENERATIVE_TASKS)
