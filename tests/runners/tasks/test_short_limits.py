"""Promise: a model with a very short limit of tokens loads and answers what fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings, Task
from runners.start import start_runner
from tests.tiny import bert_config, gpt2_model, save, wordpiece_tokenizer


def _bert(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tokenizer = wordpiece_tokenizer()
        return save(folder, getattr(transformers, name), bert_config(tokenizer), tokenizer)

    return make


def _bart(folder: Path) -> Path:
    tokenizer = wordpiece_tokenizer()
    config = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, decoder_start_token_id=2, forced_eos_token_id=3,
    )  # fmt: skip
    return save(folder, transformers.BartForConditionalGeneration, config, tokenizer)


_MODELS: dict[Task, Callable[[Path], Path]] = {
    "text-classification": _bert("BertForSequenceClassification"),
    "token-classification": _bert("BertForTokenClassification"),
    "question-answering": _bert("BertForQuestionAnswering"),
    "fill-mask": _bert("BertForMaskedLM"),
    "feature-extraction": _bert("BertModel"),
    "text-generation": gpt2_model,
    "text2text-generation": _bart,
}


def _long(task: Task) -> tuple[Any, dict[str, Any]]:
    if task == "question-answering":
        return {"question": "a " * 50, "context": "b"}, {}
    return "a " * 50, {"truncation": False}


@pytest.mark.parametrize("options", [{}, {"truncation": False}], ids=["cut", "not cut"])
@pytest.mark.parametrize("task", _MODELS)
def test_a_limit_below_the_example_of_the_warm_up_lets_a_model_load(
    tmp_path: Path, task: Task, options: dict[str, Any]
) -> None:
    folder = _MODELS[task](tmp_path)
    for limit in (1, 2, 3, 5, 7):
        settings = ModelSettings(
            storage_uri=str(folder),
            task=task,
            max_model_len=limit,
            acceleration=False,
            calibration_seconds=0,
            **options,
        )
        runner = start_runner(settings)
        long, parameters = _long(task)
        (refused,) = runner.predict([Item(long, parameters)])
        assert isinstance(refused, InvalidRequest)
        if limit >= 5:
            (answer,) = runner.predict([Item(runner.choose_example(), runner.example_parameters)])
            assert not isinstance(answer, Exception)


@pytest.mark.parametrize("task", _MODELS)
def test_a_limit_of_characters_below_the_example_lets_a_model_load(tmp_path: Path, task: Task) -> None:
    settings = ModelSettings(storage_uri=str(_MODELS[task](tmp_path)), task=task, max_text_length=4, acceleration=False)
    runner = start_runner(settings)
    (refused,) = runner.predict([Item("a long text")])
    assert isinstance(refused, InvalidRequest)
