"""Promise: on a GPU, CUDA graphs generate what the plain model does, or are not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate.incremental_model import IncrementalModel
from runners.kernels.fallbacks import Fallbacks, Optimization
from runners.tasks.text_generation import TextGenerationRunner
from tests.generators import generator_of
from tests.tiny import CORPUS, llama_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ITEMS = [Item(text[: 9 + 11 * i], {"max_new_tokens": 30 - 4 * i}) for i, text in enumerate(CORPUS)]


def _runner(folder: Path, **options: Any) -> TextGenerationRunner:
    settings = ModelSettings(storage_uri=str(folder), task="text-generation", calibration_seconds=0, **options)
    runner = TextGenerationRunner(settings)
    runner.load()
    return runner


def _incremental_model(runner: TextGenerationRunner) -> IncrementalModel:
    decoder: Any = generator_of(runner).decoder
    stepping: IncrementalModel = decoder._incremental_model
    return stepping


def test_graphs_generate_the_text_of_the_plain_model(tmp_path: Path) -> None:
    llama_model(tmp_path)
    plain, captured = _runner(tmp_path, acceleration=False), _runner(tmp_path)
    assert not _incremental_model(plain).has_graphs
    assert _incremental_model(captured).has_graphs
    assert captured.predict(ITEMS) == plain.predict(ITEMS)


def test_a_model_that_reads_values_back_runs_without_graphs(tmp_path: Path) -> None:
    llama_model(tmp_path)
    runner = _runner(tmp_path, acceleration=False)
    expected = runner.predict(ITEMS)
    model: Any = generator_of(runner).model.model

    def look(_: Any, inputs: Any) -> None:
        assert inputs[0].sum().item() != 1

    model.get_output_embeddings().register_forward_pre_hook(look)
    model.set_attn_implementation("sdpa")
    fallbacks = Fallbacks("test")
    assert not IncrementalModel(
        generator_of(runner).model, fallbacks, kernels=generator_of(runner).model.kernels, graphs=True
    ).has_graphs
    assert fallbacks.failed == [Optimization.GRAPHS]
    assert runner.predict(ITEMS) == expected
