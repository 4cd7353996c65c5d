"""Promise: on a GPU, CUDA graphs compute the same as the plain model, or are not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, BertModel

from hf_runtime.contract.item import Item
from hf_runtime.settings import ModelSettings
from runners.kernels.batch_graphs import capture_batch_graphs
from runners.tasks.encoder import EncoderRunner
from runners.tasks.feature_extraction import FeatureExtractionRunner
from runners.tasks.question_answering import QuestionAnsweringRunner
from runners.tasks.text_classification import TextClassificationRunner
from runners.tasks.token_classification import TokenClassificationRunner
from tests.tiny import CORPUS, bert_config, save, wordpiece_tokenizer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TASKS: list[tuple[type[EncoderRunner[Any, Any, Any]], Any, list[Any]]] = [
    (TextClassificationRunner, BertForSequenceClassification, CORPUS),
    (TokenClassificationRunner, BertForTokenClassification, CORPUS),
    (QuestionAnsweringRunner, BertForQuestionAnswering, [{"question": "Who?", "context": text} for text in CORPUS]),
    (FeatureExtractionRunner, BertModel, CORPUS),
]


def _load_runner(
    kind: type[EncoderRunner[Any, Any, Any]], folder: Path, **options: Any
) -> EncoderRunner[Any, Any, Any]:
    runner = kind(ModelSettings(storage_uri=str(folder), calibration_seconds=0, **options))
    runner.load()
    runner.warm_up()
    return runner


def _flatten(answer: Any) -> list[Any]:
    if isinstance(answer, dict):
        return [leaf for _, value in sorted(answer.items()) for leaf in _flatten(value)]
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    return [leaf for value in answer for leaf in _flatten(value)] if isinstance(answer, list) else [answer]


@gpu
@pytest.mark.parametrize(("kind", "model", "instances"), TASKS)
def test_graphs_compute_the_same_answers_as_the_plain_model(
    tmp_path: Path, kind: Any, model: Any, instances: list[Any]
) -> None:
    tokenizer = wordpiece_tokenizer()
    save(tmp_path, model, bert_config(tokenizer), tokenizer)
    plain, captured = _load_runner(kind, tmp_path, acceleration=False), _load_runner(kind, tmp_path)
    assert plain.padded.graphs is None
    assert captured.padded.graphs is not None
    for number in (1, 2, len(instances)):
        items = [Item(instance) for instance in instances[:number]]
        for answer, right in zip(captured.predict(items), plain.predict(items), strict=True):
            for computed, expected in zip(_flatten(answer), _flatten(right), strict=True):
                assert computed == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@gpu
def test_a_model_that_reads_its_own_values_is_not_captured(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer()
    save(tmp_path, BertForSequenceClassification, bert_config(tokenizer), tokenizer)
    runner = _load_runner(TextClassificationRunner, tmp_path)
    model: Any = runner.pretrained.model

    def read_value(_: Any, inputs: Any) -> None:
        assert inputs[0].sum().item() != 1

    model.classifier.register_forward_pre_hook(read_value)
    example = runner.prepare_item(Item(CORPUS[0])).rows[0].inputs
    before = runner.predict([Item(text) for text in CORPUS])
    with pytest.raises(RuntimeError):
        capture_batch_graphs(model, example, 64)
    runner.padded.graphs = None
    for answer, right in zip(runner.predict([Item(text) for text in CORPUS]), before, strict=True):
        assert [entry["score"] for entry in answer] == pytest.approx([entry["score"] for entry in right], abs=1e-4)


def test_without_a_gpu_no_graphs_are_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tokenizer = wordpiece_tokenizer()
    save(tmp_path, BertForSequenceClassification, bert_config(tokenizer), tokenizer)
    assert _load_runner(TextClassificationRunner, tmp_path).padded.graphs is None
