"""Promise: an input with a token that the model lacks is refused; other requests succeed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings, Task
from runners.start import start_runner
from tests.tiny import DECODER, bert_config, byte_level_tokenizer, save, wordpiece_tokenizer

#: A token that only the tokenizer has, like the `<pad>` that was added to many a Llama.
_ADDED = "<added>"


def _encoder(folder: Path, task: Task) -> Path:
    tokenizer = wordpiece_tokenizer()
    config = bert_config(tokenizer)
    tokenizer.add_tokens([_ADDED], special_tokens=True)
    heads = {
        "text-classification": transformers.BertForSequenceClassification,
        "token-classification": transformers.BertForTokenClassification,
        "question-answering": transformers.BertForQuestionAnswering,
        "fill-mask": transformers.BertForMaskedLM,
        "feature-extraction": transformers.BertModel,
    }
    return save(folder, heads[task], config, tokenizer)


def _generator(folder: Path, task: Task) -> Path:
    tokenizer = byte_level_tokenizer()
    size = len(tokenizer)
    tokenizer.add_tokens([_ADDED], special_tokens=True)
    if task == "text-generation":
        return save(
            folder, transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER, vocab_size=size), tokenizer
        )
    config = transformers.T5Config(  # type: ignore[call-arg]
        vocab_size=size, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return save(folder, transformers.T5ForConditionalGeneration, config, tokenizer)


_INSTANCES: dict[Task, tuple[Any, Any]] = {
    "text-classification": (f"Hello {_ADDED}", "Hello"),
    "token-classification": (f"Hello {_ADDED}", "Hello"),
    "question-answering": (
        {"question": "Who?", "context": f"Paris {_ADDED} Berlin"},
        {"question": "Who?", "context": "Paris Berlin"},
    ),
    "fill-mask": (f"[MASK] {_ADDED}", "[MASK] Paris"),
    "feature-extraction": (f"Hello {_ADDED}", "Hello"),
    "text-generation": (f"Hello {_ADDED}", "Hello"),
    "text2text-generation": (f"Hello {_ADDED}", "Hello"),
}


@pytest.mark.parametrize("task", _INSTANCES)
def test_a_token_that_the_model_lacks_is_refused_by_name(
    tmp_path: Path, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    folder = (_generator if task.endswith("generation") else _encoder)(tmp_path, task)
    with caplog.at_level(logging.WARNING):
        runner = start_runner(ModelSettings(storage_uri=str(folder), task=task, calibration_seconds=0))
    assert f"1 tokens that the model's embedding lacks, such as '{_ADDED}'" in caplog.text
    wrong, right = _INSTANCES[task]
    refused, answer = runner.predict([Item(wrong, {}), Item(right, {})])
    assert isinstance(refused, InvalidRequest)
    assert _ADDED in refused.message
    assert not isinstance(answer, Exception)


def test_a_target_that_the_model_lacks_is_refused_by_name(tmp_path: Path) -> None:
    settings = ModelSettings(storage_uri=str(_encoder(tmp_path, "fill-mask")), task="fill-mask", calibration_seconds=0)
    (refused,) = start_runner(settings).predict([Item("[MASK]", {"targets": ["Paris", _ADDED]})])
    assert isinstance(refused, InvalidRequest)
    assert refused.message.startswith(f"parameters.targets[1] holds '{_ADDED}'")


def test_token_ids_are_limited_to_those_of_the_model(tmp_path: Path) -> None:
    """Check with a model of characters, which has no table that ids index."""
    tokenizer = transformers.CanineTokenizer(model_max_length=64)  # type: ignore[no-untyped-call]
    config = transformers.CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_hash_buckets=128,
        max_position_embeddings=64, local_transformer_stride=16, downsampling_rate=2, upsampling_kernel_size=2,
    )  # fmt: skip
    model = transformers.CanineModel(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = ModelSettings(storage_uri=str(tmp_path), task="feature-extraction", calibration_seconds=0)
    ids = tokenizer("Paris")["input_ids"]
    text, tokens, beyond = start_runner(settings).predict([Item("Paris", {}), Item(ids, {}), Item([2**31], {})])
    torch.testing.assert_close(torch.tensor(tokens), torch.tensor(text))
    assert isinstance(beyond, InvalidRequest)


def test_a_model_with_one_token_type_accepts_a_second_text(tmp_path: Path) -> None:
    """Check RoBERTa's relatives with BERT's tokenizer.

    The tokenizer marks a second text with another token type.
    """
    tokenizer = wordpiece_tokenizer()
    config = bert_config(tokenizer, type_vocab_size=1)
    folder = save(tmp_path, transformers.BertForSequenceClassification, config, tokenizer)
    settings = ModelSettings(storage_uri=str(folder), task="text-classification", calibration_seconds=0)
    (answer,) = start_runner(settings).predict([Item({"text": "Hello", "text_pair": "Paris"}, {"top_k": 2})])
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        encoded = tokenizer("Hello", "Paris", return_tensors="pt", return_token_type_ids=False)
        expected = model(**encoded).logits[0].softmax(-1)
    scores = {entry["label"]: entry["score"] for entry in answer}
    assert [scores["LABEL_0"], scores["LABEL_1"]] == pytest.approx(expected.tolist(), abs=1e-5)
