"""Promise: fused layers compute what the model's own layers do, or are not used."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.fused_layers import FusedLayers
from runners.tasks.text_generation import TextGenerationRunner
from tests.generators import generator_of
from tests.tiny import CONTEXT, CORPUS, DECODER, byte_level_tokenizer, save

FUSED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Llama": (LlamaConfig, LlamaForCausalLM, {}),
    "Llama with biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "Qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "Qwen3, which norms queries and keys": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "Mistral with a window": (MistralConfig, MistralForCausalLM, {"sliding_window": 9}),
}
LEFT: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Granite, which weighs what its layers add": (GraniteConfig, GraniteForCausalLM, {"residual_multiplier": 0.5}),
    "OLMo, whose norms are others": (OlmoConfig, OlmoForCausalLM, {}),
}


def _runner(folder: Path, made: tuple[Any, Any, dict[str, Any]], **options: Any) -> TextGenerationRunner:
    config_class, model_class, changes = made
    tokenizer = byte_level_tokenizer(CONTEXT)
    save(folder, model_class, config_class(vocab_size=len(tokenizer), **{**DECODER, **changes}), tokenizer)
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation", **options))
    runner.load()
    assert isinstance(generator_of(runner).decoder, ContinuousDecoder)
    return runner


def _fused(runner: TextGenerationRunner) -> int:
    """Count the layers that the fused program computes."""
    forwards = [vars(module).get("forward") for module in generator_of(runner).pretrained.model.modules()]
    return sum(isinstance(f, partial) and isinstance(getattr(f.func, "__self__", None), FusedLayers) for f in forwards)


def _texts(runner: TextGenerationRunner) -> list[str]:
    items = [Item(text[: 9 + 11 * i], {"max_new_tokens": 30 - 4 * i}) for i, text in enumerate(CORPUS)]
    return [answer[0]["generated_text"] for answer in runner.predict(items)]


@pytest.mark.parametrize("kind", FUSED)
def test_fused_layers_generate_the_text_of_the_plain_model(tmp_path: Path, kind: str) -> None:
    fused, plain = _runner(tmp_path, FUSED[kind]), _runner(tmp_path, FUSED[kind], acceleration=False)
    assert (_fused(fused), _fused(plain)) == (DECODER["num_hidden_layers"], 0)
    assert _texts(fused) == _texts(plain)


@pytest.mark.parametrize("kind", FUSED)
def test_layers_in_bfloat16_are_fused_too(tmp_path: Path, kind: str) -> None:
    # The layers are verified whenever they are installed, in tests as in a server.
    assert _fused(_runner(tmp_path, FUSED[kind], torch_dtype="bfloat16")) == DECODER["num_hidden_layers"]


@pytest.mark.parametrize("kind", LEFT)
def test_layers_that_compute_something_else_are_not_fused(tmp_path: Path, kind: str) -> None:
    runner, plain = _runner(tmp_path, LEFT[kind]), _runner(tmp_path, LEFT[kind], acceleration=False)
    assert _fused(runner) == 0
    assert _texts(runner) == _texts(plain)


def test_chunks_of_many_tokens_use_the_models_own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _texts(_runner(tmp_path, FUSED["Llama"], acceleration=False))
    runner = _runner(tmp_path, FUSED["Llama"])
    monkeypatch.setattr("runners.engines.generate.fused_layers.MAX_ROWS", 4)
    monkeypatch.setattr("runners.kernels.fused.MAX_ROWS", 4)
    assert _texts(runner) == plain


def test_all_threads_generate_the_text_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _texts(_runner(tmp_path, FUSED["Llama"], acceleration=False))
    runner = _runner(tmp_path, FUSED["Llama"])
    monkeypatch.setattr("runners.engines.generate.fused_layers.LARGE_ATTENTION", 700)
    assert _texts(runner) == plain
