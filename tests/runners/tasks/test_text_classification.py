"""Promise: text classification answers as the pipeline does, alone and in a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, pipeline

from hf_runtime.api.open_inference_v2.answers import to_tensors
from hf_runtime.contract.errors import InvalidRequest
from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.tasks.text_classification import TextClassificationRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("text-classification"), num_labels=4)


def _checkpoint(folder: Path, **config: Any) -> Path:
    tokenizer = wordpiece_tokenizer()
    return save(folder, BertForSequenceClassification, bert_config(tokenizer, **config), tokenizer)


def _runner(folder: Path, **settings: Any) -> TextClassificationRunner:
    runner = TextClassificationRunner(ModelSettings(storage_uri=str(folder), task="text-classification", **settings))
    runner.load()
    return runner


def _oracle(folder: Path) -> Any:
    return pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


def _same(answer: Any, expected: Any) -> None:
    assert [entry["label"] for entry in answer] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def test_a_mixed_batch_answers_each_input_as_the_pipeline_does(folder: Path) -> None:
    runner, oracle = _runner(folder), _oracle(folder)
    items = [Item(text, {"top_k": None if i % 2 else 2}) for i, text in enumerate(CORPUS * 3)]
    for item, answer in zip(items, runner.predict(items), strict=True):
        _same(answer, oracle(item.instance, top_k=item.parameters["top_k"]))


@pytest.mark.parametrize(
    "config",
    [
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"num_labels": 1},
        {"num_labels": 1, "problem_type": "regression"},
    ],
    ids=["multi-label", "one label", "regression"],
)
def test_the_head_decides_how_scores_are_computed(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = _checkpoint(tmp_path, **config)
    (answer,) = _runner(folder).predict([Item(CORPUS[0], {"top_k": None})])
    _same(answer, _oracle(folder)(CORPUS[0], top_k=None))


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "none"])
def test_function_to_apply_wins_over_the_head(folder: Path, function: str) -> None:
    (answer,) = _runner(folder).predict([Item(CORPUS[1], {"function_to_apply": function, "top_k": None})])
    _same(answer, _oracle(folder)(CORPUS[1], function_to_apply=function, top_k=None))


def test_a_pair_of_texts_is_encoded_as_a_pair(folder: Path) -> None:
    pair = {"text": CORPUS[0], "text_pair": CORPUS[1]}
    (answer,) = _runner(folder).predict([Item(pair, {"top_k": None})])
    _same(answer, _oracle(folder)(pair, top_k=None))


def test_an_input_longer_than_the_model_is_refused_with_both_lengths_unless_truncated(folder: Path) -> None:
    runner, text = _runner(folder), "the " * 100
    refused, cut = runner.predict([Item(text), Item(text, {"truncation": True, "top_k": None})])
    assert isinstance(refused, InvalidRequest)
    assert "102 tokens" in refused.message
    assert "context length is 64 tokens" in refused.message
    _same(cut, _oracle(folder)(text, truncation=True, top_k=None))


@pytest.mark.parametrize(
    ("instance", "parameters", "named"),
    [
        (7, {}, "must be a string"),
        ({"txt": "a"}, {}, "text"),
        ("a", {"topk": 1}, "did you mean 'top_k'"),
        ("a", {"top_k": 0}, "parameters.top_k"),
        ("a", {"top_k": "1"}, "parameters.top_k"),
        ("a", {"function_to_apply": "tanh"}, "parameters.function_to_apply"),
    ],
)
def test_a_wrong_instance_or_parameter_is_refused_by_name_and_harms_no_other(
    folder: Path, instance: Any, parameters: dict[str, Any], named: str
) -> None:
    wrong, right = _runner(folder).predict([Item(instance, parameters), Item(CORPUS[0])])
    assert isinstance(wrong, InvalidRequest)
    assert named in wrong.message
    assert len(right) == 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({0: 0, 1: 1}, {0, 1}),
        ({0: "good", 1: None}, {"good", "LABEL_1"}),
        ({0: "good", 7: "bad"}, {"good", "LABEL_1"}),
        ({1: "good", 2: "bad"}, {"LABEL_0", "good"}),
    ],
    ids=["numbers", "none", "a gap", "from one on"],
)
def test_a_label_that_is_missing_or_no_string_is_answered(
    tmp_path: Path, labels: dict[int, Any], expected: set[Any]
) -> None:
    _checkpoint(tmp_path, num_labels=2)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    runner = _runner(tmp_path)
    (answer,) = runner.predict([Item(CORPUS[0], {"top_k": None})])
    assert {entry["label"] for entry in answer} == expected
    tensors = {tensor.name: tensor for tensor in to_tensors([answer], runner.signature, None)}
    assert list(tensors["label"].values.ravel()) == [str(entry["label"]) for entry in answer]
