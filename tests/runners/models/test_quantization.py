"""Promise: every task runs in each precision, and checkpoints keep their own.

A wrong choice is an error that names it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_runtime.contract.errors import LoadError, ServingError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.models.pretrained import Pretrained, load_pretrained
from runners.registry import create_runner
from runners.storage.checkpoint import Checkpoint
from tests.tiny import bert_config, byte_level_tokenizer, save, wordpiece_tokenizer

TEXT = "I love this movie!"
#: The smallest sizes that bitsandbytes accepts.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}

ENCODERS: dict[str, tuple[Any, Any]] = {
    "text-classification": (BertForSequenceClassification, TEXT),
    "token-classification": (BertForTokenClassification, TEXT),
    "question-answering": (BertForQuestionAnswering, {"question": "Who?", "context": TEXT}),
    "fill-mask": (BertForMaskedLM, "I love this [MASK]!"),
    "feature-extraction": (BertModel, TEXT),
}


def _checkpoint(folder: Path, task: str) -> tuple[Path, Any]:
    """Save a model of the task; return its folder with an instance for it."""
    if task in ENCODERS:
        model_class, instance = ENCODERS[task]
        tokenizer = wordpiece_tokenizer()
        return save(folder, model_class, bert_config(tokenizer, **SIZES), tokenizer), instance
    tokenizer = byte_level_tokenizer()
    if task == "text-generation":
        config: Any = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=128, n_layer=2, n_head=2)
        return save(folder, GPT2LMHeadModel, config, tokenizer), TEXT
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    config = T5Config(  # type: ignore[call-arg]
        vocab_size=len(tokenizer), d_model=128, d_kv=64, d_ff=256, num_layers=2, num_heads=2,
        pad_token_id=tokenizer.pad_token_id, decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return save(folder, T5ForConditionalGeneration, config, tokenizer), TEXT


@pytest.mark.parametrize("task", [*ENCODERS, "text-generation", "text2text-generation"])
@pytest.mark.parametrize(
    "precision",
    [{"torch_dtype": "bfloat16"}, {"torch_dtype": "float16"}, {"load_in_8bit": True}, {"load_in_4bit": True}],
    ids=["bfloat16", "float16", "8 bit", "4 bit"],
)
def test_every_task_is_answered_in_every_precision(tmp_path: Path, task: str, precision: dict[str, Any]) -> None:
    folder, instance = _checkpoint(tmp_path, task)
    runner = create_runner(ModelSettings.model_validate({"storage_uri": str(folder), "task": task, **precision}))
    runner.load()
    runner.warm_up()
    (answer,) = runner.predict([Item(instance)])
    assert not isinstance(answer, ServingError), answer


def _load(folder: Path, **options: Any) -> Pretrained:
    settings = ModelSettings(storage_uri=str(folder), task="text-classification", **options)
    return load_pretrained(AutoModelForSequenceClassification, Checkpoint(folder), settings)


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**wordpiece_tokenizer()(TEXT, return_tensors="pt")).logits.float()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("precision", "near"), [("load_in_8bit", 0.1), ("load_in_4bit", 0.4)])
def test_quantized_answers_are_near_those_in_full_precision(tmp_path: Path, precision: str, near: float) -> None:
    folder, _ = _checkpoint(tmp_path, "text-classification")
    plain = _logits(_load(folder).model)
    assert torch.dist(_logits(_load(folder, **{precision: True}).model), plain) < near * plain.norm()


@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_a_checkpoint_that_was_saved_quantized_loads_by_its_own_config(tmp_path: Path, bits: str) -> None:
    folder, _ = _checkpoint(tmp_path / "plain", "text-classification")
    config = BitsAndBytesConfig(**{bits: True}, llm_int8_skip_modules=["classifier"])  # type: ignore[no-untyped-call]
    saved: Any = BertForSequenceClassification.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
    saved.save_pretrained(tmp_path / "quantized")
    wordpiece_tokenizer().save_pretrained(tmp_path / "quantized")
    torch.testing.assert_close(_logits(_load(tmp_path / "quantized").model), _logits(saved.eval()))
    with pytest.raises(LoadError, match=r"is quantized already \(bitsandbytes\); leave out LOAD_IN_8BIT"):
        _load(tmp_path / "quantized", load_in_8bit=True)


def _with_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "is a GPTQ checkpoint, which needs the packages"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "is a AWQ checkpoint, which needs the packages"),
        ({"quant_method": "compressed-tensors"}, "needs the package compressed-tensors, which is not installed"),
    ],
    ids=["GPTQ", "AWQ", "compressed-tensors"],
)
def test_a_format_whose_package_is_missing_is_an_error_that_names_it(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    folder, _ = _checkpoint(tmp_path, "text-classification")
    with pytest.raises(LoadError) as error:
        _load(_with_config(folder, quantization_config=config))
    assert named in str(error.value)


def test_the_attention_is_chosen_by_name_and_an_unavailable_one_is_refused(tmp_path: Path) -> None:
    folder, _ = _checkpoint(tmp_path, "text-classification")
    eager = _load(folder, attn_implementation="eager").model
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(_logits(eager), _logits(_load(folder).model), rtol=1e-4, atol=1e-4)
    for name in ("flash_attention_2", "nonsense", "owner/kernel"):
        with pytest.raises(LoadError, match=f"cannot be computed with ATTN_IMPLEMENTATION={name} here"):
            _load(folder, attn_implementation=name)


def test_incremental_decoding_ignores_the_chosen_attention_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, instance = _checkpoint(tmp_path, "text-generation")
    answers = []
    for attention in (None, "eager"):
        settings = ModelSettings(storage_uri=str(folder), task="text-generation", attn_implementation=attention)
        runner = create_runner(settings)
        caplog.clear()
        runner.load()
        assert ("not by ATTN_IMPLEMENTATION=eager" in caplog.text) == (attention is not None)
        answers.append(runner.predict([Item(instance, {"max_new_tokens": 8})]))
    assert answers[0] == answers[1]


def test_inputs_are_limited_to_the_configured_length(tmp_path: Path) -> None:
    folder, _ = _checkpoint(tmp_path, "text-classification")
    assert _load(folder, max_model_len=10).max_length == 10
    assert _load(folder, max_model_len=10_000).max_length == 64
