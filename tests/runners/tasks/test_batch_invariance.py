"""Promise: a row's answer is that of plain transformers, whatever shares its batch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertModel,
    DPRConfig,
    DPRQuestionEncoder,
    FunnelBaseModel,
    PreTrainedTokenizerFast,
)

from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.engines.batch.batch_invariance import BatchSharing
from runners.registry import create_runner
from runners.start import start_runner
from runners.tasks.fill_mask import FillMaskRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

_SMALL: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "num_hidden_layers": 2, "num_layers": 2, "encoder_layers": 2,
    "decoder_layers": 2, "num_attention_heads": 4, "num_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "intermediate_size": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_ff": 64,
    "d_kv": 8, "max_position_embeddings": 160, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "init_std": 0.3, "initializer_factor": 5.0,
    "num_labels": 3,
}  # fmt: skip


def _tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    tokenizer = wordpiece_tokenizer(160)
    tokenizer.eos_token = "[SEP]"
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def _config(model_type: str, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Any:
    known = AutoConfig.for_model(model_type).to_dict()
    small = {name: value for name, value in _SMALL.items() if name in known or name == "num_labels"}
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
    return AutoConfig.for_model(model_type, **{**small, **tokens, "decoder_start_token_id": 2, **changes})


def _saved(folder: Path, auto_class: Any, config: Any, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    auto_class.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _probabilities(answer: Any) -> list[float]:
    return [one["score"] for one in sorted(answer, key=lambda one: one["label"])]


def _check_classifier(folder: Path, texts: list[str] = CORPUS) -> Any:
    runner = start_runner(ModelSettings(storage_uri=str(folder), task="text-classification"))
    tokenizer: Any = runner.pretrained.tokenizer  # type: ignore[attr-defined]
    plain: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    answers = runner.predict([Item(text, {"top_k": None, "truncation": True}) for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=160)
        with torch.inference_mode():
            right = plain(**inputs).logits[0].softmax(-1).tolist()
        assert _probabilities(answer) == pytest.approx(right, abs=1e-4)
    return runner


@pytest.mark.parametrize("model_type", ["bart", "mbart", "t5", "umt5", "mvp", "plbart"])
def test_barts_relatives_batch_inputs_with_the_same_number_of_end_tokens(model_type: str, tmp_path: Path) -> None:
    tokenizer = _tokenizer(model_input_names=["input_ids", "attention_mask"])
    _saved(tmp_path, AutoModelForSequenceClassification, _config(model_type, tokenizer), tokenizer)
    runner = _check_classifier(tmp_path, [*CORPUS, f"{CORPUS[0]} [SEP] {CORPUS[1]}"])
    ends = [runner.prepare_item(Item(text)).rows[0] for text in (CORPUS[0], CORPUS[1], "one [SEP] two")]
    assert ends[0].shares_batch(ends[1])
    assert not ends[0].shares_batch(ends[2])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("model_type", ["convbert", "funnel", "fnet", "mobilebert"])
def test_a_model_that_depends_slightly_on_padding_is_detected_too(model_type: str, seed: int, tmp_path: Path) -> None:
    tokenizer = _tokenizer()
    changes: dict[str, Any] = {"conv_kernel_size": 9} if model_type == "convbert" else {}
    if model_type == "funnel":
        changes = {"block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 64, "num_decoder_layers": 1}
    config = _config(model_type, tokenizer, **changes)
    _saved(tmp_path, AutoModelForSequenceClassification, config, tokenizer, seed)
    _check_classifier(tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("pad", ["none", "beyond the table"])
def test_a_classifier_on_a_decoder_reads_a_text_at_its_last_token(model_type: str, pad: str, tmp_path: Path) -> None:
    """Check a tokenizer that ends each input in its eos token.

    That token is no padding, though there is no other.
    """
    tokenizer = _tokenizer(model_input_names=["input_ids", "attention_mask"], pad_token=None)
    config = _config(model_type, tokenizer, pad_token_id=None)
    if pad != "none":
        tokenizer.add_special_tokens({"pad_token": "<new>"})
    _saved(tmp_path, AutoModelForSequenceClassification, config, tokenizer)
    runner = _check_classifier(tmp_path, [*CORPUS, "one [SEP] [SEP]", "[PAD] two [PAD]"])
    assert runner.pretrained.model.config.pad_token_id is None


@pytest.mark.parametrize("model_type", ["fnet", "mobilebert", "convbert", "nystromformer", "yoso", "bert"])
@pytest.mark.parametrize("pooling", [None, "mean"])
def test_models_whose_rows_need_equal_lengths_return_vectors(
    model_type: str, pooling: str | None, tmp_path: Path
) -> None:
    tokenizer = _tokenizer(model_input_names=["input_ids"]) if model_type == "bert" else _tokenizer()
    _saved(tmp_path, AutoModel, _config(model_type, tokenizer), tokenizer)
    runner: Any = start_runner(ModelSettings(storage_uri=str(tmp_path), task="feature-extraction"))
    plain = AutoModel.from_pretrained(tmp_path).eval()
    names = runner.pretrained.tokenizer.model_input_names
    for text, answer in zip(CORPUS, runner.predict([Item(t, {"pooling": pooling}) for t in CORPUS]), strict=True):
        inputs = runner.pretrained.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states = plain(**{name: inputs[name] for name in names if name in inputs})[0].numpy()
        right = states if pooling is None else states[0].mean(0)
        np.testing.assert_allclose(answer, right, atol=1e-4 * np.abs(right).max())


def test_a_model_of_one_vector_per_input_returns_it_and_refuses_to_pool(tmp_path: Path) -> None:
    tokenizer = _tokenizer()
    config = DPRConfig(vocab_size=len(tokenizer), **{n: v for n, v in _SMALL.items() if n in DPRConfig().to_dict()})
    save(tmp_path, DPRQuestionEncoder, config, tokenizer)
    runner: Any = start_runner(ModelSettings(storage_uri=str(tmp_path), task="feature-extraction"))
    plain: Any = DPRQuestionEncoder.from_pretrained(tmp_path)
    for text, answer in zip(CORPUS, runner.predict([Item(text) for text in CORPUS]), strict=True):
        with torch.inference_mode():
            right = plain(**tokenizer(text, return_tensors="pt")).pooler_output
        np.testing.assert_allclose(answer, right.numpy(), atol=1e-4)
    (refused,) = runner.predict([Item("a", {"pooling": "mean"})])
    assert isinstance(refused, InvalidRequest)
    assert refused.message.startswith("parameters.pooling: ")


def test_size_and_number_of_vectors_are_those_of_the_model(tmp_path: Path) -> None:
    tokenizer = _tokenizer()
    opt = _config("opt", tokenizer, word_embed_proj_dim=16, ffn_dim=64)
    _saved(tmp_path / "opt", AutoModel, opt, tokenizer)
    runner = start_runner(ModelSettings(storage_uri=str(tmp_path / "opt"), task="feature-extraction"))
    assert runner.signature.outputs[0].shape == (-1, -1, 16)
    (answer,) = runner.predict([Item("a", {"pooling": "mean", "dimensions": 24})])
    assert isinstance(answer, InvalidRequest)
    funnel = _config("funnel", tokenizer, block_sizes=[1, 1], n_head=4, d_head=8, d_inner=64)
    save(tmp_path / "funnel", FunnelBaseModel, funnel, tokenizer)
    base: Any = create_runner(ModelSettings(storage_uri=str(tmp_path / "funnel"), task="feature-extraction"))
    base.auto_class = FunnelBaseModel
    base.load()
    base.warm_up()
    plain: Any = FunnelBaseModel.from_pretrained(tmp_path / "funnel")
    for text, parts in zip(CORPUS, base.predict([Item(text) for text in CORPUS]), strict=True):
        with torch.inference_mode():
            right = plain(**tokenizer(text, return_tensors="pt"))[0].numpy()
        np.testing.assert_allclose(parts, right, atol=1e-3)


def test_an_earlier_input_does_not_change_a_later_answer(tmp_path: Path) -> None:
    """Check BigBird, which attends to everything from its first short input on."""
    tokenizer = _tokenizer(model_max_length=128)
    config = _config(
        "big_bird", tokenizer, attention_type="block_sparse", block_size=4, num_random_blocks=1,
        max_position_embeddings=128,
    )  # fmt: skip
    _saved(tmp_path, AutoModelForSequenceClassification, config, tokenizer)
    texts = ["short", "a longer text " * 8, "short again", "another long one " * 7]
    runner = start_runner(ModelSettings(storage_uri=str(tmp_path), task="text-classification"))
    answers = runner.predict([Item(text, {"top_k": None}) for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        np.random.seed(0)
        fresh = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        with torch.inference_mode():
            right = fresh(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist()
        assert _probabilities(answer) == pytest.approx(right, abs=1e-4)


def test_any_other_model_batches_inputs_of_all_lengths(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    save(tmp_path, BertModel, bert_config(tokenizer), tokenizer)
    runner: Any = start_runner(ModelSettings(storage_uri=str(tmp_path), task="feature-extraction"))
    assert runner._sharing is BatchSharing.ANY_LENGTH


def test_batches_of_two_workers_fill_in_their_own_masks(tmp_path: Path) -> None:
    """Run batches of equal shape and different masks through the head at the same time."""
    tokenizer = wordpiece_tokenizer()
    save(tmp_path, BertForMaskedLM, bert_config(tokenizer), tokenizer)
    runner: Any = start_runner(ModelSettings(storage_uri=str(tmp_path), task="fill-mask"))
    texts = ["[MASK] is the capital of France.", "Paris is the capital of [MASK]."]
    jobs = [runner.prepare_item(Item(text)) for text in texts]
    assert jobs[0].rows[0].length == jobs[1].rows[0].length
    expected = [runner.forward(job.rows)[0] for job in jobs]
    both_inside = threading.Barrier(2, timeout=30)

    def wait(*_: Any) -> None:
        both_inside.wait()

    # After the layers and before the head.
    runner.pretrained.model.get_output_embeddings().register_forward_pre_hook(wait, prepend=True)
    computed: dict[int, Any] = {}

    def compute(number: int) -> None:
        computed[number] = runner.forward(jobs[number].rows)[0]

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, right in enumerate(expected):
        np.testing.assert_allclose(computed[number], right, atol=1e-5)
    assert isinstance(runner, FillMaskRunner)
