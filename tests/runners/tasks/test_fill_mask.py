"""Promise: fill-mask answers as the transformers pipeline does, alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from hf_runtime.contract.errors import InvalidRequest, LoadError
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.fill_mask import FillMaskRunner
from tests.tiny import bert_config, byte_level_tokenizer, save, wordpiece_tokenizer

TEXTS = [
    "Paris is the [MASK] of France.",
    "[MASK]",
    "The [MASK] of artificial [MASK] is bright and full of possibilities.",
    "Hello [MASK], how are you today? Naïve café, emoji 🙂 and numbers 12345.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(tmp_path_factory.mktemp("fill-mask"), BertForMaskedLM, bert_config(tokenizer), tokenizer)


def _runner(folder: Path, **settings: Any) -> FillMaskRunner:
    runner = FillMaskRunner(ModelSettings(storage_uri=str(folder), task="fill-mask", **settings))
    runner.load()
    return runner


def _oracle(folder: Path) -> Any:
    return pipeline(
        "fill-mask",
        model=AutoModelForMaskedLM.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


def _same(answer: Any, expected: Any) -> None:
    if isinstance(expected[0], list):
        assert len(answer) == len(expected)
        for mask_answer, mask_expected in zip(answer, expected, strict=True):
            _same(mask_answer, mask_expected)
        return
    assert [list(entry) for entry in answer] == [list(entry) for entry in expected]
    for name in ("token", "token_str", "sequence"):
        assert [entry[name] for entry in answer] == [entry[name] for entry in expected]
    assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def test_a_mixed_batch_answers_each_input_as_the_pipeline_does(folder: Path) -> None:
    runner, oracle = _runner(folder), _oracle(folder)
    parameters: list[dict[str, Any]] = [{}, {"top_k": 1}, {"top_k": 30}, {"targets": ["film", "capital"], "top_k": 9}]
    items = [Item(text, options) for text in TEXTS for options in parameters]
    for item, answer in zip(items, runner.predict(items), strict=True):
        _same(answer, oracle(item.instance, **item.parameters))


@pytest.mark.parametrize("kind", ["roberta", "mobilebert"])
def test_every_kind_of_head_answers_as_the_pipeline_does(tmp_path: Path, kind: str) -> None:
    """Check each kind of head.

    MobileBERT multiplies by two matrices instead of one layer, so it computes all positions.
    """
    tokenizer = wordpiece_tokenizer()
    size: dict[str, Any] = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "initializer_range": 0.5,
                            "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}  # fmt: skip
    if kind == "roberta":
        config: Any = RobertaConfig(hidden_size=32, intermediate_size=64, **size)
        save(tmp_path, RobertaForMaskedLM, config, tokenizer)
    else:
        config = MobileBertConfig(hidden_size=32, embedding_size=16, intra_bottleneck_size=32, **size)
        save(tmp_path, MobileBertForMaskedLM, config, tokenizer)
    oracle = _oracle(tmp_path)
    for text, answer in zip(TEXTS, _runner(tmp_path).predict([Item(text) for text in TEXTS]), strict=True):
        _same(answer, oracle(text))


def test_the_vocabulary_is_scored_only_at_the_masks(folder: Path) -> None:
    runner = _runner(folder)
    shapes: list[torch.Size] = []
    model: Any = runner.pretrained.model
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    runner.predict([Item(text) for text in TEXTS])
    assert shapes == [(5, model.config.vocab_size)]


def test_several_masks_give_a_list_each(folder: Path) -> None:
    (answer,) = _runner(folder).predict([Item("Paris [MASK] the [MASK] of [MASK].", {"top_k": 2})])
    assert [len(mask) for mask in answer] == [2, 2, 2]
    assert answer[0][0]["sequence"].count("[MASK]") == 2


@pytest.mark.parametrize(
    "targets",
    ["film", ["film"], ["film", "film", "worst"], ["possibilitiesandmore"], ["[UNK]", "京"], [" film ", "film"]],
    ids=["a word", "a list", "repeated", "first token of a longer word", "unknown", "spaces"],
)
def test_targets_have_the_same_meaning_as_in_the_pipeline(folder: Path, targets: str | list[str]) -> None:
    (answer,) = _runner(folder).predict([Item(TEXTS[0], {"targets": targets})])
    _same(answer, _oracle(folder)(TEXTS[0], targets=targets))


def test_top_k_is_capped_at_the_number_of_candidates(folder: Path) -> None:
    vocabulary = len(wordpiece_tokenizer())
    all_tokens, two = _runner(folder).predict(
        [Item(TEXTS[0], {"top_k": 10**12}), Item(TEXTS[0], {"top_k": 10**12, "targets": ["film", "worst"]})]
    )
    assert len(all_tokens) == vocabulary
    assert sum(entry["score"] for entry in all_tokens) == pytest.approx(1.0, abs=1e-4)
    assert len(two) == 2


def test_an_input_longer_than_the_model_is_refused_with_both_lengths_unless_truncated(folder: Path) -> None:
    runner, text = _runner(folder), "a [MASK] " + "the " * 100
    refused, cut = runner.predict([Item(text), Item(text, {"truncation": True})])
    assert isinstance(refused, InvalidRequest)
    assert "104 tokens" in refused.message
    assert "context length is 64 tokens" in refused.message
    _same(cut, _oracle(folder)(text, tokenizer_kwargs={"truncation": True}))


def test_truncation_that_removes_every_mask_is_an_error_that_says_so(folder: Path) -> None:
    truncating = _runner(folder, truncation=True)
    lost, wrong = truncating.predict([Item("the " * 100 + "[MASK]"), Item("the " * 100)])
    assert "cuts every [MASK] away" in lost.message
    assert "has no mask token: put [MASK]" in wrong.message
    (asked,) = truncating.predict([Item("[MASK] " + "the " * 100, {"truncation": False})])
    assert isinstance(asked, InvalidRequest)


def test_the_warm_up_uses_the_models_own_mask_token(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    tokenizer.mask_token = "[SEP]"
    runner = _runner(save(tmp_path, BertForMaskedLM, bert_config(tokenizer), tokenizer))
    assert runner.choose_example() == "A first [SEP]."
    runner.warm_up()


def test_a_tokenizer_without_a_mask_token_is_refused_at_load(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    folder = save(tmp_path, BertForMaskedLM, bert_config(tokenizer, pad_token_id=0), tokenizer)
    with pytest.raises(LoadError, match="has no mask token"):
        _runner(folder)


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        (7, {}, "must be a string that holds [MASK]"),
        ({"text": "[MASK]"}, {}, "must be a string that holds [MASK]"),
        ("Paris is <mask>.", {}, "has no mask token: put [MASK]"),
        ("", {}, "has no mask token: put [MASK]"),
        ("[MASK]", {"topk": 1}, "did you mean 'top_k'"),
        ("[MASK]", {"top_k": 0}, "parameters.top_k"),
        ("[MASK]", {"top_k": None}, "parameters.top_k"),
        ("[MASK]", {"targets": []}, "parameters.targets"),
        ("[MASK]", {"targets": 7}, "parameters.targets"),
        ("[MASK]", {"targets": ["film", 7]}, "parameters.targets[1]"),
        ("[MASK]", {"targets": ["film", " "]}, "parameters.targets[1]: ' ' gives no token"),
        ("[MASK]", {"targets": ""}, "parameters.targets[0]: '' gives no token"),
        ("[MASK]", {"truncation": "yes"}, "parameters.truncation"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    folder: Path, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    wrong, right = _runner(folder).predict([Item(instance, parameters), Item(TEXTS[0])])
    assert isinstance(wrong, InvalidRequest)
    assert named in wrong.message
    assert len(right) == 5


def test_targets_of_null_are_no_targets(folder: Path) -> None:
    unset, null = _runner(folder).predict([Item(TEXTS[0]), Item(TEXTS[0], {"targets": None})])
    assert null == unset
