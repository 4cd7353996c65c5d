"""Promise: a model decodes incrementally only if results stay equal; others use generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.generate.continuous import ContinuousDecoder
from runners.engines.generate.static import StaticDecoder
from runners.tasks.text_generation import TextGenerationRunner
from tests.generators import generator_of
from tests.tiny import CONTEXT, CORPUS, DECODER, byte_level_tokenizer, save

HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 9}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

STEPPED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "Qwen3": (Qwen3Config, Qwen3ForCausalLM, HEADS),
    "Mistral with a window": (MistralConfig, MistralForCausalLM, WINDOW),
    "Mixtral": (MixtralConfig, MixtralForCausalLM, {**WINDOW, **EXPERTS}),
    "Phi": (PhiConfig, PhiForCausalLM, {}),
    "Phi3": (Phi3Config, Phi3ForCausalLM, WINDOW),
    "GPT-NeoX": (GPTNeoXConfig, GPTNeoXForCausalLM, {}),
    "Gemma3, some layers with a window": (Gemma3TextConfig, Gemma3ForCausalLM, {**HEADS, **WINDOW}),
    "OPT": (OPTConfig, OPTForCausalLM, {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3}),
}
TOGETHER: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Bloom, whose positions are a bias": (BloomConfig, BloomForCausalLM, {"n_head": 4}),
    "Falcon, likewise": (FalconConfig, FalconForCausalLM, {"alibi": True}),
    "Gemma2, which caps its scores": (Gemma2Config, Gemma2ForCausalLM, {**HEADS, **WINDOW}),
    "gpt-oss, which has sinks": (GptOssConfig, GptOssForCausalLM, {**HEADS, **WINDOW, **EXPERTS}),
    "Llama with longrope": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "Mamba, which has a state": (MambaConfig, MambaForCausalLM, {"state_size": 4}),
}


def _runner(folder: Path, made: tuple[Any, Any, dict[str, Any]], **options: Any) -> TextGenerationRunner:
    config_class, model_class, changes = made
    tokenizer = byte_level_tokenizer(CONTEXT)
    config = config_class(vocab_size=len(tokenizer), **{**DECODER, **changes})
    save(folder, model_class, config, tokenizer)
    runner = TextGenerationRunner(ModelSettings(storage_uri=str(folder), task="text-generation", **options))
    runner.load()
    return runner


def _check_parity(runner: TextGenerationRunner, folder: Path) -> None:
    """Check that greedy texts of uneven lengths, in one batch, are those of `generate`."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = generator_of(runner).pretrained.tokenizer
    items = [Item(text[: 9 + 11 * i], {"max_new_tokens": 30 - 4 * i}) for i, text in enumerate(CORPUS)]
    for item, answer in zip(items, runner.predict(items), strict=True):
        ids = tokenizer(item.instance, return_tensors="pt")["input_ids"]
        options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
        out = model.generate(ids, **options, **item.parameters)[0, ids.shape[1] :]
        assert answer[0]["generated_text"] == item.instance + tokenizer.decode(out, skip_special_tokens=True)


@pytest.mark.parametrize("kind", STEPPED)
def test_incremental_decoding_equals_generate(tmp_path: Path, kind: str) -> None:
    runner = _runner(tmp_path, STEPPED[kind])
    assert isinstance(generator_of(runner).decoder, ContinuousDecoder)
    _check_parity(runner, tmp_path)


@pytest.mark.parametrize("kind", ["Qwen3", "Gemma3, some layers with a window"])
def test_prompts_prefilled_together_give_the_text_of_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("runners.engines.generate.step._ONE_BY_ONE", frozenset())
    _check_parity(_runner(tmp_path, STEPPED[kind], max_batch_tokens=256), tmp_path)


@pytest.mark.parametrize("kind", TOGETHER)
def test_a_model_without_incremental_decoding_equals_generate(tmp_path: Path, kind: str) -> None:
    runner = _runner(tmp_path, TOGETHER[kind])
    assert isinstance(generator_of(runner).decoder, StaticDecoder)
    _check_parity(runner, tmp_path)


def test_a_model_that_fails_verification_keeps_its_own_attention(tmp_path: Path) -> None:
    runner = _runner(tmp_path, TOGETHER["Gemma2, which caps its scores"])
    fresh: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert generator_of(runner).pretrained.model.config._attn_implementation == fresh.config._attn_implementation
